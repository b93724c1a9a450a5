"""The ViT encoder against the published program, layer by layer, and what it promises besides."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sam_weights import GOLDEN, SAM_MEAN, SAM_SD, TINY, made_up_weights, published_shapes

from medlsam_jax.io.weights.rules import shapes_of
from medlsam_jax.io.weights.torch_file import read_tensors
from medlsam_jax.sam.network import image_encoder
from medlsam_jax.sam.network.image_encoder import Block, ImageEncoder, ViTSizes, relative_rows, resize_table
from medlsam_jax.sam.network.published import TABLES
from medlsam_jax.sam.network.sam import MEDSAM, SAM_VIT_B, SAM_VIT_H, SAM_VIT_L, Sam

ENCODER = ImageEncoder(TINY.encoder)


def template(module):
  edge = module.variant.image_size
  init = functools.partial(module.init, jax.random.key(0))
  return shapes_of(jax.eval_shape(init, jnp.zeros((1, edge, edge, 3)), jnp.zeros((1, 4))))


@pytest.fixture(scope="module")
def params():
  tensors = read_tensors(GOLDEN / "sam_tiny_random.pth")
  return TABLES["sam-vit-b"].forward(tensors, template(Sam(TINY)), "sam_tiny_random.pth")["params"]["image_encoder"]


@pytest.fixture(scope="module")
def image():
  seed = int(np.load(GOLDEN / "sam_tiny_forward.npz")["seed"])
  pixels = np.random.default_rng(seed).integers(0, 256, (180, 240, 3)).astype(np.uint8)
  padded = np.zeros((1, 240, 240, 3), np.float32)
  padded[0, :180] = (pixels - SAM_MEAN) / SAM_SD
  return padded


@pytest.fixture(scope="module")
def oblong():
  return np.random.default_rng(5).standard_normal((192, 288, 3)).astype(np.float32)[None]


@functools.partial(jax.jit, static_argnums=0)
def layers_of(encoder, params, images):
  """Output of each block and of the whole."""
  output, state = encoder.apply({"params": params}, images, capture_intermediates=lambda m, _: isinstance(m, Block))
  return output, {name: value["__call__"][0] for name, value in state["intermediates"].items()}


def test_every_layer_equals_the_published_one(params, image):
  output, layers = layers_of(ENCODER, params, image)
  golden = np.load(GOLDEN / "sam_tiny_layers.npz")
  for name in ("block0", "block1", "block2"):
    np.testing.assert_allclose(layers[name][0, ::2, ::2, ::2], golden[name], atol=2e-5, err_msg=name)
  expected = np.load(GOLDEN / "sam_tiny_forward.npz")["embedding"][0].transpose(1, 2, 0)
  np.testing.assert_allclose(output[0], expected, atol=1e-5)


def test_an_oblong_image_equals_the_published_program_with_its_tables_resampled(params, oblong):
  output, layers = layers_of(ENCODER, params, oblong)
  golden = np.load(GOLDEN / "sam_tiny_layers.npz")
  assert output.shape == (1, 12, 18, 32)
  for name in ("block0", "block1", "block2"):
    np.testing.assert_allclose(layers[name][0, ::2, ::2, ::2], golden[f"oblong_{name}"], atol=2e-5, err_msg=name)
  np.testing.assert_allclose(output[0].transpose(2, 0, 1)[::2, ::2, ::2], golden["oblong_embedding"], atol=1e-5)


def test_bfloat16_operands_stay_within_two_hundredths_and_answer_in_float32(params, image):
  """Embeddings are layer-normed: their standard deviation is about one."""
  exact, _ = layers_of(ENCODER, params, image)
  near, _ = layers_of(ENCODER.clone(dtype=jnp.bfloat16), params, image)
  assert near.dtype == jnp.float32
  assert 0 < np.abs(near - exact).max() < 0.05
  assert np.sqrt(np.mean((near - exact) ** 2)) < 0.02 * np.std(exact)


def test_parts_of_any_size_give_the_same_answer(params, oblong, monkeypatch):
  whole, _ = layers_of(ENCODER, params, oblong)
  monkeypatch.setattr(image_encoder, "QUERIES_AT_ONCE", 25)
  monkeypatch.setattr(image_encoder, "TOKENS_AT_ONCE", 50)
  parts = jax.jit(lambda p, i: ENCODER.clone().apply({"params": p}, i))(params, oblong)
  np.testing.assert_allclose(parts, whole, atol=1e-5)


def test_rematerialisation_changes_no_gradient(params, image):
  weights = np.random.default_rng(0).normal(size=(1, 4, 5, 32)).astype(np.float32)
  sizes = dataclasses.replace(TINY.encoder, depth=1, global_blocks=(0,))
  alone = params | {"block0": params["block1"]}

  def gradient(remat):
    encoder = ImageEncoder(sizes, remat=remat)

    def loss(params):
      return jnp.sum(encoder.apply({"params": params}, image[:, :64, :80]) * weights)

    return jax.tree.leaves(jax.jit(jax.grad(loss))(alone))

  for kept, anew in zip(gradient(False), gradient(True), strict=True):
    np.testing.assert_allclose(kept, anew, rtol=1e-3, atol=1e-3)


def test_global_attention_equals_a_loop_over_queries_and_keys():
  height, width, channels, heads = 3, 5, 8, 2
  block = Block(heads, window=0, tables=4)
  x = np.random.default_rng(0).normal(size=(1, height, width, channels)).astype(np.float32)
  shapes = jax.eval_shape(block.init, jax.random.key(0), x)
  rng = np.random.default_rng(1)
  p = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), dict(shapes))["params"]
  p["mlp_out"] = jax.tree.map(np.zeros_like, p["mlp_out"])  # attention and residual alone
  result = np.asarray(jax.jit(block.apply)({"params": p}, x))[0]

  centred = x[0] - x[0].mean(-1, keepdims=True)
  normed = centred / np.sqrt(x[0].var(-1, keepdims=True) + 1e-6) * p["norm1"]["scale"] + p["norm1"]["bias"]
  qkv = (normed @ p["qkv"]["kernel"] + p["qkv"]["bias"]).reshape(height, width, 3, heads, channels // heads)
  rows = np.asarray(resize_table(p["relative_y"], 2 * height - 1))
  columns = np.asarray(resize_table(p["relative_x"], 2 * width - 1))
  mixed = np.zeros((height, width, heads, channels // heads))
  places = list(itertools.product(range(height), range(width)))
  for (y, column), head in itertools.product(places, range(heads)):
    query = qkv[y, column, 0, head]
    logits = [
      query @ qkv[v, u, 1, head] / 2 + query @ rows[y - v + height - 1] + query @ columns[column - u + width - 1]
      for v, u in places
    ]
    weights = np.exp(logits - np.max(logits))
    weights /= weights.sum()
    mixed[y, column, head] = sum(w * qkv[v, u, 2, head] for w, (v, u) in zip(weights, places, strict=True))
  expected = x[0] + mixed.reshape(height, width, channels) @ p["project"]["kernel"] + p["project"]["bias"]
  np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


def test_relative_rows_are_those_of_the_offset():
  table = np.arange(5, dtype=np.float32)[:, None]
  assert relative_rows(table, 3)[:, :, 0].tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]
  np.testing.assert_allclose(resize_table(table, 3)[:, 0], [1 / 3, 2, 11 / 3], rtol=1e-6)


@pytest.mark.parametrize(
  ("variant", "millions"), [(SAM_VIT_B, 93.7), (MEDSAM, 93.7), (SAM_VIT_L, 312.3), (SAM_VIT_H, 641.1)]
)
def test_big_variants_have_the_published_shapes_without_being_allocated(variant, millions):
  images, boxes = jax.ShapeDtypeStruct((1, 1024, 1024, 3), jnp.float32), jax.ShapeDtypeStruct((1, 4), jnp.float32)
  (masks, iou), variables = jax.eval_shape(Sam(variant).init_with_output, jax.random.key(0), images, boxes)
  assert variant.grid == 64 and masks.shape == (1, 1, 256, 256) and iou.shape == (1, 1)
  assert sum(leaf.size for leaf in jax.tree.leaves(variables)) / 1e6 == pytest.approx(millions, abs=0.1)


def test_a_smaller_and_oblong_input_of_a_big_variant_keeps_its_sides_apart():
  images = jax.ShapeDtypeStruct((2, 512, 768, 3), jnp.float32)
  output, _ = jax.eval_shape(ImageEncoder(ViTSizes()).init_with_output, jax.random.key(0), images)
  assert output.shape == (2, 32, 48, 256)


@pytest.mark.slow
def test_vit_b_at_full_size_equals_the_published_program():
  """Made-up weights at 1024 pixels; the golden numbers are every 16th channel at every eighth place."""
  module = Sam(SAM_VIT_B)
  weights = made_up_weights(published_shapes("sam-vit-b"), 7)
  variables = TABLES["sam-vit-b"].forward(weights, template(module), "made up")
  images = np.random.default_rng(1).standard_normal((1, 1024, 1024, 3), dtype=np.float32)
  golden = np.load(GOLDEN / "sam_vit_b_forward.npz")

  @jax.jit
  def run(variables, images):
    embedding = module.apply(variables, images, method="encode")
    points, labels = jnp.array([[[300.0, 400.0], [700.0, 100.0]]]), jnp.array([[1, 0]])
    boxes = jnp.array([[100.0, 200.0, 600.0, 900.0]])
    return embedding, module.apply(variables, embedding, points, labels, boxes, multimask=True, method="decode")

  embedding, (logits, iou) = run(variables, images)
  np.testing.assert_allclose(np.moveaxis(embedding[0], -1, 0)[::16, ::8, ::8], golden["embedding"], atol=5e-5)
  np.testing.assert_allclose(logits[0, :, ::8, ::8], golden["logits"], atol=1e-3)
  np.testing.assert_allclose(iou[0], golden["iou"], atol=1e-4)
