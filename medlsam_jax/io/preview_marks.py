"""What is written on a panel of the picture: letters of orientation, a scale, and what the organs in it are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Integer
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from medlsam_jax.label_boxes import count_labels

HALO = [withStroke(linewidth=1.8, foreground="black")]
_SCALES_MM = (1, 2, 5, 10, 20, 50, 100, 200)
_SCALE_SHARE = 0.35
"""A scale is the longest of these that takes no more of the panel."""
_NAMED = 6
"""Organs beside the one of the panel that are named in it: the largest there."""
_LEAST_SHARE = 0.004
"""Of the panel's area, of an organ that is named."""
_FAINT = 0.3
_NEAR_EDGE, _MARGIN, _CLEAR = 0.18, 0.06, 0.16
"""Shares of a panel: a name this near to its side begins or ends at the margin; letters above and below are clear."""
_LETTER, _LINE = 0.0195, 0.06
"""Width of a letter of a name and height of its line, shares of a panel."""
_TICK = 0.012


def letters(axes: Axes, edges: tuple[str, str, str, str], plane: str) -> None:
  """R, L, A, P, S, I at the left, right, top and bottom edge, and the plane's name."""
  places = [(0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center")]
  places += [(0.5, 0.98, "center", "top"), (0.5, 0.02, "center", "bottom")]
  for letter, (x, y, across, up) in zip(edges, places, strict=True):
    _write(axes, x, y, letter, ha=across, va=up, color="#ffe08a", fontsize=9, weight="bold")
  _write(axes, 0.03, 0.03, plane, ha="left", va="bottom", color="#aab1b8", fontsize=7)


def scale(axes: Axes, width_mm: float) -> None:
  """A bar of a round length at the lower right, with that length; `width_mm` is the panel's."""
  length = max((each for each in _SCALES_MM if each <= _SCALE_SHARE * width_mm), default=_SCALES_MM[0])
  share, y = length / width_mm, 0.05
  line = [(0.95 - share, y - _TICK), (0.95 - share, y + _TICK), (0.95 - share, y), (0.95, y)]
  line += [(0.95, y - _TICK), (0.95, y + _TICK)]
  xs, ys = zip(*line, strict=True)
  axes.plot(xs, ys, transform=axes.transAxes, color="#e8ebee", linewidth=1.2, path_effects=HALO, clip_on=False)
  text = f"{length // 10} cm" if length >= 10 else f"{length} mm"
  _write(axes, 0.95 - share / 2, y + 0.02, text, ha="center", va="bottom", color="#e8ebee", fontsize=7)


def others(
  axes: Axes,
  plane: Integer[np.ndarray, "row column"],
  own: int,
  organs: Mapping[int, tuple[str, tuple[float, float, float]]],
  steps_mm: tuple[float, float],
  view_mm: Float[np.ndarray, "2 2"],
) -> None:
  """The other organs of a plane as faint areas, and the names of the larger ones.

  Args:
    plane: label values, and `own` the value of the panel's organ.
    organs: names and colours by value.
    steps_mm: from row to row and from column to column; the plane begins at 0.
    view_mm: low and high corner of what the panel shows, (row, column).
  """
  low = np.clip(np.floor(view_mm[0] / steps_mm), 0, plane.shape).astype(int)
  high = np.clip(np.ceil(view_mm[1] / steps_mm), 0, plane.shape).astype(int)
  part = plane[low[0] : high[0], low[1] : high[1]]
  sizes = {value: size for value, size in count_labels(part).items() if value != own and value in organs}
  if not sizes:
    return
  picture = np.zeros((*part.shape, 4), np.float32)
  for value in sizes:
    picture[part == value] = (*organs[value][1], _FAINT)
  top, bottom, left, right = (low[0], high[0], low[1], high[1])
  extent = (left * steps_mm[1], right * steps_mm[1], top * steps_mm[0], bottom * steps_mm[0])
  axes.imshow(picture, extent=extent, origin="lower", aspect="equal", interpolation="nearest")
  taken: list[tuple[float, float, float]] = []
  for value in sorted(sizes, key=lambda value: -sizes[value])[:_NAMED]:
    if sizes[value] >= _LEAST_SHARE * part.size:
      inside = np.argwhere(part == value)
      # the voxel nearest to the middle, so that a name stands on its organ, however bent that is
      row, column = inside[np.square(inside - inside.mean(0)).sum(1).argmin()] + low + 0.5
      name, colour = organs[value]
      place = (column * steps_mm[1], row * steps_mm[0])
      _name(axes, name, place, view_mm, taken, color=_lighter(colour), fontsize=6)


def own_name(axes: Axes, name: str, colour: tuple[float, float, float], place_mm: tuple[float, float]) -> None:
  """The panel's organ by name, above the place (across, up) that is given."""
  axes.annotate(_words(name), place_mm, (0, 3), textcoords="offset points", ha="center", va="bottom", clip_on=True,
                color=_lighter(colour), fontsize=7.5, weight="bold", linespacing=0.9, path_effects=HALO)  # fmt: skip


def _name(
  axes: Axes,
  name: str,
  place_mm: tuple[float, float],
  view_mm: Float[np.ndarray, "2 2"],
  taken: list[tuple[float, float, float]],
  **style: Any,
) -> None:
  """A name at a place (across, along the rows), moved into the panel where it would reach out of it.

  It is left out where it would stand on one that is in `taken` (left, right, height), to which it is added.
  """
  low, high = view_mm[0, ::-1], view_mm[1, ::-1]
  share = (np.array(place_mm) - low) / (high - low)
  across = "left" if share[0] < _NEAR_EDGE else "right" if share[0] > 1 - _NEAR_EDGE else "center"
  share[0] = {"left": _MARGIN, "right": 1 - _MARGIN}.get(across, share[0])
  share[1] = np.clip(share[1], _CLEAR, 1 - _CLEAR)
  left = float(share[0]) - _LETTER * len(name) * {"left": 0.0, "center": 0.5, "right": 1.0}[across]
  right, line = left + _LETTER * len(name), float(share[1])
  if any(left < end and begin < right and abs(line - other) < _LINE for begin, end, other in taken):
    return
  taken.append((left, right, line))
  x, y = low + share * (high - low)
  axes.text(float(x), float(y), _words(name), ha=across, va="center", clip_on=True, path_effects=HALO, **style)


def _words(name: str) -> str:
  return name.replace("_", " ")


def _lighter(colour: tuple[float, float, float]) -> tuple[float, ...]:
  """Of the same hue, to be read on black."""
  return tuple(0.5 + part / 2 for part in colour)


def _write(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
  """At a place of the panel, 0 to 1."""
  axes.text(x, y, text, transform=axes.transAxes, path_effects=HALO, **style)
