"""What the programs that paint are on machines that are not at hand: read in their text."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lowered import HOST, PLATFORMS, VOLUMES_OF_DOUBLES, products, shaped, text_of, text_with_doubles

from medlsam_jax.network import Network
from medlsam_jax.sam import device_propagation, everything
from medlsam_jax.sam.device_painting import lay
from medlsam_jax.sam.network.sam import LITEMEDSAM, Sam
from medlsam_jax.sam.predictor import Predictor

LOW, MATRICES = shaped(16, 256, 256), (shaped(512, 256), shaped(512, 256))


def programs(dtype):
  """Those of a predictor, and shapes that they are called with."""
  module = Sam(LITEMEDSAM, folded=True)
  shapes = jax.eval_shape(lambda k: module.init(k, jnp.zeros((1, 256, 256, 3)), jnp.zeros((1, 4))), jax.random.key(0))
  zeros = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
  predictor = Predictor(Network(module, zeros, "litemedsam", "<zeros>"), jnp.dtype(dtype))
  levels = (shaped(16, 256, 256, dtype=jnp.uint8), shaped(2, dtype=jnp.int32))
  prompts = (shaped(64, 64, 256), shaped(4, 2, 2), shaped(4, 2, dtype=jnp.int32))
  among = (shaped(16, 64, 64, 256), shaped(16, dtype=jnp.int32), shaped(16, 2, 2))
  yield predictor._encode, (zeros, shaped(1, 256, 256, 3))
  yield predictor._encode_levels, (zeros, *levels)
  yield predictor._decode, (zeros, *prompts, None, True)
  yield predictor._decode, (zeros, *prompts, shaped(4, 256, 256, 1), False)
  yield predictor._decode_among, (zeros, *among)


@pytest.mark.parametrize("target", PLATFORMS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_predictor_multiplies_as_its_dtype_says_and_stays_on_the_device(dtype, target):
  for program, arguments in programs(dtype):
    text = text_with_doubles(program, arguments, target)
    found = products(text)
    assert len(found) > 10
    if dtype == "float32":
      assert {(a, b, highest) for _, a, b, highest in found} == {("f32", "f32", True)}
    else:
      assert ("dot_general", "bf16", "bf16", False) in found
      assert not any(highest for _, a, _, highest in found if a == "bf16")
    assert not re.search(f"{VOLUMES_OF_DOUBLES}|{HOST}|stablehlo.while", text)


@pytest.mark.parametrize("target", PLATFORMS)
def test_masks_are_laid_over_slices_in_float32_and_come_back_as_labels(target):
  arguments = (shaped(16, 512, 512), shaped(16, 512, 512, dtype=jnp.uint8), LOW, shaped(16, dtype=jnp.int32))
  text = text_of(lay, (*arguments, shaped(16, dtype=jnp.uint8), *MATRICES), target)
  assert set(products(text)) == {("dot_general", "f32", "f32", True)}
  assert "f64" not in text and not re.search(HOST, text)
  # both results lie where the first two arguments were
  assert text.count("tf.aliasing_output") == 2


@pytest.mark.parametrize("target", PLATFORMS)
def test_masks_that_lead_on_or_are_filtered_stay_on_the_device_in_float32(target):
  one = (shaped(512, 512), shaped(512, 512, dtype=jnp.uint8), LOW)
  used, values = shaped(16, dtype=jnp.bool_), shaped(16, dtype=jnp.uint8)
  answers = (shaped(16, 3, 256, 256), shaped(2, 16, dtype=jnp.int32), *MATRICES, shaped())
  texts = [
    text_with_doubles(device_propagation._lay_one, (*one, used, values, *MATRICES), target),
    text_with_doubles(everything._measure, answers, target),
  ]
  for text in texts:
    assert set(products(text)) == {("dot_general", "f32", "f32", True)}
    assert not re.search(f"{VOLUMES_OF_DOUBLES}|{HOST}|stablehlo.while", text)
  assert texts[0].count("tf.aliasing_output") == 2
