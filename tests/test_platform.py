"""Programs say how exact their products are: read where they are lowered for machines that are not at hand."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medlsam_jax import platform
from medlsam_jax.medlam.network.medlam import MedLAM, init_variables
from medlsam_jax.medlam.pretraining.pairs import Batch
from medlsam_jax.medlam.pretraining.step import abstract_state, make_step
from medlsam_jax.medlam.search import programs
from medlsam_jax.network import Network
from medlsam_jax.sam.network.sam import LITEMEDSAM, Sam
from medlsam_jax.sam.predictor import Predictor
from medlsam_jax.train import sharding
from medlsam_jax.train.settings import PretrainSettings, from_mapping

SCALES, POINTS = (4, 2), programs.POINTS_PER_CALL
PLATFORMS = ("cuda", "tpu")
_PRODUCT = re.compile(r"stablehlo\.(convolution|dot_general)\b.*")
_OPERANDS = re.compile(r": \(tensor<[\dx]*x?(\w+)>, tensor<[\dx]*x?(\w+)>\)")


def products(text):
  """Kind, dtypes of both operands, and whether both are asked to be highest, of every product of a lowered program."""
  found = []
  for line in (match.group() for match in _PRODUCT.finditer(text)):
    kind, operands = re.match(r"stablehlo\.(\w+)", line).group(1), _OPERANDS.search(line).groups()
    found.append((kind, *operands, line.count("HIGHEST") == 2))
  return found


def lowered(jitted, arguments, platform):
  return products(jitted.trace(*arguments).lower(lowering_platforms=(platform,)).as_text())


def shaped(*shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


def search_arguments(name, dtype):
  module = MedLAM(base_channels=1, feature_scales=SCALES, dtype=jnp.dtype(dtype))
  variables = jax.eval_shape(lambda: init_variables(module, jax.random.key(0)))
  patches = shaped(POINTS, 64, 64, 64, 1)
  if name == "positions":
    return module, variables, patches
  if name == "template_outputs":
    return module, variables, patches, shaped(POINTS, dtype=jnp.bool_), SCALES, 8
  if name == "template_moves":
    taps = {s: shaped(POINTS, 2, 3, *(8 // s,) * 3, 4) for s in SCALES}
    return module, variables, patches, shaped(POINTS, 2, 3, dtype=jnp.bool_), taps, 12, dtype
  taps = {s: shaped(POINTS, 2, *(8 // s,) * 3, 4) for s in SCALES}
  return module, variables, patches, shaped(POINTS, 2, dtype=jnp.bool_), taps, dtype


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", ["positions", "template_outputs", "best_moves", "template_moves"])
def test_an_exact_search_multiplies_in_float32_everywhere(name, platform):
  found = lowered(getattr(programs, name), search_arguments(name, "float32"), platform)
  assert {kind for kind, *_ in found} == {"convolution", "dot_general"}
  assert {(a, b, highest) for _, a, b, highest in found} == {("f32", "f32", True)}


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", ["positions", "best_moves", "template_moves"])
def test_a_fast_search_has_bfloat16_operands_and_asks_for_nothing_of_them(name, platform):
  found = lowered(getattr(programs, name), search_arguments(name, "bfloat16"), platform)
  convolutions = {each for each in found if each[0] == "convolution"}
  assert convolutions == {("convolution", "bf16", "bf16", False)}
  assert not any(highest for _, a, _, highest in found if a == "bf16")


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_predictor_multiplies_as_its_dtype_says(dtype, platform):
  module = Sam(LITEMEDSAM, folded=True)
  shapes = jax.eval_shape(lambda k: module.init(k, jnp.zeros((1, 256, 256, 3)), jnp.zeros((1, 4))), jax.random.key(0))
  zeros = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
  predictor = Predictor(Network(module, zeros, "litemedsam", "<zeros>"), jnp.dtype(dtype))
  encoded = lowered(predictor._encode, (zeros, shaped(1, 256, 256, 3)), platform)
  prompts = (shaped(64, 64, 256), shaped(1, 2, 2), shaped(1, 2, dtype=jnp.int32), None, False)
  decoded = lowered(predictor._decode, (zeros, *prompts), platform)
  for found in (encoded, decoded):
    assert len(found) > 10
    if dtype == "float32":
      assert {(a, b, highest) for _, a, b, highest in found} == {("f32", "f32", True)}
    else:
      assert ("dot_general", "bf16", "bf16", False) in found
      assert not any(highest for _, a, _, highest in found if a == "bf16")


def step_of(**network):
  settings = from_mapping(
    PretrainSettings, {"network": {"base_channels": 1, **network}, "data": {"scans_per_step": 1, "points_per_patch": 2}}
  )
  mesh = sharding.make_mesh(settings.mesh, jax.devices()[:1])
  place = sharding.batch_sharding(mesh)
  batch = Batch(*(jax.ShapeDtypeStruct((1, 2, *rest), jnp.float32, sharding=place) for rest in ((80,) * 3, (3,))))
  return make_step(settings, mesh), (abstract_state(settings, mesh), batch)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_published_step_multiplies_in_float32_and_another_may_ask_for_less(platform):
  exact = lowered(*step_of(), platform)
  assert {kind for kind, *_ in exact} == {"convolution", "dot_general"}
  assert {(a, b, highest) for _, a, b, highest in exact} == {("f32", "f32", True)}
  quick = lowered(*step_of(precision="default"), platform)
  assert [each[:3] for each in quick] == [each[:3] for each in exact]
  assert not any(highest for kind, *_, highest in quick if kind == "convolution")


@pytest.mark.parametrize(("dtype", "other"), [("float32", "default"), ("bfloat16", "highest")])
def test_a_setting_of_the_user_changes_no_program(dtype, other):
  def text():
    return programs.positions.trace(*arguments).lower(lowering_platforms=("tpu",)).as_text()

  arguments = search_arguments("positions", dtype)
  plain = text()
  with jax.default_matmul_precision(other):
    assert text() == plain


def test_on_a_cpu_asking_changes_no_bit():
  module, rng = MedLAM(base_channels=8, feature_scales=(), patch_edge=16), np.random.default_rng(0)
  shapes = jax.eval_shape(lambda: init_variables(module, jax.random.key(0)))
  variables = jax.tree.map(lambda s: rng.standard_normal(s.shape, np.float32), shapes)
  patch = rng.random((1, 16, 16, 16, 1), np.float32)
  results = []
  for wanted in ("highest", "default"):
    with jax.default_matmul_precision(wanted):
      results.append(jax.jit(lambda v, p: module.apply(v, p))(variables, patch))
  for exact, plain in zip(*map(jax.tree.leaves, results), strict=True):
    assert np.array_equal(exact, plain)


def test_operands_that_are_not_float32_are_left_to_the_platform():
  def product(a, b):
    return a @ b

  for dtype, wanted in ((jnp.float32, True), (jnp.bfloat16, False)):
    with platform.asked(dtype):
      text = jax.jit(product).trace(shaped(2, 2), shaped(2, 2)).lower(lowering_platforms=("tpu",)).as_text()
    assert products(text) == [("dot_general", "f32", "f32", wanted)]
