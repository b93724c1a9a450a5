"""One command over many scans: each on its own, a bad one is reported and passed over, and a summary at the end."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from medlsam_jax.cli.terminal import Terminal
from medlsam_jax.errors import MedlsamError
from medlsam_jax.geometry import Volume
from medlsam_jax.io.scans import ListedScan, ReadingOptions

Work = Callable[[ListedScan, str], Sequence[str]]
"""Takes a scan and what to call it in progress bars; returns the doubts of the scan."""


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
  """Reads a scan while the one before it is worked on: at most one more is in memory.

  A context manager; what cannot be read raises when it is asked for.
  """

  def __init__(
    self, scans: Sequence[ListedScan], is_done: Callable[[str], bool], options: ReadingOptions | None = None
  ) -> None:
    self._scans, self._is_done, self._options = list(scans), is_done, options or ReadingOptions()
    self._pool = ThreadPoolExecutor(1, "read-ahead")
    self._next: tuple[ListedScan, Future[Volume]] | None = None

  def __enter__(self) -> ReadAhead:
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
  ) -> None:
    self._pool.shutdown(wait=False, cancel_futures=True)

  def __call__(self, scan: ListedScan) -> Volume:
    """The scan, and a start on the next one that is not done.

    Raises:
      InputError: it cannot be read.
    """
    ahead, self._next = self._next, None
    volume = ahead[1].result() if ahead is not None and ahead[0] == scan else self._read(scan)
    later = self._scans[self._scans.index(scan) + 1 :]
    following = next((other for other in later if not self._is_done(other.name)), None)
    if following is not None:
      self._next = following, self._pool.submit(self._read, following)
    return volume

  def _read(self, scan: ListedScan) -> Volume:
    return self._options.read(scan, alone=len(self._scans) == 1)


def run_over(terminal: Terminal, scans: Sequence[ListedScan], work: Work, is_done: Callable[[str], bool]) -> Summary:
  """Does `work` for each scan that is not done yet.

  A defect of the program in one scan is shown with its traceback and counts as a failure of that scan.
  """
  summary = Summary()
  for number, scan in enumerate(scans, 1):
    terminal.stop_if_asked()
    name = scan.name
    title = f"[{number}/{len(scans)}] {name}" if len(scans) > 1 else name
    if is_done(name):
      summary.skipped.append(name)
      terminal.say(f"{title}: its results are there, skipped")
      continue
    try:
      doubts = work(scan, title)
      summary.done.append(name)
      if doubts:
        summary.doubtful[name] = "; ".join(doubt.removeprefix(f"{scan}: ") for doubt in doubts)
    except MedlsamError as error:
      terminal.stop_if_asked()
      summary.failed[name] = str(error).removeprefix(f"{scan}: ")
      terminal.error(_about(name, scan, str(error)))
    except Exception as error:
      terminal.stop_if_asked()
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
