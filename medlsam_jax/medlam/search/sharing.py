"""Which patches a set of points needs when points may share them: few, and never more than tile the scan.

Voxels are (z, y, x) of the padded working grid.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int

TILE_VOX = 40
"""As many patches as there are cubes of this edge in the scan are enough, whatever the number of points."""
LEAST_REACH = 6
"""Voxels along each axis from a patch's centre within which points always share it. Features depend on where in a patch
they are: boxes get worse from about here on."""
ORGAN_REACH = 20
"""Voxels along each axis from its centre within which a patch serves the points of one organ; it ends at 32, and what
surrounds a point is compared over 8 to each side."""
_CELL = 3


def shared_centres(
  points: Int[np.ndarray, "points 3"], shape: tuple[int, ...], margin: int
) -> Int[np.ndarray, "points 3"]:
  """The centre of the patch that each point uses.

  Points share a patch where they lie within a reach of its centre along each axis. The reach starts at `LEAST_REACH`
  and grows until `prod(ceil(scan edge / TILE_VOX))` patches are enough, so that the cost is bounded by the scan.

  Args:
    points: inside the scan.
    shape: of the padded grid.
    margin: voxels by which it exceeds the scan on each side.
  """
  extent = np.maximum(np.array(shape) - 2 * margin, 1)
  most = int(np.prod(-(-extent // TILE_VOX)))
  for reach in range(LEAST_REACH, TILE_VOX // 2, _CELL):
    centres = _cover(points, reach)
    if len(np.unique(centres, axis=0)) <= most:
      return centres
  # cubes side by side: as many as `most`
  low = np.full(3, margin)
  cube = (points - low) // TILE_VOX
  return np.minimum(low + cube * TILE_VOX + TILE_VOX // 2, np.array(shape) - margin - 1)


def organ_centres(points: Int[np.ndarray, "points 3"]) -> Int[np.ndarray, "points 3"]:
  """The centre of the patch that each point of one organ uses: one in their middle, more for an organ that is long."""
  return _cover(points, ORGAN_REACH)


def _cover(points: Int[np.ndarray, "points 3"], reach: int) -> Int[np.ndarray, "points 3"]:
  """Greedily: again and again the cube within the reach of its middle that holds most of the points that are left."""
  centres, left = np.zeros_like(points), np.arange(len(points))
  while len(left):
    inside = _in_fullest_cube(points[left], 2 * reach)
    own = points[left[inside]]
    # in the middle of its points: the nearer a patch's centre, the more a point looks like its template
    centres[left[inside]] = (own.min(0) + own.max(0)) // 2
    left = left[~inside]
  return centres


def _in_fullest_cube(points: Int[np.ndarray, "points 3"], edge: int) -> Bool[np.ndarray, " points"]:
  """Which points lie in the cube of that edge that holds most, its corner on a grid of `_CELL` voxels."""
  cells, width = (points - points.min(0)) // _CELL, edge // _CELL
  held = np.zeros(cells.max(0) + 1, int)
  np.add.at(held, tuple(cells.T), 1)
  for axis in range(3):
    # sums over `width` cells as differences of running sums, cubes that begin before the first cell included
    after = np.cumsum(np.pad(held, [(width, width - 1) if a == axis else (0, 0) for a in range(3)]), axis)
    held = np.take(after, range(width, after.shape[axis]), axis) - np.take(
      after, range(after.shape[axis] - width), axis
    )
  corner = np.stack(np.unravel_index(np.argmax(held), held.shape)) - (width - 1)
  return ((cells >= corner) & (cells < corner + width)).all(1)
