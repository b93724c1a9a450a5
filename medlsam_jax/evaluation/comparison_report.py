"""Rows of several ways to paint -> a line for each way and organ, and what each way gives beside the first of them."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from medlsam_jax.display import count
from medlsam_jax.evaluation.compared import MEAN, compared_lines, failed
from medlsam_jax.evaluation.compared_row import ComparedRow, Source
from medlsam_jax.evaluation.report import NOTE
from medlsam_jax.io.atomic import write_text

METRICS = {"dice": "Dice", "surface_dice_2mm": "surface Dice 2 mm", "surface_dice_5mm": "5 mm"}
"""Score of a row -> heading."""
TITLES: dict[Source, str] = {
  "labels": "boxes of the labels (an oracle's: nobody has them in use)",
  "found": "boxes that MedLAM found",
}
"""The two are questions of their own, and in no table together."""


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Ways to paint on the boxes of one source, on the same scans. Masks that are missing count 0 in every mean."""

  boxes: Source
  rows: Sequence[ComparedRow]
  seconds: Mapping[str, Sequence[float]]
  """By way, of painting a scan, for each scan that was painted; in the order in which the ways were asked for."""
  cut: Collection[tuple[str, str]] = ()
  """Scans and organs whose labels `sound.json` does not call whole."""
  search_seconds: Sequence[float] = ()
  """Of finding the boxes, for each scan."""
  reasons: Mapping[str, str] = dataclasses.field(default_factory=dict)
  """Scan -> why it, or a way in it, failed."""
  waiting: int = 0
  """Scans that no row is of, since there was no time for each way in them."""

  @property
  def title(self) -> str:
    """Whose boxes, in how many scans, and which labels."""
    labels = "whole labels" if self.cut else "all labels"
    return f"{TITLES[self.boxes]}; {count(len({row.scan for row in self.rows}), 'scan')}, {labels}"

  def lines(self) -> list[dict[str, Any]]:
    """For each way each organ, and the mean over organs, each organ weighing the same: over whole labels, where some
    are not, and over all.

    Keys as of `compared.compared_lines`, and in the line of the mean `seconds`, the median over scans.
    """
    lines = compared_lines(self.rows, list(self.seconds), list(METRICS), self.cut)
    for line in lines:
      if line["organ"] == MEAN:
        seconds = self.seconds[line["way"]]
        line["seconds"] = float(np.median(seconds)) if seconds else None
    return lines

  def table(self) -> list[list[str]]:
    """The same as text under a heading; of all labels the means alone, where whole ones are before them."""
    table = [["way: organ", "labels", "failed", *METRICS.values(), "Dice less the first's [95 %]", "s a scan"]]
    for line in self.lines():
      title, less, seconds = f"{line['way']}: {line['organ']}", "", line.get("seconds")
      if self.cut and line["labels"] == "all":
        if line["organ"] != MEAN:
          continue
        title, seconds = f"{title}, all labels", None
      if "dice_less_first" in line:
        less = f"{line['dice_less_first']:+.3f}"
        if "dice_less_first_low" in line:
          less += f" [{line['dice_less_first_low']:+.3f}, {line['dice_less_first_high']:+.3f}]"
      scores = [f"{line[metric]:.3f}" for metric in METRICS]
      said = "" if seconds is None else f"{seconds:.1f}"
      table.append([title, str(line["n"]), str(line["failed"]), *scores, less, said])
    return table

  def notes(self) -> list[str]:
    """Sentences to print under the table."""
    notes = [f"{scan}: {why}" for scan, why in self.reasons.items()]
    if missing := failed(self.rows):
      notes.append(f"{count(missing, 'mask')} missing: in every mean as 0")
    notes.append(
      "  surface Dice: share of both surfaces that is within so many mm of the other; s a scan: of painting, the "
      "median (the first has compiling in it); [95 %]: by people, drawn with replacement"
    )
    if self.search_seconds:
      notes.append(f"  finding the boxes took {float(np.median(self.search_seconds)):.1f} s a scan besides, the median")
    if self.waiting:
      notes.append(f"  {count(self.waiting, 'scan')} left for want of time: the same command goes on")
    return [*notes, NOTE]

  def write_csv(self, path: str | os.PathLike[str]) -> None:
    """`lines`; what does not apply is empty.

    Raises:
      OutputError: the file cannot be written; so does `write_json`.
    """
    less = [f"{metric}_less_first{end}" for metric in METRICS for end in ("", "_low", "_high")]
    text = io.StringIO()
    ends = [f"{metric}{end}" for metric in METRICS for end in ("_p", "_low", "_high")]
    names = ["boxes", "labels", "way", "organ", "n", "failed", *METRICS, *less, "seconds", "people", *ends]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for line in self.lines():
      numbers = {name: f"{value:.6g}" for name, value in line.items() if isinstance(value, float)}
      writer.writerow({"boxes": self.boxes, **line, **numbers})
    write_text(path, text.getvalue())

  def write_json(self, path: str | os.PathLike[str], about: Mapping[str, Any]) -> None:
    """`lines`, and under `rows` every label; `about` is what was compared."""
    body = {
      "boxes": self.boxes, "note": NOTE, "reasons": dict(self.reasons), "waiting": self.waiting,
      "seconds": {way: list(each) for way, each in self.seconds.items()}, "search_seconds": list(self.search_seconds),
      "lines": self.lines(),
      "rows": [dataclasses.asdict(row) | {"whole": (row.scan, row.organ) not in self.cut} for row in self.rows],
    }  # fmt: skip
    write_text(path, json.dumps({**about, **body}, indent=1) + "\n")
