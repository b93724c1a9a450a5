"""Scores kept one by one as lines of JSON, so that a run that was cut goes on where it was."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medlsam_jax.errors import OutputError

Scores = dict[str, Any]


class KeptScores:
  """What was scored before, under the question that it answers: everything that the answer depends on.

  A line that is none of ours, such as one that a kill cut short, counts as not there. Threads may share one.
  """

  def __init__(self, path: str | os.PathLike[str]):
    self.path = Path(path)
    self._lock = threading.Lock()
    text = self.path.read_text(errors="replace") if self.path.is_file() else ""
    self._between = "" if not text or text.endswith("\n") else "\n"
    self._kept = dict(pair for line in text.splitlines() if (pair := _parsed(line)) is not None)

  def get(self, question: Mapping[str, Any], scan: str) -> Scores | None:
    """The latest scores of a scan; None where the question was another one, or was not asked of it."""
    return self._kept.get(_key(question, scan))

  def add(self, question: Mapping[str, Any], scan: str, scores: Scores) -> None:
    """Keeps scores, in the file too.

    Raises:
      OutputError: the file cannot be written.
    """
    line = json.dumps({"scan": scan, "question": question, "scores": scores})
    with self._lock:
      try:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
          file.write(f"{self._between}{line}\n")
      except OSError as error:
        raise OutputError(f"{self.path}: cannot be written ({error.strerror or error})") from error
      self._between = ""
      self._kept[_key(question, scan)] = json.loads(line)["scores"]


def _key(question: Mapping[str, Any], scan: str) -> str:
  return json.dumps([question, scan], sort_keys=True)


def _parsed(line: str) -> tuple[str, Scores] | None:
  try:
    row = json.loads(line)
    return _key(row["question"], row["scan"]), row["scores"]
  except (ValueError, KeyError, TypeError):
    return None
