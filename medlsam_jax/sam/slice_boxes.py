"""Parts of an organ, boxes in scan voxels, -> one box for each slice, in pixels of the slice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from medlsam_jax.geometry import DISPLAY_AXIS_CODES, Box, Grid
from medlsam_jax.sam.slices import box_in_slices


def boxes_by_slice(
  parts: Sequence[Box], grid: Grid, extra_slices: int = 0, fill_gaps: bool = True, codes: str = DISPLAY_AXIS_CODES
) -> dict[int, Float[np.ndarray, "4"]]:
  """One box for each slice that an organ's parts cover.

  Where parts share a slice the smallest box around both counts (published: the later part wins). Slices between parts
  that none covers get a box interpolated between the nearest two. What lies outside the scan is clipped.

  Args:
    parts: any number of boxes in scan voxels, in any order, one slice thick or more.
    grid: of the scan.
    extra_slices: slices added at the organ's lower and upper end; a negative number takes away.
    fill_gaps: whether slices between parts get a box; False for boxes that were given slice by slice.
    codes: directions of rising column, row and slice.

  Returns:
    Slice index -> edges (x0, y0, x1, y1); empty when nothing lies in the scan.
  """
  edges = _union_by_slice(parts, grid, codes)
  if not edges:
    return {}
  if fill_gaps:
    edges = _with_gaps_filled(edges)
  edges = _with_extra_ends(edges, extra_slices)
  count, rows, columns = _shape_along(grid, codes)
  limits = np.array([columns, rows, columns, rows])
  clipped = {index: np.clip(box, 0, limits) for index, box in sorted(edges.items()) if 0 <= index < count}
  return {index: box for index, box in clipped.items() if (box[2:] > box[:2]).all()}


def _union_by_slice(parts: Sequence[Box], grid: Grid, codes: str) -> dict[int, np.ndarray]:
  edges: dict[int, np.ndarray] = {}
  count = _shape_along(grid, codes)[0]
  for part in parts:
    (first, last), box = box_in_slices(part, grid, codes)
    # One slice beyond the scan on each side is enough to interpolate and clip; a stray corner costs no loop.
    for index in range(max(first, -1), min(last, count) + 1):
      held = edges.get(index, box)
      edges[index] = np.concatenate([np.minimum(held[:2], box[:2]), np.maximum(held[2:], box[2:])])
  return edges


def _with_gaps_filled(edges: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
  known = sorted(edges)
  wanted = np.arange(known[0], known[-1] + 1)
  columns = [np.interp(wanted, known, [edges[index][side] for index in known]) for side in range(4)]
  return {int(index): np.array(box) for index, box in zip(wanted, np.stack(columns, 1), strict=True)}


def _with_extra_ends(edges: dict[int, np.ndarray], extra: int) -> dict[int, np.ndarray]:
  first, last = min(edges), max(edges)
  below = {index: edges[first] for index in range(first - extra, first)}
  above = {index: edges[last] for index in range(last + 1, last + extra + 1)}
  kept = {index: box for index, box in edges.items() if first - extra <= index <= last + extra}
  return {**below, **kept, **above}


def _shape_along(grid: Grid, codes: str) -> tuple[int, int, int]:
  order, _ = grid.axes_to(codes)
  return grid.shape[order[0]], grid.shape[order[1]], grid.shape[order[2]]


def tight_boxes(mask: Bool[np.ndarray, "z y x"], grid: Grid) -> list[Box]:
  """Tight box of each slice of a mask as one-slice parts in scan voxels: prompts made from a label map.

  For studies of the segmentation alone; nothing in the library calls it on a query scan.
  """
  order, _ = grid.axes_to(DISPLAY_AXIS_CODES)
  axis = order[0]
  boxes = []
  for index in range(grid.shape[axis]):
    slab = [slice(None)] * 3
    slab[axis] = slice(index, index + 1)
    box = Box.of_mask(mask[tuple(slab)])
    if box is not None:
      low, high = list(box.low), list(box.high)
      low[axis] = high[axis] = float(index)
      boxes.append(Box.from_corners(low, high))
  return boxes
