"""Settings that every run has, whatever it trains; a recipe's own settings add theirs."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
  """Adam with L2 added to the gradient (published), or AdamW, whose decay acts on kernels only."""

  kind: Literal["adam", "adamw"] = "adam"
  total_steps: int = 300_000
  total_seconds: float = 0.0
  """A run ends after this long too, compiling included, and a cosine or a line comes down over the time that is left
  after it in place of the steps; 0 counts steps alone. Such a run does not repeat to the bit: its rates follow the
  clock."""
  warmup_steps: int = 0
  learning_rate: float = 1e-4
  l2: float = 1e-4
  """Adam: times the parameter, added to its gradient. AdamW: times the parameter, taken off at the rate's pace."""
  decay: Literal["stairs", "cosine", "linear", "constant"] = "stairs"
  """`stairs`: the rate is multiplied by `stair_factor` every `stair_steps`. `linear`: it falls to a hundredth."""
  stair_steps: int = 10_000
  stair_factor: float = 0.8
  clip_norm: float = 0.0
  """Largest gradient norm; 0 does not clip."""
  ema_decay: float = 0.0
  """Share of the averaged weights kept each step; 0 keeps none. The average is what is validated and exported."""
  accumulate: int = 1
  """Parts that a step's scans are split into, their gradients averaged: a larger batch in the same memory."""


@dataclasses.dataclass(frozen=True)
class MeshSettings:
  """How devices are laid out; see docs/scaling.md."""

  data: int = 0
  """Devices along which a batch is split; 0 takes all that `model` leaves."""
  model: int = 1
  """Devices along which the largest parameters are split, by the recipe's rules."""


@dataclasses.dataclass(frozen=True)
class ClusterSettings:
  """How processes find each other."""

  kind: Literal["none", "auto", "flags"] = "none"
  """`auto` asks Cloud TPU, SLURM or Open MPI; `flags` uses the fields below."""
  coordinator: str = ""
  """HOST:PORT of process 0."""
  processes: int = 1
  process: int = 0
  timeout_seconds: int = 50
  """After this long without a sign of life of one process the others end with an error."""


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
  """When states are kept, and which."""

  every_steps: int = 1000
  keep_last: int = 2
  keep_best: int = 1
  """By `best_metric` where it was measured at the checkpoint's step; lower is better unless its name ends in `_iou` or
  `_dice`."""
  best_metric: str = ""


@dataclasses.dataclass(frozen=True)
class RunSettings:
  """One run."""

  name: str = "run"
  """Of the weights file that it ends with."""
  seed: int = 0
  optimizer: OptimizerSettings = dataclasses.field(default_factory=OptimizerSettings)
  mesh: MeshSettings = dataclasses.field(default_factory=MeshSettings)
  cluster: ClusterSettings = dataclasses.field(default_factory=ClusterSettings)
  checkpoint: CheckpointSettings = dataclasses.field(default_factory=CheckpointSettings)
  log_every_steps: int = 50
  validate_every_steps: int = 1000
