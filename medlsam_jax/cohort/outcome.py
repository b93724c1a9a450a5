"""What is made of a scan, and what became of it on the way, without its voxels."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeAlias, TypeVar

from medlsam_jax.cohort.identity import Identity
from medlsam_jax.cohort.sketch import Sketch
from medlsam_jax.errors import MedlsamError
from medlsam_jax.geometry import Volume
from medlsam_jax.io.scan_result import ScanResult
from medlsam_jax.io.scans import ListedScan

Result = TypeVar("Result")
Made: TypeAlias = tuple[ScanResult, Mapping[str, object]]
"""A scan's result, and where it comes from."""
Make = Callable[[ListedScan, Volume], Made]
"""Called in a thread for each device."""
STAGES = ("read", "wait", "device", "write")


class ScanError(MedlsamError):
  """What went wrong with a scan, with what its record says of it."""

  def __init__(self, text: str, identity: Identity | None = None, defect: str = "") -> None:
    super().__init__(text)
    self.identity = identity
    self.defect = defect
    """A traceback, where the program itself is at fault."""


class MachineError(MedlsamError):
  """A machine can do nothing more: no fault of a scan."""


@dataclasses.dataclass(frozen=True)
class About:
  """What the record of a scan says of it."""

  identity: Identity
  body_mm: tuple[tuple[float, ...], ...] | None
  peak_bytes: int
  """Memory of the process that read it."""
  sketch: Sketch | None = None
  """Its picture, beside which others are looked at; None of a scan of nothing but air."""


@dataclasses.dataclass(frozen=True)
class Written:
  """What is left of a result when its files are there."""

  verdicts: Mapping[str, str]
  doubts: tuple[str, ...]

  @classmethod
  def of(cls, result: ScanResult) -> Written:
    """Of a result that was written."""
    return cls({organ: each.verdict for organ, each in result.findings.items()}, result.scan.doubts)


@dataclasses.dataclass(frozen=True)
class Worker:
  """A process of a cluster."""

  name: str
  peak_bytes: int
  """Its memory at its highest so far."""


@dataclasses.dataclass(eq=False)
class Outcome(Generic[Result]):
  """What became of a scan, without its voxels."""

  scan: ListedScan
  about: About | None = None
  """None where it could not be read."""
  result: Result | None = None
  """What writing it left."""
  error: BaseException | None = None
  seconds: dict[str, float] = dataclasses.field(default_factory=dict)
  """By stage; `wait` is the time between reading and a free device."""
  worker: Worker | None = None
  """Who did it; None: this process."""
  warned: tuple[str, ...] = ()
  """What was warned of in another process."""

  @property
  def identity(self) -> Identity | None:
    """Of the files, where they could be read."""
    if self.about is not None:
      return self.about.identity
    return self.error.identity if isinstance(self.error, ScanError) else None

  @property
  def reason(self) -> str:
    """What went wrong, for the user; empty for nothing."""
    error = self.error
    if error is None:
      return ""
    text = str(error) if isinstance(error, MedlsamError) else f"a defect of medlsam: {type(error).__name__}: {error}"
    return text.removeprefix(f"{self.scan}: ")

  @property
  def defect(self) -> str:
    """A traceback, where the program itself is at fault."""
    if isinstance(self.error, ScanError):
      return self.error.defect
    if self.error is None or isinstance(self.error, MedlsamError):
      return ""
    return "".join(traceback.format_exception(self.error))

  @contextlib.contextmanager
  def timed(self, stage: str) -> Iterator[None]:
    """Counts the block's time as the stage's."""
    begun = time.monotonic()
    try:
      yield
    finally:
      self.seconds[stage] = time.monotonic() - begun
