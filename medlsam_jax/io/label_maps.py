"""The label map of a scan, whether it lies in one file or as a folder with a mask for each organ."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import numpy as np

from medlsam_jax import display, notices
from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Volume
from medlsam_jax.io import data_sets, dicom_labels, oblique, other_volumes
from medlsam_jax.io.nifti import read_label_nifti, smallest_integer


def read_label_map(
  path: str | os.PathLike[str], organs: Collection[str] | None = None, scan: Volume | None = None
) -> Volume:
  """Label values on the file's voxels (z, y, x); those of `label_table.read_label_table` for files that name organs.

  Args:
    path: a NIfTI, NRRD or MetaImage file, a folder with a mask for each organ (`data_sets.masks_in`), a DICOM SEG or
      RTSTRUCT.
    organs: of a folder and of DICOM, the organs to read, the others being background; None reads all. A NIfTI file is
      always read whole.
    scan: whose voxels DICOM labels are laid on, which have none of their own.

  Raises:
    InputError: as `nifti.read_label_nifti` and `dicom_labels.read_drawn`; masks on different grids; DICOM without a
      scan, or of another series than it.
  """
  path = Path(path)
  if dicom_labels.is_drawn(path):
    if scan is None:
      raise InputError(f"{path}: DICOM labels are laid on the slices of their scan; give the scan too")
    return dicom_labels.read_drawn(path).on(scan, organs)
  if path.name.lower().endswith(other_volumes.SUFFIXES):
    return other_volumes.read_labels(path)
  if not path.is_dir():
    return read_label_nifti(path)
  masks = data_sets.masks_in(path)
  read = {organ: mask for organ, mask in masks.items() if organs is None or organ in organs} or masks
  values = {organ: value for value, organ in enumerate(masks, 1)}
  whole: Volume | None = None
  shared: list[str] = []
  for organ, file in read.items():
    mask = read_label_map(file)
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
