"""The child that reads scans for a cohort: `main` with the words SOCKET PARENT MEMORY.

It loads no JAX. Memory is limited by the system: what asks for more gets a MemoryError, or the child dies of it alone.
"""

from __future__ import annotations

import dataclasses
import os
import socket
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path

from medlsam_jax.cohort import frames
from medlsam_jax.cohort.body import body_mm
from medlsam_jax.cohort.identity import Identity, identity_of
from medlsam_jax.cohort.memory import peak_bytes
from medlsam_jax.cohort.sketch import Sketch, sketch_of
from medlsam_jax.errors import InputError, MedlsamError
from medlsam_jax.geometry import Volume
from medlsam_jax.io.scans import CopiedScan, ListedScan, ReadingOptions
from medlsam_jax.notices import MedlsamWarning

READY = "ready"
_LOOK_FOR_PARENT_S = 1.0


@dataclasses.dataclass(frozen=True)
class Task:
  """A scan to read; `alone` as of `ReadingOptions.read`."""

  scan: ListedScan
  options: ReadingOptions
  alone: bool
  folder: str = ""
  """Where a scan goes that is behind an address; its caller clears it, whatever becomes of this process."""


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
  """What came of it."""

  identity: Identity | None = None
  """None where the files could not be read."""
  volume: Volume | None = None
  body_mm: tuple[tuple[float, ...], ...] | None = None
  sketch: Sketch | None = None
  warned: tuple[str, ...] = ()
  error: str = ""
  """For the user."""
  defect: str = ""
  """A traceback, where the program itself is at fault."""
  is_memory: bool = False
  """The limit of memory did not suffice: the child is of no more use."""
  peak_bytes: int = 0
  """Memory of this process at its highest so far."""


def main() -> None:
  """Answers tasks until the other end is closed."""
  line = socket.socket(fileno=int(sys.argv[1]))
  threading.Thread(target=_end_with, args=(int(sys.argv[2]),), daemon=True).start()
  _limit_memory(int(sys.argv[3]))
  frames.send(line, READY)
  while True:
    try:
      task = frames.receive(line)
    except EOFError:
      return
    assert isinstance(task, Task)
    frames.send(line, answer(task))


def answer(task: Task) -> Answer:
  """Reads a scan; whatever goes wrong is in the answer."""
  identity, volume, body, sketch, copied = None, None, None, None, CopiedScan(task.scan, "")
  error, defect, is_memory = "", "", False
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    try:
      if task.scan.wrong:
        raise InputError(task.scan.wrong)
      with CopiedScan.of(task.scan, task.folder) as copied:
        identity = identity_of(task.scan.address or copied.scan.path, copied.scan.path)
        volume = copied.renamed(task.options.read(copied.scan, task.alone))
      corners = body_mm(volume)
      body = None if corners is None else tuple(tuple(round(each, 1) for each in row) for row in corners.tolist())
      sketch = sketch_of(volume)
    except MedlsamError as failed:
      error = str(failed)
    except MemoryError:
      volume, is_memory = None, True
    except Exception as failed:
      error, defect = f"a defect of medlsam: {type(failed).__name__}: {failed}", traceback.format_exc()
  warned = tuple(copied.said(str(each.message)) for each in caught if issubclass(each.category, MedlsamWarning))
  return Answer(identity, volume, body, sketch, warned, error, defect, is_memory, peak_bytes())


def _limit_memory(limit: int) -> None:
  """Of what is allocated from here on; 0 for no limit."""
  if limit:
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + limit, used + limit))


def _end_with(parent: int) -> None:
  """Ends this process, whatever hangs in it, when its parent is gone: a killed parent closes nothing in words."""
  while os.getppid() == parent:
    time.sleep(_LOOK_FOR_PARENT_S)
  os._exit(1)
