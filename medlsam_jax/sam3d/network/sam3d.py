"""SAM adapted to volumes: a cube `(n, z, y, x)` and prompts of `k` organs in it -> a mask of each.

3DMedSAM ("Volumetric medical image segmentation via fully 3D adaptation of Segment Anything Model", BBE 2025) has
published no program; its abstract says that a module takes the place of the patch embedding, that 3D adapters are
trained beside frozen weights, that a 3D decoder sees several scales, and that several organs are segmented at once.

Whose choice is what:
  the paper's      the four parts above.
  the relative's   (3DSAM-adapter) every size on ViT-B; a frozen patch embedding of each slice and a trained depthwise
                   one along depth; the pooled table of positions; relative positions along depth that start as the
                   mean of those in the plane; attention in cubes of 8 tokens, every even block's shifted by 4 with what
                   wraps round kept apart; the adapter before the first norm; norms trained; necks after each quarter of
                   the blocks; features sampled at the points, with ten learned queries in each of two blocks; the
                   decoder's convolutions.
  ours             boxes, as points on their faces and filled; labels of points, positions in the prompt module, and
                   that image and prompts see each other there; a network that starts as its base
                   (`Sam3DVariant.starts_as_base`); one logit, the difference of the published two; half-pixel centres
                   throughout (the relative upsamples corner-aligned); TinyViT as a base; embedding before enlarging
                   along depth, which gives equal numbers for less.

Trained parameters on ViT-B (`tests/sam3d/test_sizes.py` counts them; the relative's total is 25,462,400 with one prompt
module, of which 263,424 are an attention that it never runs and ours does):

  embedding along depth           13,056
  depth table                     24,576
  relative positions along depth  46,336
  norms of the blocks             36,864
  adapters                     7,220,736
  necks                        7,868,416
  prompt module                3,164,160   and 2,048 more for labels, which are ours
  decoder                      7,088,256   and 3,712 more for filled boxes, which are ours
  all                         25,462,400   25,468,160 with what is ours
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from medlsam_jax.sam.network.image_encoder import ViTSizes
from medlsam_jax.sam3d.network.decoder import Decoder
from medlsam_jax.sam3d.network.encoder import VolumeTinyViT, VolumeViT
from medlsam_jax.sam3d.network.filled_boxes import filled_boxes
from medlsam_jax.sam3d.network.layers import Neck
from medlsam_jax.sam3d.network.prompts import PromptModule
from medlsam_jax.sam3d.network.variants import SAM3D_VIT_B, SCALES, Sam3DVariant


class Encoded(NamedTuple):
  """What cubes become before any prompt; `g` tokens an edge."""

  shared: Float[Array, "n d d d o"]
  """The decoder's sum over everything that prompts do not change, two cells a token."""
  deepest: Float[Array, "n g g g c"]


class Sam3D(nn.Module):
  """See the module's first lines.

  Attributes:
    variant: sizes and the base.
    dtype: of the operands of products and of the decoder's large arrays; sums and all else are float32.
    remat: whether values within the embedding, within each block and within the decoder are computed anew for the
      gradient instead of kept.
  """

  variant: Sam3DVariant = SAM3D_VIT_B
  dtype: DTypeLike = jnp.float32
  remat: bool = False

  def setup(self) -> None:
    variant, vit = self.variant, isinstance(self.variant.base.encoder, ViTSizes)
    self.encoder: VolumeViT | VolumeTinyViT = (VolumeViT if vit else VolumeTinyViT)(variant, self.dtype, self.remat)
    self.necks = [Neck(variant.width, self.dtype, name=f"neck{index}") for index in range(SCALES)]
    self.prompts = (nn.remat(PromptModule) if self.remat else PromptModule)(variant, self.dtype)
    self.box = self.param("box", nn.initializers.normal(0.1), (variant.width,))
    decoder = nn.remat(Decoder, methods=["shared", "__call__"]) if self.remat else Decoder
    self.decoder = decoder(variant.decoder_width, SCALES, variant.cube_edge, self.dtype)

  def encode(self, volume: Float[Array, "n z y x"]) -> Encoded:
    """Cubes of `variant.cube_edge` voxels an edge, scaled as the base wants its pixels."""
    tokens = [neck(x) for neck, x in zip(self.necks, self.encoder(volume), strict=True)]
    cells = 2 * self.variant.grid
    size = volume.shape[1] // cells
    image = volume.reshape(-1, cells, size, cells, size, cells, size).mean((2, 4, 6))[..., None]
    return Encoded(self.decoder.shared(tokens[:-1], image), tokens[-1])

  def decode(
    self, encoded: Encoded, points: Float[Array, "n k t 3"], labels: Int[Array, "n k t"]
  ) -> Float[Array, "n k z y x"]:
    """Logits of `k` organs in each cube, above zero inside.

    Args:
      encoded: of `encode`.
      points: (z, y, x) voxels of the cube.
      labels: of each point, `prompts.LABELS`; `ABSENT` fills up. An organ all of whose points are absent gets a mask
        that means nothing.
    """
    grid, edge = self.variant.grid, self.variant.cube_edge
    prompted = self.prompts(encoded.deepest, points, labels) + filled_boxes(points, labels, edge, grid) * self.box
    return self.decoder(encoded.shared, prompted, filled_boxes(points, labels, edge, 2 * grid))

  def __call__(
    self, volume: Float[Array, "n z y x"], points: Float[Array, "n k t 3"], labels: Int[Array, "n k t"]
  ) -> Float[Array, "n k z y x"]:
    """`encode` and `decode`."""
    edge = self.variant.cube_edge
    if volume.shape[1:] != (edge,) * 3:
      raise ValueError(f"cubes are {volume.shape[1:]}; the network takes {edge} voxels an edge")
    return self.decode(self.encode(volume), points, labels)
