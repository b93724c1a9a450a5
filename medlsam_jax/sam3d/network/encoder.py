"""Encoders: a cube `(n, z, y, x)` -> tokens `(n, g, g, g, channel)` after each tapped block of the base.

The parameters of the base have the names that they have there, so that they can be put in and told apart.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from medlsam_jax.sam.network.image_encoder import Block, ViTSizes
from medlsam_jax.sam.network.layers import ConvNorm, convolve, gelu
from medlsam_jax.sam.network.tiny_vit import MBConv, PatchMerge, TinyViTBlock, TinyViTSizes
from medlsam_jax.sam3d.network.layers import Adapter, DepthEmbedding
from medlsam_jax.sam3d.network.variants import ADAPTED_STAGES, Sam3DVariant

Tokens = list[Float[Array, "n g g g _c"]]
SLICES_AT_ONCE = 16
"""Slices whose values at full resolution exist at a time."""


def enlarged(volume: Float[Array, "n z y x"], edge: int) -> Float[Array, "n z edge edge"]:
  """Slices resized linearly to what the base sees."""
  if volume.shape[2:] == (edge, edge):
    return volume
  return jax.image.resize(volume, (*volume.shape[:2], edge, edge), "linear", antialias=False)


class _Patch(nn.Module):
  """SAM's patch embedding of slices of one channel, which stands for three equal ones: their kernels are added."""

  features: int
  edge: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, images: Float[Array, "n y x"]) -> Float[Array, "n y2 x2 c"]:
    kernel = self.param("kernel", nn.initializers.lecun_normal(), (self.edge, self.edge, 3, self.features))
    x = convolve(images[..., None], kernel.sum(2, keepdims=True), self.edge, self.dtype)
    return x + self.param("bias", nn.initializers.zeros, (self.features,))


class _Encoder(nn.Module):
  """What both kinds share: how depth enters, and adapters before the blocks.

  Attributes:
    variant: sizes.
    dtype: of the operands of products, which are summed in float32.
    remat: whether values within the embedding and within each block are computed anew for the gradient.
  """

  variant: Sam3DVariant
  dtype: DTypeLike = jnp.float32
  remat: bool = False

  def _deepen(self, x: Float[Array, "n z g g c"]) -> Float[Array, "n g g g c"]:
    """Tokens of slices -> tokens of cells, and where each lies along depth."""
    variant, grid = self.variant, self.variant.grid
    start = nn.initializers.zeros if variant.starts_as_base else nn.initializers.ones
    taps = variant.base.encoder.stride
    x = DepthEmbedding(taps, variant.zoom, variant.starts_as_base, name="depth")(x)
    return x + self.param("depth_position", start, (grid, x.shape[-1]))[:, None, None]

  def _adapt(self, x: Float[Array, "n g g g c"], number: int) -> Float[Array, "n g g g c"]:
    return Adapter(self.variant.starts_as_base, self.dtype, name=f"adapter{number}")(x)


class VolumeViT(_Encoder):
  """SAM's ViT over a volume: all blocks attend within cubes, the even ones shifted by half a cube (as published)."""

  @nn.compact
  def __call__(self, volume: Float[Array, "n z y x"]) -> Tokens:
    embed, step = VolumeViT._embed, VolumeViT._step
    if self.remat:
      embed, step = nn.remat(embed), nn.remat(step, static_argnums=(2,))
    x, tapped = embed(self, volume), []
    for index in range(self.variant.depth):
      x = step(self, x, index)
      if index in self.variant.taps:
        tapped.append(x)
    return tapped

  def _embed(self, volume: Float[Array, "n z y x"]) -> Float[Array, "n g g g c"]:
    sizes, variant = self._sizes, self.variant
    images = enlarged(volume, variant.image_edge)
    x = _Patch(sizes.width, sizes.patch, self.dtype, name="patch")(images.reshape(-1, *images.shape[2:]))
    x = self._deepen(x.reshape(*volume.shape[:2], *x.shape[1:]))
    position = self.param("position", nn.initializers.normal(0.02), (1, sizes.grid, sizes.grid, sizes.width))
    cells = variant.grid
    pooled = position.reshape(cells, sizes.grid // cells, cells, sizes.grid // cells, sizes.width).mean((1, 3))
    return x + pooled

  def _step(self, x: Float[Array, "n g g g c"], index: int) -> Float[Array, "n g g g c"]:
    """One adapter and the base's block after it."""
    sizes, window = self._sizes, self.variant.window
    shift = window // 2 if index % 2 == 0 else 0
    x = self._adapt(x, index)
    return Block(sizes.heads, window, sizes.tables(index), self.dtype, shift, name=f"block{index}")(x)

  @property
  def _sizes(self) -> ViTSizes:
    sizes = self.variant.base.encoder
    assert isinstance(sizes, ViTSizes)
    return sizes


class VolumeTinyViT(_Encoder):
  """TinyViT over a volume (ours): its first stages see each slice, the others cells, an adapter before each block.

  Its blocks attend within their squares as in the base, at each depth apart; adapters alone look along depth. Batch
  norm is folded (`fold_batch_norm`).
  """

  @nn.compact
  def __call__(self, volume: Float[Array, "n z y x"]) -> Tokens:
    step = nn.remat(VolumeTinyViT._step, static_argnums=(2, 3, 4)) if self.remat else VolumeTinyViT._step
    x, tapped, number = self._embed(volume), [], 0
    for stage in ADAPTED_STAGES:
      for index in range(self._sizes.depths[stage]):
        x = step(self, x, stage, index, number)
        if number in self.variant.taps:
          tapped.append(x)
        number += 1
      if stage + 1 < len(self._sizes.depths):
        x = _slice_by_slice(self._merge(stage), x)
    return tapped

  def _embed(self, volume: Float[Array, "n z y x"]) -> Float[Array, "n g g g c"]:
    images = enlarged(volume, self.variant.image_edge)
    images = images.reshape(-1, *images.shape[2:], 1)
    part = next(n for n in range(min(SLICES_AT_ONCE, len(images)), 0, -1) if len(images) % n == 0)
    # Anew within the loop: around it, the values of all slices at full resolution would exist at once after all.
    stem = nn.remat(VolumeTinyViT._stem, prevent_cse=False) if self.remat else VolumeTinyViT._stem
    over = nn.scan(
      lambda module, _, images: (None, stem(module, images)), variable_broadcast="params", split_rngs={"params": False}
    )
    _, x = over(self, None, images.reshape(-1, part, *images.shape[1:]))
    return self._deepen(x.reshape(*volume.shape[:2], *x.shape[2:]))

  def _stem(self, images: Float[Array, "n y x 1"]) -> Float[Array, "n g g c"]:
    """The stages that see slices."""
    sizes = self._sizes
    stride, edge = sizes.embed_stride, 1 if sizes.embed_stride == 1 else 3
    rgb = jnp.broadcast_to(images, (*images.shape[:3], 3))
    x = gelu(ConvNorm(sizes.widths[0] // 2, edge, stride, folded=True, dtype=self.dtype, name="embed0")(rgb))
    x = ConvNorm(sizes.widths[0], edge, stride, folded=True, dtype=self.dtype, name="embed1")(x)
    for stage in range(ADAPTED_STAGES[0]):
      for index in range(sizes.depths[stage]):
        name = f"stage{stage}_block{index}"
        x = MBConv(folded=True, dtype=self.dtype, name=name)(x) if stage == 0 else self._block(stage, name)(x)
      x = self._merge(stage)(x)
    return x

  def _step(self, x: Float[Array, "n g g g c"], stage: int, index: int, number: int) -> Float[Array, "n g g g c"]:
    return _slice_by_slice(self._block(stage, f"stage{stage}_block{index}"), self._adapt(x, number))

  def _block(self, stage: int, name: str) -> TinyViTBlock:
    heads, window = self._sizes.heads[stage], self._sizes.windows[stage]
    return TinyViTBlock(folded=True, dtype=self.dtype, heads=heads, window=window, name=name)

  def _merge(self, stage: int) -> PatchMerge:
    features, stride = self._sizes.widths[stage + 1], self._sizes.merge_strides[stage]
    return PatchMerge(folded=True, dtype=self.dtype, features=features, stride=stride, name=f"stage{stage}_merge")

  @property
  def _sizes(self) -> TinyViTSizes:
    sizes = self.variant.base.encoder
    assert isinstance(sizes, TinyViTSizes)
    return sizes


def _slice_by_slice(part: nn.Module, x: Float[Array, "n z y x c"]) -> Float[Array, "n z y2 x2 c2"]:
  y = part(x.reshape(-1, *x.shape[2:]))
  return y.reshape(*x.shape[:2], *y.shape[1:])
