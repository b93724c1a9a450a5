"""Rows of many scans -> means and sd per organ, counts of failures and of presence decisions; CSV, JSON and a table."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from medlsam_jax.evaluation.case import SCAN_FAILED, Row
from medlsam_jax.finding import OUTSIDE, UNCERTAIN
from medlsam_jax.io.atomic import write_text

NOTE = "These are figures of these scans alone. Research use only, not a medical device."
MADE_UP_NOTE = (
  "Accuracy on virtual patients or phantoms is no evidence of clinical accuracy. Research use only, not a medical "
  "device."
)
METRICS = {
  "box_iou": ("box IoU", 3),
  "box_iou_published": ("IoU max-min", 3),
  "wall_distance_mm": ("wall mm", 1),
  "point_error_mm": ("ALE mm", 1),
  "dice": ("Dice", 3),
  "hd95_mm": ("HD95 mm", 1),
  "baseline_box_iou": ("baseline IoU", 3),
  "baseline_wall_distance_mm": ("baseline wall mm", 1),
}
"""Score of a row -> heading and decimals in the table."""
MEANINGS = {
  "box_iou": "box IoU: overlap of found and true box over both together, boxes of whole voxels, cut to the scan",
  "box_iou_published": "IoU max-min: the same as the published program counts it, edges as highest minus lowest voxel",
  "wall_distance_mm": "wall: distance between the six walls of the boxes, mean",
  "point_error_mm": "ALE: average localization error, distance between the six extreme points and the true ones, mean",
  "dice": "Dice: overlap of the masks, twice the common voxels over the voxels of both",
  "hd95_mm": "HD95: 95th percentile of the distances between the surfaces of the masks",
  "baseline_box_iou": "baseline: the templates' mean boxes placed in the scan, without a search",
}
"""What the columns of the table are, for the lines under it."""


@dataclasses.dataclass(frozen=True)
class Statistic:
  """Mean and sample standard deviation (n - 1; 0 for a single value) of `n` values."""

  mean: float
  sd: float
  n: int

  @classmethod
  def of(cls, values: Sequence[float]) -> Statistic | None:
    """None without values."""
    if not values:
      return None
    return cls(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0, len(values))


class Report:
  """All rows of an evaluation. Failures stay in every mean, as IoU or Dice 0 and the scan's diagonal in mm."""

  def __init__(self, rows: Iterable[Row], made_up: bool = False, reasons: Mapping[str, str] | None = None):
    """What is told beside the rows.

    Args:
      made_up: the scans are phantoms or virtual patients, which is said under the table.
      reasons: scan that could not be scored -> why; one without rows is in no mean.
    """
    self.rows = list(rows)
    self.note = MADE_UP_NOTE if made_up else NOTE
    self.reasons = dict(reasons or {})

  def _statistics(self, rows: list[Row]) -> dict[str, Statistic]:
    pairs = {name: Statistic.of([v for r in rows if (v := getattr(r, name)) is not None]) for name in METRICS}
    return {name: statistic for name, statistic in pairs.items() if statistic is not None}

  def summary(self) -> dict:
    """Everything but the rows, as plain numbers.

    - `organs`: per organ `present` and `failed` (scans) and for each score `{"mean", "sd", "n"}`;
    - `mean_over_organs`: the mean of the organs' means, each organ weighing the same;
    - `presence`: decisions on organs that truth has and has not. A finding counts as `called_absent` when its verdict
      is outside the field of view, `uncertain` stands apart, all else is `called_present`, and without a finding it is
      `no_finding`; `painted_though_absent` counts masks of organs that are not there;
    - `scans`, `failed_scans`, `reasons` (why a scan could not be scored), `failed` (organs in scans that have them).
    """
    organs: dict[str, dict] = {}
    for organ in dict.fromkeys(row.organ for row in self.rows):
      rows = [row for row in self.rows if row.organ == organ and row.present]
      organs[organ] = {"present": len(rows), "failed": sum(bool(row.failure) for row in rows)}
      organs[organ] |= {name: dataclasses.asdict(s) for name, s in self._statistics(rows).items()}
    means = {
      name: float(np.mean([each[name]["mean"] for each in organs.values() if name in each]))
      for name in METRICS
      if any(name in each for each in organs.values())
    }
    scans = list(dict.fromkeys([*(row.scan for row in self.rows), *self.reasons]))
    return {
      "note": self.note,
      "scans": len(scans),
      "failed_scans": sorted({r.scan for r in self.rows if SCAN_FAILED in r.failure} | self.reasons.keys()),
      "reasons": self.reasons,
      "failed": sum(each["failed"] for each in organs.values()),
      "mean_over_organs": means,
      "presence": self._presence(),
      "organs": organs,
    }

  def _presence(self) -> dict[str, dict[str, int]]:
    result = {}
    for key, present in (("in_truth", True), ("not_in_truth", False)):
      rows = [row for row in self.rows if row.present == present]
      absent, doubtful = (sum(row.verdict == verdict for row in rows) for verdict in (OUTSIDE, UNCERTAIN))
      silent = sum(not row.verdict for row in rows)
      result[key] = {
        "n": len(rows),
        "called_absent": absent,
        "uncertain": doubtful,
        "no_finding": silent,
        "called_present": len(rows) - absent - doubtful - silent,
      }
    painted = sum(not row.present and bool(row.predicted_ml) for row in self.rows)
    result["not_in_truth"]["painted_though_absent"] = painted
    return result

  def table(self) -> list[list[str]]:
    """Rows of a table as text, heading first, the mean over organs last; only columns that have a value."""
    summary = self.summary()
    columns = [name for name in METRICS if name in summary["mean_over_organs"]]
    lines = [["organ", "scans", "failed", *(METRICS[name][0] for name in columns)]]
    for organ, each in summary["organs"].items():
      cells = []
      for name in columns:
        places = METRICS[name][1]
        cells.append(_cell(each[name], places) if name in each else "-")
      lines.append([organ, str(each["present"]), str(each["failed"]), *cells])
    total = sum(each["present"] for each in summary["organs"].values())
    means = [f"{summary['mean_over_organs'][name]:.{METRICS[name][1]}f}" for name in columns]
    lines.append(["mean over organs", str(total), str(summary["failed"]), *means])
    return lines

  def notes(self) -> list[str]:
    """Sentences to print under the table."""
    summary = self.summary()
    lines = []
    if summary["failed_scans"]:
      lines.append(f"Failed scans ({len(summary['failed_scans'])}): {', '.join(summary['failed_scans'])}.")
    lines += [f"{scan}: {why}" for scan, why in self.reasons.items()]
    if summary["failed"]:
      lines.append(
        f"{summary['failed']} organ results are missing and stay in the means: IoU and Dice 0, distances the scan's "
        "diagonal."
      )
    gone = summary["presence"]["not_in_truth"]
    if gone["n"]:
      lines.append(
        f"Organs that are not in the scan: {gone['n']}, of which called absent {gone['called_absent']}, uncertain "
        f"{gone['uncertain']}, called present {gone['called_present']}, painted {gone['painted_though_absent']}."
      )
    columns = [f"  {MEANINGS[name]}" for name in summary["mean_over_organs"] if name in MEANINGS]
    return [*lines, *columns, self.note]

  def write_csv(self, path: str | os.PathLike[str]) -> None:
    """One line per scan and organ; scores that do not apply are empty.

    Raises:
      OutputError: if the file cannot be written; so does `write_json`.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [field.name for field in dataclasses.fields(Row)]
    writer.writerow(names)
    for row in self.rows:
      cells = [getattr(row, name) for name in names]
      writer.writerow([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in cells])
    write_text(path, text.getvalue())

  def write_json(self, path: str | os.PathLike[str], about: Mapping[str, Any] | None = None) -> None:
    """The summary, `about` (what was scored with what), and under `rows` every row."""
    rows = [dataclasses.asdict(row) for row in self.rows]
    write_text(path, json.dumps(self.summary() | dict(about or {}) | {"rows": rows}, indent=1) + "\n")


def _cell(statistic: dict, places: int) -> str:
  """Mean and sd as text; of a single value no sd."""
  spread = f" ± {statistic['sd']:.{places}f}" if statistic["n"] > 1 else ""
  return f"{statistic['mean']:.{places}f}{spread}"
