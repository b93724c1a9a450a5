"""Every setting of training adapters."""

from __future__ import annotations

import dataclasses
from typing import Literal

from medlsam_jax.sam.finetuning.settings import LabelledDataSettings
from medlsam_jax.train.settings import CheckpointSettings, OptimizerSettings, RunSettings


@dataclasses.dataclass(frozen=True)
class CubeDataSettings(LabelledDataSettings):
  """Labelled scans, and how cubes are made from them. `organs` are a group that is seen through one window."""

  spacing_mm: float = 2.0
  """Between voxels of a cube."""
  window_hu: tuple[float, float] = (-160.0, 240.0)
  """HU shown as black and as white."""
  margin: float = 0.1
  """Of a box's edge, on each side, that a cube shows besides the box when organs are painted."""
  organs_per_cube: int = 2
  """Asked for in each cube: the one that it was cut around, and others that it shows."""
  background: float = 0.33
  """Share of cubes around any place within the organ's box and a quarter of a cube of it; the others are cut around a
  voxel of the organ or the middle of its box. The relative shows two cubes with the organ for one of any place."""
  cubes_per_step: int = 1
  """Over all devices and processes."""
  threads: int = 2
  """That cut cubes ahead of the step."""


@dataclasses.dataclass(frozen=True)
class CubeViewSettings:
  """What is done to cubes and prompts on the device, drawn anew for each."""

  zoom: tuple[float, float] = (0.85, 1.25)
  """Least and largest enlargement."""
  shift_hu: float = 20.0
  """Largest shift of all values."""
  noise_hu: float = 0.0
  """Largest standard deviation of noise."""
  flips: tuple[Literal["z", "y", "x"], ...] = ("z", "y", "x")
  """Axes along which cubes are turned round, half of the time each."""
  turns: bool = True
  """Quarter turns in the plane of a slice."""
  jitter_mm: float = 5.0
  """Largest standard deviation by which faces of a box are moved: for each cube drawn from 0 on, so that some boxes are
  nearly right and others as found ones are."""
  points: float = 0.25
  """Of organs, share that are given a point inside and one outside, too."""


@dataclasses.dataclass(frozen=True)
class CubeLossSettings:
  """Weights of the terms; the relative weighs both alike."""

  dice: float = 0.5
  bce: float = 0.5


@dataclasses.dataclass(frozen=True)
class AdaptSettings(RunSettings):
  """One training of adapters."""

  name: str = "adapters"
  model: str = "sam3d-litemedsam-64"
  """Sizes, one of `sam3d.network.variants.VARIANTS`."""
  network: str = "litemedsam"
  """The base: name or file of a network of the SAM family."""
  start: Literal["base", "scratch"] = "base"
  """`base`: its weights stay as they are, adapters are trained beside them. `scratch`: the control, the same network
  with everything drawn at random and everything trained, so that what the base gives is known. Its file holds all
  weights."""
  dtype: Literal["float32", "bfloat16"] = "float32"
  """Of the operands of products."""
  remat: bool = True
  """Whether values within blocks are computed anew for the gradient instead of kept."""
  data: CubeDataSettings = dataclasses.field(default_factory=CubeDataSettings)
  views: CubeViewSettings = dataclasses.field(default_factory=CubeViewSettings)
  loss: CubeLossSettings = dataclasses.field(default_factory=CubeLossSettings)
  optimizer: OptimizerSettings = dataclasses.field(
    default_factory=lambda: OptimizerSettings(
      kind="adamw", total_steps=20_000, warmup_steps=50, learning_rate=4e-4, l2=0.0, decay="linear", clip_norm=1.0
    )
  )
  checkpoint: CheckpointSettings = dataclasses.field(
    default_factory=lambda: CheckpointSettings(every_steps=200, best_metric="validation_dice")
  )
  log_every_steps: int = 20
  validate_every_steps: int = 500
