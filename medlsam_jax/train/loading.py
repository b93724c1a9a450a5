"""Data sets -> batches for one process, in an order that follows from the seed and the step alone.

A step's items come from as many lanes. A lane takes the data sets in turn, each as often as its weight says, and goes
through its own share of each in shuffled order, epoch after epoch: no item comes again before all have come. So a batch
does not depend on the number of processes, each of which serves some lanes and opens no other lane's files, and the
position of a run is the number of its next step.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Generator, Iterator, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

import grain
import numpy as np
from absl import flags
from jax.sharding import Mesh

from medlsam_jax.errors import ConfigError, InputError
from medlsam_jax.train import sharding

Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)
Rows = TypeVar("Rows", bound=NamedTuple)


class Source(Protocol[Item_co]):
  """Anything by position: the items of a set, or this process's part of the batch of any step."""

  def __len__(self) -> int: ...

  def __getitem__(self, position: int, /) -> Item_co: ...


class DataSet(Protocol[Item_co]):
  """A set of items that lanes share out."""

  @property
  def weight(self) -> float:
    """How often it is drawn, beside the others' weights."""
    ...

  def lane(self, number: int, lanes: int) -> Source[Item_co]:
    """What one lane draws from."""
    ...


@dataclasses.dataclass(frozen=True)
class InMemory(Generic[Item]):
  """Items that every lane draws from."""

  items: tuple[Item, ...]
  weight: float

  def lane(self, number: int, lanes: int) -> Source[Item]:
    """All of them."""
    return self.items


class Lanes(Generic[Item]):
  """Which item of which set a lane shows at a step.

  Args:
    sets: drawn by their weights.
    seed: of the orders.
    mine: lanes of this process.
    count: of lanes over all processes.

  Raises:
    ConfigError: no set is ever drawn.
  """

  def __init__(self, sets: Sequence[DataSet[Item]], seed: int, mine: range, count: int):
    weights = np.array([s.weight for s in sets], float)
    if not len(sets) or not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum() > 0:
      raise ConfigError("weights of data sets must be 0 or more, and one of them above 0")
    self._seed, self.mine = seed, mine
    self._turns = {lane: Turns(weights.tolist(), seed, lane) for lane in mine}
    self._items = {lane: [s.lane(lane, count) for s in sets] for lane in mine}
    self._orders = {
      lane: [self._order(len(items), lane, number) for number, items in enumerate(own)]
      for lane, own in self._items.items()
    }

  def _order(self, count: int, lane: int, number: int) -> grain.MapDataset[int]:
    seed = int(np.random.SeedSequence([self._seed, lane, number]).generate_state(1)[0])
    return grain.MapDataset.range(count).seed(seed % 2**31).shuffle().repeat()

  def item(self, lane: int, step: int) -> Item:
    """The item of a lane at a step."""
    chosen, turn = self._turns[lane](step)
    return self._items[lane][chosen][int(self._orders[lane][chosen][turn])]


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


def batches(source: Source[Item], first_step: int, threads: int = 4, workers: int = 0) -> Iterator[Item]:
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


@dataclasses.dataclass(frozen=True)
class Batches(Generic[Rows]):
  """Where a run's batches come from, and how they get to the devices."""

  source: Source[Rows]
  """This process's rows of any step's batch, named tuples of arrays."""
  per_step: int
  """Items of a batch, over all processes."""
  items: str = "scans"
  """What they are called in records."""
  threads: int = 4
  """That prepare batches ahead of the step, in each worker."""
  workers: int = 0
  """Processes that do so; 0 uses threads of the main one."""
  ahead: int = 2
  """Batches on the device beside the one in use."""

  def from_step(self, first: int, mesh: Mesh) -> Generator[Rows]:
    """Batches over the devices, a few sent ahead of their use."""
    sent = collections.deque[Rows]()
    for local in batches(self.source, first, self.threads, self.workers):
      sent.append(sharding.put_batch(local, self.per_step, mesh))
      if len(sent) > self.ahead:
        yield sent.popleft()
    yield from sent
