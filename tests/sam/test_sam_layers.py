"""Layers of the SAM family against their definitions, written out."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medlsam_jax.sam.network.depthwise import _at_once, _by_rows, depthwise3
from medlsam_jax.sam.network.layers import ConvNorm, fold_batch_norm, gelu
from medlsam_jax.sam.network.mask_decoder import Double
from medlsam_jax.sam.network.sam import LITEMEDSAM, MOBILESAM, Sam
from medlsam_jax.sam.network.tiny_vit import TinyViT, TinyViTSizes, WindowAttention, offset_index
from medlsam_jax.sam.network.two_way import Attention

SMALL = TinyViTSizes(widths=(8, 8, 12, 16), depths=(1, 1, 1, 1), heads=(1, 2, 3, 4), windows=(7, 3, 5, 3), neck=16)


def random_like(tree, seed=0):
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.2, 1.0, leaf.shape), jnp.float32), tree)


def test_gelu_is_the_exact_form():
  x = np.linspace(-6, 6, 41)
  exact = [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x]
  np.testing.assert_allclose(gelu(jnp.asarray(x, jnp.float32)), exact, atol=2e-6)


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_equals_grouped_convolution_on_an_oblong_image(stride):
  rng = np.random.default_rng(0)
  x, kernel = rng.normal(size=(2, 6, 8, 5)).astype(np.float32), rng.normal(size=(3, 3, 1, 5)).astype(np.float32)
  expected = jax.lax.conv_general_dilated(
    x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=5
  )
  np.testing.assert_allclose(depthwise3(jnp.asarray(x), jnp.asarray(kernel), stride), expected, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("edges", [(6, 8), (5, 7), (4, 5, 6)], ids=str)
def test_gradients_of_depthwise_equal_those_of_the_grouped_convolution(edges, stride):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, *edges, 5)).astype(np.float32)
  kernel = rng.normal(size=(*(3 for _ in edges), 1, 5)).astype(np.float32)
  space = "DHW"[-len(edges) :]

  def grouped(x, kernel):
    strides, padding, numbers = (
      (stride,) * len(edges),
      ((1, 1),) * len(edges),
      (f"N{space}C", f"{space}IO", f"N{space}C"),
    )
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers, feature_group_count=5)

  out, expected = jax.vjp(grouped, x, kernel)
  weights = rng.normal(size=out.shape).astype(np.float32)
  found = jax.jit(lambda x, kernel: jax.vjp(lambda *a: depthwise3(*a, stride), x, kernel)[1](weights))(x, kernel)
  for one, other in zip(found, expected(weights), strict=True):
    np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("edges", [(6, 8), (4, 5, 6)], ids=str)
def test_both_ways_to_the_gradient_of_a_depthwise_kernel_agree(edges):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, *edges, 5)), jnp.float32)
  gradient = x[(slice(None), *(slice(None, None, 2) for _ in edges))]
  np.testing.assert_allclose(_by_rows(2, x, gradient), _at_once(2, x, gradient), atol=1e-4)


@pytest.mark.parametrize("depthwise", [False, True])
def test_folded_convolution_equals_convolution_and_batch_norm(depthwise):
  x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 6, 8, 4)), jnp.float32)
  plain, folded = (ConvNorm(4, edge=3, depthwise=depthwise, folded=f) for f in (False, True))
  variables = random_like(jax.eval_shape(plain.init, jax.random.key(0), x))
  np.testing.assert_allclose(folded.apply(fold_batch_norm(variables), x), plain.apply(variables, x), atol=1e-5)


def test_folding_a_whole_encoder_changes_nothing_but_the_variables():
  images = jnp.asarray(np.random.default_rng(2).random((1, 16, 16, 3)), jnp.float32)
  variables = random_like(jax.eval_shape(TinyViT(sizes=SMALL).init, jax.random.key(0), images), seed=3)
  folded = fold_batch_norm(variables)
  assert set(folded) == {"params"}
  expected_shapes = jax.eval_shape(TinyViT(sizes=SMALL, folded=True).init, jax.random.key(0), images)
  assert jax.tree.map(jnp.shape, folded) == jax.tree.map(lambda leaf: leaf.shape, dict(expected_shapes))
  plain = jax.jit(TinyViT(sizes=SMALL).apply)(variables, images)
  np.testing.assert_allclose(jax.jit(TinyViT(sizes=SMALL, folded=True).apply)(folded, images), plain, atol=1e-4)


def test_training_form_moves_the_batch_statistics():
  images = jnp.asarray(np.random.default_rng(2).random((2, 16, 16, 3)), jnp.float32)
  model = TinyViT(sizes=SMALL)
  variables = random_like(jax.eval_shape(model.init, jax.random.key(0), images))
  _, updated = jax.jit(lambda v, i: model.apply(v, i, train=True, mutable=["batch_stats"]))(variables, images)
  before, after = (v["batch_stats"]["embed0"]["norm"]["mean"] for v in (variables, updated))
  assert not np.allclose(before, after)


def test_doubling_makes_two_by_two_pixels_of_each():
  x = np.random.default_rng(4).normal(size=(1, 2, 3, 4)).astype(np.float32)
  module = Double(5)
  variables = random_like(jax.eval_shape(module.init, jax.random.key(0), x))
  kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
  result = module.apply(variables, x)
  for y, column, i, j in itertools.product(range(2), range(3), range(2), range(2)):
    np.testing.assert_allclose(result[0, y, column, i, j], x[0, y, column] @ kernel[i, j] + bias, rtol=2e-5)


@pytest.mark.parametrize(("queries", "keys"), [(2, 9), (9, 2)])
def test_attention_of_few_tokens_equals_that_of_all_projected(queries, keys):
  """Against the formula, every token mapped; one key is absent where the few are keys."""
  heads, width, channels = 2, 8, 6
  rng = np.random.default_rng(7)
  query, key, value = (rng.normal(size=(n, t, channels)) for n, t in ((3, queries), (1, keys), (1, keys)))
  present = np.array([[True, False]]) if keys == 2 else None
  module = Attention(width, heads)
  given = [a.astype(np.float32) for a in (query, key, value)]
  variables = random_like(jax.eval_shape(module.init, jax.random.key(0), *given))
  maps = {name: jax.tree.map(np.float64, part) for name, part in variables["params"].items()}
  q, k, v = (
    (x @ maps[n]["kernel"] + maps[n]["bias"]).reshape(len(x), -1, heads, width // heads).swapaxes(1, 2)
    for n, x in (("query", query), ("key", key), ("value", value))
  )
  weights = np.exp(q @ k.swapaxes(2, 3) / np.sqrt(width // heads))
  weights = weights if present is None else weights * present[:, None, None]
  mixed = (weights / weights.sum(-1, keepdims=True) @ v).swapaxes(1, 2).reshape(3, queries, width)
  found = module.apply(variables, *given, present)
  np.testing.assert_allclose(found, mixed @ maps["out"]["kernel"] + maps["out"]["bias"], rtol=1e-4, atol=1e-5)


def test_offsets_are_numbered_as_a_double_loop_meets_them():
  window, seen = 3, {}
  places = list(itertools.product(range(window), repeat=2))
  expected = [[seen.setdefault((abs(p[0] - q[0]), abs(p[1] - q[1])), len(seen)) for q in places] for p in places]
  np.testing.assert_array_equal(offset_index(window), expected)


def test_window_attention_lets_zero_padding_take_part():
  """A 4x5 image in windows of 3, against a loop over windows, heads and positions."""
  heads, window, channels = 2, 3, 4
  x = np.random.default_rng(5).normal(size=(1, 4, 5, channels)).astype(np.float32)
  module = WindowAttention(heads, window)
  params = random_like(jax.eval_shape(module.init, jax.random.key(0), x), seed=6)["params"]
  result = np.asarray(jax.jit(module.apply)({"params": params}, x))[0]
  p = jax.tree.map(np.asarray, params)

  padded = np.zeros((6, 6, channels))
  padded[:4, :5] = x[0]
  centred = padded - padded.mean(-1, keepdims=True)
  normed = centred / np.sqrt(padded.var(-1, keepdims=True) + 1e-5) * p["norm"]["scale"] + p["norm"]["bias"]
  expected = np.zeros_like(padded)
  for top, left in itertools.product((0, 3), (0, 3)):
    tokens = normed[top : top + 3, left : left + 3].reshape(9, channels)
    qkv = (tokens @ p["qkv_kernel"] + p["qkv_bias"]).reshape(9, heads, 3, channels // heads)
    mixed = np.zeros((9, heads, channels // heads))
    for head in range(heads):
      query, key, value = qkv[:, head, 0], qkv[:, head, 1], qkv[:, head, 2]
      logits = query @ key.T / np.sqrt(channels // heads) + p["offset_bias"][head][offset_index(window)]
      weights = np.exp(logits - logits.max(-1, keepdims=True))
      mixed[:, head] = weights / weights.sum(-1, keepdims=True) @ value
    out = mixed.reshape(9, channels) @ p["project"]["kernel"] + p["project"]["bias"]
    expected[top : top + 3, left : left + 3] = out.reshape(3, 3, channels)
  np.testing.assert_allclose(result, expected[:4, :5], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("variant", "edge"), [(LITEMEDSAM, 256), (MOBILESAM, 1024)])
def test_both_variants_embed_their_image_as_64_by_64(variant, edge):
  images, boxes = jax.ShapeDtypeStruct((1, edge, edge, 3), jnp.float32), jax.ShapeDtypeStruct((1, 4), jnp.float32)
  assert variant.image_size == edge
  (masks, iou), variables = jax.eval_shape(Sam(variant).init_with_output, jax.random.key(0), images, boxes)
  assert variant.grid == 64 and masks.shape == (1, 1, 256, 256) and iou.shape == (1, 1)
  count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
  assert 9.7e6 < count < 9.85e6
