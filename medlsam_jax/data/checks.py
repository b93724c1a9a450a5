"""What every reader asks of a scan before anybody computes with it: size, finite voxels, a CT-like range."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Num

from medlsam_jax import notices
from medlsam_jax.errors import InputError

MAX_VOXELS = 600_000_000
"""Largest scan that is read: about 512x512x2300. As float32 it takes 2.4 GB."""

CT_MINIMUM_BELOW_HU = -10.0
"""A CT that shows any air or fat goes below this; MR and normalised images do not (limit of the published program)."""


def refuse_size(shape: tuple[int, ...], source: str, max_voxels: int | None = None) -> None:
  """Raises InputError when an array of `shape` is empty or has more than `max_voxels` (default `MAX_VOXELS`) voxels.

  Readers call this with the header's shape, before the voxels are loaded.
  """
  limit = MAX_VOXELS if max_voxels is None else max_voxels
  voxels = math.prod(shape)
  size = "x".join(str(n) for n in shape)
  if voxels == 0:
    raise InputError(f"{source}: the scan is empty ({size} voxels)")
  if voxels > limit:
    raise InputError(
      f"{source}: {size} = {voxels / 1e6:.0f} million voxels, over the limit of {limit / 1e6:.0f} million; "
      "crop the scan, or save it with a larger spacing"
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


def warn_range(array: Num[np.ndarray, "z y x"], source: str) -> None:
  """Warns when the values cannot be Hounsfield units of a body in air: MR, or a CT that was normalised before."""
  low = float(array.min())
  if low > CT_MINIMUM_BELOW_HU:
    notices.warn(
      f"{source}: values from {low:g} to {float(array.max()):g} do not look like CT in Hounsfield units (air is near "
      "-1000): an MR scan, or a CT that was normalised? Results will be poor; give the original CT",
    )
