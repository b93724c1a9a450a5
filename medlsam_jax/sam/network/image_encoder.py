"""ViT image encoder of SAM and MedSAM: images `(n, y, x, 3)` -> embeddings `(n, y/16, x/16, 256)`.

A plain vision transformer, most of whose blocks attend inside windows and a few globally, with relative positions that
split into rows and columns ("Segment anything", appendix A; "Exploring plain vision transformer backbones for object
detection"). Images need not be square.

What the arithmetic costs on a CPU is traffic, not products: a global block's attention weights are 0.8 GB at 1024
pixels. There, tokens therefore go through each block in parts that stay in the cache; elsewhere all at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from medlsam_jax import platform
from medlsam_jax.sam.network.layers import Affine, Conv, gelu, layer_norm, product

LAYER_NORM_EPSILON = 1e-6
TOKENS_AT_ONCE = 512
"""Rows of a matrix product on a CPU: of 256 to 4096 the fastest."""
QUERIES_AT_ONCE = 256
"""Queries of one head whose attention weights exist at a time."""


@dataclasses.dataclass(frozen=True)
class ViTSizes:
  """Sizes of one encoder; the defaults are those of ViT-B."""

  width: int = 768
  depth: int = 12
  heads: int = 12
  global_blocks: tuple[int, ...] = (2, 5, 8, 11)
  """Blocks that attend over the whole image; the others inside windows."""
  window: int = 14
  patch: int = 16
  grid: int = 64
  """Edge of the tables of positions, tokens: that of the image that the weights were trained with."""
  neck: int = 256

  @property
  def stride(self) -> int:
    """Pixels per embedding cell."""
    return self.patch


class _Norm(nn.Module):
  """Declares scale and bias of a layer norm and hands them out."""

  @nn.compact
  def __call__(self, inputs: int) -> tuple[Float[Array, " i"], Float[Array, " i"]]:
    scale = self.param("scale", nn.initializers.ones, (inputs,))
    return scale, self.param("bias", nn.initializers.zeros, (inputs,))


def _normalise(x: Float[Array, "*n c"], weights: tuple[Array, Array]) -> Float[Array, "*n c"]:
  centred = x - x.mean(-1, keepdims=True)
  variance = jnp.mean(jnp.square(centred), -1, keepdims=True)
  return centred * lax.rsqrt(variance + LAYER_NORM_EPSILON) * weights[0] + weights[1]


def resize_table(table: Float[Array, "n d"], length: int) -> Float[Array, "length d"]:
  """A position table resampled linearly (half-pixel centres, no antialiasing), as the published network does."""
  if table.shape[0] == length:
    return table
  return jax.image.resize(table, (length, table.shape[1]), "linear", antialias=False)


def relative_rows(table: Float[Array, "n d"], size: int) -> Float[Array, "size size d"]:
  """The row of a table for each query and key along one axis: entry `[q, k]` is that of the offset `q - k`."""
  place = np.arange(size)
  return resize_table(table, 2 * size - 1)[place[:, None] - place + size - 1]


def attend(
  query: Float[Array, "t d"],
  key: Float[Array, "k d"],
  value: Float[Array, "k d"],
  row_bias: Float[Array, "t h"],
  column_bias: Float[Array, "t w"],
) -> Float[Array, "t d"]:
  """Attention of one head, its logits plus a bias for the key's row and one for its column.

  Operands have the compute dtype, products are summed in float32; the division comes after the values are mixed, where
  it is cheaper.
  """
  tokens, height, width = query.shape[0], row_bias.shape[1], column_bias.shape[1]
  scaled = (query.astype(jnp.float32) * query.shape[-1] ** -0.5).astype(query.dtype)
  logits = product(scaled, key.T, query.dtype).reshape(tokens, height, width)
  logits = (logits + row_bias[:, :, None] + column_bias[:, None, :]).reshape(tokens, height * width)
  weights = jnp.exp(logits - lax.stop_gradient(logits.max(-1, keepdims=True)))
  return product(weights, value, query.dtype) / weights.sum(-1, keepdims=True)


def _loop(function: Callable[..., Array], *arrays: Array) -> Array:
  """`vmap(function)` over the leading axis: on a CPU one after the other, each inside the cache."""
  if arrays[0].shape[0] == 1:
    return function(*(array[0] for array in arrays))[None]

  def one_by_one(*arrays: Array) -> Array:
    return lax.map(lambda each: function(*each), arrays)

  return platform.by_backend(*arrays, cpu=one_by_one, accelerator=jax.vmap(function))


def _in_parts(function: Callable[[Array], Array], tokens: Float[Array, "t i"], part: int) -> Float[Array, "t o"]:
  """A function of each token, on a CPU `part` tokens at a time."""
  count = tokens.shape[0]
  whole = count - count % part
  if count <= part:
    return function(tokens)

  def parts(tokens: Array) -> Array:
    done = lax.map(function, tokens[:whole].reshape(-1, part, tokens.shape[-1]))
    done = done.reshape(whole, -1)
    return done if whole == count else jnp.concatenate([done, function(tokens[whole:])])

  return platform.by_backend(tokens, cpu=parts, accelerator=function)


class Block(nn.Module):
  """Attention and residual, MLP and residual. `window` 0 attends globally; `grid` sizes the tables then."""

  heads: int
  window: int
  grid: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
    shape = x.shape
    x = x + self._attention(x)
    width = shape[-1]
    norm, (kernel0, bias0) = _Norm(name="norm2")(width), Affine(4 * width, name="mlp_in")(width)
    kernel1, bias1 = Affine(width, name="mlp_out")(4 * width)

    def mlp(tokens: Float[Array, "t c"]) -> Float[Array, "t c"]:
      inner = gelu(product(_normalise(tokens, norm), kernel0, self.dtype) + bias0)
      return tokens + product(inner, kernel1, self.dtype) + bias1

    return _in_parts(mlp, x.reshape(-1, width), TOKENS_AT_ONCE).reshape(shape)

  def _attention(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
    batch, height, width, channels = x.shape
    window = self.window
    x = _normalise(x, _Norm(name="norm1")(channels))
    if not window:
      return self._attend_within(x)
    # Padded after the norm: the padding is zero there, and takes part in the attention, as published.
    rows, columns = -(-height // window), -(-width // window)
    x = jnp.pad(x, ((0, 0), (0, rows * window - height), (0, columns * window - width), (0, 0)))
    x = x.reshape(batch, rows, window, columns, window, channels).swapaxes(2, 3)
    x = self._attend_within(x.reshape(-1, window, window, channels))
    x = x.reshape(batch, rows, columns, window, window, channels).swapaxes(2, 3)
    return x.reshape(batch, rows * window, columns * window, channels)[:, :height, :width]

  def _attend_within(self, x: Float[Array, "g h w c"]) -> Float[Array, "g h w c"]:
    """Attention among the `h * w` tokens of each of `g` groups, with both projections."""
    groups, height, width, channels = x.shape
    size = channels // self.heads
    edge = self.window or self.grid
    qkv_weights = Affine(3 * channels, name="qkv")(channels)
    out_weights = Affine(channels, name="project")(channels)
    tables = [self.param(f"relative_{axis}", nn.initializers.zeros, (2 * edge - 1, size)) for axis in "yx"]
    dtype = self.dtype
    rows, columns = (relative_rows(table, n).astype(dtype) for table, n in zip(tables, (height, width), strict=True))

    def head(query: Float[Array, "t d"], key: Float[Array, "t d"], value: Float[Array, "t d"]) -> Float[Array, "t d"]:
      square = query.reshape(height, width, size)
      bias_y = jnp.einsum("ywd,ykd->ywk", square, rows, preferred_element_type=jnp.float32)
      bias_x = jnp.einsum("ywd,wkd->ywk", square, columns, preferred_element_type=jnp.float32)
      bias_y, bias_x = bias_y.reshape(-1, height), bias_x.reshape(-1, width)
      return _queries_in_parts(query, key, value, bias_y, bias_x)

    def group(tokens: Float[Array, "t c"]) -> Float[Array, "t c"]:
      qkv = _in_parts(lambda t: product(t, qkv_weights[0], dtype) + qkv_weights[1], tokens, TOKENS_AT_ONCE)
      # (token, [q k v], head, size) -> [q k v] of (head, token, size)
      query, key, value = qkv.astype(dtype).reshape(-1, 3, self.heads, size).transpose(1, 2, 0, 3)
      mixed = _loop(head, query, key, value) if self._is_large(height, width) else jax.vmap(head)(query, key, value)
      mixed = mixed.swapaxes(0, 1).reshape(-1, channels)
      return _in_parts(lambda t: product(t, out_weights[0], dtype) + out_weights[1], mixed, TOKENS_AT_ONCE)

    return _loop(group, x.reshape(groups, height * width, channels)).reshape(x.shape)

  @staticmethod
  def _is_large(height: int, width: int) -> bool:
    return height * width > QUERIES_AT_ONCE


def _queries_in_parts(query: Array, key: Array, value: Array, bias_y: Array, bias_x: Array) -> Float[Array, "t d"]:
  """`attend`, for `QUERIES_AT_ONCE` queries at a time, whose weights are computed anew for the gradient."""
  count, part = query.shape[0], QUERIES_AT_ONCE
  if count <= part:
    return attend(query, key, value, bias_y, bias_x)
  padding = -count % part
  padded = [jnp.pad(a, ((0, padding), (0, 0))).reshape(-1, part, a.shape[-1]) for a in (query, bias_y, bias_x)]
  one = jax.checkpoint(lambda each: attend(each[0], key, value, each[1], each[2]))
  return lax.map(one, tuple(padded)).reshape(count + padding, -1)[:count]


class ImageEncoder(nn.Module):
  """The whole encoder.

  Attributes:
    sizes: of the variant.
    dtype: operands of matrix products, which accumulate in float32.
    remat: whether each block's intermediate values are computed anew for the gradient instead of kept.
  """

  sizes: ViTSizes = ViTSizes()
  dtype: DTypeLike = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(
    self, images: Float[Array, "n y x 3"], train: bool = False
  ) -> Float[Array, "n y/{self.sizes.patch} x/{self.sizes.patch} c"]:
    """Embeds images whose sides are multiples of the patch; `train` changes nothing (no batch norm, no dropout).

    Sides other than those the weights were trained with have the tables of positions resampled linearly.
    """
    del train
    sizes = self.sizes
    x = Conv(sizes.width, sizes.patch, sizes.patch, dtype=self.dtype, name="patch")(images)
    position = self.param("position", nn.initializers.normal(0.02), (1, sizes.grid, sizes.grid, sizes.width))
    if x.shape[1:3] != position.shape[1:3]:
      position = jax.image.resize(position, (1, *x.shape[1:]), "linear", antialias=False)
    x = x + position
    block = nn.remat(Block) if self.remat else Block
    for index in range(sizes.depth):
      window = 0 if index in sizes.global_blocks else sizes.window
      x = block(sizes.heads, window, sizes.grid, self.dtype, name=f"block{index}")(x)
    x = Conv(sizes.neck, use_bias=False, dtype=self.dtype, name="neck0")(x)
    x = layer_norm(LAYER_NORM_EPSILON, "neck_norm0")(x)
    x = Conv(sizes.neck, edge=3, use_bias=False, dtype=self.dtype, name="neck1")(x)
    return layer_norm(LAYER_NORM_EPSILON, "neck_norm1")(x)
