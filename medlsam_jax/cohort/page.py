"""The cohort as a page and as a table (`PAGE`, `TABLE`), made anew at the end of every run.

The page needs no other file. Names on it are those of the scans' files; nothing of a file's header is repeated.
"""

from __future__ import annotations

import csv
import html
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np

from medlsam_jax import display
from medlsam_jax.cohort.looked import LOOK_FROM, Looked, Quality
from medlsam_jax.cohort.manifest import Manifest
from medlsam_jax.cohort.oddities import FAR
from medlsam_jax.cohort.quality import quality_of
from medlsam_jax.finding import FOUND, OUTSIDE, PARTLY_OUTSIDE, UNCERTAIN
from medlsam_jax.io.atomic import write_text
from medlsam_jax.io.scan_result import PREVIEW
from medlsam_jax.medlam.bank.bank import Bank

PAGE, TABLE = "cohort.html", "cohort.csv"
MOST_ON_PAGE = 500
"""Scans that the page names; the table has all."""
_VERDICTS = (FOUND, PARTLY_OUTSIDE, UNCERTAIN, OUTSIDE)
_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em; max-width: 75em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { padding: .2em .7em; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #5a7896; } td { border-bottom: 1px solid #dde5ec; }
circle { fill: #5a7896; fill-opacity: .5; }
circle.odd { fill: #c0392b; fill-opacity: 1; }
"""


def write(folder: Path, known: Manifest, bank: Bank | None = None) -> Quality:
  """Judges the folder's results and writes page and table.

  Raises:
    OutputError: they cannot be written.
  """
  quality = quality_of(folder, known, bank)
  write_text(folder / TABLE, to_csv(quality))
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
    start = [rank, _cell(looked.record.scan), "done", f"{looked.score:.1f}", look, _cell("; ".join(looked.in_words))]
    for column, organ in enumerate(quality.organs):
      if quality.verdicts[row][column]:
        size_ml = math.exp(quality.log_ml[row, column])
        numbers = [size_ml, *quality.middles_mm[row, column], quality.deviation[row, column]]
        rows.writerow([*start, _cell(organ), quality.verdicts[row][column], *map(_number, numbers)])
  for record in quality.failed:
    rows.writerow(["", _cell(record.scan), "failed", "", "", _cell(record.error)])
  return text.getvalue()


def to_html(quality: Quality) -> str:
  """The page."""
  odd, noted = quality.to_look_at, quality.noted
  title = f"{display.count(len(quality.scans), 'scan')}, {len(odd)} to look at, {len(quality.failed)} failed"
  parts = [
    f"<h1>{title}</h1>",
    "<p>Odd is not wrong: nothing here knows the truth. Places and sizes are held against the cohort's own by medians, "
    f"or against the templates where few scans show an organ; named from {FAR:g} standard deviations on.</p>",
    "<h2>Scans to look at, the oddest first</h2>",
    _scans(quality, odd) if odd else "<p>None.</p>",
    *([f"<h2>Noted of others, with a score below {LOOK_FROM:g}</h2>", _scans(quality, noted)] if noted else []),
    "<h2>Organs</h2>",
    _organs(quality),
  ]
  if quality.failed:
    rows = [[html.escape(each.scan), html.escape(each.error)] for each in quality.failed[:MOST_ON_PAGE]]
    parts += ["<h2>Failed</h2>", _table(["scan", "why"], rows)]
  body = "\n".join(parts)
  head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
  return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _scans(quality: Quality, odd: Sequence[int]) -> str:
  rows = [[str(rank), _link(quality.scans[row]), f"{quality.scans[row].score:.0f}", _reasons(quality.scans[row])]
          for rank, row in enumerate(odd[:MOST_ON_PAGE], 1)]  # fmt: skip
  more = len(odd) - MOST_ON_PAGE
  text = _table(["", "scan", "score", "why"], rows)
  return text + (f"<p>and {more} more in {TABLE}</p>" if more > 0 else "")


def _link(looked: Looked) -> str:
  name = looked.record.scan
  return f'<a href="{html.escape(quote(name + PREVIEW))}">{html.escape(name)}</a>'


def _reasons(looked: Looked) -> str:
  return "<br>".join(html.escape(reason) for reason in looked.in_words)


def _organs(quality: Quality) -> str:
  size = "volume, ml" if quality.is_painted else "box, ml"
  headings = ["organ", *_VERDICTS, f"{size} (median)", "of the templates", "each scan", "place against templates, mm"]
  rows = []
  for column, organ in enumerate(quality.organs):
    said = [verdicts[column] for verdicts in quality.verdicts]
    rows.append([html.escape(organ), *(str(said.count(each)) for each in _VERDICTS), *_sizes(quality, column)])
  return _table(headings, rows)


def _sizes(quality: Quality, column: int) -> list[str]:
  """Median, the templates' median, a strip of dots, and how far the cohort's place is from the templates'."""
  templates, sizes = quality.templates, quality.log_ml[:, column]
  found = np.array([verdicts[column] == FOUND for verdicts in quality.verdicts], bool)
  sizes = np.where(found, sizes, np.nan)
  middle = quality.layout.log_ml[column]
  # the templates' are of boxes: of painted volumes they say nothing
  theirs = np.nan if templates is None or quality.is_painted else templates.log_ml[column]
  apart = np.nan
  if templates is not None:
    both = np.isfinite(templates.middles_mm[:, 0]) & np.isfinite(quality.layout.middles_mm[:, 0])
    if both[column]:
      off = quality.layout.middles_mm - templates.middles_mm
      apart = float(np.linalg.norm(off[column] - np.median(off[both], axis=0)))
  names = [each.record.scan for each in quality.scans]
  strip = _strip(sizes, float(middle), float(quality.layout.log_ml_spread[column]), names)
  return [_number(math.exp(middle)), _number(math.exp(theirs)), strip, _number(apart)]


def _strip(values: np.ndarray, middle: float, spread: float, names: Sequence[str]) -> str:
  """A dot for each scan, from 6 standard deviations below the median to 6 above; odd ones in red, with their names."""
  dots = []
  for value, name in zip(values, names, strict=True):
    if math.isfinite(value) and math.isfinite(middle):
      off = (value - middle) / spread
      at = 100 + 100 * max(min(off / 6, 1), -1) * 0.95
      odd = f' class="odd"><title>{html.escape(name)}</title></circle>' if abs(off) > FAR else "/>"
      dots.append(f'<circle cx="{at:.1f}" cy="8" r="3"{odd}')
  return f'<svg width="200" height="16" role="img" aria-label="sizes">{"".join(dots)}</svg>'


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """Cells are HTML already."""
  head = "".join(f"<th>{html.escape(each)}</th>" for each in headings)
  body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows)
  return f"<table><tr>{head}</tr>\n{body}</table>"


def _number(value: float) -> str:
  return "" if not math.isfinite(value) else f"{value:.1f}"


def _cell(text: str) -> str:
  """For spreadsheets, which would run a text that begins like a formula."""
  return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
