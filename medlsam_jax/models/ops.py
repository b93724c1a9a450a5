"""Resizing, pooling and normalising of volumes `(n, z, y, x, channel)`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def instance_norm(x: Float[Array, "n z y x c"], epsilon: float = 1e-5) -> Float[Array, "n z y x c"]:
  """Each channel of each patch to mean 0 and variance 1 over its voxels; no scale, no shift; in float32."""
  x = x.astype(jnp.float32)
  centred = x - x.mean((1, 2, 3), keepdims=True)
  return centred * lax.rsqrt(jnp.square(centred).mean((1, 2, 3), keepdims=True) + epsilon)


def max_pool2(x: Float[Array, "n z y x c"]) -> Float[Array, "n z/2 y/2 x/2 c"]:
  """Largest value of each 2x2x2 cell."""
  n, z, y, x_, c = x.shape
  return x.reshape(n, z // 2, 2, y // 2, 2, x_ // 2, 2, c).max((2, 4, 6))


def _double_along(x: Array, axis: int) -> Array:
  size = x.shape[axis]
  first, last = lax.slice_in_dim(x, 0, 1, axis=axis), lax.slice_in_dim(x, size - 1, size, axis=axis)
  before = jnp.concatenate([first, lax.slice_in_dim(x, 0, size - 1, axis=axis)], axis)
  after = jnp.concatenate([lax.slice_in_dim(x, 1, size, axis=axis), last], axis)
  even, odd = 0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after
  shape = (*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
  return jnp.stack([even, odd], axis + 1).reshape(shape)


def upsample2(x: Float[Array, "n z y x c"]) -> Float[Array, "n 2z 2y 2x c"]:
  """Trilinear resize by two with half-pixel centres, edges held (the published decoder's upsampling)."""
  for axis in (1, 2, 3):
    x = _double_along(x, axis)
  return x


def resize_linear(x: Array, shape: tuple[int, int, int], axes: tuple[int, int, int] = (1, 2, 3)) -> Array:
  """Trilinear resize of three axes to `shape`, half-pixel centres, **no antialiasing** (as PyTorch's interpolate)."""
  target = list(x.shape)
  for axis, size in zip(axes, shape, strict=True):
    target[axis] = size
  return jax.image.resize(x, target, "linear", antialias=False)
