"""Tables of `bench.real_people`: means over labels with intervals by person, as JSON and as markdown."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from medlsam_jax.evaluation.people import interval

Result = Mapping[str, Any]
"""Of `people_search.Study.one`."""


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows of text under a heading, and the figures behind them by row and column."""

  title: str
  heading: tuple[str, ...]
  rows: list[list[str]]
  figures: dict[str, dict[str, Any]]
  note: str = ""

  def markdown(self) -> str:
    """Title, table, note."""
    lines = [f"### {self.title}", "", "| " + " | ".join(self.heading) + " |", "|---" * len(self.heading) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in self.rows]
    return "\n".join([*lines, *(["", self.note] if self.note else []), ""])


def figures(results: Sequence[Result], only: Callable[[Mapping[str, Any]], bool] = lambda row: True) -> dict[str, Any]:
  """Means over the labels that `only` keeps, failures counted, with 95 % intervals where there are two people.

  The intervals are percentiles of means over people drawn anew: two organs of one person are not two witnesses.
  """
  people = [[row for row in result["rows"] if only(row)] for result in results]
  people = [rows for rows in people if rows]
  labels = [row for rows in people for row in rows]
  said: dict[str, Any] = {"people": len(people), "labels": len(labels)}
  if not labels:
    return said
  said |= {"failed": sum(row["failed"] for row in labels), "swapped": sum(row["swapped"] for row in labels)}
  for name in ("box_iou", "wall_distance_mm", "point_error_mm", "baseline_box_iou", "baseline_wall_distance_mm"):
    said[name] = float(np.mean([row[name] for row in labels]))
  for name in ("box_iou", "wall_distance_mm"):
    if (ends := interval([[row[name] for row in rows] for rows in people])) is not None:
      said[f"{name}_95"] = ends
  return said


def difference(results: Sequence[Result], others: Sequence[Result]) -> tuple[float, ...] | None:
  """Mean of IoU less that of `others` over the whole labels of people whom both have, and, of two or more people, the
  ends of its 95 % interval.

  A label that was searched several times (`merged`) counts with its mean on either side.
  """
  after, before = _by_label(results), _by_label(others)
  people: dict[str, list[float]] = {}
  for label in after.keys() & before.keys():
    people.setdefault(label[0], []).append(float(np.mean(after[label]) - np.mean(before[label])))
  by_person = [people[name] for name in sorted(people)]
  if not by_person:
    return None
  return float(np.mean([value for values in by_person for value in values])), *(interval(by_person) or ())


def _by_label(results: Sequence[Result]) -> dict[tuple[str, str], list[float]]:
  """IoU of whole labels by person and organ, a value for each time that it was searched."""
  found: dict[tuple[str, str], list[float]] = {}
  for result in results:
    for row in result["rows"]:
      if row["whole"]:
        found.setdefault((result["query"], row["organ"]), []).append(row["box_iou"])
  return found


def by_organ(title: str, results: Sequence[Result], organs: Sequence[str], note: str = "") -> Table:
  """One row for each organ, and one over all; whole labels, with those over all labels beside them."""
  heading = (
    "organ",
    "whole labels",
    "box IoU [95 %]",
    "wall mm [95 %]",
    "point mm",
    "failed",
    "mean boxes",
    "all labels",
  )
  rows, kept = [], {}
  for organ in [*organs, "mean"]:
    mine = (lambda row, organ=organ: row["organ"] == organ) if organ != "mean" else (lambda row: True)
    whole = figures(results, lambda row, mine=mine: mine(row) and row["whole"])
    every = figures(results, mine)
    kept[organ] = {"whole": whole, "all": every}
    if every["labels"]:
      rows.append([f"**{organ}**" if organ == "mean" else organ, *_cells(whole), _short(every, count=True)])
  return Table(title, heading, rows, kept, note)


def _cells(said: Mapping[str, Any]) -> list[str]:
  if not said["labels"]:
    return ["0", "-", "-", "-", "-", "-"]
  return [
    str(said["labels"]),
    f"{said['box_iou']:.3f}{_ends(said.get('box_iou_95'), '.3f')}",
    f"{said['wall_distance_mm']:.1f}{_ends(said.get('wall_distance_mm_95'), '.1f')}",
    f"{said['point_error_mm']:.1f}",
    str(said["failed"]),
    f"{said['baseline_box_iou']:.3f}, {said['baseline_wall_distance_mm']:.1f}",
  ]


def _ends(ends: Sequence[float] | None, form: str) -> str:
  return f" [{ends[0]:{form}}, {ends[1]:{form}}]" if ends else ""


def _short(said: Mapping[str, Any], count: bool = False) -> str:
  if not said["labels"]:
    return "-"
  return f"{said['box_iou']:.3f}, {said['wall_distance_mm']:.1f}" + (f" ({said['labels']})" if count else "")


def compared(title: str, lines: Mapping[str, Sequence[Result]], note: str = "") -> Table:
  """One row for each way to search; differences are to the first of them, on the same people and labels."""
  heading = (
    "", "people", "whole labels", "box IoU [95 %]", "wall mm [95 %]", "failed", "swapped", "IoU less the first [95 %]",
    "all labels", "s a scan",
  )  # fmt: skip
  rows, kept, first = [], {}, next(iter(lines.values()), [])
  for name, results in lines.items():
    whole, every = figures(results, lambda row: row["whole"]), figures(results)
    if not every["labels"]:
      continue
    less = difference(results, first) if results is not first else None
    seconds = float(np.median([result["seconds"] for result in results]))
    kept[name] = {"whole": whole, "all": every, "difference": less, "seconds": seconds}
    cells = _cells(whole)
    said = "" if less is None else f"{less[0]:+.3f}{_ends(less[1:], '+.3f')}"
    rows.append([
      name, str(whole["people"]), *cells[:3], cells[4], str(every["swapped"]), said, _short(every), f"{seconds:.1f}",
    ])  # fmt: skip
  return Table(title, heading, rows, kept, note)


def merged(repeats: Sequence[Sequence[Result]]) -> list[dict[str, Any]]:
  """Several searches of the same people as one: their labels count once in each, and people stay people."""
  rows: dict[str, list[Any]] = {}
  seconds: dict[str, list[float]] = {}
  for results in repeats:
    for result in results:
      rows.setdefault(result["query"], []).extend(result["rows"])
      seconds.setdefault(result["query"], []).append(result["seconds"])
  return [{"query": name, "rows": rows[name], "seconds": float(np.mean(seconds[name]))} for name in rows]
