"""Resizing, pooling and normalising of volumes `(n, z, y, x, channel)`."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

NORM_EPSILON = 1e-5
"""Added to variances."""


def instance_norm(x: Float[Array, "n z y x c"]) -> Float[Array, "n z y x c"]:
  """Each channel of each patch to mean 0 and variance 1 over its voxels; no scale, no shift; in float32."""
  x = x.astype(jnp.float32)
  mean = x.mean((1, 2, 3), keepdims=True)
  scale = lax.rsqrt(jnp.square(x - mean).mean((1, 2, 3), keepdims=True) + NORM_EPSILON)
  # not (x - mean) * scale: XLA would keep x - mean for both uses, one more pass over memory
  return x * scale - mean * scale


def instance_norm_relu(x: Float[Array, "n z y x c"]) -> Float[Array, "n z y x c"]:
  """`instance_norm`, then ReLU, in the type of `x`. Of bfloat16, sums over voxels alone are kept in float32.

  A pass over memory then reads or writes bfloat16: forward a volume is read twice and written once, backward the volume
  and its gradient are read twice and a gradient is written.
  """
  return jax.nn.relu(instance_norm(x)) if x.dtype == jnp.float32 else _narrow_norm_relu(x)


@jax.custom_vjp
def _narrow_norm_relu(x: Array) -> Array:
  return _narrow_norm_relu_forward(x)[0]


def _normalised(x: Array, mean: Array, scale: Array) -> Array:
  return x.astype(jnp.float32) * scale - mean * scale


def _narrow_norm_relu_forward(x: Array) -> tuple[Array, tuple[Array, Array, Array]]:
  # both sums from one pass; of differences to a voxel, so that a mean far from 0 does not cancel the variance
  origin = x[:, :1, :1, :1].astype(jnp.float32)
  apart = x.astype(jnp.float32) - origin
  offset, square = (a.mean((1, 2, 3), keepdims=True) for a in (apart, jnp.square(apart)))
  mean, scale = origin + offset, lax.rsqrt(jnp.maximum(square - jnp.square(offset), 0) + NORM_EPSILON)
  return jax.nn.relu(_normalised(x, mean, scale)).astype(x.dtype), (x, mean, scale)


def _narrow_norm_relu_backward(saved: tuple[Array, Array, Array], gradient: Array) -> tuple[Array]:
  x, mean, scale = saved
  normal = _normalised(x, mean, scale)
  passed = jnp.where(normal > 0, gradient.astype(jnp.float32), 0)
  constant, along = (a.mean((1, 2, 3), keepdims=True) for a in (passed, passed * normal))
  return ((scale * (passed - constant - normal * along)).astype(x.dtype),)


_narrow_norm_relu.defvjp(_narrow_norm_relu_forward, _narrow_norm_relu_backward)


@jax.custom_vjp
def max_pool2(x: Float[Array, "n z y x c"]) -> Float[Array, "n z/2 y/2 x/2 c"]:
  """Largest value of each 2x2x2 cell; equal largest values share the gradient."""
  return functools.reduce(jnp.maximum, _cell_corners(x))


def _cells(x: Array) -> Array:
  n, z, y, x_, c = x.shape
  return x.reshape(n, z // 2, 2, y // 2, 2, x_ // 2, 2, c)


def _cell_corners(x: Array) -> list[Array]:
  """The eight voxels of every cell. Slices: on a CPU XLA fuses them, where it would give a reduction its own pass."""
  cells = _cells(x)
  return [cells[:, :, i, :, j, :, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]


def _max_pool2_forward(x: Array) -> tuple[Array, tuple[Array, Array]]:
  largest = max_pool2(x)
  return largest, (x, largest)


def _max_pool2_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array]:
  x, largest = saved
  count = functools.reduce(jnp.add, [(corner == largest).astype(gradient.dtype) for corner in _cell_corners(x)])
  share, wanted = (a[:, :, None, :, None, :, None] for a in (gradient / count, largest))
  return (jnp.where(_cells(x) == wanted, share, 0).reshape(x.shape),)


max_pool2.defvjp(_max_pool2_forward, _max_pool2_backward)


def join_channels(x: Float[Array, "n z y x c"], y: Float[Array, "n z y x d"]) -> Float[Array, "n z y x e"]:
  """The channels of `x`, then those of `y`.

  A sum with zeros, and no concatenation: XLA on a CPU works that out with all processors, together with the padding
  that a convolution needs, where it would concatenate with one of them.
  """
  spare = ((0, 0),) * 4
  return jnp.pad(x, (*spare, (0, y.shape[-1]))) + jnp.pad(y, (*spare, (x.shape[-1], 0)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _double_along(x: Array, axis: int) -> Array:
  before = jnp.concatenate([_part(x, axis, 0, 1), _part(x, axis, 0, -1)], axis)
  after = jnp.concatenate([_part(x, axis, 1), _part(x, axis, -1)], axis)
  even, odd = 0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after
  shape = (*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])
  return jnp.stack([even, odd], axis + 1).reshape(shape)


def _double_along_forward(x: Array, axis: int) -> tuple[Array, None]:
  return _double_along(x, axis), None


def _double_along_backward(axis: int, _: None, gradient: Array) -> tuple[Array]:
  """The transpose, by slices: derived by JAX it would add up padded copies, an order of magnitude slower on a CPU."""
  size = gradient.shape[axis] // 2
  pairs = gradient.reshape(*gradient.shape[:axis], size, 2, *gradient.shape[axis + 1 :])
  even, odd = (lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in (0, 1))
  next_even = jnp.concatenate([_part(even, axis, 1), _part(odd, axis, -1)], axis)
  last_odd = jnp.concatenate([_part(even, axis, 0, 1), _part(odd, axis, 0, -1)], axis)
  return (0.75 * (even + odd) + 0.25 * (next_even + last_odd),)


_double_along.defvjp(_double_along_forward, _double_along_backward)


def _part(x: Array, axis: int, start: int, stop: int | None = None) -> Array:
  """x[start:stop] along an axis."""
  return x[(slice(None),) * axis + (slice(start, stop),)]


def upsample2(x: Float[Array, "n z y x c"]) -> Float[Array, "n 2*z 2*y 2*x c"]:
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
