"""Scans whose axes are tilted against the body's: resampled onto the nearest axes, so that all else sees boxes.

The file's own grid stays with the volume (`Volume.file_grid`), and results are brought back to it where they are
written: label maps by the nearest voxel, points exactly, boxes as the smallest box of the file's voxels around them.
World millimetres are the same on both grids.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Float, Integer, Num
from scipy import ndimage

from medlsam_jax import notices
from medlsam_jax.geometry import Box, Grid, Volume
from medlsam_jax.io import scan_checks

TILT_LIMIT_RAD = 0.01
"""Tilts up to this are rounding of a stored quaternion or a scanner's fraction of a degree: 2 mm over 20 cm."""

_DIRECTIONS = {"L": (0, -1), "R": (0, 1), "P": (1, -1), "A": (1, 1), "I": (2, -1), "S": (2, 1)}


def tilt_rad(grid: Grid) -> float:
  """Greatest angle between an array axis and the world axis nearest to it."""
  cosines = grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)
  along = [sign * cosines[world, axis] for axis, (world, sign) in enumerate(_DIRECTIONS[c] for c in grid.axis_codes)]
  return float(np.arccos(np.clip(min(along), -1.0, 1.0)))


def straight_grid(grid: Grid) -> Grid:
  """The smallest grid along the nearest world axes, same spacing and axis order, that holds every voxel centre."""
  corners = np.array(np.meshgrid(*[(0, n - 1) for n in grid.shape])).reshape(3, -1).T
  world = grid.world_from_voxel(corners)
  affine, shape = np.eye(4), []
  for axis, letter in enumerate(grid.axis_codes):
    row, sign = _DIRECTIONS[letter]
    spacing = grid.spacing_mm[2 - axis]
    low, high = np.sort(sign * world[:, row])[[0, -1]]
    affine[:3, axis] = 0.0
    affine[row, axis] = sign * spacing
    affine[row, 3] = sign * low
    shape.append(math.ceil((high - low) / spacing - 1e-3) + 1)
  return Grid((shape[2], shape[1], shape[0]), affine)


def straighten(volume: Volume, labels: bool = False) -> Volume:
  """`volume` itself when its axes run along the body's within `TILT_LIMIT_RAD`, else resampled so, with a warning.

  Scans are interpolated linearly and filled with their lowest value; label maps take the nearest voxel and 0.

  Raises:
    InputError: the straight grid would be over the size limit.
  """
  grid, file_grid = straightened(volume.grid)
  if file_grid is None:
    return volume
  scan_checks.refuse_size(grid.shape, volume.source)
  degrees = math.degrees(tilt_rad(file_grid))
  note = (
    f"{volume.source}: its axes are tilted by {degrees:.1f} degrees; resampled to the nearest axes "
    f"({grid.axis_codes}, {'x'.join(map(str, grid.shape))} voxels z y x); result files are on its own grid"
  )
  notices.warn(note)
  fill = 0.0 if labels else float(volume.array.min())
  return dataclasses.replace(
    volume,
    array=_resampled(volume.array, volume.grid, grid, 0 if labels else 1, fill),
    grid=grid,
    file_grid=file_grid,
    file_array=volume.array if labels else None,
    notes=(*volume.notes, note),
  )


def nearest_labels(array: Integer[np.ndarray, "z y x"], grid: Grid, other: Grid) -> Integer[np.ndarray, "z2 y2 x2"]:
  """A label map of `grid` on another one: each voxel takes the nearest label, and 0 outside."""
  return _resampled(array, grid, other, 0, 0.0)


def straightened(grid: Grid) -> tuple[Grid, Grid | None]:
  """`grid` and `file_grid` of a volume that is read from a file on `grid`."""
  return (grid, None) if tilt_rad(grid) <= TILT_LIMIT_RAD else (straight_grid(grid), grid)


def points_to_file(points: Num[np.ndarray, "*n 3"], volume: Volume) -> Float[np.ndarray, "*n 3"]:
  """Voxels (z, y, x) of `volume.array` as voxels of its file, fractional on a tilted one."""
  return _points(points, volume.grid, volume.file_grid or volume.grid)


def points_from_file(points: Num[np.ndarray, "*n 3"], volume: Volume) -> Float[np.ndarray, "*n 3"]:
  """The inverse of `points_to_file`."""
  return _points(points, volume.file_grid or volume.grid, volume.grid)


def box_to_file(box: Box, volume: Volume) -> Box:
  """A box of voxels of `volume.array` as the smallest box of its file's voxels that holds it."""
  return move_box(box, volume.grid, volume.file_grid or volume.grid)


def box_from_file(box: Box, volume: Volume) -> Box:
  """A box of the file's voxels as the smallest one of `volume.array` that holds it: on a tilted file it grows."""
  return move_box(box, volume.file_grid or volume.grid, volume.grid)


def _points(points: np.ndarray, source: Grid, target: Grid) -> Float[np.ndarray, "*n 3"]:
  if source is target:
    return np.asarray(points, float)
  return target.voxel_from_world(source.world_from_voxel(points))


def move_box(box: Box, source: Grid, target: Grid) -> Box:
  """A box of voxels of `source` as the smallest one of `target` that holds it; the same box where only axes differ."""
  if source is target:
    return box
  low, high = box.array() + np.array([[-0.5], [0.5]])
  corners = np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1).T
  moved = _points(corners, source, target)
  return Box.from_corners(moved.min(0) + 0.5, moved.max(0) - 0.5)


def _resampled(array: np.ndarray, source: Grid, target: Grid, order: int, fill: float) -> np.ndarray:
  matrix = np.linalg.solve(source.affine[:3, :3], target.affine[:3, :3])[::-1, ::-1]
  offset = source.voxel_from_world(target.world_from_voxel(np.zeros(3)))
  return ndimage.affine_transform(
    array, matrix, offset, output_shape=target.shape, order=order, cval=fill, output=array.dtype
  )
