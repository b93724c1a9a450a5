"""Dice by step, scan and organ in a run's folder."""

from __future__ import annotations

import json

from etils import epath

from medlsam_jax import notices
from medlsam_jax.train.run_folder import whole_file

VALIDATION_FILE = "validation.json"
Scores = dict[str, dict[str, float]]
"""Scan -> organ -> Dice."""


def read_scores(path: epath.Path) -> dict[str, Scores]:
  """Step -> scan -> organ -> Dice; empty where there is no file, or it cannot be read."""
  try:
    return dict(json.loads(path.read_text()))
  except FileNotFoundError:
    return {}
  except (OSError, ValueError, TypeError) as error:
    notices.warn(f"{path}: cannot be read ({error}); the scores in it are lost")
    return {}


def write_scores(path: epath.Path, scores: dict[str, Scores]) -> None:
  """Replaces the file.

  Raises:
    OutputError: it cannot be written.
  """
  with whole_file(path) as part:
    part.write_text(json.dumps(scores, indent=1) + "\n")


def forget_scores(path: epath.Path, after: int) -> None:
  """Leaves out what a run that goes on from an earlier step measures anew."""
  scores = read_scores(path)
  kept = {step: each for step, each in scores.items() if int(step) <= after}
  if kept != scores:
    write_scores(path, kept)
