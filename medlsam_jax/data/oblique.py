"""Scans whose axes are tilted against the body's: resampled onto the nearest axes, so that all else sees boxes."""

from __future__ import annotations

import math
import warnings

import numpy as np
from scipy import ndimage

from medlsam_jax.data import checks
from medlsam_jax.geometry import Grid, Volume

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
  tilt = tilt_rad(volume.grid)
  if tilt <= TILT_LIMIT_RAD:
    return volume
  grid = straight_grid(volume.grid)
  checks.refuse_size(grid.shape, volume.source)
  warnings.warn(
    f"{volume.source}: its axes are tilted by {math.degrees(tilt):.1f} degrees; resampled to the nearest axes "
    f"({grid.axis_codes}, {'x'.join(map(str, grid.shape))} voxels z y x), and results will be on that grid",
    stacklevel=3,
  )
  matrix = np.linalg.solve(volume.affine[:3, :3], grid.affine[:3, :3])[::-1, ::-1]
  offset = volume.grid.voxel_from_world(grid.world_from_voxel(np.zeros(3)))
  fill = 0 if labels else float(volume.array.min())
  array = ndimage.affine_transform(
    volume.array,
    matrix,
    offset,
    output_shape=grid.shape,
    order=0 if labels else 1,
    cval=fill,
    output=volume.array.dtype,
  )
  return Volume(array, grid, volume.source)
