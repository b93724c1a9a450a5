"""The decoder and the necks against their published order, written out with XLA's own convolution."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from tiny_sam3d import made_up

from medlsam_jax.sam3d.network.decoder import Decoder
from medlsam_jax.sam3d.network.layers import Neck
from medlsam_jax.volume_layers.ops import instance_norm, resize_linear

QUICK = {"xla_backend_optimization_level": 0}


def drawn(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def conv(x, kernel):
  return lax.conv_general_dilated(x, kernel, (1, 1, 1), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC"))


def published(p, scales, image, box, edge):
  """All scales, the image and a box joined for one organ; two classes at the cube's size, then their difference."""
  joined = []
  for index, x in enumerate(scales):
    for name in ("first", "second"):
      x = jax.nn.relu(instance_norm(conv(x, p[f"scale{index}"][name]["kernel"])))
    joined.append(resize_linear(x, (2 * x.shape[1],) * 3))
  kernel = jnp.concatenate([p["join"], p["box"]], 3)
  x = jax.nn.relu(instance_norm(conv(jnp.concatenate([*joined, image, box], -1), kernel)))
  both = resize_linear(conv(x, p["classes"]), (edge,) * 3)
  return both[..., 1] - both[..., 0]


def test_what_organs_share_is_computed_once_and_changes_nothing():
  grid, width, features, organs = 2, 5, 3, 3
  decoder = Decoder(features, 4, 4 * grid)
  shared, image = [drawn(2, grid, grid, grid, width, seed=i) for i in range(3)], drawn(2, 4, 4, 4, 1, seed=7)
  own, boxes = drawn(2 * organs, grid, grid, grid, width, seed=8), drawn(2 * organs, 4, 4, 4, 1, seed=9)

  def run(m, shared, image, own, boxes):
    return m(m.shared(shared, image), own, boxes)

  given = (shared, image, own, boxes)
  p = made_up(jax.eval_shape(lambda *a: decoder.init(jax.random.key(0), *a, method=run), *given)["params"])
  logits = jax.jit(lambda *a: decoder.apply({"params": p}, *a, method=run), compiler_options=QUICK)(*given)
  assert logits.shape == (2, organs, 8, 8, 8)
  for cube in range(2):
    for organ in range(organs):
      row = slice(cube * organs + organ, cube * organs + organ + 1)
      scales = [*(x[cube][None] for x in shared), own[row]]
      expected = published(p, scales, image[cube][None], boxes[row], 8)[0]
      np.testing.assert_allclose(logits[cube, organ], expected, atol=2e-4 * np.abs(expected).max())


def test_a_neck_is_sams_over_volumes():
  x, neck = drawn(1, 3, 4, 5, 6), Neck(7)
  p = made_up(jax.eval_shape(neck.init, jax.random.key(0), x)["params"])

  def norm(x, name):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p[name]["scale"] + p[name][
      "bias"
    ]

  expected = norm(np.asarray(conv(norm(x @ p["kernel"], "norm0"), p["conv"]["kernel"])), "norm1")
  np.testing.assert_allclose(neck.apply({"params": p}, x), expected, atol=1e-4)
