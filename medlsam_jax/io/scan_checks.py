"""What is asked of every scan before anybody computes with it: size, finite voxels, and what makes it doubtful."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Num
from scipy import ndimage

from medlsam_jax import geometry, notices
from medlsam_jax.errors import InputError
from medlsam_jax.geometry import PATCH_EDGE, WORKING_SPACING_MM, Grid, Volume
from medlsam_jax.io import hounsfield

SPACING_LIMITS_MM = (0.05, 50.0)
"""Edges of a voxel of a CT. A factor of 1000 apart, so that no number can be read in two units."""
LONGEST_MM = 5000.0
"""No scan is longer along an axis."""

AIR_HU = -1000.0
"""What stands in voxels outside of what was scanned."""
_PADDING_SHARE = 0.01
"""NaN in fewer voxels than this are no padding but damage."""

THIN_MM = PATCH_EDGE * WORKING_SPACING_MM / 3
"""A scan that covers less, 64 mm, shows a third of what the localization network looks at from one place."""

_DIRECTIONS = {"LR": "right to left", "AP": "back to front", "IS": "feet to head"}


def refuse_size(shape: tuple[int, ...], source: str, max_voxels: int | None = None) -> None:
  """Raises InputError when an array of `shape` is empty or has more voxels than `max_voxels` (`MAX_VOXELS`).

  Readers call this with the header's shape, before the voxels are loaded.
  """
  limit = geometry.MAX_VOXELS if max_voxels is None else max_voxels
  voxels = math.prod(shape)
  size = "x".join(str(n) for n in shape)
  if voxels == 0:
    raise InputError(f"{source}: the scan is empty ({size} voxels)")
  if voxels > limit:
    raise InputError(
      f"{source}: {size} = {voxels / 1e6:.0f} million voxels, over the limit of {limit / 1e6:.0f} million; "
      "crop the scan, or save it with a larger spacing"
    )


def refuse_spacing(grid: Grid, source: str) -> None:
  """Raises InputError when voxels are smaller or larger than any CT's, or the scan longer: memory follows its mm."""
  edges = grid.spacing_mm
  extent = edges * np.array(grid.shape)
  if edges.min() < SPACING_LIMITS_MM[0] or edges.max() > SPACING_LIMITS_MM[1] or extent.max() > LONGEST_MM:
    size, whole = ("x".join(f"{length:.4g}" for length in lengths) for lengths in (edges, extent))
    raise InputError(
      f"{source}: voxels of {size} mm, {whole} mm in all (z y x): a CT has voxels of {SPACING_LIMITS_MM[0]:g} to "
      f"{SPACING_LIMITS_MM[1]:g} mm and is at most {LONGEST_MM / 1000:g} m long; correct the header"
    )


def refuse_nonfinite(array: Num[np.ndarray, "z y x"], source: str) -> None:
  """Raises InputError with the number of NaN and infinite voxels, if there are any."""
  if not np.issubdtype(array.dtype, np.inexact):
    return
  # One sum touches no extra memory; it is finite for every sane scan.
  with np.errstate(invalid="ignore", over="ignore"):
    if np.isfinite(array.sum(dtype=np.float64)):
      return
  nan, infinite = int(np.isnan(array).sum()), int(np.isinf(array).sum())
  if nan or infinite:
    raise InputError(f"{source}: {nan} NaN and {infinite} infinite of {array.size} voxels; write a number there first")


def fill_nonfinite(array: Num[np.ndarray, "z y x"], source: str) -> tuple[Num[np.ndarray, "z y x"], tuple[str, ...]]:
  """Puts air where NaN stands around what was scanned, as resampling and masking leave it, and warns.

  Returns:
    The array, a copy where something was filled, and the notes for the volume.

  Raises:
    InputError: infinite voxels, single NaN, NaN that do not reach the border of the array, or nothing else.
  """
  if not np.issubdtype(array.dtype, np.inexact):
    return array, ()
  with np.errstate(invalid="ignore", over="ignore"):
    if np.isfinite(array.sum(dtype=np.float64)):
      return array, ()
  nan = np.isnan(array)
  few = nan.sum() < _PADDING_SHARE * nan.size
  if few or nan.all() or np.isinf(array).any() or _inside(nan).any():
    refuse_nonfinite(array, source)
    return array, ()
  note = f"{source}: {int(nan.sum())} of {array.size} voxels around the scan are NaN; taken as air"
  notices.warn(note)
  return np.where(nan, array.dtype.type(AIR_HU), array), (note,)


def _inside(mask: np.ndarray) -> np.ndarray:
  """The voxels of a mask that are not connected with the border of the array."""
  rim = np.ones(mask.shape, bool)
  rim[tuple(slice(1, -1) for _ in mask.shape)] = False
  return mask & ~ndimage.binary_propagation(mask & rim, mask=mask)


def check_scan(volume: Volume, max_voxels: int | None = None) -> Volume:
  """What `read_volume` asks of a file, asked of a volume from anywhere; does nothing to one that it has judged.

  Returns:
    The volume with NaN around it filled, and with its `notes` and `doubts`, which are warned.

  Raises:
    InputError: not 3D, no voxels, more than `max_voxels` (`geometry.MAX_VOXELS`), or NaN or infinite voxels in it.
  """
  if volume.array.ndim != 3:
    raise InputError(f"{volume.source}: an array of {volume.array.ndim} axes; give a 3D scan (z, y, x)")
  refuse_size(volume.array.shape, volume.source, max_voxels)
  if volume.judged:
    refuse_nonfinite(volume.array, volume.source)
    return volume
  array, notes = fill_nonfinite(volume.array, volume.source)
  volume = dataclasses.replace(volume, array=array, notes=(*volume.notes, *notes))
  doubts = tuple(doubt for doubt in doubts_of(volume) if doubt not in volume.doubts)
  for doubt in doubts:
    notices.warn(doubt)
  return dataclasses.replace(volume, doubts=(*volume.doubts, *doubts), judged=True)


def doubts_of(volume: Volume) -> tuple[str, ...]:
  """Why whatever is found in a scan may be wrong, a sentence each: values that are no HU, and a thin slab.

  Says nothing of a scan too small to judge (`hounsfield.ENOUGH_VOXELS`), but where its values cannot be HU at all.
  """
  values = hounsfield.doubt_of_values(volume.array)
  doubts = [] if values is None else [f"{volume.source}: {values}"]
  if volume.array.size >= hounsfield.ENOUGH_VOXELS:
    codes = volume.grid.axis_codes[::-1]
    for axis, code, count, spacing in zip("zyx", codes, volume.array.shape, volume.spacing_mm, strict=True):
      if count * spacing < THIN_MM:
        pair = next(words for letters, words in _DIRECTIONS.items() if code in letters)
        doubts.append(
          f"{volume.source}: covers {count * spacing:.0f} mm along {axis} only ({pair}); organs are found by what lies "
          f"around them, {PATCH_EDGE * WORKING_SPACING_MM:.0f} mm of it"
        )
  return tuple(doubts)
