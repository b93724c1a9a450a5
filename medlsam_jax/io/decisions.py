"""What a person decided about each scan of a folder of results: one small file, always whole.

{"format": "medlsam_jax decisions 1", "scans": {"NAME": {"decision": "accept", "note": "", "when": "2026-..."}}}
"""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from medlsam_jax.errors import InputError
from medlsam_jax.io.atomic import folder_for, write_text
from medlsam_jax.io.point_files import read_json

FILE, FORMAT = "decisions.json", "medlsam_jax decisions 1"
Decision = Literal["accept", "correct", "reject"]
LONGEST_NOTE = 2000


class Decisions:
  """The decisions of one folder; each one is on the disk before the page hears that it is kept.

  Raises:
    InputError: a file that is there is of another version, or no such file.
  """

  def __init__(self, folder: Path) -> None:
    self.path = folder / FILE
    self._lock = threading.Lock()
    self._scans: dict[str, dict[str, str]] = self._read() if self.path.is_file() else {}

  @property
  def all(self) -> dict[str, dict[str, str]]:
    """The same of every scan that was decided about."""
    return {name: dict(entry) for name, entry in self._scans.items()}

  def of(self, scan: str) -> dict[str, str]:
    """Decision, note and time of one scan; empty where nobody has decided."""
    return dict(self._scans.get(scan, {}))

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
    with self._lock:
      after = {name: entry for name, entry in self._scans.items() if name != scan}
      if decision is not None:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        after[scan] = {"decision": decision, "note": note, "when": when}
      with folder_for(self.path.parent):
        write_text(self.path, json.dumps({"format": FORMAT, "scans": after}, indent=1) + "\n")
      self._scans = after

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
