"""3x3x3 convolution of volumes `(n, z, y, x, channel)`, with a lowering per platform behind one traced program.

XLA's own 3D convolution is the right choice on GPU and TPU. On a CPU it reaches a small part of what the machine's
matrix products reach, while its 2D convolution is well tuned: there the planes of a volume go through 2D convolutions,
and the weight gradient is a sum of matrix products over planes (`bench/` measures them).
"""

from __future__ import annotations

import functools
import math
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from medlsam_jax import platform

_VOLUME = ("NDHWC", "DHWIO", "NDHWC")
_PLANE = ("NHWC", "HWIO", "NHWC")

_FEW_CHANNELS = 8
"""Up to so many input channels stacking planes is the fastest lowering on a CPU."""
_TILE = 4
"""Output planes that the stacked and the Winograd lowering compute together."""
_LEAST_DEPTH = 8
"""Below it the transforms of the Winograd lowering cost more than the products they save."""
_LARGE = 2**24
"""Input numbers of a patch from which a CPU device takes one patch at a time, to save memory."""

# Winograd's minimal filtering F(4, 3) (Lavin and Gray, 2016, section 4.3): six products for four outputs of three taps,
# interpolated at 0, 1, -1, 2, -2 and infinity. In float32 its error is about 3e-6 of the largest output.
_INPUT_TRANSFORM = np.array([
  [4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
  [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1],
], np.float32)  # fmt: skip
_KERNEL_TRANSFORM = np.array([
  [1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6],
  [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1],
], np.float32)  # fmt: skip
_OUTPUT_TRANSFORM = np.array([
  [1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1],
], np.float32)  # fmt: skip


def _conv3_native(x: Array, kernel: Array) -> Array:
  # the result in the operands' type, summed in float32 within: XLA for NVIDIA GPUs has no convolution of two types, and
  # would widen bfloat16 operands of one with float32 results
  return lax.conv_general_dilated(
    x, kernel, (1, 1, 1), "SAME", dimension_numbers=_VOLUME, preferred_element_type=x.dtype
  )


def _conv2(planes: Array, kernel: Array) -> Array:
  return lax.conv_general_dilated(
    planes, kernel, (1, 1), "SAME", dimension_numbers=_PLANE, preferred_element_type=jnp.float32
  )


def _pad_planes(x: Array) -> Array:
  return jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))


def _conv3_planes(x: Array, kernel: Array) -> Array:
  """Three 2D convolutions over the planes of a volume padded along z, summed: for any shape."""
  n, depth, height, width, channels = x.shape
  padded = _pad_planes(x)

  def along(offset: int) -> Array:
    planes = padded[:, offset : offset + depth].reshape(n * depth, height, width, channels)
    return _conv2(planes, kernel[offset])

  return (along(0) + along(1) + along(2)).reshape(n, depth, height, width, kernel.shape[-1])


def _conv3_stacked(x: Array, kernel: Array) -> Array:
  """One 2D convolution whose channels are those of `_TILE` output planes and of the planes around them.

  The kernel repeats along its diagonal, so half of the products are with zeros: with few channels still faster than
  products too narrow for the machine's registers.
  """
  n, depth, height, width, channels = x.shape
  out, taps = kernel.shape[-1], jnp.moveaxis(kernel, 0, 2)
  wide = jnp.zeros((3, 3, _TILE + 2, channels, _TILE, out), kernel.dtype)
  for plane in range(_TILE):
    wide = wide.at[:, :, plane : plane + 3, :, plane].set(taps)
  padded = _pad_planes(x)
  stacked = jnp.concatenate([padded[:, plane : plane + depth : _TILE] for plane in range(_TILE + 2)], -1)
  y = _conv2(stacked.reshape(-1, height, width, stacked.shape[-1]), wide.reshape(3, 3, -1, _TILE * out))
  y = y.reshape(n, depth // _TILE, height, width, _TILE, out)
  # XLA would otherwise sum over the unsorted planes when the norm follows, far more slowly
  return lax.optimization_barrier(jnp.moveaxis(y, 4, 2).reshape(n, depth, height, width, out))


def _conv3_winograd(x: Array, kernel: Array) -> Array:
  """Winograd's F(4, 3) along z over whole volumes: six 2D convolutions for four planes in place of twelve, float32."""
  n, depth, height, width, _ = x.shape
  kernels = jnp.einsum("at,tyxco->ayxco", _KERNEL_TRANSFORM, kernel)
  rows = lax.optimization_barrier([_side_by_side(planes) for planes in _winograd_input(x)])
  products = [_conv2(row, k) for row, k in zip(rows, kernels, strict=True)]
  # XLA would otherwise fuse a transform into whatever surrounds it and work it out again for each use
  products = [y.reshape(n, height, depth // _TILE, width + 1, -1) for y in lax.optimization_barrier(products)]
  y = lax.optimization_barrier(jnp.stack(_combine(_OUTPUT_TRANSFORM, products), 3))
  # the last one as in `_conv3_stacked`: the sums of the norm are to see the sorted volume
  return lax.optimization_barrier(jnp.moveaxis(y[..., :width, :], 1, 3).reshape(*x.shape[:-1], kernel.shape[-1]))


def _side_by_side(planes: Float[Array, "n p y x c"]) -> Float[Array, "n y w c"]:
  """A patch's planes in one wide image, a column of zeros after each so that they do not see each other.

  XLA's 2D convolution shares a wide image between processors, but works on many small ones with one of them.
  """
  n, count, height, width, channels = planes.shape
  apart = jnp.pad(planes.swapaxes(1, 2), ((0, 0), (0, 0), (0, 0), (0, 1), (0, 0)))
  return apart.reshape(n, height, count * (width + 1), channels)


def _winograd_input(x: Array) -> list[Float[Array, "n p y x c"]]:
  """The six transforms of the planes, of each four planes one."""
  depth, padded = x.shape[1], _pad_planes(x)
  planes = [padded[:, tap : tap + depth - _TILE + 1 : _TILE] for tap in range(_TILE + 2)]
  return _combine(_INPUT_TRANSFORM, planes)


def _combine(rows: np.ndarray, terms: list[Array]) -> list[Array]:
  """Each row's linear combination of the terms."""
  return [
    functools.reduce(operator.add, [float(w) * term for w, term in zip(row, terms, strict=True) if w]) for row in rows
  ]


def _conv3_cpu(x: Array, kernel: Array) -> Array:
  # bfloat16 operands are widened: XLA's convolution would do so at every use, and products of them are exact in float32
  return _conv3_cpu_wide(x.astype(jnp.float32), kernel.astype(jnp.float32)).astype(x.dtype)


def _conv3_cpu_wide(x: Array, kernel: Array) -> Array:
  depth, channels = x.shape[1], x.shape[-1]
  if depth % _TILE:
    return _conv3_planes(x, kernel)
  if channels <= _FEW_CHANNELS:
    return _conv3_stacked(x, kernel)
  if depth < _LEAST_DEPTH:
    return _conv3_planes(x, kernel)
  if len(x) > 1 and x[0].size >= _LARGE:
    lanes = _lanes(len(x))
    turns = x.reshape(lanes, -1, *x.shape[1:]).swapaxes(0, 1)
    y = lax.map(lambda patches: _conv3_winograd(patches, kernel), turns).swapaxes(0, 1)
    return y.reshape(*x.shape[:-1], -1)
  return _conv3_winograd(x, kernel)


def _kernel_gradient_native(x: Array, gradient: Array) -> Array:
  kernel = jax.ShapeDtypeStruct((3, 3, 3, x.shape[-1], gradient.shape[-1]), x.dtype)
  (result,) = jax.linear_transpose(lambda k: _conv3_native(x, k), kernel)(gradient)
  return result.astype(jnp.float32)


def _kernel_gradient_cpu(x: Array, gradient: Array) -> Array:
  """By 2D gradients: transposed F(4, 3) where the forward pass has it, else one for each tap along z."""
  x, gradient = x.astype(jnp.float32), gradient.astype(jnp.float32)
  _, depth, height, width, channels = x.shape
  if depth % _TILE or depth < _LEAST_DEPTH or channels == 1:
    padded = _pad_planes(x)
    planes = [padded[:, tap : tap + depth].reshape(-1, height, width, channels) for tap in range(3)]
    gradients = gradient.reshape(-1, height, width, gradient.shape[-1])
    return jnp.stack([_kernel2_gradient(plane, gradients) for plane in planes]).sum(1)
  outputs = [gradient[:, plane::_TILE] for plane in range(_TILE)]
  products, inputs = lax.optimization_barrier((_combine(_OUTPUT_TRANSFORM.T, outputs), _winograd_input(x)))
  parts = [
    _kernel2_gradient(
      planes.reshape(-1, height, width, channels), product.reshape(-1, height, width, gradient.shape[-1])
    )
    for planes, product in zip(inputs, products, strict=True)
  ]
  return jnp.stack(_combine(_KERNEL_TRANSFORM.T, parts)).sum(1)


def _kernel2_gradient(x: Float[Array, "n y x c"], gradient: Float[Array, "n y x o"]) -> Float[Array, "lanes 3 3 c o"]:
  """A plane at a time in each lane, the nine shifted copies of the side with fewer channels times the other."""
  height, width, channels = x.shape[1:]
  lanes = _lanes(len(x))
  expand_input = channels < gradient.shape[-1]
  few, many = (x, gradient) if expand_input else (gradient, x)
  padded = jnp.pad(few, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(lanes, -1, height + 2, width + 2, few.shape[-1])
  planes = many.reshape(lanes, -1, height * width, many.shape[-1])

  def add_plane(index: int, total: Array) -> Array:
    near = padded[:, index]
    shifted = [
      near[:, a : a + height, b : b + width].reshape(lanes, height * width, -1) for a in range(3) for b in range(3)
    ]
    # one channel: copying whole rows is far faster than columns of single numbers
    one = few.shape[-1] == 1
    copies = jnp.stack([s[..., 0] for s in shifted], 1) if one else jnp.concatenate(shifted, -1)
    products = "lkr,lrm->lkm" if one else "lrk,lrm->lkm"
    return total + jnp.einsum(products, copies, planes[:, index], preferred_element_type=jnp.float32)

  shape = (few.shape[-1], many.shape[-1])
  start = jnp.zeros((lanes, 9 * shape[0], shape[1]), jnp.float32)
  total = lax.fori_loop(0, planes.shape[1], add_plane, start).reshape(lanes, 3, 3, *shape)
  return total if expand_input else jnp.flip(total, (1, 2)).swapaxes(3, 4)


def _lanes(count: int) -> int:
  """Parts of a batch that go through a loop beside each other, one a device.

  A loop along an axis that is split over devices would gather it on all of them.
  """
  return math.gcd(count, jax.device_count())


@jax.custom_vjp
def conv3(x: Float[Array, "n z y x c"], kernel: Float[Array, "3 3 3 c o"]) -> Float[Array, "n z y x o"]:
  """3x3x3 convolution with zero padding 1, summed in float32 and returned in the operands' dtype, which they share."""
  return platform.by_backend(x, kernel, cpu=_conv3_cpu, accelerator=_conv3_native)


def _conv3_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
  return conv3(x, kernel), (x, kernel)


def _conv3_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
  x, kernel = saved
  gradient = gradient.astype(x.dtype)
  mirrored = jnp.flip(kernel, (0, 1, 2)).swapaxes(3, 4)
  dx = conv3(gradient, mirrored).astype(x.dtype)
  dkernel = platform.by_backend(x, gradient, cpu=_kernel_gradient_cpu, accelerator=_kernel_gradient_native)
  return dx, dkernel.astype(kernel.dtype)


conv3.defvjp(_conv3_forward, _conv3_backward)
