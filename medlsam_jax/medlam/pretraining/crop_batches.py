"""Scans -> batches of cubes for one process: which scan is shown follows from `train.loading`, and so do cuts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from medlsam_jax.errors import ConfigError
from medlsam_jax.medlam.pretraining.crops import FLOAT32, Batch, TrainingScan, cut_group, joined
from medlsam_jax.medlam.pretraining.shards import Index, ShardReader
from medlsam_jax.train.loading import DataSet, Lanes


@dataclasses.dataclass(frozen=True)
class Prepared:
  """A prepared set, whose shards are dealt out to the lanes."""

  index: Index
  weight: float
  cache: str = ""

  @property
  def kind(self) -> np.dtype:
    """Type of its intensities: unsigned integers of 16 or 8 bits."""
    return np.dtype(f"u{max((row.get('bits', 16) for row in self.index.scans), default=16) // 8}")

  def lane(self, number: int, lanes: int) -> ShardReader:
    """Every `lanes`-th shard; one that other lanes use too where there are fewer shards than lanes."""
    count = len(self.index.shards)
    mine = range(number, count, lanes) if count >= lanes else [number % count]
    return ShardReader(self.index, list(mine), self.cache)


@dataclasses.dataclass(frozen=True)
class Plan:
  """How batches are drawn."""

  seed: int
  groups: int
  """Scans of a step over all processes, an opened scan counting once for each of its crops."""
  patches: int
  crops: int = 1
  """Groups of patches cut from each opened scan."""
  edge: int = 80
  """Of the cubes."""


def check_crops(crops: int, groups: int, rows: range) -> None:
  """Refuses crops of a scan that do not fill the scans of a step, or a process's rows of them.

  Raises:
    ConfigError: they do not divide them.
  """
  if groups % crops or rows.start % crops or len(rows) % crops:
    raise ConfigError(
      f"data.crops_per_scan {crops} does not divide the {len(rows)} scans a step of each process "
      f"(data.scans_per_step {groups})"
    )


class CropBatches:
  """This process's part of the batch of any step.

  Cubes of prepared sets alone are given as they are stored, a half or a quarter of the bytes on the way to the device;
  beside scans in memory, which are float32, all cubes are float32: a step has one program.
  """

  def __init__(self, sets: Sequence[DataSet[TrainingScan]], plan: Plan, rows: range, steps: int):
    check_crops(plan.crops, plan.groups, rows)
    self._plan, self._steps = plan, steps
    self._kind = np.result_type(*(s.kind if isinstance(s, Prepared) else FLOAT32 for s in sets)) if sets else FLOAT32
    mine = range(rows.start // plan.crops, rows.stop // plan.crops)
    self._lanes = Lanes(sets, plan.seed, mine, plan.groups // plan.crops)

  def __len__(self) -> int:
    return self._steps

  def __getitem__(self, step: int) -> Batch:
    plan, parts = self._plan, []
    for lane in self._lanes.mine:
      rng = np.random.default_rng([plan.seed, step, lane])
      rng.random()  # chose the set once; still drawn, so that resumed runs cut where they would have
      scan = self._lanes.item(lane, step)
      parts += [cut_group(rng, scan, plan.patches, plan.edge, self._kind) for _ in range(plan.crops)]
    return joined(parts)
