"""ViT image encoder of SAM and MedSAM: images `(n, y, x, 3)` -> embeddings `(n, y/16, x/16, 256)`.

A plain vision transformer, most of whose blocks attend inside windows and a few globally, with relative positions that
split into rows and columns ("Segment anything", appendix A; "Exploring plain vision transformer backbones for object
detection"). Images need not be square.

What the arithmetic costs on a CPU is traffic, not products: a global block's attention weights are 0.8 GB at 1024
pixels. There, tokens therefore go through each block in parts that stay in the cache; elsewhere all at once.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from medlsam_jax import platform
from medlsam_jax.sam.network.layers import Affine, Conv, contract, einsum, gelu, layer_norm, matmul, product

LAYER_NORM_EPSILON = 1e-6
TOKENS_AT_ONCE = 512
"""Rows of a matrix product on a CPU: of 256 to 4096 the fastest."""
QUERIES_AT_ONCE = 256
"""Queries of one head whose attention weights exist at a time on a CPU."""
WEIGHTS_AT_ONCE = 2**24
"""Attention weights of one head that exist at a time elsewhere: all of 4096 tokens, an image of 1024 pixels."""
APART = -1e4
"""Bias of what is not to be attended to: far below any logit."""


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

  def tables(self, index: int) -> int:
    """Edge that the tables of relative positions of a block are for."""
    return self.grid if index in self.global_blocks else self.window


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
  query: Float[Array, "t d"], key: Float[Array, "k d"], value: Float[Array, "k d"], *biases: Float[Array, "t _edge"]
) -> Float[Array, "t d"]:
  """Attention of one head, its logits plus one bias for the key's place on each axis; `k` is the product of the edges.

  Operands have the compute dtype, products are summed in float32; the division comes after the values are mixed, where
  it is cheaper.
  """
  tokens, axes = query.shape[0], len(biases)
  scaled = query.astype(jnp.float32) * query.shape[-1] ** -0.5
  logits = contract(lambda q, k: product(q, k.T, q.dtype), scaled, key, dtype=query.dtype)
  logits = logits.reshape(tokens, *(bias.shape[1] for bias in biases))
  for axis, bias in enumerate(biases):
    logits = logits + jnp.expand_dims(bias, [1 + other for other in range(axes) if other != axis])
  logits = logits.reshape(tokens, -1)
  weights = jnp.exp(logits - lax.stop_gradient(logits.max(-1, keepdims=True)))
  return contract(matmul, weights, value, dtype=query.dtype) / weights.sum(-1, keepdims=True)


def _loop(function: Callable[..., Array], *arrays: Array, large: bool = False) -> Array:
  """`vmap(function)` over the leading axis: on a CPU, and where one takes much memory, one after the other."""
  if arrays[0].shape[0] == 1:
    return function(*(array[0] for array in arrays))[None]

  def one_by_one(*arrays: Array) -> Array:
    return lax.map(lambda each: function(*each), arrays)

  if large:
    return one_by_one(*arrays)
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
  """Attention and residual, MLP and residual, of images or of volumes.

  Attributes:
    heads: of the attention.
    window: edge of the squares or cubes that attend within themselves; 0 attends globally.
    tables: edge that the tables of relative positions are for; they are resampled to the window's.
    dtype: of operands.
    shift: tokens by which the windows start before the first token, of volumes whose edges are multiples of the window;
      what is cut off there and at the far end attends within itself.
  """

  heads: int
  window: int
  tables: int
  dtype: DTypeLike = jnp.float32
  shift: int = 0

  @nn.compact
  def __call__(self, x: Float[Array, "n *edges c"]) -> Float[Array, "n *edges c"]:
    shape = x.shape
    x = x + self._attention(x)
    width = shape[-1]
    norm, (kernel0, bias0) = _Norm(name="norm2")(width), Affine(4 * width, name="mlp_in")(width)
    kernel1, bias1 = Affine(width, name="mlp_out")(4 * width)

    def mlp(tokens: Float[Array, "t c"]) -> Float[Array, "t c"]:
      inner = gelu(product(_normalise(tokens, norm), kernel0, self.dtype) + bias0)
      return tokens + product(inner, kernel1, self.dtype) + bias1

    return _in_parts(mlp, x.reshape(-1, width), TOKENS_AT_ONCE).reshape(shape)

  def _attention(self, x: Float[Array, "n *edges c"]) -> Float[Array, "n *edges c"]:
    batch, *edges, channels = x.shape
    x = _normalise(x, _Norm(name="norm1")(channels))
    if not self.window:
      return self._attend_within(x)
    axes = tuple(range(1, 1 + len(edges)))
    if self.shift:
      x = jnp.roll(x, (-self.shift,) * len(edges), axes)
    # Padded after the norm: the padding is zero there, and takes part in the attention, as published.
    counts = [-(-edge // self.window) for edge in edges]
    padding = [(0, count * self.window - edge) for count, edge in zip(counts, edges, strict=True)]
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    x = self._attend_within(_windows(x, self.window), counts, batch)
    x = _unite(x, counts, self.window)[(slice(None), *(slice(edge) for edge in edges))]
    return jnp.roll(x, (self.shift,) * len(edges), axes) if self.shift else x

  def _attend_within(
    self, x: Float[Array, "g *edges c"], counts: Sequence[int] = (), batch: int = 1
  ) -> Float[Array, "g *edges c"]:
    """Attention among the tokens of each of `g` groups, with both projections.

    Groups are windows, `counts` along each axis of each of `batch` volumes, or whole images.
    """
    groups, *edges, channels = x.shape
    size, places = channels // self.heads, "abc"[: len(edges)]
    qkv_weights = Affine(3 * channels, name="qkv")(channels)
    out_weights = Affine(channels, name="project")(channels)
    tables = [self._table(axis, size) for axis in "zyx"[-len(edges) :]]
    dtype = self.dtype
    rows = [relative_rows(table, n).astype(dtype) for table, n in zip(tables, edges, strict=True)]

    def biases(query: Float[Array, "t d"], ends: Sequence[Bool[Array, ""]]) -> list[Float[Array, "t _edge"]]:
      block = query.reshape(*edges, size)
      by_axis = [
        einsum(f"{places}d,{place}kd->{places}k", block, row, dtype=dtype)
        for place, row in zip(places, rows, strict=True)
      ]
      by_axis = [bias.reshape(len(query), -1) for bias in by_axis]
      return [
        bias if not ends else jnp.where(ends[axis] & _wrapped(edges, axis, self.shift), APART, bias)
        for axis, bias in enumerate(by_axis)
      ]

    def group(tokens: Float[Array, "t c"], *ends: Bool[Array, ""]) -> Float[Array, "t c"]:
      def head(query: Array, key: Array, value: Array) -> Float[Array, "t d"]:
        return _queries_in_parts(query, key, value, *biases(query, ends))

      qkv = _in_parts(lambda t: product(t, qkv_weights[0], dtype) + qkv_weights[1], tokens, TOKENS_AT_ONCE)
      # (token, [q k v], head, size) -> [q k v] of (head, token, size)
      query, key, value = qkv.astype(dtype).reshape(-1, 3, self.heads, size).transpose(1, 2, 0, 3)
      large = len(tokens) > QUERIES_AT_ONCE
      mixed = _loop(head, query, key, value) if large else jax.vmap(head)(query, key, value)
      mixed = mixed.swapaxes(0, 1).reshape(-1, channels)
      return _in_parts(lambda t: product(t, out_weights[0], dtype) + out_weights[1], mixed, TOKENS_AT_ONCE)

    ends = [jnp.tile(at_end, batch) for at_end in _at_end(counts)] if self.shift else []
    tokens = x.reshape(groups, -1, channels)
    # global attention of an image of 1024 pixels has a gigabyte of weights
    large = tokens.shape[1] ** 2 * self.heads > WEIGHTS_AT_ONCE
    return _loop(group, tokens, *ends, large=large).reshape(x.shape)

  def _table(self, axis: str, size: int) -> Float[Array, "n d"]:
    return self.param(f"relative_{axis}", nn.initializers.zeros, (2 * self.tables - 1, size))


def _windows(x: Float[Array, "n *edges c"], window: int) -> Float[Array, "g *window c"]:
  """Squares or cubes of a volume whose edges are multiples of theirs, those of the last axis next to each other."""
  batch, *edges, channels = x.shape
  axes = len(edges)
  x = x.reshape(batch, *(part for edge in edges for part in (edge // window, window)), channels)
  x = x.transpose(0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 1)
  return x.reshape(-1, *(window,) * axes, channels)


def _unite(x: Float[Array, "g *window c"], counts: Sequence[int], window: int) -> Float[Array, "n *edges c"]:
  """The opposite of `_windows`, of `counts` windows along each axis."""
  axes, channels = len(counts), x.shape[-1]
  x = x.reshape(-1, *counts, *(window,) * axes, channels)
  x = x.transpose(0, *(axis for i in range(axes) for axis in (1 + i, 1 + axes + i)), 2 * axes + 1)
  return x.reshape(-1, *(count * window for count in counts), channels)


def _at_end(counts: Sequence[int]) -> list[Bool[np.ndarray, " g"]]:
  """For each axis, which windows are the last along it: those that a shift fills with tokens of both ends."""
  return [place.reshape(-1) == count - 1 for place, count in zip(np.indices(counts), counts, strict=True)]


def _wrapped(window: Sequence[int], axis: int, shift: int) -> Bool[np.ndarray, "t k"]:
  """Whether a query of such a window and the key's place on an axis come from opposite ends of the volume."""
  place = np.indices(window)[axis].reshape(-1)
  start = window[axis] - shift
  return (place >= start)[:, None] != (np.arange(window[axis]) >= start)


def _queries_in_parts(query: Array, key: Array, value: Array, *biases: Array) -> Float[Array, "t d"]:
  """`attend`, for some queries at a time, whose weights are computed anew for the gradient."""
  count, keys = query.shape[0], key.shape[0]
  if count <= QUERIES_AT_ONCE:
    return attend(query, key, value, *biases)

  def in_parts(part: int) -> Callable[..., Array]:
    return functools.partial(_in_equal_parts, min(part, count))

  cpu, accelerator = in_parts(QUERIES_AT_ONCE), in_parts(max(WEIGHTS_AT_ONCE // keys, QUERIES_AT_ONCE))
  return platform.by_backend(query, key, value, *biases, cpu=cpu, accelerator=accelerator)


def _in_equal_parts(part: int, query: Array, key: Array, value: Array, *biases: Array) -> Float[Array, "t d"]:
  """`attend`, for `part` queries at a time."""
  count = query.shape[0]
  one = jax.checkpoint(lambda each: attend(each[0], key, value, *each[1:]))
  if part == count:
    return one((query, *biases))
  padding = -count % part
  padded = [jnp.pad(a, ((0, padding), (0, 0))).reshape(-1, part, a.shape[-1]) for a in (query, *biases)]
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
      x = block(sizes.heads, window, sizes.tables(index), self.dtype, name=f"block{index}")(x)
    x = Conv(sizes.neck, use_bias=False, dtype=self.dtype, name="neck0")(x)
    x = layer_norm(LAYER_NORM_EPSILON, "neck_norm0")(x)
    x = Conv(sizes.neck, edge=3, use_bias=False, dtype=self.dtype, name="neck1")(x)
    return layer_norm(LAYER_NORM_EPSILON, "neck_norm1")(x)
