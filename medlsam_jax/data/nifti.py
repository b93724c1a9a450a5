"""NIfTI files to `Volume` in scan voxels (z, y, x), and label maps back to files on the same grid.

`array` is the NIfTI array transposed, whatever its orientation; nothing is flipped. Any orientation and spacing, `.nii`
or gzipped (told by the content, not by the name). 3D only: trailing axes of length 1 are dropped, a real fourth axis is
refused. A tilted affine is resampled to the nearest axes with a warning (`data.oblique`).
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import nibabel
import numpy as np
from jaxtyping import Integer
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, ImageDataError
from nibabel.wrapstruct import WrapStructError

from medlsam_jax import notices
from medlsam_jax.atomic import replacing
from medlsam_jax.data import checks, label_values, oblique
from medlsam_jax.errors import InputError, OutputError
from medlsam_jax.geometry import Grid, Volume

_BROKEN = (
  OSError,
  EOFError,
  ValueError,
  zlib.error,
  ImageFileError,
  HeaderDataError,
  ImageDataError,
  WrapStructError,
)
_GZIP_MAGIC = b"\x1f\x8b"
_DRAIN_BYTES = 1 << 20
_SPACING_DISAGREES = 0.01


def read_nifti(path: str | os.PathLike[str]) -> Volume:
  """Reads a CT scan.

  Returns:
    `array` float32 HU (slope and intercept applied), (z, y, x) = the file's array transposed.

  Raises:
    InputError: missing, not a NIfTI, truncated; not one 3D volume of real numbers; NaN or infinite voxels; zero or
      negative spacing; singular affine; over the size limit of `data.checks`.
  """
  path = Path(path)
  with _opened(path) as image:
    grid = _grid(image, path)
    array = np.ascontiguousarray(image.get_fdata(dtype=np.float32, caching="unchanged").T)
  array = array.reshape(grid.shape)
  array, notes = checks.fill_nonfinite(array, str(path))
  return oblique.straighten(Volume(array, grid, str(path), notes=notes))


def read_label_nifti(path: str | os.PathLike[str]) -> Volume:
  """Reads a label map.

  Returns:
    `array` in the smallest integer type that holds its values, (z, y, x) as in `read_nifti`; `notes` say what
    `data.label_values` had to mend.

  Raises:
    InputError: as `read_nifti` (NaN is background here), and as `label_values.whole_labels`.
  """
  path = Path(path)
  with _opened(path) as image:
    grid = _grid(image, path)
    array = np.asanyarray(image.dataobj).T.reshape(grid.shape)
  array, notes = label_values.whole_labels(array, str(path))
  for note in notes:
    notices.warn(note)
  return oblique.straighten(Volume(array, grid, str(path), notes=notes), labels=True)


def write_label_nifti(
  path: str | os.PathLike[str],
  array_zyx: Integer[np.ndarray, "z y x"],
  grid: Grid,
  dtype: np.dtype | type | None = None,
) -> None:
  """Writes a label map in scan voxels (z, y, x) on `grid`; the file appears whole or not at all.

  Args:
    dtype: integer type of the file; None takes the smallest that holds the values.

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
  dtype = dtype or smallest_integer(int(array_zyx.min(initial=0)), int(array_zyx.max(initial=0)))
  image = nibabel.Nifti1Image(array_zyx.astype(dtype, copy=False).T, grid.affine)
  image.header.set_xyzt_units("mm")
  try:
    with replacing(path, suffix) as temporary:
      nibabel.save(image, temporary)
  except OSError as error:
    raise OutputError(f"{path}: cannot be written ({error.strerror or error}); choose another folder") from error


def smallest_integer(low: int, high: int) -> np.dtype:
  """The smallest integer type for values `low..high`, unsigned where none is negative."""
  kinds = ("uint8", "uint16", "uint32", "uint64") if low >= 0 else ("int8", "int16", "int32", "int64")
  return next(np.dtype(k) for k in kinds if np.iinfo(k).min <= low and high <= np.iinfo(k).max)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[nibabel.Nifti1Image]:
  """The image with its header checked and its voxels not read; errors of reading them inside become InputError."""
  if not path.exists():
    raise InputError(f"{path}: no such file")
  if path.is_dir():
    raise InputError(f"{path}: a folder where a NIfTI file was expected")
  try:
    with _stream(path) as stream:
      kind = _checked_kind(stream, path)
      stream.seek(0)
      yield cast(nibabel.Nifti1Image, kind.from_stream(cast("io.IOBase", stream)))
      # nibabel stops at the last voxel; gzip compares its checksum only at the end of the file.
      while stream.read(_DRAIN_BYTES):
        pass
  except _BROKEN as error:
    raise InputError(f"{path}: truncated or damaged, cannot be read ({error}); copy or convert it again") from error


def _stream(path: Path) -> IO[bytes]:
  with path.open("rb") as file:
    zipped = file.read(2) == _GZIP_MAGIC
  return cast("IO[bytes]", gzip.open(path, "rb") if zipped else path.open("rb"))


def _checked_kind(stream: IO[bytes], path: Path) -> type[nibabel.Nifti1Image] | type[nibabel.Nifti2Image]:
  """NIfTI 1 or 2; refuses by the header as it is in the file: nibabel silently mends a zero or negative spacing."""
  kinds = {kind.header_class.sizeof_hdr: kind for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image)}
  try:
    start = stream.read(4)
    kind = kinds.get(int.from_bytes(start, "little")) or kinds.get(int.from_bytes(start, "big"))
    stream.seek(0)
    header = None if kind is None else kind.header_class.from_fileobj(stream, check=False)
  except gzip.BadGzipFile:
    kind = header = None
  if kind is None or header is None or bytes(header["magic"])[:3] not in (b"n+1", b"n+2", b"ni1", b"ni2"):
    raise InputError(f"{path}: not a NIfTI file; give a .nii or .nii.gz file, or a folder of DICOM slices")
  _refuse_header(header, path)
  return kind


def _refuse_header(header: nibabel.Nifti1Header, path: Path) -> None:
  if bytes(header["magic"])[:2] == b"ni":
    raise InputError(f"{path}: a header/image pair; convert it to one .nii or .nii.gz file")
  try:
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
  except _BROKEN as error:
    raise InputError(f"{path}: damaged NIfTI header ({error})") from error
  if dtype.fields is not None or dtype.kind not in "iuf":
    raise InputError(f"{path}: colour or complex voxels ({dtype}); give a scan of one number per voxel")
  size = "x".join(str(n) for n in shape)
  if len(shape) < 3:
    raise InputError(f"{path}: {len(shape)}D ({size} voxels); give a 3D scan")
  if any(n > 1 for n in shape[3:]):
    raise InputError(f"{path}: {len(shape)}D ({size} voxels); give one 3D volume of it")
  checks.refuse_size(shape, str(path))
  spacing = np.asarray(header["pixdim"][1:4], float)
  if not (np.isfinite(spacing).all() and (spacing > 0).all()):
    raise InputError(f"{path}: spacing {spacing.tolist()} mm (x y z) in the header; all three must be above zero")


def _grid(image: nibabel.Nifti1Image, path: Path) -> Grid:
  affine = np.asarray(image.affine, float)
  columns = affine[:3, :3]
  norms = np.linalg.norm(columns, axis=0)
  if not np.isfinite(affine).all() or norms.min() == 0 or abs(np.linalg.det(columns / norms)) < 1e-3:
    raise InputError(f"{path}: singular affine {columns.tolist()}; its axes do not span space, convert the scan again")
  header = image.header
  if header["sform_code"] == 0 and header["qform_code"] == 0:
    notices.warn(f"{path}: the file states no orientation; taken as LAS, centred, as nibabel does")
  spacing = np.asarray(header.get_zooms()[:3], float)
  if np.abs(norms / spacing - 1).max() > _SPACING_DISAGREES:
    notices.warn(
      f"{path}: the header says a spacing of {spacing.tolist()} mm, its affine {norms.round(4).tolist()} mm (x y z); "
      "the affine is used",
    )
  x, y, z = image.shape[:3]
  return Grid((z, y, x), affine)
