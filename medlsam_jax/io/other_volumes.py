"""NRRD and MetaImage files as scans and label maps: what `io.nifti` does, for the formats of 3D Slicer and ITK."""

from __future__ import annotations

import os

import numpy as np
from jaxtyping import Num

from medlsam_jax import notices
from medlsam_jax.geometry import Grid, Volume
from medlsam_jax.io import label_values, metaimage, nrrd_file, oblique, scan_checks

SUFFIXES = (*nrrd_file.SUFFIXES, *metaimage.SUFFIXES)
SLICER_SUFFIX = ".seg.nrrd"
"""How the names of 3D Slicer's segmentations end."""


def read_scan(path: str | os.PathLike[str]) -> Volume:
  """A CT scan, float32 HU, on the file's voxels, or straightened where they are tilted.

  Raises:
    InputError: as `nrrd_file.read_nrrd` and `metaimage.read_metaimage`; NaN or infinite voxels inside.
  """
  stored, grid, _ = _read(path)
  array, filled = scan_checks.fill_nonfinite(np.ascontiguousarray(stored, np.float32), str(path))
  for note in filled:
    notices.warn(note)
  return oblique.straighten(Volume(array, grid, str(path), notes=tuple(filled)))


def read_labels(path: str | os.PathLike[str]) -> Volume:
  """A label map, in the smallest integer type.

  Raises:
    InputError: as `read_scan`, and as `label_values.whole_labels`.
  """
  stored, grid, _ = _read(path)
  array, notes = label_values.whole_labels(stored, str(path))
  for note in notes:
    notices.warn(note)
  return oblique.straighten(Volume(array, grid, str(path), notes=notes), labels=True)


def names_inside(path: str | os.PathLike[str]) -> dict[str, int]:
  """Organ -> value, as 3D Slicer's segmentation lists its segments; empty of any other file.

  Raises:
    InputError: as `nrrd_file.read_names`.
  """
  return nrrd_file.read_names(path) if os.fspath(path).lower().endswith(SLICER_SUFFIX) else {}


def _read(path: str | os.PathLike[str]) -> tuple[Num[np.ndarray, "z y x"], Grid, dict[str, int]]:
  if os.fspath(path).lower().endswith(metaimage.SUFFIXES):
    return *metaimage.read_metaimage(path), {}
  return nrrd_file.read_nrrd(path)
