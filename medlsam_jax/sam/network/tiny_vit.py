"""TinyViT image encoder of LiteMedSAM and MobileSAM: images `(n, y, x, 3)` -> embeddings `(n, y/4, x/4, 256)`.

"TinyViT: fast pretraining distillation for small vision transformers", in the forms that both SAM descendants use: the
last merge keeps its resolution, and SAM's neck follows. MobileSAM begins with two stride-2 convolutions and so embeds
1024 pixels as 64; LiteMedSAM begins with two 1x1 convolutions and embeds 256 as 64.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from medlsam_jax.sam.network.layers import Conv, ConvNorm, Linear, gelu, layer_norm, mix, product

LAYER_NORM_EPSILON = 1e-5
NECK_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class TinyViTSizes:
  """Widths, depths, heads and windows of the four stages (the first is convolutional: its window goes unused)."""

  widths: tuple[int, ...] = (64, 128, 160, 320)
  depths: tuple[int, ...] = (2, 2, 6, 2)
  heads: tuple[int, ...] = (2, 4, 5, 10)
  windows: tuple[int, ...] = (7, 7, 14, 7)
  merge_strides: tuple[int, ...] = (2, 2, 1)
  embed_stride: int = 1
  """Stride of both convolutions of the patch embedding: 1 with 1x1 kernels, 2 with 3x3."""
  neck: int = 256

  @property
  def stride(self) -> int:
    """Pixels per embedding cell."""
    return self.embed_stride**2 * int(np.prod(self.merge_strides))


class _Part(nn.Module):
  """What every part of the encoder is told: whether batch norm is folded, and the dtype of matrix operands."""

  folded: bool = False
  dtype: DTypeLike = jnp.float32

  def conv(self, name: str, features: int, edge: int = 1, stride: int = 1, depthwise: bool = False) -> ConvNorm:
    return ConvNorm(features, edge, stride, depthwise, self.folded, self.dtype, name=name)


class MBConv(_Part):
  """Inverted bottleneck, expansion 4, GELU also after the residual."""

  @nn.compact
  def __call__(self, x: Float[Array, "n y x c"], train: bool = False) -> Float[Array, "n y x c"]:
    width = x.shape[-1]
    inner = gelu(self.conv("expand", 4 * width)(x, train))
    inner = gelu(self.conv("depthwise", 4 * width, edge=3, depthwise=True)(inner, train))
    return gelu(x + self.conv("project", width)(inner, train))


class PatchMerge(_Part):
  """1x1, GELU, depthwise 3x3 with the stride, GELU, 1x1."""

  features: int = 0
  stride: int = 2

  @nn.compact
  def __call__(self, x: Float[Array, "n y x i"], train: bool = False) -> Float[Array, "n y2 x2 o"]:
    x = gelu(self.conv("expand", self.features)(x, train))
    x = gelu(self.conv("depthwise", self.features, edge=3, stride=self.stride, depthwise=True)(x, train))
    return self.conv("project", self.features)(x, train)


def offset_index(window: int) -> np.ndarray:
  """For each pair of the window's positions, the row of the bias table: `|dy| * window + |dx|`, shape (w^2, w^2).

  The published table numbers offsets in the order in which a double loop over the positions meets them; the first
  position, the corner, already meets all in row-major order.
  """
  y, x = np.divmod(np.arange(window * window), window)
  return np.abs(y[:, None] - y) * window + np.abs(x[:, None] - x)


class WindowAttention(nn.Module):
  """Attention inside square windows with a learned bias per head and absolute offset.

  The image is zero-padded to whole windows **before** the norm and the padding takes part in the attention, as in the
  published network.
  """

  heads: int
  window: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "n y x c"]) -> Float[Array, "n y x c"]:
    batch, height, width, channels = x.shape
    window, heads, size = self.window, self.heads, channels // self.heads
    rows, columns = -(-height // window), -(-width // window)
    x = jnp.pad(x, ((0, 0), (0, rows * window - height), (0, columns * window - width), (0, 0)))
    x = layer_norm(LAYER_NORM_EPSILON, "norm")(x)
    kernel = self.param("qkv_kernel", nn.initializers.truncated_normal(0.02), (channels, 3 * channels))
    bias = self.param("qkv_bias", nn.initializers.zeros, (3 * channels,))
    table = self.param("offset_bias", nn.initializers.zeros, (heads, window * window))

    x = x.reshape(batch, rows, window, columns, window, channels).swapaxes(2, 3)
    x = x.reshape(batch * rows * columns, window * window, channels)
    qkv = product(x, kernel, self.dtype) + bias
    # Per head q, k, v follow one another: (head, [q k v], size).
    qkv = qkv.reshape(*qkv.shape[:2], heads, 3, size).astype(self.dtype)
    query, key, value = (qkv[:, :, :, i].swapaxes(1, 2) for i in range(3))
    logits = jnp.einsum("bhqd,bhkd->bhqk", query * size**-0.5, key, preferred_element_type=jnp.float32)
    x = mix(logits + table[:, offset_index(window)], value, self.dtype)

    x = x.swapaxes(1, 2).reshape(batch, rows, columns, window, window, channels).swapaxes(2, 3)
    x = x.reshape(batch, rows * window, columns * window, channels)[:, :height, :width]
    return Linear(channels, self.dtype, name="project")(x)


class TinyViTBlock(_Part):
  """Windowed attention and residual, depthwise 3x3 (neither activation nor residual), MLP and residual."""

  heads: int = 1
  window: int = 7

  @nn.compact
  def __call__(self, x: Float[Array, "n y x c"], train: bool = False) -> Float[Array, "n y x c"]:
    width = x.shape[-1]
    x = x + WindowAttention(self.heads, self.window, self.dtype, name="attention")(x)
    x = self.conv("local", width, edge=3, depthwise=True)(x, train)
    inner = layer_norm(LAYER_NORM_EPSILON, "mlp_norm")(x)
    inner = gelu(Linear(4 * width, self.dtype, name="mlp_in")(inner))
    return x + Linear(width, self.dtype, name="mlp_out")(inner)


class TinyViT(_Part):
  """The whole encoder. `folded` as in `ConvNorm`; `train` updates the batch norm statistics."""

  sizes: TinyViTSizes = TinyViTSizes()

  @nn.compact
  def __call__(
    self, images: Float[Array, "n y x 3"], train: bool = False
  ) -> Float[Array, "n y/{self.sizes.stride} x/{self.sizes.stride} c"]:
    sizes, folded, dtype = self.sizes, self.folded, self.dtype
    stride, edge = sizes.embed_stride, 1 if sizes.embed_stride == 1 else 3
    x = gelu(self.conv("embed0", sizes.widths[0] // 2, edge, stride)(images, train))
    x = self.conv("embed1", sizes.widths[0], edge, stride)(x, train)
    for stage, depth in enumerate(sizes.depths):
      for index in range(depth):
        name = f"stage{stage}_block{index}"
        if stage == 0:
          x = MBConv(folded, dtype, name=name)(x, train)
        else:
          x = TinyViTBlock(folded, dtype, sizes.heads[stage], sizes.windows[stage], name=name)(x, train)
      if stage + 1 < len(sizes.depths):
        width, step = sizes.widths[stage + 1], sizes.merge_strides[stage]
        x = PatchMerge(folded, dtype, width, step, name=f"stage{stage}_merge")(x, train)
    x = Conv(sizes.neck, use_bias=False, dtype=dtype, name="neck0")(x)
    x = layer_norm(NECK_EPSILON, "neck_norm0")(x)
    x = Conv(sizes.neck, edge=3, use_bias=False, dtype=dtype, name="neck1")(x)
    return layer_norm(NECK_EPSILON, "neck_norm1")(x)
