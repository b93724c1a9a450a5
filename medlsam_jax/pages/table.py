"""Tables whose columns sort by a click, and read as they stand without."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence


class Markup(str):
  """HTML already."""

  sort_by: str | None = None
  """What its cell is sorted by, where that is not its text; an empty one comes last."""

  @classmethod
  def sorted_by(cls, text: str, key: float | str) -> Markup:
    """HTML whose cell sorts by `key`."""
    cell = cls(text)
    cell.sort_by = f"{key:.6g}" if isinstance(key, float) else str(key)
    return cell


Cell = str | int | float | None
"""Text, HTML (`Markup`), a number, or nothing (a number that is none, too)."""


def table(
  headings: Sequence[str],
  rows: Iterable[Sequence[Cell]],
  *,
  caption: str = "",
  footer: Sequence[Cell] = (),
  places: int = 1,
  keep_first: bool = False,
) -> str:
  """A table under headings; columns that hold numbers stand to the right.

  Args:
    headings: text, one for each column.
    rows: cells, as many in each.
    caption: text above it.
    footer: a last row, which stays below.
    places: decimals of numbers that are not whole.
    keep_first: the first column stays in sight when the others are moved past it.
  """
  lines = [list(row) for row in rows]
  numeric = [_is_numeric([row[column] for row in lines]) for column in range(len(headings))]
  head = "".join(
    f'<th scope="col"{_class(number)}>{html.escape(each)}</th>' for each, number in zip(headings, numeric, strict=True)
  )
  body = "\n".join(f"<tr>{_cells(row, numeric, places)}</tr>" for row in lines)
  said = f"<caption>{html.escape(caption)}</caption>" if caption else ""
  end = f"<tfoot><tr>{_cells(footer, numeric, places)}</tr></tfoot>" if footer else ""
  names = ' class="sort first"' if keep_first else ' class="sort"'
  whole = f"<table{names}>{said}<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>{end}</table>"
  label = html.escape(caption or ", ".join(headings[:3]), quote=True)
  # a part that scrolls must be reachable by the keyboard
  return f'<div class="wide" role="region" tabindex="0" aria-label="{label}">{whole}</div>'


def number(value: float | None, places: int = 1) -> str:
  """As text; empty for none."""
  return "" if value is None or not math.isfinite(value) else f"{value:,.{places}f}"


def _cells(row: Sequence[Cell], numeric: Sequence[bool], places: int) -> str:
  return "".join(_cell(each, right, places) for each, right in zip(row, numeric, strict=True))


def _cell(cell: Cell, right: bool, places: int) -> str:
  key = ""
  if isinstance(cell, Markup):
    text, key = str(cell), "" if cell.sort_by is None else f' data-v="{html.escape(cell.sort_by, quote=True)}"'
  elif isinstance(cell, str):
    text = html.escape(cell)
  elif cell is None or not math.isfinite(cell):
    text = ""
  elif isinstance(cell, int):
    text = str(cell)
  else:
    text, key = number(cell, places), f' data-v="{cell:.6g}"'
  return f"<td{_class(right)}{key}>{text}</td>"


def _class(right: bool) -> str:
  return ' class="n"' if right else ""


def _is_numeric(cells: Sequence[Cell]) -> bool:
  """Whether a column holds numbers, and cells that sort as such, and nothing else but empty ones."""
  given = [each for each in cells if each is not None and each != "" and getattr(each, "sort_by", None) != ""]
  return bool(given) and all(_is_number(each) for each in given)


def _is_number(cell: Cell) -> bool:
  if not isinstance(cell, str):
    return True
  try:
    float((cell.sort_by if isinstance(cell, Markup) else None) or cell)
  except ValueError:
    return False
  return True


def spreadsheet_text(text: str) -> str:
  """For a cell of a CSV file: spreadsheets would run a text that begins like a formula."""
  return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
