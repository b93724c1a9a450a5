"""What folders of results hold, as far as it can be read; what cannot is told in a line each, and ends nothing."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from medlsam_jax.cohort import manifest
from medlsam_jax.cohort.looked import Quality
from medlsam_jax.cohort.manifest import Manifest, Record
from medlsam_jax.cohort.quality import quality_of
from medlsam_jax.errors import InputError
from medlsam_jax.evaluation.case import Row
from medlsam_jax.evaluation.compared_row import ComparedRow
from medlsam_jax.evaluation.comparison_report import TITLES, Comparison
from medlsam_jax.evaluation.origins import read_origins
from medlsam_jax.evaluation.report import MADE_UP_NOTE, Report
from medlsam_jax.finding import FOUND, GIVEN
from medlsam_jax.io.decisions import Decisions
from medlsam_jax.io.scan_names import is_one_name
from medlsam_jax.io.scan_result import BOXES, PREVIEW, corrected_in

EVALUATION = "evaluation"
"""Of the files that `medlsam evaluate` writes, without their endings."""
_MOST_SAID = 20
"""Rows or files of a kind that are named one by one."""
Read = TypeVar("Read", Row, ComparedRow)


@dataclasses.dataclass
class Results:
  """All that is known of the scans of some folders."""

  folders: tuple[Path, ...]
  quality: Quality | None = None
  """Of the folder with results of scans; None where none has any."""
  scores: Report | None = None
  """Of an evaluation."""
  comparisons: list[tuple[Comparison, Mapping[str, Any]]] = dataclasses.field(default_factory=list)
  """Of `evaluate --compare`, and what was compared with what."""
  doubted: dict[str, list[str]] = dataclasses.field(default_factory=dict)
  """By scan: organs that are not plainly found, a sentence each, with what speaks against them."""
  decisions: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
  """What a person decided about scans (`medlsam view`): decision, note, when."""
  corrected: dict[str, Path] = dataclasses.field(default_factory=dict)
  """By scan the folder of its corrected result, which counts in place of what was found."""
  origins: list[tuple[Mapping[str, Any], list[str]]] = dataclasses.field(default_factory=list)
  """Where results come from (networks, bank, settings, versions), and the scans of which that is said."""
  scored_with: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  """Versions of what scored them."""
  unread: list[str] = dataclasses.field(default_factory=list)
  """What could not be read, a sentence each."""

  def preview(self, scan: str) -> Path | None:
    """The picture of a scan; None where no folder has one."""
    if not is_one_name(scan):
      return None
    folders = (self.corrected[scan],) if scan in self.corrected else self.folders
    return next((path for folder in folders if (path := folder / (scan + PREVIEW)).is_file()), None)


def read_results(folders: Sequence[Path]) -> Results:
  """Reads what lies in the folders.

  Raises:
    InputError: one of them is no folder, there is nothing of ours in them, or several have results of scans.
  """
  result = Results(tuple(folders))
  for folder in folders:
    if not folder.is_dir():
      raise InputError(f"{folder}: no folder; give one that --out of segment, localize or evaluate named")
    _read_scans(folder, result)
    _read_decisions(folder, result)
    _read_scores(folder, result)
    for source in TITLES:
      _read_comparison(folder / f"comparison_{source}.json", result)
  known = result.quality is not None and (result.quality.scans or result.quality.failed)
  if not (known or result.scores or result.comparisons or result.unread):
    names = ", ".join(map(str, folders))
    raise InputError(
      f"{names}: no results here (NAME{BOXES}, manifest.jsonl, {EVALUATION}.json, comparison_found.json); give the "
      "folder that --out of segment, localize or evaluate named"
    )
  return result


def _read_scans(folder: Path, result: Results) -> None:
  try:
    known = manifest.read_folder(folder)
  except InputError as error:
    known = Manifest()
    result.unread.append(_in(folder, str(error)))
  result.unread += [_in(folder, line) for line in known.damaged]
  known = Manifest(dict(known.records), known.made_by)
  corrected = corrected_in(folder)
  for name in sorted({path.name.removesuffix(BOXES) for path in folder.glob("*" + BOXES)} | corrected.keys()):
    said = _json(corrected.get(name, folder) / (name + BOXES))
    doubts = said.get("scan", {}).get("doubts", ()) if said and isinstance(said.get("scan"), dict) else ()
    doubts = tuple(map(str, doubts)) if isinstance(doubts, list) else ()
    if name not in known.records or (name in corrected and known.records[name].state == "failed"):
      known.records[name] = Record(name, name, "done", "", doubts=doubts)
    result.doubted[name] = _doubted(said, doubts)
  if not known.records:
    return
  if result.quality is not None:
    raise InputError(f"{folder}: results of scans, as another folder of the call has; make a report of each")
  result.corrected = corrected
  result.quality = quality_of(folder, known, elsewhere=corrected)
  origins = read_origins(folder, known.records, corrected)
  result.origins = [(each["provenance"], each["scans"]) for each in origins]
  there = {each.record.scan for each in result.quality.scans}
  for record in known.records.values():
    if record.state == "done" and record.scan not in there:
      path = corrected.get(record.scan, folder) / (record.scan + BOXES)
      what = "cannot be read" if path.exists() else "is not there any more"
      result.unread.append(f"{record.scan}{BOXES}: {what}; the scan is in no table")


def _read_decisions(folder: Path, result: Results) -> None:
  try:
    result.decisions |= Decisions(folder).all
  except InputError as error:
    result.unread.append(_in(folder, str(error)))


def _doubted(said: Mapping[str, Any] | None, of_scan: Sequence[str]) -> list[str]:
  """Organs with their verdict, if it is not `found`, and their own doubts."""
  organs = said.get("organs") if said else None
  lines = []
  for organ, entry in organs.items() if isinstance(organs, dict) else ():
    if not isinstance(entry, dict):
      continue
    given = entry.get("doubts", ())
    own = [str(each) for each in given if each not in of_scan] if isinstance(given, list) else []
    if entry.get("verdict") not in (FOUND, GIVEN) or own:
      lines.append(f"{organ}: {entry.get('verdict')}" + (f" ({'; '.join(own)})" if own else ""))
  return lines


def _read_scores(folder: Path, result: Results) -> None:
  words, table = folder / f"{EVALUATION}.json", folder / f"{EVALUATION}.csv"
  if not words.exists() and not table.exists():
    return
  if result.scores is not None:
    raise InputError(f"{folder}: an evaluation, as another folder of the call has; make a report of each")
  said = _json(words)
  rows = _rows(said.get("rows") if said else None, _row, words.name, result)
  if not rows and table.exists():
    if words.exists():
      result.unread.append(f"{words.name}: has no row that can be read; {table.name} is taken")
    rows = _rows(_csv(table), _row, table.name, result)
  reasons = said.get("reasons") if said else None
  result.scored_with = said.get("scored_with", {}) if said and isinstance(said.get("scored_with"), dict) else {}
  result.origins = result.origins or _origins(said.get("made_with") if said else None)
  made_up = bool(said) and said is not None and said.get("note") == MADE_UP_NOTE
  if rows or reasons:
    result.scores = Report(rows, made_up, _texts(reasons))
  else:
    result.unread.append(f"{(table if table.exists() else words).name}: has no row that can be read")


def _origins(said: object) -> list[tuple[Mapping[str, Any], list[str]]]:
  """Of `evaluation.origins`, as an evaluation has kept them."""
  whole = [each for each in said if isinstance(each, dict)] if isinstance(said, list) else []
  return [
    (each["provenance"], [str(scan) for scan in each["scans"]])
    for each in whole
    if isinstance(each.get("provenance"), dict) and isinstance(each.get("scans"), list)
  ]


def _read_comparison(path: Path, result: Results) -> None:
  if not path.exists():
    return
  said = _json(path)
  try:
    if said is None:
      raise ValueError("no JSON")
    rows = _rows(said["rows"], _compared, path.name, result)
    cut = {(each["scan"], each["organ"]) for each in said["rows"] if isinstance(each, dict) and not each.get("whole")}
    seconds = {str(way): [float(each) for each in spent] for way, spent in said["seconds"].items()}
    if not rows or {row.way for row in rows} - seconds.keys():
      raise ValueError("no rows")
    searched, waiting = [float(each) for each in said.get("search_seconds", ())], int(said.get("waiting", 0))
    reasons = _texts(said.get("reasons"))
    comparison = Comparison(said["boxes"], rows, seconds, cut, searched, reasons, waiting)
    comparison.title, comparison.table(), comparison.notes()
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    result.unread.append(f"{path.name}: cannot be read ({error!r:.80})")
    return
  result.comparisons.append((comparison, said))


def _rows(lines: object, read: Callable[[Mapping[str, Any]], Read], name: str, result: Results) -> list[Read]:
  rows, bad = list[Read](), list[int]()
  for number, line in enumerate(lines if isinstance(lines, Iterable) else (), 1):
    try:
      rows.append(read(line))
    except (ValueError, KeyError, TypeError, AttributeError):
      bad.append(number)
  if bad:
    some = ", ".join(map(str, bad[:_MOST_SAID])) + (" and more" if len(bad) > _MOST_SAID else "")
    result.unread.append(f"{name}: cannot be read in row {some}")
  return rows


def _row(line: Mapping[str, Any]) -> Row:
  """Of evaluate's JSON or CSV, today's or an older one's."""
  given: dict[str, Any] = {name: str(line[name] or "") for name in ("scan", "organ", "verdict", "failure")}
  if not given["scan"] or not given["organ"] or line["present"] not in (True, False, "True", "False"):
    raise ValueError(line)
  given["present"] = line["present"] in (True, "True")
  names = (field.name for field in dataclasses.fields(Row))
  given |= {name: _score(line.get(name)) for name in names if name not in given}
  return Row(**given)


def _compared(line: Mapping[str, Any]) -> ComparedRow:
  given: dict[str, Any] = {name: str(line[name]) for name in ("scan", "way", "organ", "failure")}
  given |= {name: _score(line[name]) for name in ("dice", "surface_dice_2mm", "surface_dice_5mm")}
  if None in given.values():
    raise ValueError(line)
  return ComparedRow(**given)


def _score(value: Any) -> float | None:
  """A finite number; None of nothing, as an empty cell says."""
  if value is None or value == "":
    return None
  number = float(value)
  if not math.isfinite(number):
    raise ValueError(value)
  return number


def _texts(said: object) -> dict[str, str]:
  return {str(name): str(text) for name, text in said.items()} if isinstance(said, dict) else {}


def _json(path: Path) -> dict[str, Any] | None:
  """An object; None of what is damaged, or not there."""
  with contextlib.suppress(OSError, ValueError, RecursionError):
    said = json.loads(path.read_text(encoding="utf-8"))
    return said if isinstance(said, dict) else None
  return None


def _csv(path: Path) -> list[dict[str, Any]]:
  with contextlib.suppress(OSError, ValueError, csv.Error), path.open(encoding="utf-8", newline="") as file:
    return list(csv.DictReader(file))
  return []


def _in(folder: Path, text: str) -> str:
  """Without the folder, which need not be told to whoever gets the page."""
  return text.replace(f"{folder}/", "")
