"""Which of an organ's drawn planes a slice takes, where planes and slices need not lie at the same distances.

A plane stands for what lies around it, up to half the planes' distance: a slice takes the plane that it lies in so,
which is the nearest. Volumes are kept on finer and on coarser slices, and nothing is interpolated.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Integer

_TOGETHER = 1.5
"""Planes' distances by which two planes may lie apart and still be neighbours: beyond, one between them is empty."""
_EVERY_FEW = 4
"""Planes that tell that an organ was drawn on every second plane, say; fewer may be pieces of it."""
_ROUNDING = 1e-3
"""Voxels: of the contours' decimals."""


def usual_distance(organs: Iterable[Float[np.ndarray, " _"]], longest: float) -> float | None:
  """How far neighbouring planes of organs are apart, mostly; None where that cannot be said.

  Args:
    organs: where the planes of each lie, rising.
    longest: planes that are further apart are no neighbours.
  """
  apart = np.sort(np.concatenate([np.zeros(0), *map(np.diff, organs)]))
  apart = apart[apart <= longest]
  return float(apart[(len(apart) - 1) // 2]) if len(apart) else None


def own_distance(places: Float[np.ndarray, " plane"], of_all: float, longest: float) -> float:
  """The distance of an organ's planes: that of all planes of the file, unless it was drawn on every few of them."""
  smallest = float(np.diff(places).min()) if len(places) >= _EVERY_FEW else 0.0
  return max(smallest, of_all) if smallest <= longest else of_all


def planes_of_slices(
  planes: Float[np.ndarray, " plane"], slices: Float[np.ndarray, " slice"], distance: float
) -> Integer[np.ndarray, " slice"]:
  """For each slice the plane that it takes, -1 for none.

  Args:
    planes: where they lie, rising; one at least.
    slices: where they lie, rising, in the same unit.
    distance: of planes that are neighbours.
  """
  above = np.searchsorted(planes, slices + _ROUNDING, side="right")
  low, high = np.clip(above - 1, 0, None), np.clip(above, None, len(planes) - 1)
  to_low, to_high = slices - planes[low], planes[high] - slices
  # half open, so that a slice in the middle of two planes is not lost, and not counted beyond the last one
  in_low = (above > 0) & (to_low < distance / 2 - _ROUNDING)
  in_high = (above < len(planes)) & (to_high <= distance / 2 + _ROUNDING)
  is_between = (above > 0) & (above < len(planes)) & (planes[high] - planes[low] <= _TOGETHER * distance)
  nearest = np.where(to_high <= to_low + _ROUNDING, high, low)
  return np.where(is_between, nearest, np.where(in_low, low, np.where(in_high, high, -1)))
