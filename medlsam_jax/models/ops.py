"""Convolution and resizing of volumes `(n, z, y, x, channel)`, with a lowering per platform behind one traced program.

XLA's own 3D convolution is the right choice on GPU and TPU. On CPU it reaches a small part of what the machine's matrix
products reach, while its 2D convolution is well tuned: there a 3x3x3 convolution is the sum of three 2D ones, and its
weight gradient a sum of matrix products over z planes (`bench/` measures both).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_VOLUME = ("NDHWC", "DHWIO", "NDHWC")
_PLANE = ("NHWC", "HWIO", "NHWC")


def _conv3_native(x: Array, kernel: Array) -> Array:
  return lax.conv_general_dilated(
    x, kernel, (1, 1, 1), "SAME", dimension_numbers=_VOLUME, preferred_element_type=jnp.float32
  )


def _conv3_planes(x: Array, kernel: Array) -> Array:
  """Three 2D convolutions over the planes of a volume padded along z, summed."""
  n, depth, height, width, channels = x.shape
  padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))

  def along(offset: int) -> Array:
    planes = padded[:, offset : offset + depth].reshape(n * depth, height, width, channels)
    return lax.conv_general_dilated(
      planes, kernel[offset], (1, 1), "SAME", dimension_numbers=_PLANE, preferred_element_type=jnp.float32
    )

  return (along(0) + along(1) + along(2)).reshape(n, depth, height, width, kernel.shape[-1])


def _kernel_gradient_native(x: Array, gradient: Array) -> Array:
  kernel = jax.ShapeDtypeStruct((3, 3, 3, x.shape[-1], gradient.shape[-1]), x.dtype)
  (result,) = jax.linear_transpose(lambda k: _conv3_native(x, k).astype(gradient.dtype), kernel)(gradient)
  return result.astype(jnp.float32)


def _kernel_gradient_planes(x: Array, gradient: Array) -> Array:
  """For each z plane: its input `(c, voxels)` times the 27 shifted output gradients `(voxels, 27 o)`, summed."""
  _, depth, height, width, channels = x.shape
  out = gradient.shape[-1]
  padded = jnp.pad(gradient, ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)))

  def add_plane(z: int, total: Array) -> Array:
    plane = lax.dynamic_slice_in_dim(x, z, 1, 1).reshape(-1, channels)
    near = lax.dynamic_slice_in_dim(padded, z, 3, 1)
    shifted = [
      near[:, 2 - a, 2 - b : 2 - b + height, 2 - c : 2 - c + width]
      for a in range(3)
      for b in range(3)
      for c in range(3)
    ]
    columns = jnp.concatenate(shifted, -1).reshape(-1, 27 * out)
    return total + lax.dot_general(plane, columns, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)

  total = lax.fori_loop(0, depth, add_plane, jnp.zeros((channels, 27 * out), jnp.float32))
  return total.reshape(channels, 3, 3, 3, out).transpose(1, 2, 3, 0, 4)


@jax.custom_vjp
def conv3(x: Float[Array, "n z y x c"], kernel: Float[Array, "3 3 3 c o"]) -> Float[Array, "n z y x o"]:
  """3x3x3 convolution with zero padding 1, accumulated and returned in float32 whatever the operands' dtype."""
  return lax.platform_dependent(x, kernel, cpu=_conv3_planes, default=_conv3_native)


def _conv3_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
  return conv3(x, kernel), (x, kernel)


def _conv3_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
  x, kernel = saved
  gradient = gradient.astype(x.dtype)
  mirrored = jnp.flip(kernel, (0, 1, 2)).swapaxes(3, 4)
  dx = conv3(gradient, mirrored).astype(x.dtype)
  dkernel = lax.platform_dependent(x, gradient, cpu=_kernel_gradient_planes, default=_kernel_gradient_native)
  return dx, dkernel.astype(kernel.dtype)


conv3.defvjp(_conv3_forward, _conv3_backward)


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
