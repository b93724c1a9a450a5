"""Scans -> batches of cubes for one process, in an order that follows from the seed and the step alone.

A step's scans come from as many lanes. A lane takes the data sets in turn, each as often as its weight says, and goes
through its own shards of each in shuffled order, epoch after epoch: no scan comes again before all have come. Cuts
follow from the seed, the step and the lane. So a batch does not depend on the
number of processes, each of which serves some lanes and opens no other lane's shards (unless there are fewer shards
than lanes), and the position of a run is the number of its next step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import grain
import numpy as np
from absl import flags

from medlsam_jax.errors import ConfigError, InputError
from medlsam_jax.medlam.pretraining.pairs import Batch, TrainingScan, cut_group, joined
from medlsam_jax.medlam.pretraining.shards import Index, ShardReader


@runtime_checkable
class Scans(Protocol):
  """Scans by position, opened when asked for."""

  def __len__(self) -> int: ...

  def __getitem__(self, position: int) -> TrainingScan: ...


@runtime_checkable
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


class Turns:
  """Which of several sets each step of a lane takes, and how often that set was taken before: from the step alone.

  The fractional parts of multiples of the golden ratio fill the unit interval evenly, and each set owns a part of it as
  wide as its weight. So shares hold over any stretch of steps, and turns are counted without a look at earlier steps.
  """

  _WHOLE, _STRIDE = 2**32, 0x9E3779B1

  def __init__(self, weights: Sequence[float], seed: int, lane: int):
    shares = np.cumsum(np.asarray(weights, float) / np.sum(weights))
    last = int(np.flatnonzero(weights)[-1])
    # the last set that is drawn at all ends at the whole, whatever rounding leaves
    ends = [int(share * self._WHOLE) for share in shares[:last]] + [self._WHOLE] * (len(shares) - last)
    self._parts = list(zip([0, *ends[:-1]], ends, strict=True))
    self._first = int(np.random.SeedSequence([seed, lane]).generate_state(1)[0])

  def __call__(self, step: int) -> tuple[int, int]:
    """The set that a step takes, and how many earlier steps took it."""
    place = (self._STRIDE * step + self._first) % self._WHOLE
    chosen = next(number for number, (start, end) in enumerate(self._parts) if start <= place < end)
    start, end = self._parts[chosen]
    return chosen, self._below(step, end) - self._below(step, start)

  def _below(self, steps: int, limit: int) -> int:
    """How many of the first steps have a place below a limit.

    A place is below it unless adding what is missing to the whole carries over.
    """
    first, whole = self._first, self._WHOLE
    carried = _floor_sum(steps, whole, self._STRIDE, first + whole - limit)
    return steps - (carried - _floor_sum(steps, whole, self._STRIDE, first))


def _floor_sum(count: int, divisor: int, factor: int, start: int) -> int:
  """Sum over i < count of floor((factor * i + start) / divisor), by Euclid's algorithm: log(divisor) rounds."""
  total = 0
  while True:
    total += (factor // divisor) * count * (count - 1) // 2 + (start // divisor) * count
    factor, start = factor % divisor, start % divisor
    top = factor * count + start
    if top < divisor:
      return total
    # lattice points under the line, counted along the other axis
    count, start, factor, divisor = top // divisor, top % divisor, divisor, factor


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


class BatchSource:
  """This process's part of the batch of any step."""

  def __init__(self, sets: Sequence[DataSet], plan: Plan, rows: range, steps: int):
    check_crops(plan.crops, plan.groups, rows)
    self.plan, self.steps, lanes = plan, steps, plan.groups // plan.crops
    self.lanes = range(rows.start // plan.crops, rows.stop // plan.crops)
    weights = np.array([s.weight for s in sets], float)
    if not len(sets) or not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum() > 0:
      raise ConfigError("weights of data sets must be 0 or more, and one of them above 0")
    self.turns = {lane: Turns(weights.tolist(), plan.seed, lane) for lane in self.lanes}
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
      rng.random()  # chose the set once; still drawn, so that resumed runs cut where they would have
      chosen, turn = self.turns[lane](step)
      scan = self.scans[lane][chosen][int(self.orders[lane][chosen][turn])]
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
