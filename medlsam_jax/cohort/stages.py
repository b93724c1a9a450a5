"""Reading, device work and writing beside each other, with a bound on the scans that are in memory."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from medlsam_jax import platform
from medlsam_jax.cohort.outcome import About, Outcome, Result
from medlsam_jax.cohort.reader import ReadingStopped
from medlsam_jax.cohort.watch import Watch
from medlsam_jax.errors import HungError
from medlsam_jax.geometry import Volume
from medlsam_jax.io.scans import ListedScan
from medlsam_jax.progress import time_limit

if TYPE_CHECKING:
  import jax

Made = TypeVar("Made")
Item = TypeVar("Item")
Read = Callable[[ListedScan], tuple[Volume, About]]
_LOOK_S = 0.1
"""How often a stage that waits looks whether it is to stop."""
PATIENCE_S = 600.0
"""By which a device's first scan may be longer than the limit, since programs compile in it, and after which work that
did not heed its limit hangs."""
_LEAVE_S = 30.0
"""How long the end waits for other scans when one hangs."""


@dataclasses.dataclass(frozen=True, eq=False)
class Work(Generic[Made, Result]):
  """What is done with a scan, in three stages."""

  readers: Sequence[Read]
  """Each for a thread of its own."""
  make: Callable[[ListedScan, Volume], Made]
  """On the device of its thread."""
  write: Callable[[Made], Result]
  """Gets what `make` gave; gives what is worth keeping in memory of it."""
  devices: Sequence[jax.Device] = ()
  """Each with a thread of its own; empty: one thread on the usual device."""
  seconds: float | None = None
  """That `make` may take; None for no limit."""

  @property
  def device_count(self) -> int:
    """Threads that each have a device."""
    return max(len(self.devices), 1)

  @property
  def in_memory(self) -> int:
    """Scans that are in memory at once, at most: one with each reader, and for each device one at work, one that is
    ready for it or being written."""
    return len(self.readers) + 2 * self.device_count


class Stages(Generic[Made, Result]):
  """Runs `Work` over scans, in threads; gives outcomes as they come, in any order. A context manager."""

  def __init__(self, work: Work[Made, Result], scans: Sequence[ListedScan]) -> None:
    self._work, self._count = work, len(scans)
    self.devices = work.device_count
    self._scans, self._scans_lock = iter(scans), threading.Lock()
    self._room = threading.Semaphore(work.in_memory)
    self._stop = threading.Event()
    self._watch, self._hangs = Watch[tuple[str, Outcome[Result]]](), False
    self._to_make: queue.Queue[tuple[Outcome[Result], Volume, float]] = queue.Queue()
    self._to_write: queue.Queue[tuple[Outcome[Result], Made]] = queue.Queue()
    self._outcomes: queue.Queue[Outcome[Result]] = queue.Queue()
    devices: Sequence[jax.Device | None] = work.devices or [None]
    self._threads = [
      *(threading.Thread(target=self._reading, args=(read,), name="reading", daemon=True) for read in work.readers),
      *(threading.Thread(target=self._making, args=(each,), name="device", daemon=True) for each in devices),
      threading.Thread(target=self._writing, name="writing", daemon=True),
    ]

  def __enter__(self) -> Stages[Made, Result]:
    for thread in self._threads:
      thread.start()
    return self

  def __exit__(self, *_: object) -> None:
    self.stop()

  def stop(self) -> None:
    """Ends the threads: what is on a device or being written is waited for, unless it hangs; nothing else is begun."""
    self._stop.set()
    for read in self._work.readers:
      if close := getattr(read, "close", None):
        close()
    until = time.monotonic() + _LEAVE_S
    for thread in self._threads:
      thread.join(max(until - time.monotonic(), 0) if self._hangs else None)

  def __iter__(self) -> Iterator[Outcome[Result]]:
    """Outcomes as they come; one whose error is a HungError is the last, and leaves a thread that never ends."""
    for _ in range(self._count):
      outcome = self._next_outcome()
      yield outcome
      if self._hangs:
        return

  def _next_outcome(self) -> Outcome[Result]:
    while True:
      # in short waits, so that a signal is heeded
      with contextlib.suppress(queue.Empty):
        return self._outcomes.get(timeout=_LOOK_S)
      if (late := self._watch.overdue()) is not None:
        what, outcome = late
        self._hangs = True
        # a copy: the thread may come back to its own
        return dataclasses.replace(outcome, error=HungError(f"{what} does not end"), seconds=dict(outcome.seconds))

  def _reading(self, read: Read) -> None:
    while self._has_room():
      with self._scans_lock:
        scan = next(self._scans, None)
      if scan is None:
        self._room.release()
        return
      outcome: Outcome[Result] = Outcome(scan)
      try:
        with outcome.timed("read"):
          volume, outcome.about = read(scan)
      except ReadingStopped:
        return
      except BaseException as error:
        self._ended(outcome, error)
      else:
        self._to_make.put((outcome, volume, time.monotonic()))
        del volume  # or this thread would hold it while it reads the next

  def _has_room(self) -> bool:
    while not self._stop.is_set():
      if self._room.acquire(timeout=_LOOK_S):
        return True
    return False

  def _making(self, device: jax.Device | None) -> None:
    limit = self._work.seconds
    allowed = None if limit is None else limit + PATIENCE_S
    with contextlib.nullcontext() if device is None else platform.on(device):
      while (item := self._next(self._to_make)) is not None:
        outcome, volume, since = item
        outcome.seconds["wait"] = time.monotonic() - since
        try:
          with self._watched(outcome, "device", "its search or painting", allowed), time_limit(allowed):
            made = self._work.make(outcome.scan, volume)
        except BaseException as error:
          self._ended(outcome, error)
        else:
          self._to_write.put((outcome, made))
          del made
        allowed = limit
        del item, volume

  def _writing(self) -> None:
    while (item := self._next(self._to_write)) is not None:
      outcome, made = item
      try:
        with self._watched(outcome, "write", "writing its result", self._work.seconds):
          outcome.result = self._work.write(made)
      except BaseException as error:
        self._ended(outcome, error)
      else:
        self._ended(outcome, None)
      del item, made

  @contextlib.contextmanager
  def _watched(self, outcome: Outcome[Result], stage: str, what: str, seconds: float | None) -> Iterator[None]:
    patience = None if seconds is None else seconds + PATIENCE_S
    with outcome.timed(stage), self._watch.over((what, outcome), patience):
      yield

  def _next(self, of: queue.Queue[Item]) -> Item | None:
    while not self._stop.is_set():
      with contextlib.suppress(queue.Empty):
        return of.get(timeout=_LOOK_S)
    return None

  def _ended(self, outcome: Outcome[Result], error: BaseException | None) -> None:
    outcome.error = error
    self._room.release()
    self._outcomes.put(outcome)
