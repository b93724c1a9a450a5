"""Quality of a cohort without labels: which scans to look at first, and why.

Every measure is taken against the cohort itself by medians, so that a few odd scans show and do not count; where few
scans have an organ, against the templates. Nothing here knows the truth: what is named is odd, not wrong.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from medlsam_jax import display
from medlsam_jax.cohort.layout import ENOUGH_SCANS, Layout, box_log_ml, layout_of, layout_of_templates
from medlsam_jax.cohort.manifest import Manifest, Record
from medlsam_jax.finding import FOUND, OUTSIDE, PARTLY_OUTSIDE, UNCERTAIN
from medlsam_jax.io.scan_result import BOXES
from medlsam_jax.medlam.bank.bank import Bank

FAR = 4.0
"""Standard deviations from which a place or a size is named."""
_OFTEN = 0.8
"""Share of the scans in which an organ must be found, for its absence in another to be told."""
_SIDE_MM = 15.0


@dataclasses.dataclass
class Looked:
  """One scan that is done, and what is odd about it."""

  record: Record
  reasons: dict[str, float] = dataclasses.field(default_factory=dict)
  """In words, and how odd."""

  @property
  def score(self) -> float:
    """By which scans are ordered."""
    return sum(self.reasons.values())

  @property
  def in_words(self) -> list[str]:
    """The reasons, the oddest first."""
    return sorted(self.reasons, key=lambda reason: -self.reasons[reason])


@dataclasses.dataclass(frozen=True, eq=False)
class Quality:
  """Of a cohort; arrays in the order of `scans` and `organs`."""

  scans: list[Looked]
  organs: list[str]
  failed: list[Record]
  verdicts: list[list[str]]
  """By scan and organ; empty where a scan was not asked for an organ."""
  middles_mm: Float[np.ndarray, "scans organs 3"]
  """Of the boxes, RAS mm of the scan's own world."""
  log_ml: Float[np.ndarray, "scans organs"]
  """Logarithm of the painted volume in ml; of the box's, in a cohort that was only localized."""
  is_painted: bool
  deviation: Float[np.ndarray, "scans organs"]
  """Of the organ's place, standard deviations."""
  layout: Layout
  templates: Layout | None

  @property
  def in_order(self) -> list[int]:
    """Scans to look at, the oddest first."""
    return sorted(range(len(self.scans)), key=lambda row: (-self.scans[row].score, self.scans[row].record.scan))


def quality_of(folder: Path, known: Manifest, bank: Bank | None = None) -> Quality:
  """Judges what lies in a folder of results; scans whose boxes cannot be read any more are left out.

  `bank`: whose templates the cohort is held against.
  """
  records = [each for each in known.records.values() if each.state == "done"]
  read = [(record, said) for record in records if (said := _boxes(folder, record)) is not None]
  organs = list(dict.fromkeys(organ for _, said in read for organ in said["organs"]))
  corners = np.full((len(read), len(organs), 2, 3), np.nan)
  painted_ml, similarity = (np.full((len(read), len(organs)), np.nan) for _ in range(2))
  verdicts = [["" for _ in organs] for _ in read]
  for row, (_, said) in enumerate(read):
    for organ, entry in said["organs"].items():
      column = organs.index(organ)
      verdicts[row][column] = str(entry["verdict"])
      corners[row, column] = entry["box_world_mm"]
      painted_ml[row, column] = entry.get("volume_ml", np.nan)
      similarity[row, column] = (entry.get("confidence") or {}).get("similarity") or np.nan
  given = np.array([[each not in ("", OUTSIDE) for each in row] for row in verdicts], bool).reshape(painted_ml.shape)
  corners[~given] = np.nan
  is_painted = bool(np.isfinite(painted_ml).any())
  log_ml = np.log(np.maximum(painted_ml, 0.01)) if is_painted else box_log_ml(corners)
  log_ml = np.where(given, log_ml, np.nan)
  middles = corners.mean(2)
  sure = np.array([[each == FOUND for each in row] for row in verdicts], bool).reshape(given.shape)
  templates = None if bank is None or not organs else layout_of_templates(bank, organs)
  layout = layout_of(middles, log_ml, sure, templates)
  deviation = np.abs(layout.residual_mm(middles) / layout.spread_mm).max(2)
  looked = [Looked(record) for record, _ in read]
  failed = [each for each in known.records.values() if each.state == "failed"]
  result = Quality(
    looked, organs, failed, verdicts, middles, log_ml, is_painted, deviation, layout, templates
  )  # fmt: skip
  _judge(result, similarity, [said for _, said in read])
  return result


def _boxes(folder: Path, record: Record) -> dict[str, Any] | None:
  try:
    said = json.loads((folder / (record.scan + BOXES)).read_text())
    return said if isinstance(said["organs"], dict) else None
  except (OSError, ValueError, KeyError, TypeError):
    return None


def _judge(quality: Quality, similarity: Float[np.ndarray, "scans organs"], said: Sequence[Mapping[str, Any]]) -> None:
  handed = quality.layout.handedness(quality.middles_mm)
  alike = _far_below(np.array([_nanmedian(row) for row in similarity]))
  often = _found_often(quality)
  copies = _copies(quality)
  for row, looked in enumerate(quality.scans):
    reasons = looked.reasons
    if handed[row] < 0:
      reasons["mirrored: its organs lie right for left"] = 20.0
    _judge_sides(quality, row)
    if alike[row] > FAR:
      reasons["unlike the cohort all over: another body region, or no CT of this kind"] = 8.0 + float(alike[row])
    if len(quality.organs) >= 3 and not {FOUND, PARTLY_OUTSIDE} & set(quality.verdicts[row]):
      reasons["none of its organs is found: another body region, or no CT of this kind"] = 15.0
    _judge_absence(quality, row, often, said[row])
    _judge_places(quality, row)
    for doubt in looked.record.doubts:
      reasons[doubt.removeprefix(f"{said[row]['scan']['source']}: ")] = 5.0
    if copies.get(row):
      reasons[f"the same files as {display.some(copies[row], 3)}"] = 5.0


def _judge_sides(quality: Quality, row: int) -> None:
  """Pairs whose left one lies to the right, and organs across the middle of the body from where the cohort has them."""
  looked, x = quality.scans[row], quality.middles_mm[row, :, 0]
  for column, organ in enumerate(quality.organs):
    partner = organ.replace("left", "right")
    if partner != organ and partner in quality.organs:
      other = quality.organs.index(partner)
      # RAS: x rises to the right
      if x[column] > x[other] + _SIDE_MM:
        looked.reasons[f"{organ} lies to the right of {partner}"] = 12.0
  if looked.record.body_mm is None or len(quality.scans) < ENOUGH_SCANS:
    return
  sides = _sides(quality)
  usual = np.array([_nanmedian(column) for column in sides.T])
  for column, organ in enumerate(quality.organs):
    if abs(usual[column]) > 2 * _SIDE_MM and sides[row, column] * np.sign(usual[column]) < -_SIDE_MM:
      looked.reasons[f"{organ} lies on the other side of the body than in the cohort"] = 10.0


def _sides(quality: Quality) -> Float[np.ndarray, "scans organs"]:
  """How far right of the middle of the body's outline each organ lies, mm; NaN where the scan cuts the body."""
  middle = np.array(
    [
      np.nan if each.record.body_mm is None else (each.record.body_mm[0][0] + each.record.body_mm[1][0]) / 2
      for each in quality.scans
    ]
  )
  return quality.middles_mm[..., 0] - middle[:, None]


def _found_often(quality: Quality) -> list[bool]:
  """Organs that most scans show."""
  if len(quality.scans) < ENOUGH_SCANS:
    return [False] * len(quality.organs)
  return [
    sum(row[column] in (FOUND, PARTLY_OUTSIDE) for row in quality.verdicts) >= _OFTEN * len(quality.scans)
    for column in range(len(quality.organs))
  ]


def _judge_absence(quality: Quality, row: int, often: Sequence[bool], said: Mapping[str, Any]) -> None:
  """Organs that are not there although most scans show them: cut off, or missing where they should lie."""
  reasons, verdicts = quality.scans[row].reasons, quality.verdicts[row]
  away = [column for column, each in enumerate(verdicts) if often[column] and each in (OUTSIDE, UNCERTAIN)]
  cut = [
    quality.organs[column]
    for column, each in enumerate(verdicts)
    if often[column] and each == PARTLY_OUTSIDE
  ]  # fmt: skip
  missing, beyond = list[str](), list[str]()
  field = _field(said)
  for column in away:
    place = _expected(quality, row, column)
    inside = place is None or bool(((place > field[0]) & (place < field[1])).all())
    (missing if inside else beyond).append(quality.organs[column])
  if missing:
    reasons[f"not found, or not for certain, where most scans show it: {display.some(missing)}"] = 2.0 * len(missing)
  if beyond or cut:
    reasons[f"cut off by the edge of the scan: {display.some([*beyond, *cut])}"] = 3.0 * len(beyond) + len(cut)


def _expected(quality: Quality, row: int, column: int) -> Float[np.ndarray, "3"] | None:
  """Where an organ should lie by the others of its scan, RAS mm."""
  found = [
    other for other, each in enumerate(quality.verdicts[row]) if each in (FOUND, PARTLY_OUTSIDE) and other != column
  ]
  shared = quality.layout.middles_mm
  if not found or not np.isfinite(shared[column]).all():
    return None
  offsets = quality.middles_mm[row, found] - shared[found]
  return shared[column] + np.array([_nanmedian(axis) for axis in offsets.T])


def _field(said: Mapping[str, Any]) -> Float[np.ndarray, "2 3"]:
  """Corners of what a scan shows, RAS mm."""
  scan = said["scan"]
  z, y, x = scan["shape"]
  ends = np.array([[i, j, k, 1] for i in (0, x - 1) for j in (0, y - 1) for k in (0, z - 1)])
  world = (ends @ np.array(scan["affine"], float).T)[:, :3]
  return np.stack([world.min(0), world.max(0)])


def _judge_places(quality: Quality, row: int) -> None:
  """Organs far from their place or of an odd size."""
  reasons = quality.scans[row].reasons
  sizes = np.abs(quality.log_ml[row] - quality.layout.log_ml) / quality.layout.log_ml_spread
  for column, organ in enumerate(quality.organs):
    if quality.deviation[row, column] > FAR:
      far = float(quality.deviation[row, column])
      reasons[f"{organ} lies {far:.0f} standard deviations from its place among the others"] = min(far, 10.0) / 2
    if quality.verdicts[row][column] == FOUND and sizes[column] > FAR:
      than = "larger" if quality.log_ml[row, column] > quality.layout.log_ml[column] else "smaller"
      times = float(np.exp(abs(quality.log_ml[row, column] - quality.layout.log_ml[column])))
      reasons[f"{organ} is {times:.1f} times {than} than usual"] = min(float(sizes[column]), 10.0) / 2


def _copies(quality: Quality) -> dict[int, list[str]]:
  """Scans whose files hold the same as another's."""
  by_hash: dict[str, list[int]] = {}
  for row, looked in enumerate(quality.scans):
    if looked.record.input is not None and looked.record.input.sha256:
      by_hash.setdefault(looked.record.input.sha256, []).append(row)
  return {
    row: [quality.scans[other].record.scan for other in rows if other != row]
    for rows in by_hash.values()
    if len(rows) > 1
    for row in rows
  }


def _far_below(values: Float[np.ndarray, " scans"]) -> Float[np.ndarray, " scans"]:
  """Standard deviations below the median; 0 with few values."""
  if np.isfinite(values).sum() < ENOUGH_SCANS:
    return np.zeros(len(values))
  middle = _nanmedian(values)
  spread = max(1.4826 * _nanmedian(np.abs(values - middle)), 0.02)
  return np.nan_to_num((middle - values) / spread)


def _nanmedian(values: np.ndarray) -> float:
  known = values[np.isfinite(values)]
  return float(np.median(known)) if len(known) else float("nan")
