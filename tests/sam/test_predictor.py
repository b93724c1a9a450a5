"""Encoding once and prompting many, with a small random network."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medlsam_jax.errors import InputError, WeightsError
from medlsam_jax.medlam.network.medlam import MedLAM
from medlsam_jax.network import Network
from medlsam_jax.sam.fixed_sizes import BOX_COUNTS
from medlsam_jax.sam.network.sam import Sam, SamVariant
from medlsam_jax.sam.network.tiny_vit import TinyViTSizes
from medlsam_jax.sam.predictor import Predictor

SIZES = TinyViTSizes(widths=(8, 8, 8, 8), depths=(1, 1, 1, 1), heads=(1, 1, 1, 1), windows=(7, 4, 4, 4), neck=16)
SMALL = SamVariant("small", 32, SIZES, "unit")


@pytest.fixture(scope="module")
def network():
  module = Sam(SMALL)
  # Shapes only, filled by NumPy: initialising compiles hundreds of small programs.
  shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)), jnp.zeros((1, 4)))
  rng = np.random.default_rng(3)
  variables = jax.tree.map(lambda leaf: rng.uniform(-0.2, 0.3, leaf.shape).astype(np.float32), dict(shapes))
  variables["batch_stats"] = jax.tree.map(lambda leaf: np.abs(leaf) + 0.5, variables["batch_stats"])
  return Network(module, variables, "small", "<test>")


@pytest.fixture(scope="module")
def predictor(network):
  return Predictor(network, encode_batch=2)


@pytest.fixture(scope="module")
def images():
  return np.random.default_rng(0).random((3, 32, 32, 3), dtype=np.float32)


@pytest.fixture(scope="module")
def boxes():
  low = np.random.default_rng(1).uniform(0, 20, (37, 2))
  return np.concatenate([low, low + np.random.default_rng(2).uniform(1, 11, (37, 2))], 1)


def test_any_number_of_images_and_boxes_compiles_a_fixed_number_of_programs(network, images, boxes):
  predictor = Predictor(network, encode_batch=2)
  for count in (1, 2, 3):
    embeddings = predictor.encode(images[:count])
  for count in (1, 2, 3, 5, 16, 17, 30, 37):
    logits, quality = predictor.decode(embeddings[0], boxes[:count])
    assert logits.shape == (count, 32, 32) and quality.shape == (count,)
  assert predictor.compilations() == 1 + len(BOX_COUNTS)


def test_one_that_was_sent_to_another_process_answers_the_same(predictor, images, boxes):
  predictor.encode(images[:1])
  sent = pickle.loads(pickle.dumps(predictor))
  assert sent.compilations() == 0 and (sent.encode_batch, sent.operands) == (2, predictor.operands)
  for one, other in zip(*(each.decode(each.encode(images)[2], boxes[:2]) for each in (predictor, sent)), strict=True):
    np.testing.assert_array_equal(one, other)


def test_padding_of_batches_changes_no_answer(network, predictor, images, boxes):
  """Against the plain, unfolded network, box by box."""
  embeddings = predictor.encode(images)
  logits, quality = predictor.decode(embeddings[2], boxes[:6])
  plain = jax.jit(network.module.apply)
  for index in range(6):
    alone, iou = plain(network.variables, images[2:3], boxes[index : index + 1].astype(np.float32))
    np.testing.assert_allclose(logits[index], alone[0, 0], atol=1e-4)
    np.testing.assert_allclose(quality[index], iou[0, 0], atol=1e-4)


def test_no_boxes_give_no_masks(predictor, images):
  logits, quality = predictor.decode(predictor.encode(images[:1])[0], np.zeros((0, 4)))
  assert logits.shape == (0, 32, 32) and quality.shape == (0,)


@pytest.mark.parametrize(
  ("box", "reason"),
  [
    ((4, 4, 4, 9), "no area"),
    ((9, 4, 4, 9), "no area"),
    ((40, 4, 50, 9), "outside"),
    ((-9, 4, 0, 9), "outside"),
    ((4, float("nan"), 9, 9), "finite"),
    ((4, 4, float("inf"), 9), "finite"),
  ],
)
def test_a_box_that_cannot_be_meant_is_refused_by_number(predictor, images, box, reason):
  embedding = predictor.encode(images[:1])[0]
  with pytest.raises(InputError, match=f"box 1: .*{reason}"):
    predictor.decode(embedding, np.array([(1, 1, 5, 5), box]))


def test_images_of_another_shape_or_with_nan_are_refused(predictor, images, unchecked_shapes):
  with pytest.raises(InputError, match="shape"):
    predictor.encode(images[:, :16])
  broken = images.copy()
  broken[0, 3, 3] = np.nan
  with pytest.raises(InputError, match="NaN"):
    predictor.encode(broken)


def test_a_network_of_another_family_is_refused_by_name():
  with pytest.raises(WeightsError, match="medlam network cannot segment"):
    Predictor(Network(MedLAM(), {}, "medlam", "tiny"))
