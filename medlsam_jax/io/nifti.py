"""NIfTI files to `Volume` in scan voxels (z, y, x), and label maps back to files on the same grid.

`array` is the NIfTI array transposed, whatever its orientation; nothing is flipped. Any orientation and spacing, `.nii`
or gzipped (told by the content, not by the name). 3D only: trailing axes of length 1 are dropped, a real fourth axis is
refused. Header fields that do not agree are settled in `io.nifti_header` and `io.nifti_file`, with a warning that
stands in the volume's notes too. A tilted affine is resampled to the nearest axes with a warning (`io.oblique`).
"""

from __future__ import annotations

import dataclasses
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
from jaxtyping import Bool, Float, Float32, Integer, Num
from nibabel.spatialimages import HeaderDataError

from medlsam_jax import notices
from medlsam_jax.errors import InputError, OutputError
from medlsam_jax.geometry import Grid, Volume
from medlsam_jax.io import label_names, label_values, nifti_file, nifti_header, oblique, scan_checks
from medlsam_jax.io.atomic import atomically
from medlsam_jax.io.painted import Painted

_BROKEN = (OSError, EOFError, zlib.error, HeaderDataError)
_NIFTI1_LONGEST = 32767


def read_nifti(path: str | os.PathLike[str]) -> Volume:
  """Reads a CT scan.

  Returns:
    `array` float32 HU (slope and intercept applied), (z, y, x) = the file's array transposed; `notes` and `doubts` say
    what of the header was settled, and were warned of.

  Raises:
    InputError: missing, not a NIfTI, truncated; not one 3D volume of real numbers; NaN or infinite voxels; no affine,
      or a spacing that is no CT's; over the size limit of `io.scan_checks`.
  """
  stored = _read(Path(path))
  array, filled = scan_checks.fill_nonfinite(_scaled(stored), stored.source)
  doubts = stored.doubts
  if stored.is_labels:
    doubts = (*doubts, f"{stored.source}: the header's intent says that it is a label map, no scan")
    notices.warn(doubts[-1])
  return oblique.straighten(Volume(array, stored.grid, stored.source, notes=(*stored.notes, *filled), doubts=doubts))


def read_label_nifti(path: str | os.PathLike[str]) -> Volume:
  """Reads a label map.

  Returns:
    `array` in the smallest integer type that holds its values, (z, y, x) as in `read_nifti`; `notes` say what
    `io.label_values` had to mend.

  Raises:
    InputError: as `read_nifti` (NaN is background here), and as `label_values.whole_labels`.
  """
  stored = _read(Path(path))
  array: np.ndarray = stored.array
  if stored.scaling != (1.0, 0.0):
    array = array * stored.scaling[0] + stored.scaling[1]
  array, notes = label_values.whole_labels(array, stored.source)
  for note in notes:
    notices.warn(note)
  return oblique.straighten(Volume(array, stored.grid, stored.source, notes=(*stored.notes, *notes)), labels=True)


def write_label_nifti(
  path: str | os.PathLike[str],
  array_zyx: Integer[np.ndarray, "z y x"] | Bool[np.ndarray, "z y x"],
  grid: Grid,
  dtype: np.dtype | type | None = None,
  organs: Sequence[Painted] = (),
) -> None:
  """Writes a label map in scan voxels (z, y, x) on `grid`; the file appears whole or not at all.

  Its header states sform, qform, their codes, spacing and units as the scan's file does (`Grid.forms`). For a grid that
  is of no NIfTI file both forms are the scanner's (code 1), the qform only where it can hold the affine.

  Args:
    dtype: integer type of the file; None takes the smallest that holds the values.
    organs: whose names the header is to hold (`io.label_names`).

  Raises:
    OutputError: the folder is missing or cannot be written, or the name does not end in `.nii` or `.nii.gz`.
    ValueError: the array is not of the grid's shape.
  """
  path = Path(path)
  array_zyx = np.asarray(array_zyx)
  if array_zyx.shape != grid.shape:
    raise ValueError(f"label map of shape {array_zyx.shape} for a grid of shape {grid.shape}")
  suffix = next((s for s in (".nii.gz", ".nii") if path.name.lower().endswith(s)), None)
  if suffix is None:
    raise OutputError(f"{path}: a label map is written as .nii.gz or .nii; change the name")
  dtype = np.dtype(dtype or smallest_integer(int(array_zyx.min(initial=0)), int(array_zyx.max(initial=0))))
  kind = nibabel.Nifti1Image if max(grid.shape) <= _NIFTI1_LONGEST else nibabel.Nifti2Image
  image = kind(array_zyx.astype(dtype, copy=False).T, None, dtype=dtype)
  nifti_header.state(image.header, grid)
  if organs:
    image.header.extensions.append(label_names.extension(organs))
  with atomically(path, suffix) as part:
    nibabel.save(image, part)


def scan_bytes(array_zyx: Num[np.ndarray, "z y x"], affine: Float[np.ndarray, "4 4"]) -> bytes:
  """A NIfTI file in memory, not compressed, for a program that shows it; `affine` from voxel (x, y, z) to mm."""
  content: bytes = nibabel.Nifti1Image(array_zyx.T, affine).to_bytes()
  return content


def smallest_integer(low: int, high: int) -> np.dtype:
  """The smallest integer type for values `low..high`, unsigned where none is negative."""
  kinds = ("uint8", "uint16", "uint32", "uint64") if low >= 0 else ("int8", "int16", "int32", "int64")
  return next(np.dtype(k) for k in kinds if np.iinfo(k).min <= low and high <= np.iinfo(k).max)


@dataclasses.dataclass(frozen=True, eq=False)
class _Stored:
  """A file as it was read: its values before slope and intercept, and what of its header was settled."""

  array: Num[np.ndarray, "z y x"]
  scaling: tuple[float, float]
  grid: Grid
  source: str
  notes: tuple[str, ...]
  doubts: tuple[str, ...]
  is_labels: bool


def _read(path: Path) -> _Stored:
  """The file, its header settled and checked before memory is taken for its voxels; what was settled is warned of."""
  source = str(path)
  if not path.exists():
    raise InputError(f"{path}: no such file")
  if path.is_dir():
    raise InputError(f"{path}: a folder where a NIfTI file was expected")
  notes: list[str] = []
  try:
    with nifti_file.open_stream(path) as stream:
      header = nifti_file.read_header(stream, source)
      shape, unsure = nifti_file.settle_shape(header, source, notes)
      dtype = nifti_file.settle_type(header, source)
      scaling = nifti_file.settle_scaling(header, source, notes)
      settled = nifti_header.settle(header, shape, source)
      array = nifti_file.read_voxels(stream, header, shape, dtype, source, notes, unsure)
  except _BROKEN as error:
    raise InputError(f"{path}: truncated or damaged, cannot be read ({error}); copy or convert it again") from error
  notes += settled.notes
  for note in notes:
    notices.warn(note)
  is_labels = nifti_header.says_labels(header)
  return _Stored(array, scaling, settled.grid, source, tuple(notes), tuple(settled.doubts), is_labels)


def _scaled(stored: _Stored) -> Float32[np.ndarray, "z y x"]:
  """Values with slope and intercept in single precision; computed in double, plane by plane, to spare memory."""
  slope, intercept = stored.scaling
  # what is too large for single precision becomes infinite and is refused as that
  with np.errstate(over="ignore", invalid="ignore"):
    if (slope, intercept) == (1.0, 0.0):
      return np.ascontiguousarray(stored.array, dtype=np.float32)
    result = np.empty(stored.array.shape, np.float32)
    for plane, values in zip(result, stored.array, strict=True):
      plane[:] = values * slope + intercept
  return result
