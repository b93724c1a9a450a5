"""One command over many scans: each on its own, a bad one is reported and passed over, and a summary at the end."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

from medlsam_jax import platform
from medlsam_jax.cli.terminal import Terminal
from medlsam_jax.errors import MedlsamError
from medlsam_jax.geometry import Volume
from medlsam_jax.io.scans import ListedScan, ReadingOptions

Result = TypeVar("Result")
Make = Callable[[ListedScan, str], Result]
"""Takes a scan and what to call it in progress bars."""
Finish = Callable[[str, Result], Sequence[str]]
"""Takes what a scan is called and what was made of it, and puts it away; returns the doubts of the scan."""


@dataclasses.dataclass
class Summary:
  """What became of the scans, by name."""

  done: list[str] = dataclasses.field(default_factory=list)
  skipped: list[str] = dataclasses.field(default_factory=list)
  failed: dict[str, str] = dataclasses.field(default_factory=dict)
  doubtful: dict[str, str] = dataclasses.field(default_factory=dict)
  """Of those that are done: why nothing in them is called found."""

  @property
  def exit_code(self) -> int:
    """1 if any scan failed."""
    return 1 if self.failed else 0


class ReadAhead:
  """Reads scans while those before them are worked on: at most `count` more are in memory.

  A context manager, which threads may share; what cannot be read raises when it is asked for.
  """

  def __init__(
    self,
    scans: Sequence[ListedScan],
    is_done: Callable[[str], bool],
    options: ReadingOptions | None = None,
    count: int = 1,
  ) -> None:
    self._scans, self._is_done, self._options = list(scans), is_done, options or ReadingOptions()
    self._count, self._pool = count, ThreadPoolExecutor(count, "read-ahead")
    self._asked, self._begun = set[int](), dict[int, Future[Volume]]()
    self._lock = threading.Lock()

  def __enter__(self) -> ReadAhead:
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
  ) -> None:
    self._pool.shutdown(wait=False, cancel_futures=True)

  def __call__(self, scan: ListedScan) -> Volume:
    """The scan, and a start on the next ones that are not done.

    Raises:
      InputError: it cannot be read.
    """
    index = self._scans.index(scan)
    with self._lock:
      self._asked.add(index)
      ahead = self._begun.pop(index, None)
    volume = ahead.result() if ahead is not None else self._read(scan)
    with self._lock:
      self._begin_after(index)
    return volume

  def _begin_after(self, index: int) -> None:
    for later in range(index + 1, len(self._scans)):
      if len(self._begun) >= self._count:
        return
      if later not in self._asked and later not in self._begun and not self._is_done(self._scans[later].name):
        self._begun[later] = self._pool.submit(self._read, self._scans[later])

  def _read(self, scan: ListedScan) -> Volume:
    return self._options.read(scan, alone=len(self._scans) == 1)


class Makers(Generic[Result]):
  """Makes something of each scan, one scan after another on the next device, each device with a thread of its own.

  With one device a scan's turn comes when it is asked for. A context manager; what fails raises when it is asked for.
  """

  def __init__(self, make: Make[Result], scans: Sequence[tuple[ListedScan, str]]) -> None:
    """`scans`, with what to call them, will be asked for in this order, some of them perhaps not."""
    self._make, self._left, self._begun = make, list(scans), dict[str, Future[Result]]()
    self._devices = platform.devices_for(len(scans))
    self._pools = [ThreadPoolExecutor(1, "device") for _ in self._devices]
    self._turn = 0

  def __enter__(self) -> Makers[Result]:
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
  ) -> None:
    for pool in self._pools:
      pool.shutdown(wait=False, cancel_futures=True)

  def __call__(self, scan: ListedScan, title: str) -> Result:
    """What is made of a scan; the next ones, two for each device, are on their way."""
    if not self._pools:
      return self._make(scan, title)
    while self._left and (title not in self._begun or len(self._begun) < 2 * len(self._pools)):
      device = self._turn % len(self._pools)
      self._turn += 1
      following = self._left.pop(0)
      self._begun[following[1]] = self._pools[device].submit(self._make_on, device, *following)
    return self._begun.pop(title).result()

  def _make_on(self, device: int, scan: ListedScan, title: str) -> Result:
    with platform.on(self._devices[device]):
      return self._make(scan, title)


def run_over(
  terminal: Terminal,
  scans: Sequence[ListedScan],
  make: Make[Result],
  finish: Finish[Result],
  is_done: Callable[[str], bool],
  until: float = math.inf,
) -> Summary:
  """Does `make` for each scan that is not done yet, on all devices, and then `finish`, in the order of the scans.

  A defect of the program in one scan is shown with its traceback and counts as a failure of that scan. After `until`
  (`time.monotonic`) nothing is begun: the scans that are left are in no list of the summary.
  """
  summary = Summary()
  titles = [
    f"[{number}/{len(scans)}] {scan.name}" if len(scans) > 1 else scan.name for number, scan in enumerate(scans, 1)
  ]
  with Makers(make, [each for each in zip(scans, titles, strict=True) if not is_done(each[0].name)]) as made:
    for scan, title in zip(scans, titles, strict=True):
      terminal.stop_if_asked()
      name = scan.name
      if is_done(name):
        summary.skipped.append(name)
        terminal.say(f"{title}: its results are there, skipped")
        continue
      if time.monotonic() >= until:
        continue
      try:
        doubts = finish(title, made(scan, title))
        summary.done.append(name)
        if doubts:
          summary.doubtful[name] = "; ".join(doubt.removeprefix(f"{scan}: ") for doubt in doubts)
      except MedlsamError as error:
        terminal.stop_if_asked()
        summary.failed[name] = str(error).removeprefix(f"{scan}: ")
        terminal.error(_about(name, scan, str(error)))
      except Exception as error:
        terminal.stop_if_asked()
        if refused := platform.explained(error):
          summary.failed[name] = refused
          terminal.error(f"{name}: {refused}")
          continue
        summary.failed[name] = f"a defect of medlsam: {type(error).__name__}: {error}"
        terminal.trace(traceback.format_exc())
        terminal.error(f"{name}: {summary.failed[name]}; please report it with the lines above")
  if len(scans) > 1 or summary.skipped:
    _tell(terminal, summary)
  return summary


def _about(name: str, scan: ListedScan, reason: str) -> str:
  """A reason behind the scan's name, unless it names the scan itself."""
  return reason if str(scan) in reason else f"{name}: {reason}"


def _tell(terminal: Terminal, summary: Summary) -> None:
  counts = [f"{len(summary.done)} done"]
  if summary.skipped:
    counts.append(f"{len(summary.skipped)} skipped")
  if summary.failed:
    counts.append(f"{len(summary.failed)} failed")
  if summary.doubtful:
    counts.append(f"{len(summary.doubtful)} doubtful")
  terminal.say("scans: " + ", ".join(counts))
  for name, reason in summary.doubtful.items():
    terminal.warn(f"doubtful: {name}: {reason}")
  for name, reason in summary.failed.items():
    terminal.error(f"failed: {name}: {reason}")
