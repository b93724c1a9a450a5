"""Where the values of a label map lie and how many voxels they have, in time and memory of its voxels.

`ndimage.find_objects` and `numpy.bincount` make lists as long as the largest value: 614,454,277 in one atlas.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Integer
from scipy import ndimage

_DENSE = 1 << 16
"""Up to this value a list by value costs nothing beside the voxels, and is quicker than sorting them."""

LabelBox = tuple[slice, ...]


def find_labels(array: Integer[np.ndarray, "z y x"]) -> dict[int, LabelBox]:
  """Tight box of each value above 0 that occurs, by rising value."""
  if array.max(initial=0) < _DENSE:
    return {value: box for value, box in enumerate(ndimage.find_objects(array), 1) if box is not None}
  by_value: dict[int, LabelBox] = {}
  for index, plane in enumerate(array):
    inside = plane > 0
    values, ranks = np.unique(plane[inside], return_inverse=True)
    ranked = np.zeros(plane.shape, np.int32)
    ranked[inside] = ranks + 1
    for value, box in zip(values.tolist(), ndimage.find_objects(ranked), strict=True):
      whole = (slice(index, index + 1), *box)
      by_value[value] = _around(by_value[value], whole) if value in by_value else whole
  return dict(sorted(by_value.items()))


def count_labels(array: Integer[np.ndarray, "..."]) -> dict[int, int]:
  """Voxels of each value above 0 that occurs, by rising value; slab by slab along the first axis."""
  if array.max(initial=0) < _DENSE:
    counts = np.zeros(int(array.max(initial=0)) + 1, np.int64)
    for plane in array:
      counts += np.bincount(plane[plane > 0].astype(np.intp), minlength=len(counts))
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
  by_value: dict[int, int] = {}
  for plane in array:
    for value, count in zip(*(each.tolist() for each in np.unique(plane[plane > 0], return_counts=True)), strict=True):
      by_value[value] = by_value.get(value, 0) + count
  return dict(sorted(by_value.items()))


def _around(first: LabelBox, second: LabelBox) -> LabelBox:
  return tuple(
    slice(min(one.start, two.start), max(one.stop, two.stop)) for one, two in zip(first, second, strict=True)
  )
