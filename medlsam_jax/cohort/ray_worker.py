"""What an actor of a Ray cluster does: it holds network, bank and compiled programs, and takes scan after scan.

Ray gives it several scans at once, so that one is read, another one is on the device and a third is packed meanwhile.
What goes wrong with a scan is in its outcome; nothing is raised.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import queue
import socket
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from medlsam_jax import platform
from medlsam_jax.cohort.memory import peak_bytes
from medlsam_jax.cohort.outcome import MachineError, Make, Outcome, ScanError, Worker, Written
from medlsam_jax.cohort.reader import Limits, Reader
from medlsam_jax.cohort.stages import PATIENCE_S
from medlsam_jax.errors import OutputError
from medlsam_jax.installation import version
from medlsam_jax.io.scans import ListedScan, ReadingOptions
from medlsam_jax.notices import MedlsamWarning
from medlsam_jax.progress import time_limit

SCAN, OUTCOME = "scan", "outcome"
"""What rows are called that go to an actor and come from it; their values are pickled."""


@dataclasses.dataclass(frozen=True, eq=False)
class Orders:
  """What every actor gets, once."""

  make: Make
  reading: ReadingOptions
  limits: Limits
  readers: int
  """Processes of an actor that read."""
  version: str
  """Of medlsam, where the run was called."""

  @property
  def at_once(self) -> int:
    """Scans that an actor has at once: one with each reader, one on the device, one that is packed."""
    return self.readers + 2


@dataclasses.dataclass(frozen=True)
class Packed:
  """A result on its way to the process that writes it."""

  files: Mapping[str, bytes]
  """By name."""
  written: Written
  wrong: str = ""
  """What of it could not be written; empty for nothing."""


class Actor:
  """Makes results. Called by several threads."""

  def __init__(self, orders: Any) -> None:
    """`orders` is Ray's reference to `Orders`, and fetched here, so that what is wrong with it can be told."""
    import ray

    if "jax" not in sys.modules:
      platform.keep_freed_memory()
    self._name = ray.get_runtime_context().get_actor_id()
    self._broken = ""
    self._readers: queue.SimpleQueue[Reader] = queue.SimpleQueue()
    self._device, self._here = threading.Lock(), threading.local()
    self._listen()
    try:
      self._orders: Orders = ray.get(orders)
      if self._orders.version != version():
        raise MachineError(f"has medlsam {version()}, where the run was called has {self._orders.version}")
      limit = self._orders.limits.seconds
      self._allowed = None if limit is None else limit + PATIENCE_S
      for _ in range(self._orders.readers):
        self._readers.put(Reader(self._orders.reading, self._orders.limits))
    except MachineError as error:
      self._broken = str(error)
    except Exception as error:
      self._broken = f"what it was sent cannot be used ({type(error).__name__}: {error})"

  def __call__(self, row: Mapping[str, bytes]) -> dict[str, bytes]:
    """A scan's row -> its outcome's."""
    scan: ListedScan = pickle.loads(row[SCAN])
    self._here.warned = []
    outcome: Outcome[Packed] = Outcome(scan)
    try:
      self._make(outcome)
    except MachineError as error:
      outcome.error = MachineError(f"{socket.gethostname()}: {error}")
    except Exception as error:
      outcome.error = error
      # in words: exceptions of libraries do not all travel, and none with its traceback
      outcome.error = ScanError(outcome.reason, outcome.identity, outcome.defect)
    outcome.worker, outcome.warned = Worker(self._name, peak_bytes()), tuple(self._here.warned)
    return {OUTCOME: pickle.dumps(outcome)}

  def _make(self, outcome: Outcome[Packed]) -> None:
    if self._broken:
      raise MachineError(self._broken)
    with self._reader() as read, outcome.timed("read"):
      volume, outcome.about = read(outcome.scan)
    with contextlib.ExitStack() as held:
      with outcome.timed("wait"):
        held.enter_context(self._device)
      allowed, self._allowed = self._allowed, self._orders.limits.seconds
      with outcome.timed("device"), time_limit(allowed), _dies_if_it_hangs(allowed):
        result, provenance = self._orders.make(outcome.scan, volume)
    with outcome.timed("write"), _dies_if_it_hangs(self._orders.limits.seconds):
      try:
        files, wrong = result.files(provenance)
      except OutputError as error:
        raise MachineError(str(error)) from error
      outcome.result = Packed(files, Written.of(result), wrong)

  @contextlib.contextmanager
  def _reader(self) -> Iterator[Reader]:
    reader = self._readers.get()
    try:
      yield reader
    finally:
      self._readers.put(reader)

  def _listen(self) -> None:
    """Keeps warnings of this package, by the thread that works on a scan."""

    def hear(message: Warning | str, *_: object, **__: object) -> None:
      if (warned := getattr(self._here, "warned", None)) is not None:
        warned.append(str(message))

    warnings.simplefilter("ignore")
    warnings.filterwarnings("always", category=MedlsamWarning)
    warnings.showwarning = hear


@contextlib.contextmanager
def _dies_if_it_hangs(seconds: float | None) -> Iterator[None]:
  """Ends this process where the block takes much longer than its limit: a device or a file system hangs, and nothing
  else ends that. The cluster gives its scans to others."""
  timer = None if seconds is None else threading.Timer(seconds + PATIENCE_S, os._exit, (1,))
  if timer is not None:
    timer.daemon = True
    timer.start()
  try:
    yield
  finally:
    if timer is not None:
      timer.cancel()
