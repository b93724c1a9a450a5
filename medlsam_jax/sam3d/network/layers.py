"""Layers of the volumetric network. Tokens and voxels are `(n, z, y, x, channel)`; products are summed in float32."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from medlsam_jax.sam.network.depthwise import depthwise3
from medlsam_jax.sam.network.layers import DENSE_INIT, Linear, layer_norm, product
from medlsam_jax.volume_layers.convolution import conv3

NECK_EPSILON = 1e-6
_TAPS_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


class Conv3(nn.Module):
  """3x3x3 convolution with zero padding 1, without bias."""

  features: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "n z y x i"]) -> Float[Array, "n z y x o"]:
    kernel = self.param("kernel", nn.initializers.he_normal(), (3, 3, 3, x.shape[-1], self.features))
    return conv3(x.astype(self.dtype), kernel.astype(self.dtype))


class Depthwise(nn.Module):
  """3x3x3 convolution of each channel by itself, with bias, in float32."""

  @nn.compact
  def __call__(self, x: Float[Array, "n z y x c"]) -> Float[Array, "n z y x c"]:
    kernel = self.param(
      "kernel", nn.initializers.he_normal(in_axis=(0, 1, 2, 3), out_axis=-1), (3, 3, 3, 1, x.shape[-1])
    )
    return depthwise3(x, kernel, 1) + self.param("bias", nn.initializers.zeros, x.shape[-1:])


class Adapter(nn.Module):
  """Tokens and what their neighbours add: to half the width, depthwise 3x3x3, back, the ReLU after each but the last.

  As published the ReLU follows the last one, too. An adapter that starts as nothing cannot have it there: at zero it
  passes no gradient, and the adapter would stay nothing for good.
  """

  starts_as_nothing: bool = True
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "n z y x c"]) -> Float[Array, "n z y x c"]:
    width = x.shape[-1]
    inner = jax.nn.relu(Linear(width // 2, self.dtype, name="down")(x))
    inner = jax.nn.relu(Depthwise(name="depthwise")(inner))
    if self.starts_as_nothing:
      return x + Linear(width, self.dtype, nn.initializers.zeros, name="up")(inner)
    return x + jax.nn.relu(Linear(width, self.dtype, name="up")(inner))


class DepthEmbedding(nn.Module):
  """Tokens of every slice -> tokens of `taps` enlarged slices each: a depthwise convolution along depth.

  As published: the volume is enlarged `zoom` times along depth, every slice of it embedded, and `taps` slices become
  one by a kernel and stride of `taps`. Enlarging is linear, and where embedding is, too, it may as well come after: the
  slices that there are get embedded once, and the kernel is brought to them. `zoom` times less work for equal numbers.
  """

  taps: int
  zoom: int
  starts_as_mean: bool = True

  @nn.compact
  def __call__(self, x: Float[Array, "n z y x c"]) -> Float[Array, "n z2 y x c"]:
    depth, channels = x.shape[1], x.shape[-1]
    init = nn.initializers.constant(1 / self.taps) if self.starts_as_mean else _TAPS_INIT
    kernel = self.param("kernel", init, (self.taps, channels))
    bias = self.param("bias", nn.initializers.zeros, (channels,))
    near = jnp.einsum("ts,tc->sc", enlarging(self.taps, self.zoom), kernel, precision=jax.lax.Precision.HIGHEST)
    step = self.taps // self.zoom
    padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)), "edge")
    return sum((padded[:, k : k + depth : step] * near[k] for k in range(step + 2)), start=bias)


def enlarging(taps: int, zoom: int) -> Float[np.ndarray, "taps slices"]:
  """Weights of a token's slices, and of one before and after, in each of its `taps` enlarged ones: linear, half-pixel
  centres, the volume's edges held."""
  place = (np.arange(taps) + 0.5) / zoom + 0.5
  return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(taps // zoom + 2))).astype(np.float32)


class Neck(nn.Module):
  """1x1x1, norm over channels, 3x3x3, norm: SAM's neck over volumes."""

  features: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "n z y x i"]) -> Float[Array, "n z y x o"]:
    x = product(x, self.param("kernel", DENSE_INIT, (x.shape[-1], self.features)), self.dtype)
    x = layer_norm(NECK_EPSILON, "norm0")(x)
    x = Conv3(self.features, self.dtype, name="conv")(x).astype(jnp.float32)
    return layer_norm(NECK_EPSILON, "norm1")(x)
