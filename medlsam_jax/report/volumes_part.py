"""Volumes of a cohort on the page: box plots, outliers, and every scan's."""

from __future__ import annotations

import base64
import html
import math

import numpy as np

from medlsam_jax.cohort import volumes
from medlsam_jax.cohort.looked import Quality
from medlsam_jax.cohort.oddities import FAR
from medlsam_jax.finding import FOUND, OUTSIDE, PARTLY_OUTSIDE, UNCERTAIN
from medlsam_jax.pages.plots import Group, box_plots
from medlsam_jax.pages.table import Cell, Markup, number, table
from medlsam_jax.report.cases import Links

_MARKS = {PARTLY_OUTSIDE: "cut", UNCERTAIN: "?"}
"""Of verdicts beside a volume; found has none."""
_LEGEND = (
  "A number alone: found. cut: the scan's edge cuts the organ, which is larger as a whole. ?: uncertain. out: outside "
  "the field of view. ▲ and ▼: an outlier. Empty: the scan was not asked for it."
)
_MOST_OUTLIERS = 200


def volumes_part(quality: Quality, links: Links) -> str:
  """HTML of the section."""
  off = volumes.deviation(quality)
  plots = box_plots(f"{what(quality)} by organ", f"{what(quality)}, ml", _groups(quality), logarithmic=True)
  parts = [
    f"<p>{html.escape(volumes.RULE)}</p>",
    "" if quality.is_painted else '<p class="warn">Nothing was painted: these are sizes of boxes, not of organs.</p>',
    f"<figure>{plots}</figure><p class='soft'>Organs that are found: quartiles and median; the whiskers end at the "
    "last value within 1.5 times the distance of the quartiles.</p>" if plots else "",
    "<h3>Outliers</h3>", _outliers(quality, off, links),
    f"<h3>{what(quality)} in ml, by scan</h3>", f'<p class="soft">{_LEGEND}</p>', _all(quality, off, links),
    _file(quality),
  ]  # fmt: skip
  return "\n".join(part for part in parts if part)


def what(quality: Quality) -> str:
  """What the sizes are of."""
  return "Volumes" if quality.is_painted else "Sizes of boxes"


def _groups(quality: Quality) -> list[Group]:
  groups = []
  for column, organ in enumerate(quality.organs):
    rows = [row for row, said in enumerate(quality.verdicts) if said[column] == FOUND]
    sizes = [volumes.volume_ml(quality, row, column) or math.nan for row in rows]
    groups.append(Group(organ, sizes, [quality.scans[row].record.scan for row in rows]))
  return groups


def _outliers(quality: Quality, off: np.ndarray, links: Links) -> str:
  far = [(row, column) for row, column in np.argwhere(np.abs(np.nan_to_num(off)) > FAR).tolist()]
  far.sort(key=lambda place: -abs(off[place]))
  if not far:
    known = bool(np.isfinite(off).any())
    return "<p>None.</p>" if known else "<p>Too few scans show an organ to say which are odd.</p>"
  rows: list[list[Cell]] = []
  for row, column in far[:_MOST_OUTLIERS]:
    size, usual = volumes.volume_ml(quality, row, column), math.exp(quality.layout.log_ml[column])
    name = quality.scans[row].record.scan
    rows.append([links.to(name), quality.organs[column], size, usual, (size or 0.0) / usual, float(off[row, column])])
  text = table(["scan", "organ", "ml", "median of the cohort", "times", "deviation"], rows)
  more = len(far) - _MOST_OUTLIERS
  return text + (f"<p>and {more} more.</p>" if more > 0 else "")


def _all(quality: Quality, off: np.ndarray, links: Links) -> str:
  rows = []
  for row in sorted(range(len(quality.scans)), key=lambda each: quality.scans[each].record.scan):
    cells = [_cell(quality, row, column, float(off[row, column])) for column in range(len(quality.organs))]
    rows.append([links.to(quality.scans[row].record.scan), *cells])
  return table(["scan", *quality.organs], rows, keep_first=True)


def _cell(quality: Quality, row: int, column: int, off: float) -> Cell:
  verdict, size = quality.verdicts[row][column], volumes.volume_ml(quality, row, column)
  if verdict == OUTSIDE:
    return Markup.sorted_by(f'<span class="soft" title="{OUTSIDE}">out</span>', "")
  if size is None:
    return None
  shown = number(size, 1 if size < 100 else 0)
  if abs(off) > FAR:
    shown = f'<span class="odd" title="deviation {off:.1f}">{"▲" if off > 0 else "▼"} {shown}</span>'
  mark = _MARKS.get(verdict)
  return Markup.sorted_by(shown if mark is None else f'{shown} <span class="warn">{mark}</span>', size)


def _file(quality: Quality) -> str:
  """The table as a file inside the page, for a spreadsheet."""
  content = base64.b64encode(volumes.to_csv(quality).encode()).decode()
  link = f'<a download="{volumes.VOLUMES}" href="data:text/csv;base64,{content}">{volumes.VOLUMES}</a>'
  return f'<p class="screen">The same as a file, with deviations and verdicts: {link}</p>'
