"""Reads scans in a child process, which is ended when a scan takes too long or too much memory."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import medlsam_jax
from medlsam_jax import notices
from medlsam_jax.cohort import frames
from medlsam_jax.cohort.outcome import About, MachineError, ScanError
from medlsam_jax.cohort.reading_process import Answer, Task
from medlsam_jax.errors import ConfigError, InputError
from medlsam_jax.geometry import Volume
from medlsam_jax.io.scans import ListedScan, ReadingOptions

_START_S = 300.0
"""For a child to load its libraries, from a slow file system too."""
_CODE = "from medlsam_jax.cohort.reading_process import main; main()"
"""Not `-m`, by which the classes that travel would be those of another module."""
_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


@dataclasses.dataclass(frozen=True)
class Limits:
  """What one scan may take; None for no limit."""

  seconds: float | None = None
  """Of reading it, and again of searching and painting it."""
  memory_bytes: int | None = None
  """Of reading it."""

  def __post_init__(self) -> None:
    if self.memory_bytes is not None and not Path("/proc/self/statm").exists():
      raise ConfigError("a limit of memory needs Linux, whose /proc tells what a process uses")


class UnreadableError(ScanError, InputError):
  """A scan that cannot be read."""


class NoReaderError(MachineError):
  """No child can be started."""


class ReadingStopped(Exception):
  """The reader was closed in the middle."""


class Reader:
  """Reads scan after scan in one child, which is begun again where it had to be ended. For one thread, but `close`."""

  def __init__(self, options: ReadingOptions, limits: Limits, alone: bool = False) -> None:
    self._options, self._limits, self._alone = options, limits, alone
    self._child: subprocess.Popen[bytes] | None = None
    self._line: socket.socket | None = None
    self._closed, self._lock = False, threading.Lock()

  def __call__(self, scan: ListedScan) -> tuple[Volume, About]:
    """Reads a scan. A child that another program ended is given a second chance.

    Raises:
      UnreadableError: it cannot be read, takes longer or more memory than the limits, or its reader died.
      ReadingStopped: `close` was called.
    """
    with tempfile.TemporaryDirectory(prefix="medlsam-") if scan.address else contextlib.nullcontext("") as folder:
      answer = self._ask(scan, folder) or self._ask(scan, folder)
    if answer is None:
      raise UnreadableError(f"{scan}: the process that read it ended, twice; the file may be damaged")
    for text in answer.warned:
      notices.warn(text)
    if answer.is_memory:
      self._end()
      raise UnreadableError(self._too_much(scan), answer.identity)
    if answer.error or answer.volume is None or answer.identity is None:
      raise UnreadableError(answer.error, answer.identity, answer.defect)
    return answer.volume, About(answer.identity, answer.body_mm, answer.peak_bytes, answer.sketch)

  def close(self) -> None:
    """Ends the child."""
    with self._lock:
      self._closed = True
      self._end()

  def _ask(self, scan: ListedScan, folder: str) -> Answer | None:
    """The child's answer; None where it died."""
    line = self._begun()
    seconds = self._limits.seconds
    try:
      frames.send(line, Task(scan, self._options, self._alone, folder))
      answer = frames.receive(line, None if seconds is None else time.monotonic() + seconds)
    except TimeoutError as error:
      self._end()
      raise UnreadableError(
        f"{scan}: reading it took longer than {seconds:g} s (--scan-seconds), and was ended"
      ) from error
    except (OSError, EOFError):
      self._end()
      if self._closed:
        raise ReadingStopped from None
      return None
    assert isinstance(answer, Answer)
    return answer

  def _begun(self) -> socket.socket:
    with self._lock:
      if self._closed:
        raise ReadingStopped
      if self._line is None:
        self._begin()
      line = self._line
    assert line is not None
    return line

  def _begin(self) -> None:
    ours, theirs = socket.socketpair()
    package = str(Path(medlsam_jax.__file__).parents[1])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    words = [str(theirs.fileno()), str(os.getpid()), str(self._limits.memory_bytes or 0)]
    with theirs:
      self._child = subprocess.Popen(
        [sys.executable, "-c", _CODE, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(theirs.fileno(),),
        env=os.environ | _ONE_THREAD | {"PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C is for the parent, which ends its children itself
      )
    self._line = ours
    try:
      frames.receive(ours, time.monotonic() + _START_S)
    except (EOFError, TimeoutError) as error:
      self._end()
      raise NoReaderError(f"no process that reads scans can be started: {sys.executable} ended or hangs") from error

  def _end(self) -> None:
    if self._child is not None:
      self._child.kill()
      self._child.wait()
    if self._line is not None:
      self._line.close()
    self._child, self._line = None, None

  def _too_much(self, scan: ListedScan) -> str:
    limit = (self._limits.memory_bytes or 0) / 2**30
    return f"{scan}: reading it takes more than {limit:g} GiB of memory (--scan-memory), and was ended"
