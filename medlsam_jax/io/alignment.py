"""A label map brought onto the voxels of its scan: the only place where an array is laid on another grid.

The rule is `Grid.relay_to`. Label maps come in other axis orders and directions, cropped to what is labelled, or
padded: where the voxels coincide they are re-laid without interpolation.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Integer

from medlsam_jax import notices
from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Grid, Volume
from medlsam_jax.io import oblique


def align_labels(
  labels: Volume, scan: Grid, scan_source: str, file_grid: Grid | None = None, *, resample: bool = False
) -> Volume:
  """`labels` on the grid `scan`: turned, cut and padded with 0 where needed, never interpolated.

  A label map that states no orientation and has the scan's shape is laid on it voxel by voxel, with a warning; so is
  any of that shape where the scan states none. Labelled voxels beyond the scan are cut away with a warning.

  Args:
    scan, file_grid: `grid` and `file_grid` of the scan's `Volume`.
    resample: where the voxels of the two do not coincide, take the nearest label, with a warning.

  Raises:
    InputError: the voxels of the two do not coincide, or no labelled voxel lies in the scan; both grids are described.
  """
  own, own_array = labels.file_grid or labels.grid, labels.file_array
  if labels.file_grid is None:
    own_array = labels.array
  target = file_grid or scan
  notes = list(labels.notes)
  laid = None
  if own_array is not None and _voxel_by_voxel(own, target):
    _say(notes, f"{labels.source}: {_unstated(own, scan_source)}; laid on the voxels of {scan_source}")
    laid = own_array
  if laid is None and own_array is not None:
    laid = _relaid(own_array, own, target, labels.source, scan_source, notes)
  if laid is not None and file_grid is not None:
    laid = oblique.nearest_labels(laid, file_grid, scan)
  if laid is None and (labels.file_grid is not None or file_grid is not None):
    # what was made in memory is on the straight grid of a tilted scan
    laid = _relaid(labels.array, labels.grid, scan, labels.source, scan_source, notes)
  if laid is None and resample:
    _say(notes, f"{labels.source}: on another grid than {scan_source}; resampled onto it, each voxel takes the nearest")
    array, grid = (labels.array, labels.grid) if own_array is None else (own_array, own)
    laid = oblique.nearest_labels(array, grid, scan)
  if laid is None:
    raise InputError(
      f"{labels.source}: the label map is on another grid than {scan_source}: {own.describe()} against "
      f"{target.describe()}; resample it onto the scan"
    )
  return dataclasses.replace(
    labels, array=np.ascontiguousarray(laid), grid=scan, file_grid=file_grid, file_array=None, notes=tuple(notes)
  )


def _say(notes: list[str], text: str) -> None:
  notices.warn(text)
  notes.append(text)


def _voxel_by_voxel(labels: Grid, scan: Grid) -> bool:
  """Whether one of two grids of the same shape states no orientation, and what it has in its place does not fit."""
  if tuple(labels.shape) != tuple(scan.shape) or (labels.is_stated and scan.is_stated):
    return False
  made_up = any(grid.forms is not None and not grid.forms.is_taken for grid in (labels, scan))
  return not labels.is_same(scan) and (made_up or labels.relay_to(scan) is None)


def _unstated(labels: Grid, scan_source: str) -> str:
  return "it states no orientation" if not labels.is_stated else f"its scan {scan_source} states no orientation"


def _relaid(
  array: Integer[np.ndarray, "z y x"], grid: Grid, target: Grid, source: str, scan_source: str, notes: list[str]
) -> Integer[np.ndarray, "z2 y2 x2"] | None:
  """The array on another grid over the same voxels, or None."""
  relay = grid.relay_to(target)
  if relay is None:
    return None
  result = relay.apply(array)
  if relay.is_turn:
    return result
  before, after = int(np.count_nonzero(array)), int(np.count_nonzero(result))
  if before and not after:
    raise InputError(
      f"{source}: all its labelled voxels lie outside {scan_source}: {grid.describe()} against "
      f"{target.describe()}; is it another scan's?"
    )
  cut = f"; {before - after} of its {before} labelled voxels lie outside and are cut away" if after < before else ""
  sizes = ("x".join(map(str, shape)) for shape in (relay.shape, relay.target))
  _say(notes, f"{source}: {next(sizes)} voxels, {scan_source} has {next(sizes)}; laid where they coincide{cut}")
  return result
