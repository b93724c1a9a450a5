"""In which order to look at scans: the worst first, by what is known without any truth."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medlsam_jax.cohort.manifest import read_folder
from medlsam_jax.cohort.quality import quality_of
from medlsam_jax.finding import FOUND, GIVEN, OUTSIDE, PARTLY_OUTSIDE, UNCERTAIN
from medlsam_jax.io.scan_result import BOXES
from medlsam_jax.io.scans import ListedScan

_WEIGHT = {FOUND: 0.0, GIVEN: 0.0, OUTSIDE: 0.3, PARTLY_OUTSIDE: 0.5, UNCERTAIN: 1.0}
"""Of a verdict without a probability."""
_REASONS = 4


@dataclasses.dataclass(frozen=True)
class Entry:
  """One scan of the list."""

  scan: ListedScan
  score: float = 0.0
  """The higher, the earlier it should be looked at; no unit."""
  reasons: tuple[str, ...] = ()
  verdicts: dict[str, int] = dataclasses.field(default_factory=dict)
  """How many organs have each verdict."""
  error: str = ""
  """Why there is no result."""


def worklist(scans: Iterable[ListedScan], results: Path | None) -> list[Entry]:
  """The scans with what their results say, the worst first; scans that failed before all others.

  In the results of a cohort (`medlsam segment LIST`) the order is that of its own page (`cohort.quality`); else the
  probability that each box is right counts, or where none is known its verdict.
  """
  scans = list(scans)
  if results is None or not results.is_dir():
    return [Entry(scan) for scan in scans]
  known = read_folder(results)
  odd: dict[str, tuple[float, tuple[str, ...]]] = {}
  if known.records:
    looked = quality_of(results, known).scans
    odd = {each.record.scan: (each.score, tuple(each.in_words[:_REASONS])) for each in looked}
  entries = []
  for scan in scans:
    record = known.records.get(scan.name)
    said = _said(results / (scan.name + BOXES))
    score, reasons = odd.get(scan.name, (0.0, ()))
    if not odd:
      score, reasons = _doubts(said)
    error = record.error if record is not None and record.state == "failed" else ""
    entries.append(Entry(scan, score, reasons, _verdicts(said), error))
  return sorted(entries, key=lambda each: (not each.error, -each.score, each.scan.name))


def scans_of(results: Path) -> list[ListedScan]:
  """The scans that a folder of results is of, as its files name them; those that are gone are left out."""
  places = {name: record.path for name, record in read_folder(results).records.items()}
  for path in sorted(results.glob("*" + BOXES)):
    said = _said(path).get("scan")
    if isinstance(said, dict):
      places.setdefault(path.name.removesuffix(BOXES), str(said.get("source", "")))
  listed = [ListedScan(Path(place), name) for name, place in places.items() if place]
  return [scan for scan in listed if scan.path.exists()]


def _said(path: Path) -> dict[str, Any]:
  try:
    said = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError):
    return {}
  return said if isinstance(said, dict) else {}


def _entries(said: dict[str, Any]) -> dict[str, dict[str, Any]]:
  organs = said.get("organs")
  return (
    {organ: entry for organ, entry in organs.items() if isinstance(entry, dict)} if isinstance(organs, dict) else {}
  )


def _verdicts(said: dict[str, Any]) -> dict[str, int]:
  counts: dict[str, int] = {}
  for entry in _entries(said).values():
    verdict = str(entry.get("verdict", GIVEN))
    counts[verdict] = counts.get(verdict, 0) + 1
  return counts


def _doubts(said: dict[str, Any]) -> tuple[float, tuple[str, ...]]:
  """Sum over organs of how likely each box is wrong, and the worst organs in words."""
  wrong = {}
  for organ, entry in _entries(said).items():
    verdict, trust = str(entry.get("verdict", GIVEN)), entry.get("confidence")
    right = trust.get("right_probability") if isinstance(trust, dict) else None
    is_searched = verdict not in (GIVEN, OUTSIDE) and isinstance(right, int | float)
    wrong[organ] = 1 - float(right) if is_searched and right is not None else _WEIGHT.get(verdict, 1.0)
  worst = sorted((organ for organ in wrong if wrong[organ] > 0.2), key=lambda organ: -wrong[organ])
  words = [f"{organ}: {_entries(said)[organ].get('verdict', '')}" for organ in worst]
  doubts = said.get("scan", {}).get("doubts", []) if isinstance(said.get("scan"), dict) else []
  score = sum(wrong.values()) + len(doubts)
  return score, tuple([*map(str, doubts), *words][:_REASONS])
