"""Answers -> a table's lines: as CSV, as text for the terminal, and with others as Markdown."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Collection, Sequence
from typing import Any

from medlsam_jax.display import count
from medlsam_jax.evaluation.compared import MEAN, compared_lines
from medlsam_jax.evaluation.comparison_report import METRICS as MASK_HEADINGS
from medlsam_jax.evaluation.report import METRICS as METRICS_OF_EVALUATE
from medlsam_jax.evaluation.study import published
from medlsam_jax.evaluation.study.settings import Setting, Table
from medlsam_jax.evaluation.study.tables import BOX_METRICS
from medlsam_jax.evaluation.study.work import StudyRow

METRICS = {
  **{name: METRICS_OF_EVALUATE[name] for name in BOX_METRICS},
  **{name: (heading, 3) for name, heading in MASK_HEADINGS.items()},
}
"""Metric -> heading and decimals."""
RULE = (
  "Means weigh organs the same and count failures: IoU and Dice 0, distances the scan's diagonal. [95 %]: by people "
  "drawn with replacement, and for an organ that a draw misses among those who have it; none of one person. p: "
  "Wilcoxon signed-rank test of people's mean differences to the first line, not corrected for how many are asked."
)
Answers = Callable[[str, Setting], Sequence[StudyRow] | None]
"""Rows of a scan and a setting; None where it was not asked yet."""


@dataclasses.dataclass(frozen=True)
class Measured:
  """A table of the scans in which each of its settings was tried."""

  table: Table
  rows: Sequence[StudyRow]
  """`way` is the title of a line."""
  cut: Collection[tuple[str, str]] = ()
  """Scans and organs whose labels are not whole."""
  waiting: int = 0
  """Scans that were left for want of time."""
  beside: published.Beside = published.NOTHING
  """What stands beside the lines."""

  @classmethod
  def of(
    cls,
    table: Table,
    scans: Sequence[str],
    answers: Answers,
    cut: Collection[tuple[str, str]] = (),
    beside: published.Beside = published.NOTHING,
  ) -> Measured:
    """What there is of a table."""
    rows: list[StudyRow] = []
    waiting = 0
    for scan in scans:
      said = {setting: answers(scan, setting) for setting in table.settings}
      if any(each is None for each in said.values()):
        waiting += 1
        continue
      for line in table.lines:
        given = [row for setting in line.settings for row in said[setting] or ()]
        rows += [dataclasses.replace(row, way=line.title) for row in given]
    return cls(table, rows, cut, waiting, beside)

  def lines(self) -> list[dict[str, Any]]:
    """Those of `compared.compared_lines`, and of what cannot be measured `way` and `missing`.

    Lines of means have `published`, a dict by metric, where there are such numbers.
    """
    measured = [line for line in self.table.lines if line.settings]
    ways = [line.title for line in measured]
    cut = {pair for pair in self.cut if any((row.scan, row.organ) == pair for row in self.rows)}
    lines = compared_lines(self.rows, ways, self.table.metrics, cut)
    keys = {line.title: line.published for line in self.table.lines}
    lines += [{"way": line.title, "organ": MEAN, "missing": line.missing} for line in self.table.lines if line.missing]
    for line in lines:
      known = self.beside.numbers(keys[line["way"]]) if line["organ"] == MEAN else {}
      if known:
        line["published"] = dict(known)
    return lines

  def means(self) -> list[list[str]]:
    """A line's mean over organs under a heading: of whole labels, and under them of all where some are not whole."""
    lines = [line for line in self.lines() if line["organ"] == MEAN]
    shown = [name for name in self.table.metrics if any(name in line for line in lines)]
    main = "dice" if "dice" in shown else "box_iou"
    less = f"{METRICS[main][0]} less the first's [95 %]"
    has_published = any("published" in line for line in lines)
    heading = ["", "people", "labels", "failed", *(METRICS[name][0] for name in shown), less, "p"]
    rows = [[*heading, *(["published"] if has_published else [])]]
    has_whole = any(line.get("labels") == "whole" for line in lines)
    for line in lines:
      title = line["way"] + (", all labels" if has_whole and line.get("labels") == "all" else "")
      cells = [title, *(str(line.get(name, "")) for name in ("people", "n", "failed"))]
      if line.get("missing"):
        cells = [f"{title} (not measured: {line['missing']})", *[""] * (len(shown) + 5)]
      else:
        cells += [_with_interval(line, name, name == main) for name in shown]
        cells += [_difference(line, main), _p(line.get(f"{main}_p"))]
      rows.append([*cells, *([_published(line)] if has_published else [])])
    return rows

  def by_organ(self) -> list[list[str]]:
    """Each organ in the first line, under a heading; whole labels where some are not."""
    lines = [line for line in self.lines() if "labels" in line]
    if not lines:
      return []
    first = [line for line in lines if (line["way"], line["labels"]) == (lines[0]["way"], lines[0]["labels"])]
    shown = [name for name in self.table.metrics if any(name in line for line in first)]
    rows = [["organ", "labels", "failed", *(METRICS[name][0] for name in shown)]]
    for line in first:
      scores = [_with_interval(line, name, name in ("box_iou", "dice")) for name in shown]
      rows.append([line["organ"], str(line["n"]), str(line["failed"]), *scores])
    return rows

  def notes(self) -> list[str]:
    """Sentences under the table."""
    notes = [self.table.note] if self.table.note else []
    if said := self.beside.note(line.published for line in self.table.lines):
      notes.append(said)
    if self.waiting:
      notes.append(f"{count(self.waiting, 'scan')} left for want of time: the same command goes on.")
    return notes

  def csv(self) -> str:
    """`lines`; what does not apply is empty."""
    ends = ("", "_low", "_high", "_less_first", "_less_first_low", "_less_first_high", "_p")
    numbers = [f"{name}{end}" for name in self.table.metrics for end in ends]
    beside = [f"published_{name}" for name in self.table.metrics]
    text = io.StringIO()
    names = ["table", "line", "labels", "organ", "people", "n", "failed", *numbers, *beside, "missing"]
    writer = csv.DictWriter(text, names, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for line in self.lines():
      known = {f"published_{name}": value for name, value in line.get("published", {}).items()}
      cells = {name: f"{value:.6g}" for name, value in (line | known).items() if isinstance(value, float)}
      writer.writerow({**line, "table": self.table.name, "line": line["way"], **cells})
    return text.getvalue()


def _with_interval(line: dict[str, Any], metric: str, interval: bool) -> str:
  if metric not in line:
    return ""
  places = METRICS[metric][1]
  said = f"{line[metric]:.{places}f}"
  if interval and f"{metric}_low" in line:
    said += f" [{line[f'{metric}_low']:.{places}f}, {line[f'{metric}_high']:.{places}f}]"
  return said


def _difference(line: dict[str, Any], metric: str) -> str:
  if f"{metric}_less_first" not in line:
    return ""
  less = f"{line[f'{metric}_less_first']:+.3f}"
  if f"{metric}_less_first_low" in line:
    less += f" [{line[f'{metric}_less_first_low']:+.3f}, {line[f'{metric}_less_first_high']:+.3f}]"
  return less


def _p(value: float | None) -> str:
  return "" if value is None else f"{value:.3f}" if value >= 0.001 else "<.001"


def _published(line: dict[str, Any]) -> str:
  pairs = line.get("published", {}).items()
  return ", ".join(f"{METRICS[name][0]} {value:.{METRICS[name][1]}f}" for name, value in pairs)
