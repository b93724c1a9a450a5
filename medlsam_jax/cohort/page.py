"""The cohort as a page and as tables (`PAGE`, `TABLE`, `VOLUMES`), made anew at the end of every run.

The page needs no other file. Names on it are those of the scans' files; nothing of a file's header is repeated.
"""

from __future__ import annotations

import csv
import html
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np

from medlsam_jax import display
from medlsam_jax.cohort import volumes
from medlsam_jax.cohort.looked import LOOK_FROM, Looked, Quality
from medlsam_jax.cohort.manifest import Manifest
from medlsam_jax.cohort.oddities import FAR
from medlsam_jax.cohort.quality import quality_of
from medlsam_jax.cohort.volumes import VOLUMES
from medlsam_jax.finding import FOUND, OUTSIDE, PARTLY_OUTSIDE, UNCERTAIN
from medlsam_jax.io.atomic import write_text
from medlsam_jax.io.scan_result import PREVIEW
from medlsam_jax.pages.page import Section, page
from medlsam_jax.pages.plots import strip
from medlsam_jax.pages.table import Cell, Markup, spreadsheet_text, table

if TYPE_CHECKING:
  from medlsam_jax.medlam.bank.bank import Bank

PAGE, TABLE = "cohort.html", "cohort.csv"
MOST_ON_PAGE = 500
"""Scans that the page names; the table has all."""
_VERDICTS = (FOUND, PARTLY_OUTSIDE, UNCERTAIN, OUTSIDE)
RULE = (
  "Odd is not wrong: nothing here knows the truth. Places and sizes are held against the cohort's own by medians, or "
  f"against the templates where few scans show an organ; named from {FAR:g} standard deviations on."
)


def write(folder: Path, known: Manifest, bank: Bank | None = None) -> Quality:
  """Judges the folder's results and writes page, table and volumes.

  Raises:
    OutputError: they cannot be written.
  """
  quality = quality_of(folder, known, bank)
  write_text(folder / TABLE, to_csv(quality))
  write_text(folder / VOLUMES, volumes.to_csv(quality))
  write_text(folder / PAGE, to_html(quality))
  return quality


def to_csv(quality: Quality) -> str:
  """A row for each organ of each scan, the oddest scans first; scans that failed last, with a row each."""
  text = io.StringIO()
  rows = csv.writer(text, lineterminator="\n")
  size = "volume_ml" if quality.is_painted else "box_ml"
  of_scan, of_organ = ["rank", "scan", "state", "score", "look_at", "reasons"], ["organ", "verdict", size]
  rows.writerow([*of_scan, *of_organ, "x_mm", "y_mm", "z_mm", "deviation"])
  for rank, row in enumerate(quality.in_order, 1):
    looked = quality.scans[row]
    look = "yes" if looked.is_to_look_at else "no"
    start = [
      rank,
      spreadsheet_text(looked.record.scan),
      "done",
      f"{looked.score:.1f}",
      look,
      spreadsheet_text("; ".join(looked.in_words)),
    ]
    for column, organ in enumerate(quality.organs):
      if quality.verdicts[row][column]:
        size_ml = math.exp(quality.log_ml[row, column])
        numbers = [size_ml, *quality.middles_mm[row, column], quality.deviation[row, column]]
        rows.writerow([*start, spreadsheet_text(organ), quality.verdicts[row][column], *map(_number, numbers)])
  for record in quality.failed:
    rows.writerow(["", spreadsheet_text(record.scan), "failed", "", "", spreadsheet_text(record.error)])
  return text.getvalue()


def to_html(quality: Quality) -> str:
  """The page."""
  odd, noted = quality.to_look_at, quality.noted
  title = f"{display.count(len(quality.scans), 'scan')}, {len(odd)} to look at, {len(quality.failed)} failed"
  parts = [Section("Scans to look at, the oddest first", _scans(quality, odd) if odd else "<p>None.</p>")]
  if noted:
    parts.append(Section(f"Noted of others, with a score below {LOOK_FROM:g}", _scans(quality, noted)))
  parts.append(Section("Organs", organs_table(quality)))
  if quality.failed:
    parts.append(Section("Failed", failed_table(quality)))
  return page(title, f"<p>{RULE}</p>", parts)


def failed_table(quality: Quality) -> str:
  """Scans that failed, and why."""
  return table(["scan", "why"], [[each.scan, each.error] for each in quality.failed[:MOST_ON_PAGE]])


def organs_table(quality: Quality) -> str:
  """Verdicts, sizes and places by organ."""
  size = "volume, ml" if quality.is_painted else "box, ml"
  rows: list[list[Cell]] = []
  headings = ["organ", *_VERDICTS, f"{size} (median)", "of the templates", "each scan", "place against templates, mm"]
  for column, organ in enumerate(quality.organs):
    said = [verdicts[column] for verdicts in quality.verdicts]
    rows.append([organ, *(said.count(each) for each in _VERDICTS), *_sizes(quality, column)])
  known = [any(row[column] is not None for row in rows) for column in range(len(headings))]
  return table(
    [each for each, is_known in zip(headings, known, strict=True) if is_known or not rows],
    [[cell for cell, is_known in zip(row, known, strict=True) if is_known] for row in rows],
    keep_first=True,
  )


def _scans(quality: Quality, odd: Sequence[int]) -> str:
  rows: list[list[Cell]] = [
    [rank, _link(quality.scans[row]), round(quality.scans[row].score), _reasons(quality.scans[row])]
    for rank, row in enumerate(odd[:MOST_ON_PAGE], 1)
  ]
  more = len(odd) - MOST_ON_PAGE
  text = table(["", "scan", "score", "why"], rows)
  return text + (f"<p>and {more} more in {TABLE}</p>" if more > 0 else "")


def _link(looked: Looked) -> Markup:
  name = looked.record.scan
  link = f'<a href="{html.escape(quote(name + PREVIEW))}">{html.escape(name)}</a>'
  return Markup.sorted_by(link, name)


def _reasons(looked: Looked) -> Markup:
  return Markup("<br>".join(html.escape(reason) for reason in looked.in_words))


def _sizes(quality: Quality, column: int) -> list[Cell]:
  """Median, the templates' median, a strip of dots, and how far the cohort's place is from the templates'; None for
  what is not known."""
  templates = quality.templates
  apart = theirs = None
  if templates is not None:
    # of painted volumes the templates, which know boxes, say nothing
    theirs = _known(math.exp(templates.log_ml[column]))
    both = np.isfinite(templates.middles_mm[:, 0]) & np.isfinite(quality.layout.middles_mm[:, 0])
    if both[column]:
      off = quality.layout.middles_mm - templates.middles_mm
      apart = float(np.linalg.norm(off[column] - np.median(off[both], axis=0)))
  names = [each.record.scan for each in quality.scans]
  dots = Markup(strip(quality.size_off[:, column].tolist(), names, FAR))
  return [_known(math.exp(quality.layout.log_ml[column])), theirs, dots, apart]


def _known(value: float) -> float | None:
  return float(value) if math.isfinite(value) else None


def _number(value: float) -> str:
  return "" if not math.isfinite(value) else f"{value:.1f}"
