"""Which scans were searched, painted or written when a run died: the next one does them last.

A scan that takes its process with it, because it needs more memory than there is for instance, would else be met again
by every later run before the others are done. It need not be one of them that did it, so none of them is given up.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

FOLDER = ".at-work"


class AtWork:
  """An empty file for each scan, in a folder of the results'. Where none can be written nothing is known."""

  def __init__(self, results: Path) -> None:
    self._folder = results / FOLDER

  def begin(self, name: str) -> None:
    """Marks a scan."""
    with contextlib.suppress(OSError):
      self._folder.mkdir(exist_ok=True)
      (self._folder / name).touch()

  def end(self, name: str) -> None:
    """Takes the mark away."""
    with contextlib.suppress(OSError):
      (self._folder / name).unlink()

  def close(self) -> None:
    """Takes the folder away, unless there are marks."""
    with contextlib.suppress(OSError):
      self._folder.rmdir()

  def marked(self) -> set[str]:
    """Scans that nobody ended."""
    return {path.name for path in self._folder.iterdir()} if self._folder.is_dir() else set()
