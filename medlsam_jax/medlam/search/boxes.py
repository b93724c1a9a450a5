"""Extreme points between the working grid and the scan: faces keep their meaning although axes swap and flip.

Points are `(..., 6, 3)`, in voxels (z, y, x) of the frame that a name says, in the order of that frame's `FACES`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Num

from medlsam_jax.geometry import FACES, WORKING_AXIS_CODES
from medlsam_jax.working_grid import WorkingGrid

_OUTWARD = np.array([[-1, 0, 0], [0, -1, 0], [0, 0, -1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], float)
"""Direction out of the organ for each of `FACES`."""


def points_to_scan(points: Num[np.ndarray, "*n 6 3"], grid: WorkingGrid) -> Float[np.ndarray, "*n 6 3"]:
  """Working voxels to scan voxels, each frame's points in its own order of `FACES`.

  Two faces change places where the pair crossed, be it because the axis runs the other way in the scan or because the
  search let them cross (MedLSAM swaps them at the same point).

  In the `consistent` convention the coordinate across a face goes from the outer edge of the working voxel to the scan
  voxel at that edge: the outermost 3 mm voxel of an organ covers several voxels of a finer scan.
  """
  points = np.asarray(points, float)
  if grid.convention == "consistent":
    points = order_faces(points) + _edge_shift(grid)
  order, _ = grid.scan.axes_to(WORKING_AXIS_CODES)
  faces = np.argsort(order)
  # rounded far below a voxel, so that whole voxels do not come out as 11.999999
  moved = np.round(grid.to_scan(points), 6)
  return order_faces(moved[..., np.concatenate([faces, faces + 3]), :])


def points_from_scan(points: Num[np.ndarray, "6 3"], grid: WorkingGrid) -> Float[np.ndarray, "6 3"]:
  """Scan voxels, already in the order of the **working** grid's `FACES`, to fractional working voxels."""
  moved = grid.from_scan(points)
  return moved - _edge_shift(grid) if grid.convention == "consistent" else moved


def _edge_shift(grid: WorkingGrid) -> Float[np.ndarray, "6 3"]:
  """From the centre of a working voxel outward to the centre of the scan voxel that shares its edge, working voxels."""
  return _OUTWARD * 0.5 * (1.0 - grid.zoom)


def order_faces(points: Num[np.ndarray, "*n 6 3"]) -> Float[np.ndarray, "*n 6 3"]:
  """The same points, low and high face exchanged on each axis where the low one lies above the high one."""
  points = np.array(points, float)
  half = len(FACES) // 2
  for axis in range(half):
    low, high = points[..., axis, :].copy(), points[..., half + axis, :].copy()
    crossed = (low[..., axis] > high[..., axis])[..., None]
    points[..., axis, :] = np.where(crossed, high, low)
    points[..., half + axis, :] = np.where(crossed, low, high)
  return points
