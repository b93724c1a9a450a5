"""Sizes of the volumetric network on each base. Cubes are voxels an edge at the working spacing (1 mm as published)."""

from __future__ import annotations

import dataclasses

from medlsam_jax.errors import ConfigError
from medlsam_jax.sam.network.image_encoder import ViTSizes
from medlsam_jax.sam.network.sam import LITEMEDSAM, MEDSAM, SAM_VIT_B, SAM_VIT_H, SAM_VIT_L, SamVariant

SCALES = 4
"""Depths of the encoder that the decoder sees."""
ADAPTED_STAGES = (2, 3)
"""Stages of TinyViT that see volumes; those before them see slices."""


@dataclasses.dataclass(frozen=True)
class Sam3DVariant:
  """One network: a base and what stands around it. The defaults are the published sizes on ViT-B.

  Raises:
    ConfigError: sizes that cannot go together.
  """

  name: str
  base: SamVariant
  cube_edge: int = 128
  """Voxels an edge of the input."""
  image_edge: int = 512
  """Pixels an edge that the base sees of it: each slice is enlarged so far, and so is the depth."""
  taps: tuple[int, ...] = (2, 5, 8, 11)
  """Adapted blocks whose output the decoder sees; of TinyViT counted from the first block of stage 2."""
  window: int = 8
  """Edge of the cubes of tokens that attend within themselves; TinyViT keeps its squares."""
  width: int = 256
  """Channels of the necks and of the prompts."""
  decoder_width: int = 128
  queries: int = 10
  """Learned queries of each block of the prompt module, beside the prompts."""
  prompt_blocks: int = 2
  heads: int = 8
  mlp_width: int = 2048
  starts_as_base: bool = True
  """Whether adapters add nothing at the start, the embedding is the mean over depth and the depth table zero, so that
  training starts from the base's own features (ours). As published: adapters end in a ReLU and start at random, the
  table at one."""

  def __post_init__(self) -> None:
    stride, grid = self.base.encoder.stride, self.grid
    fits = self.image_edge % self.cube_edge == 0 and self.image_edge % stride == 0 and self.cube_edge % (2 * grid) == 0
    if not fits:
      raise ConfigError(
        f"{self.name}: image_edge {self.image_edge} must be a multiple of cube_edge {self.cube_edge} and of the base's "
        f"stride {stride}, and the cube have an even number of voxels a token"
      )
    if isinstance(self.base.encoder, ViTSizes) and (grid % self.window or self.base.encoder.grid % grid):
      raise ConfigError(
        f"{self.name}: {grid} tokens an edge must be a multiple of window {self.window} and divide the "
        f"{self.base.encoder.grid} of the base's table of positions"
      )
    if len(self.taps) != SCALES or sorted(set(self.taps)) != list(self.taps) or self.taps[-1] >= self.depth:
      raise ConfigError(f"{self.name}: taps {self.taps} must be {SCALES} rising numbers below {self.depth}")

  @property
  def grid(self) -> int:
    """Tokens an edge."""
    return self.image_edge // self.base.encoder.stride

  @property
  def zoom(self) -> int:
    """How much a cube is enlarged for the base."""
    return self.image_edge // self.cube_edge

  @property
  def depth(self) -> int:
    """Blocks that have an adapter."""
    encoder = self.base.encoder
    return encoder.depth if isinstance(encoder, ViTSizes) else sum(encoder.depths[stage] for stage in ADAPTED_STAGES)


def on_vit(name: str, base: SamVariant) -> Sam3DVariant:
  """The published network on another ViT, which the decoder sees after each quarter of its blocks."""
  assert isinstance(base.encoder, ViTSizes)
  quarter = base.encoder.depth // SCALES
  return Sam3DVariant(name, base, taps=tuple(quarter * (scale + 1) - 1 for scale in range(SCALES)))


SAM3D_VIT_B = on_vit("sam3d-vit-b", SAM_VIT_B)
SAM3D_VIT_L = on_vit("sam3d-vit-l", SAM_VIT_L)
SAM3D_VIT_H = on_vit("sam3d-vit-h", SAM_VIT_H)
SAM3D_MEDSAM = on_vit("sam3d-medsam", MEDSAM)
SAM3D_LITEMEDSAM = Sam3DVariant("sam3d-litemedsam", LITEMEDSAM, image_edge=128, taps=(1, 3, 5, 7))
"""A cube of 128 mm at one pixel a mm shows organs about as large as LiteMedSAM has seen them in whole slices."""
SAM3D_LITEMEDSAM_64 = Sam3DVariant(
  "sam3d-litemedsam-64", LITEMEDSAM, cube_edge=64, image_edge=64, taps=(1, 3, 5, 7), width=128, decoder_width=64,
  mlp_width=512,
)  # fmt: skip
"""An eighth of the voxels and narrower around the base: seconds a step on a few CPU cores. At 2 mm it sees as much."""
TINY_BASE = SamVariant("sam-tiny", 64, ViTSizes(32, 4, 2, (3,), window=6, patch=8, grid=8, neck=16), "imagenet")
SAM3D_TINY = Sam3DVariant(
  "sam3d-tiny", TINY_BASE, cube_edge=16, image_edge=32, taps=(0, 1, 2, 3), window=2, width=16, decoder_width=8,
  queries=3, heads=2, mlp_width=32,
)  # fmt: skip
"""For tests and trials of the machinery, on a base that has learned nothing."""
_ALL = (
  SAM3D_VIT_B, SAM3D_VIT_L, SAM3D_VIT_H, SAM3D_MEDSAM, SAM3D_LITEMEDSAM, SAM3D_LITEMEDSAM_64, SAM3D_TINY,
)  # fmt: skip
VARIANTS = {variant.name: variant for variant in _ALL}
BASES = {variant.base.name: variant.base for variant in _ALL}
"""By the names of their kinds."""
