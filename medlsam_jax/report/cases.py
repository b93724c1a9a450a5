"""The scans one by one, the worst first: what is said of each, and its picture."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping, Sequence

from medlsam_jax import display
from medlsam_jax.cohort.looked import Looked
from medlsam_jax.evaluation.case import Row
from medlsam_jax.io.scan_result import PREVIEW
from medlsam_jax.pages.page import items
from medlsam_jax.pages.pictures import Room
from medlsam_jax.pages.table import Markup
from medlsam_jax.progress import Progress
from medlsam_jax.report.results import Results

MOST_CASES = 200
"""Scans that are shown one by one; the others stand in the tables."""
_MOST_ORGANS = 20
"""Organs of a scan that are not plainly found, a line each."""
_OPEN = 12
"""Of them, those whose picture is seen without a click."""


DECIDED = {"accept": "accepted", "correct": "to correct", "reject": "rejected"}
"""Decisions in a word."""


@dataclasses.dataclass(frozen=True)
class Links:
  """Where each scan stands on the page."""

  places: Mapping[str, int]

  def to(self, scan: str) -> Markup:
    """The scan's name, leading to its picture, if it has a place."""
    name, place = html.escape(scan), self.places.get(scan)
    return Markup.sorted_by(name if place is None else f'<a href="#scan-{place}">{name}</a>', scan)


@dataclasses.dataclass(frozen=True)
class Case:
  """A scan, and what is said of it."""

  scan: str
  remark: str
  """In a word or two, beside its name."""
  lines: Sequence[str]
  """In sentences."""


def cases_of(results: Results) -> list[Case]:
  """All scans that have results or scores: by their scores, the worst first, where there are any; else the oddest."""
  quality = results.quality
  looked = {} if quality is None else {each.record.scan: each for each in quality.scans}
  in_order = [] if quality is None else [quality.scans[row].record.scan for row in quality.in_order]
  scored: dict[str, list[Row]] = {}
  for row in () if results.scores is None else results.scores.rows:
    if row.present:
      scored.setdefault(row.scan, []).append(row)
  means = {scan: mean for scan, rows in scored.items() if (mean := _mean(rows)) is not None}
  names = list(dict.fromkeys([*sorted(means, key=lambda scan: means[scan]), *in_order]))
  cases = []
  for name in names:
    case = _case(name, looked.get(name), scored.get(name, ()), results.doubted.get(name, ()))
    if name in results.corrected:
      case = _corrected(case, name in scored)
    cases.append(_decided(case, results.decisions.get(name, {})))
  return cases


def cases_part(cases: Sequence[Case], results: Results, report: Progress | None = None) -> str:
  """HTML of the section."""
  shown = cases[:MOST_CASES]
  pictured = [case for case in shown if results.preview(case.scan) is not None]
  parts, room = list[str](), Room(len(pictured))
  for number, case in enumerate(shown, 1):
    if report is not None:
      report(number, len(shown))
    parts.append(_card(case, number, results, room))
  if len(cases) > len(shown):
    parts.append(f"<p>{len(cases) - len(shown)} more scans are in the tables, without a picture here.</p>")
  return "\n".join(parts)


def _card(case: Case, number: int, results: Results, room: Room) -> str:
  path = results.preview(case.scan)
  shown = None if path is None else room.put(path, f"{case.scan}: three planes through each organ")
  if not shown:
    why = "is not there" if path is None else "cannot be read" if shown is None else "has no room on this page"
    shown = f'<p class="warn">No picture: {html.escape(case.scan + PREVIEW)} {why}.</p>'
  remark = f' <span class="soft">{html.escape(case.remark)}</span>' if case.remark else ""
  head = f"{number}. {html.escape(case.scan)}{remark}"
  body = f'<div id="scan-{number}">{items(case.lines)}{shown}</div>'
  if number <= _OPEN:
    return f'<article class="card"><h3>{head}</h3>{body}</article>'
  return f'<details class="card"><summary>{head}</summary>{body}</details>'


def _case(name: str, looked: Looked | None, rows: Sequence[Row], doubted: Sequence[str]) -> Case:
  remarks, lines = [], []
  if rows and (mean := _mean(rows)) is not None:
    remarks.append(f"mean {_metric(rows)[1]} {mean:.3f} over {display.count(len(rows), 'organ')}")
    lines.append("; ".join(_said(row) for row in sorted(rows, key=_score)))
  if looked is not None:
    if looked.score:
      remarks.append(f"{looked.score:.0f} points: " + ("to look at" if looked.is_to_look_at else "noted"))
    lines += looked.in_words
  lines += doubted[:_MOST_ORGANS]
  if len(doubted) > _MOST_ORGANS:
    lines.append(f"and {len(doubted) - _MOST_ORGANS} more organs that are not plainly found")
  return Case(name, ", ".join(remarks), lines)


def _corrected(case: Case, is_scored: bool) -> Case:
  """With that a person has corrected its result since."""
  said = "corrected by a person: boxes, volumes and the picture are those of the correction"
  if is_scored:
    said += ", scores those of what was scored"
  remark = ", ".join(filter(None, ("corrected", case.remark)))
  return dataclasses.replace(case, remark=remark, lines=[said, *case.lines])


def _decided(case: Case, decision: Mapping[str, str]) -> Case:
  """With what a person decided about the scan, first."""
  if not decision:
    return case
  note, when = decision.get("note", ""), decision.get("when", "")[:10]
  said = f"a person's decision: {decision['decision']}" + (f" ({when})" if when else "") + (f": {note}" if note else "")
  remark = ", ".join(filter(None, (DECIDED[decision["decision"]], case.remark)))
  return dataclasses.replace(case, remark=remark, lines=[said, *case.lines])


def _said(row: Row) -> str:
  scores = [f"Dice {row.dice:.2f}"] if row.dice is not None else []
  scores += [f"box IoU {row.box_iou:.2f}"] if row.box_iou is not None else []
  failure = f" ({row.failure})" if row.failure else ""
  return f"{row.organ} {', '.join(scores)}{failure}"


def _metric(rows: Sequence[Row]) -> tuple[str, str]:
  return ("dice", "Dice") if any(row.dice is not None for row in rows) else ("box_iou", "box IoU")


def _score(row: Row) -> float:
  return next((value for value in (row.dice, row.box_iou) if value is not None), 0.0)


def _mean(rows: Sequence[Row]) -> float | None:
  given = [value for row in rows if (value := getattr(row, _metric(rows)[0])) is not None]
  return sum(given) / len(given) if given else None
