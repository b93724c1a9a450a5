"""A label map brought onto the voxels of its scan, where only the axis order or direction differs."""

from __future__ import annotations

import numpy as np

from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Grid, Volume, reorient

SAME_PLACE_VOXELS = 0.25
"""Corners of two grids may differ by this share of the smallest edge: programs round the spacing and the quaternion
they write, and a quaternion in single precision turns a scan by up to 0.3 mm per metre. Half a voxel is a shift."""


def align_labels(labels: Volume, scan: Grid, scan_source: str) -> Volume:
  """`labels` on the grid `scan`, its axes swapped and flipped where needed, never resampled.

  Raises:
    InputError: the voxels of the two do not coincide; both shapes, spacings and corners are named.
  """
  for grid, array in (
    (labels.grid, labels.array),
    (_reoriented(labels.grid, scan.axis_codes), reorient(labels.array, labels.grid, scan.axis_codes)),
  ):
    if grid.is_same(scan, SAME_PLACE_VOXELS * float(scan.spacing_mm.min())):
      return Volume(np.ascontiguousarray(array), scan, labels.source)
  raise InputError(
    f"{labels.source}: the label map is on another grid than its scan {scan_source}: {_describe(labels.grid)} against "
    f"{_describe(scan)}; resample it onto the scan"
  )


def _reoriented(grid: Grid, codes: str) -> Grid:
  """The grid of `reorient(array, grid, codes)`."""
  order, flip = grid.axes_to(codes)
  # Old voxel coordinates of the new array's first voxel and of its neighbours along x, y, z.
  voxels = np.zeros((4, 3))
  for new, (old, flipped) in enumerate(zip(order, flip, strict=True)):
    voxels[:, old] = grid.shape[old] - 1 if flipped else 0
    voxels[1 + (2 - new), old] += -1 if flipped else 1
  world = grid.world_from_voxel(voxels)
  affine = np.eye(4)
  affine[:3, :3] = (world[1:] - world[0]).T
  affine[:3, 3] = world[0]
  return Grid((grid.shape[order[0]], grid.shape[order[1]], grid.shape[order[2]]), affine)


def _describe(grid: Grid) -> str:
  shape = "x".join(map(str, grid.shape))
  corner = ", ".join(f"{v:.2f}" for v in grid.affine[:3, 3])
  return (
    f"{shape} voxels z y x, {grid.axis_codes}, affine {grid.affine[:3, :3].round(3).tolist()}, origin ({corner}) mm"
  )
