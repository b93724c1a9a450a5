"""Depthwise convolution as shifted multiply-adds, which on a CPU are several times faster than XLA's own lowering."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medlsam_jax import platform

TAPS = 3
"""Along each axis."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise3(x: Float[Array, "n *edges c"], kernel: Float[Array, "*taps 1 c"], stride: int) -> Array:
  """Depthwise convolution of images or volumes, three taps along each axis, with zero padding 1, in float32."""
  return _sum_of_taps(x, kernel, stride)


def _sum_of_taps(x: Array, kernel: Array, stride: int) -> Array:
  parts = _shifted(_padded(x), x.shape, stride)
  kernels = kernel.reshape(-1, kernel.shape[-1])
  return functools.reduce(operator.add, (part * tap for part, tap in zip(parts, kernels, strict=True)))


def _padded(x: Float[Array, "n *edges c"]) -> Array:
  # The barrier keeps XLA from fusing the padding into bounds-checked reads, one for each tap.
  return jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), *((1, 1) for _ in x.shape[1:-1]), (0, 0))))


def _shifted(padded: Array, shape: tuple[int, ...], stride: int) -> Iterator[Array]:
  """What each tap sees of an array that had `shape` before it was padded."""
  for offsets in itertools.product(range(TAPS), repeat=len(shape) - 2):
    places = (slice(offset, offset + edge, stride) for offset, edge in zip(offsets, shape[1:-1], strict=True))
    yield padded[(slice(None), *places)]


def _forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
  return depthwise3(x, kernel, stride), (x, kernel)


def _backward(stride: int, kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
  x, kernel = kept
  (by_x,) = jax.linear_transpose(lambda x: _sum_of_taps(x, kernel, stride), x)(gradient)
  by_rows, at_once = (functools.partial(each, stride) for each in (_by_rows, _at_once))
  by_kernel = platform.by_backend(x, gradient, cpu=by_rows, accelerator=at_once)
  return by_x, by_kernel.reshape(kernel.shape)


depthwise3.defvjp(_forward, _backward)


def _at_once(stride: int, x: Array, gradient: Array) -> Float[Array, "taps c"]:
  """Gradient of the kernel, a sum for each tap."""
  return jnp.stack([_over_places(part * gradient) for part in _shifted(_padded(x), x.shape, stride)])


def _by_rows(stride: int, x: Array, gradient: Array) -> Float[Array, "taps c"]:
  """The same, row by row: XLA sums whole arrays for each tap on one core, and reads them from memory every time."""
  padded = _padded(x)

  def add_row(total: Array, row: Array) -> tuple[Array, None]:
    seen = jax.lax.dynamic_slice_in_dim(padded, row * stride, TAPS, axis=1)
    one = jax.lax.dynamic_slice_in_dim(gradient, row, 1, axis=1)
    parts = _shifted(seen, (x.shape[0], 1, *x.shape[2:]), stride)
    return total + jnp.stack([_over_places(part * one) for part in parts]), None

  start = jnp.zeros((TAPS ** (x.ndim - 2), x.shape[-1]), x.dtype)
  return jax.lax.scan(add_row, start, jnp.arange(gradient.shape[1]))[0]


def _over_places(x: Array) -> Float[Array, " c"]:
  return x.sum(tuple(range(x.ndim - 1)))
