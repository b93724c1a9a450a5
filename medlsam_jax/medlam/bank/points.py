"""From a mask on the working grid to the voxels that describe an organ: six extreme points, whole or part by part.

Everything is in voxels (z, y, x) of the mask given, points in the order of `FACES`. No files, no nibabel. Equal to the
published program, whose choice of one point on a face is arbitrary but part of its numbers (reference: MedLAM,
templates).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Box

MAX_PARTS = 6


def extreme_points(mask: Bool[np.ndarray, "z y x"]) -> Int[np.ndarray, "6 3"]:
  """Six voxels of the mask, one on each face of its tight box.

  Raises:
    InputError: the mask is empty.
  """
  low, high = _bounds(mask)
  return _face_points(mask, low, high)


def part_points(mask: Bool[np.ndarray, "z y x"], parts: int) -> Int[np.ndarray, "{max(parts,1)} 6 3"]:
  """Six points for each of `parts` sections along z (SPL); `parts` = 0 gives the whole organ's `extreme_points`.

  With `step` = z extent // parts, section i covers [zmin + i * step, zmin + (i + 1) * step) and the last one ends
  before zmax, which thus belongs to none; the z bounds are the section's own start and end. The y and x bounds are
  those of the mask inside the section, but the point on each face comes from the whole organ's slice at that bound and
  may lie outside the section (as published).

  A section without any voxel (an organ of two pieces) takes the y and x bounds of the one below it. The published
  program then also overwrites the z bounds of the one below by accident: not copied.

  Raises:
    InputError: the mask is empty, or lower than `parts` slices.
  """
  if parts == 0:
    return extreme_points(mask)[None]
  low, high = _bounds(mask)
  step = (high[0] - low[0]) // parts
  if step < 1:
    raise InputError(f"a mask with a z extent of {high[0] - low[0]} slices cannot be cut into {parts} parts")
  result = np.empty((parts, 6, 3), np.int64)
  part_low, part_high = low, high
  for index in range(parts):
    start = low[0] + index * step
    end = start + step if index < parts - 1 else high[0]
    if mask[start:end].any():
      part_low, part_high = _bounds(mask[start:end])
    part_low, part_high = np.array([start, *part_low[1:]]), np.array([end, *part_high[1:]])
    result[index] = _face_points(mask, part_low, part_high)
  return result


def z_extent(mask: Bool[np.ndarray, "z y x"]) -> int:
  """Highest minus lowest slice of the mask: one less than the slices it covers.

  Raises:
    InputError: the mask is empty.
  """
  low, high = _bounds(mask)
  return int(high[0] - low[0])


def part_count(z_extents: Sequence[int], interval_slices: int) -> int:
  """Into how many sections an organ with these `z_extent`s, one per template, is cut.

  Returns:
    min(shortest // interval, `MAX_PARTS`); 0 when the shortest is not above the interval: the organ stays whole. (1 is
    not the same as 0: one section ends before the topmost slice.)
  """
  if interval_slices < 1:
    raise ValueError(f"interval of {interval_slices} slices; it must be at least 1")
  shortest = min(z_extents)
  return min(shortest // interval_slices, MAX_PARTS) if shortest > interval_slices else 0


def _bounds(mask: np.ndarray) -> tuple[Int[np.ndarray, "3"], Int[np.ndarray, "3"]]:
  box = Box.of_mask(mask)
  if box is None:
    raise InputError("an empty mask has no extreme points")
  return np.array(box.low, int), np.array(box.high, int)


def _face_points(mask: np.ndarray, low: np.ndarray, high: np.ndarray) -> Int[np.ndarray, "6 3"]:
  """For each bound, the middle one of the mask's voxels in that slice; from the next slice with any if it has none."""
  points = np.empty((6, 3), np.int64)
  for face, (axis, bound) in enumerate([*enumerate(low), *enumerate(high)]):
    # The order in which the slice's voxels are listed decides which is the middle one: axes axis - 2, then axis - 1.
    slices = mask.transpose(axis, axis - 2, axis - 1)
    filled = next(i for i in range(bound, mask.shape[axis]) if slices[i].any())
    first, second = np.nonzero(slices[filled])
    points[face, axis - 2], points[face, axis - 1] = first[len(first) // 2], second[len(second) // 2]
    points[face, axis] = bound
  return points
