"""The label map of a scan, whether it lies in one file or as a folder with a mask for each organ."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import numpy as np

from medlsam_jax import display, notices
from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Volume
from medlsam_jax.io import data_sets, oblique
from medlsam_jax.io.nifti import read_label_nifti, smallest_integer


def read_label_map(path: str | os.PathLike[str], organs: Collection[str] | None = None) -> Volume:
  """Label values on the file's voxels (z, y, x); those of `label_table.read_label_table` for a folder of masks.

  Args:
    path: a NIfTI file, or a folder with a mask for each organ (`data_sets.masks_in`).
    organs: of a folder, the masks to read, the others being background; None reads all. A file is always read whole.

  Raises:
    InputError: as `nifti.read_label_nifti`; masks on different grids.
  """
  path = Path(path)
  if not path.is_dir():
    return read_label_nifti(path)
  masks = data_sets.masks_in(path)
  read = {organ: mask for organ, mask in masks.items() if organs is None or organ in organs} or masks
  values = {organ: value for value, organ in enumerate(masks, 1)}
  whole: Volume | None = None
  shared: list[str] = []
  for organ, file in read.items():
    mask = read_label_nifti(file)
    array, grid = mask.array if mask.file_array is None else mask.file_array, mask.file_grid or mask.grid
    if whole is None:
      whole = Volume(np.zeros(grid.shape, smallest_integer(0, len(masks))), grid, str(path))
    if not grid.is_same(whole.grid):
      raise InputError(f"{file}: on another grid than the masks before it; masks of one scan lie on its voxels")
    inside = array != 0
    if whole.array[inside].any():
      shared.append(organ)
    whole.array[inside] = values[organ]
  assert whole is not None
  if shared:
    notices.warn(f"{path}: masks overlap ({display.some(shared)}); where they do, the later in the alphabet counts")
  return oblique.straighten(whole, labels=True)
