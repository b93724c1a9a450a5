"""The same voxels stored in another way: axes swapped and turned, cropped and padded."""

import numpy as np

from medlsam_jax.geometry import Grid


def rearranged(array, grid, order=(0, 1, 2), flip=(False, False, False), low=(0, 0, 0), high=(0, 0, 0)):
  """`array` (z, y, x) as a file has it that starts `low` voxels later and ends `high` earlier (negative: padded with
  0), then takes its axes in `order` and turns those of `flip`; and the grid of that file."""
  low, high = np.array(low), np.array(high)
  signed = np.zeros((3, 3))  # voxel (z, y, x) of the file -> voxel of the grid
  first = np.zeros(3)
  shape = np.array(grid.shape) - low - high
  for axis, old in enumerate(order):
    signed[old, axis] = -1 if flip[axis] else 1
    first[old] = grid.shape[old] - 1 - high[old] if flip[axis] else low[old]
  affine = np.eye(4)
  affine[:3, :3] = grid.affine[:3, :3] @ signed[::-1, ::-1]
  affine[:3, 3] = grid.world_from_voxel(first)
  padded = np.pad(array, [(max(-a, 0), max(-b, 0)) for a, b in zip(low, high, strict=True)])
  cut = padded[tuple(slice(max(a, 0), n - max(b, 0)) for a, b, n in zip(low, high, padded.shape, strict=True))]
  moved = cut.transpose(order)[tuple(slice(None, None, -1) if f else slice(None) for f in flip)]
  assert moved.shape == tuple(shape[list(order)])
  return moved, Grid(moved.shape, affine)
