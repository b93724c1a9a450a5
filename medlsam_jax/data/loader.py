"""Scans -> batches of cubes for one process, in an order that follows from the seed and the step alone.

A step's scans come from as many lanes. A lane draws a data set by weight, then goes through its own shards of it in
shuffled order, epoch after epoch; cuts follow from the seed, the step and the lane. So a batch does not depend on the
number of processes, each of which serves some lanes and opens no other lane's shards (unless there are fewer shards
than lanes), and the position of a run is the number of its next step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol

import grain
import numpy as np
from absl import flags

from medlsam_jax.data.pairs import Batch, TrainingScan, cut_group, joined
from medlsam_jax.data.shards import Index, ShardReader
from medlsam_jax.errors import ConfigError, InputError


class Scans(Protocol):
  """Scans by position, opened when asked for."""

  def __len__(self) -> int: ...

  def __getitem__(self, position: int) -> TrainingScan: ...


class DataSet(Protocol):
  """A set of scans that lanes share out."""

  @property
  def weight(self) -> float:
    """How often it is drawn, beside the others' weights."""
    ...

  def lane(self, number: int, lanes: int) -> Scans:
    """What one lane draws from."""
    ...


@dataclasses.dataclass(frozen=True)
class InMemory:
  """Scans that every lane draws from."""

  scans: tuple[TrainingScan, ...]
  weight: float

  def lane(self, number: int, lanes: int) -> Scans:
    """All of them."""
    return self.scans


@dataclasses.dataclass(frozen=True)
class Prepared:
  """A prepared set, whose shards are dealt out to the lanes."""

  index: Index
  weight: float
  cache: str = ""

  def lane(self, number: int, lanes: int) -> Scans:
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


class BatchSource:
  """This process's part of the batch of any step."""

  def __init__(self, sets: Sequence[DataSet], plan: Plan, rows: range, steps: int):
    if plan.groups % plan.crops or rows.start % plan.crops or len(rows) % plan.crops:
      raise ConfigError(
        f"data.crops_per_scan {plan.crops} does not divide the {len(rows)} scans a step of each process "
        f"(data.scans_per_step {plan.groups})"
      )
    self.plan, self.steps, lanes = plan, steps, plan.groups // plan.crops
    self.lanes = range(rows.start // plan.crops, rows.stop // plan.crops)
    weights = np.array([s.weight for s in sets], float)
    if not len(sets) or (weights < 0).any() or not weights.sum() > 0:
      raise ConfigError("weights of data sets must be 0 or more, and one of them above 0")
    self.chances = weights / weights.sum()
    self.scans = {lane: [s.lane(lane, lanes) for s in sets] for lane in self.lanes}
    self.orders = {
      lane: [self._order(len(scans), lane, number) for number, scans in enumerate(own)]
      for lane, own in self.scans.items()
    }

  def _order(self, count: int, lane: int, number: int) -> grain.MapDataset:
    seed = int(np.random.SeedSequence([self.plan.seed, lane, number]).generate_state(1)[0])
    return grain.MapDataset.range(count).seed(seed % 2**31).shuffle().repeat()

  def __len__(self) -> int:
    return self.steps

  def __getitem__(self, step: int) -> Batch:
    plan, parts = self.plan, []
    for lane in self.lanes:
      rng = np.random.default_rng([plan.seed, step, lane])
      chosen = int(rng.choice(len(self.chances), p=self.chances))
      scan = self.scans[lane][chosen][int(self.orders[lane][chosen][step])]
      parts += [cut_group(rng, scan, plan.patches, plan.edge) for _ in range(plan.crops)]
    return joined(parts)


def batches(source: BatchSource, first_step: int, threads: int = 4, workers: int = 0) -> Iterator[Batch]:
  """Batches from a step on, read ahead by threads, in worker processes where `workers` is above 0.

  Raises:
    InputError: a scan or shard cannot be used, or a worker process died.
  """
  ahead = grain.MapDataset.source(source).slice(slice(first_step, len(source)))
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2, threads) if threads else 0)
  dataset = ahead.to_iter_dataset(options)
  if workers:
    if not flags.FLAGS.is_parsed():  # grain's workers ask for flags that only absl's own programs have parsed
      flags.FLAGS.mark_as_parsed()
    dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
  try:
    yield from dataset
  except RuntimeError as error:
    if "terminated unexpectedly" not in str(error):
      raise
    raise InputError(
      f"a loader worker died ({str(error).partition('.')[0]}), perhaps for lack of memory; start the same command "
      "again, with fewer data.workers or data.threads if it happens again"
    ) from error
