"""What a person decided about each scan of a folder of results: one small file, always whole.

{"format": "medlsam_jax decisions 1", "scans": {"NAME": {"decision": "accept", "note": "", "when": "2026-..."}}}
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from filelock import FileLock, Timeout

from medlsam_jax.errors import InputError, OutputError
from medlsam_jax.io.atomic import folder_for, write_text
from medlsam_jax.io.point_files import read_json

FILE, FORMAT = "decisions.json", "medlsam_jax decisions 1"
Decision = Literal["accept", "correct", "reject"]
LONGEST_NOTE = 2000
PATIENCE_S = 10.0
"""For another program to have written its own."""


class Decisions:
  """The decisions of one folder; each one is on the disk before the page hears that it is kept.

  Several programs may decide in one folder: what one has written the others see, and none undoes another's.

  Raises:
    InputError: also of its methods: a file that is there is of another version, or no such file.
  """

  def __init__(self, folder: Path) -> None:
    self.path = folder / FILE
    self._threads = threading.Lock()
    self._lock = FileLock(self.path.with_name(f".{FILE}.lock"), timeout=PATIENCE_S)
    self._known: tuple[object, dict[str, dict[str, str]]] = (None, {})
    self._scans()

  @property
  def all(self) -> dict[str, dict[str, str]]:
    """The same of every scan that was decided about."""
    return {name: dict(entry) for name, entry in self._scans().items()}

  def of(self, scan: str) -> dict[str, str]:
    """Decision, note and time of one scan; empty where nobody has decided."""
    return dict(self._scans().get(scan, {}))

  def decide(self, scan: str, decision: str | None, note: str = "") -> None:
    """Keeps a decision; None takes it back.

    Raises:
      InputError: an unknown decision, a note that is too long.
      OutputError: the file cannot be written; it is as it was.
    """
    if decision is not None and decision not in get_args(Decision):
      raise InputError(f"{decision!r:.40} is no decision; choose {', '.join(get_args(Decision))}")
    if not isinstance(note, str) or len(note) > LONGEST_NOTE:
      raise InputError(f"a note of more than {LONGEST_NOTE} letters; write less")
    with folder_for(self.path.parent), self._alone():
      after = {name: entry for name, entry in self._scans().items() if name != scan}
      if decision is not None:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        after[scan] = {"decision": decision, "note": note, "when": when}
      write_text(self.path, json.dumps({"format": FORMAT, "scans": after}, indent=1) + "\n")

  @contextlib.contextmanager
  def _alone(self) -> Iterator[None]:
    """Within, nobody else reads, changes and writes the file."""
    with self._threads:
      try:
        self._lock.acquire()
      except (Timeout, OSError, NotImplementedError) as error:
        raise OutputError(f"{self.path}: cannot be locked, and was not changed; try again ({error})") from error
      try:
        yield
      finally:
        self._lock.release()

  def _scans(self) -> dict[str, dict[str, str]]:
    """What the file says now, by scan; empty where there is none."""
    try:
      told = self.path.stat()
    except OSError:
      return {}
    stamp = (told.st_mtime_ns, told.st_ino, told.st_size)
    if self._known[0] != stamp:
      self._known = (stamp, self._read())
    return self._known[1]

  def _read(self) -> dict[str, dict[str, str]]:
    content = read_json(self.path)
    if content.get("format") != FORMAT:
      raise InputError(
        f"{self.path}: of another version of medlsam ({content.get('format')!r:.60}, here {FORMAT!r}); move it away"
      )
    scans = content.get("scans")
    rows = scans.values() if isinstance(scans, dict) else [None]
    if not all(isinstance(row, dict) and row.get("decision") in get_args(Decision) for row in rows):
      raise InputError(f"{self.path}: not as this program writes it; move it away, or mend it")
    assert isinstance(scans, dict)
    return {str(name): {key: str(value) for key, value in row.items()} for name, row in scans.items()}
