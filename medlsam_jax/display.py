"""How values show themselves: one line of text, and a small table in notebooks. Never the numbers of an array."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

FEW = 6
"""Names that a line lists before it says how many more there are."""


def size(shape: Sequence[int], spacing_mm: Iterable[float]) -> str:
  """Voxels and their edges, (z, y, x)."""
  edges = " x ".join(f"{edge:.4g}" for edge in spacing_mm)
  return f"{' x '.join(str(n) for n in shape)} voxels (z, y, x) of {edges} mm"


def some(names: Iterable[str], few: int = FEW) -> str:
  """The first names, and how many more there are."""
  every = list(names)
  rest = len(every) - few
  return ", ".join(every[:few]) + (f" and {rest} more" if rest > 0 else "") if every else "none"


def count(number: int, singular: str, plural: str | None = None) -> str:
  """`1 template`, `2 templates`."""
  return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def extent(low: Sequence[float], high: Sequence[float]) -> str:
  """A box: its first and last voxel along z, y and x."""
  return ", ".join(f"{axis} {first:.4g} to {last:.4g}" for axis, first, last in zip("zyx", low, high, strict=True))


def html_table(title: str, rows: Sequence[Sequence[str]] = ()) -> str:
  """For a notebook: a line, and under it rows under a heading, the first of them; all text is escaped."""
  if not rows:
    return f"<div>{html.escape(title)}</div>"
  heading, *body = [[html.escape(str(cell)) for cell in row] for row in rows]
  lines = ["<tr>" + "".join(f"<th style='text-align:left'>{cell}</th>" for cell in heading) + "</tr>"]
  lines += ["<tr>" + "".join(f"<td style='text-align:left'>{cell}</td>" for cell in row) + "</tr>" for row in body]
  return f"<div>{html.escape(title)}</div><table>{''.join(lines)}</table>"
