"""A folder of DICOM CT slices to a `Volume` in scan voxels: z rises along the slice normal, y down rows, x along them.

One series of single-frame slices, uncompressed or compressed (JPEG 2000 and the like need the `dicom` extra). Slices
are ordered by position, never by file name or number.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Float32

from medlsam_jax import notices
from medlsam_jax.data import checks, oblique
from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Grid, Volume

if TYPE_CHECKING:
  import pydicom

_INSTALL = "pip install 'medlsam_jax[dicom]'"
_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_UNEVEN_SHARE, _UNEVEN_MM = 0.1, 0.1
"""Distances between slices may differ by the greater of these: scanners round positions to a tenth of a millimetre."""

_NAMES_SHOWN = 4


@dataclasses.dataclass(frozen=True)
class _Slice:
  """One image file by its header, pixels not decoded."""

  path: Path
  series: str
  shape: tuple[int, int]
  position: Float[np.ndarray, "3"]
  orientation: Float[np.ndarray, "2 3"]
  pixel_spacing: Float[np.ndarray, "2"]
  thickness: float | None


def read_series(directory: str | os.PathLike[str], series: str | None = None) -> Volume:
  """Reads the one CT series in a folder; files in it that are no images are left out with a warning.

  Args:
    series: which one where a folder holds several: its SeriesInstanceUID, or an ending of that which only it has.

  Returns:
    `array` float32 HU (each slice's own slope and intercept applied), affine in RAS.

  Raises:
    InputError: no such folder, no slices, several series or image sizes (named), colour or multi-frame images, missing
      or repeated slices (named), a slice that cannot be decoded, zero spacing, pydicom or a decoder not installed.
  """
  directory = Path(directory)
  if not directory.is_dir():
    raise InputError(f"{directory}: no such folder")
  slices = _sorted(directory, _one_series(directory, _chosen(directory, _headers(directory), series)))
  first = slices[0]
  shape = (len(slices), *first.shape)
  checks.refuse_size(shape, str(directory))
  grid = Grid(shape, _affine(directory, slices))
  array = np.empty(shape, np.float32)
  for index, item in enumerate(slices):
    array[index] = _hounsfield(item.path)
  array, notes = checks.fill_nonfinite(array, str(directory))
  return oblique.straighten(Volume(array, grid, str(directory), notes=notes))


def is_dicom_folder(directory: Path) -> bool:
  """Whether a folder directly holds a file with DICOM's mark; reads 132 bytes of each file until one has it."""
  return any(_has_mark(path) for path in sorted(directory.iterdir()) if path.is_file())


def _has_mark(path: Path) -> bool:
  try:
    with path.open("rb") as file:
      return file.read(132)[128:] == b"DICM"
  except OSError:
    return False


def _pydicom() -> Any:
  try:
    import pydicom
  except ImportError as error:
    raise InputError(f"reading DICOM needs pydicom: {_INSTALL}") from error
  return pydicom


def _headers(directory: Path) -> list[_Slice]:
  pydicom = _pydicom()
  slices, ignored = [], []
  for path in sorted(p for p in directory.iterdir() if p.is_file()):
    try:
      header = pydicom.dcmread(path, stop_before_pixels=True)
    except (pydicom.errors.InvalidDicomError, OSError, EOFError):
      ignored.append(path)
      continue
    # Structure sets, reports and the like have no rows; a SEG object has, but is no scan.
    if "Rows" not in header or header.get("Modality") in ("SEG", "RTDOSE"):
      ignored.append(path)
      continue
    slices.append(_slice(path, header))
  if not slices:
    raise InputError(f"{directory}: no DICOM slices in this folder; give the folder that holds one CT series")
  if ignored:
    notices.warn(f"{directory}: left out what is no DICOM image: {_names(ignored)}")
  return slices


def _slice(path: Path, header: pydicom.Dataset) -> _Slice:
  if int(header.get("NumberOfFrames") or 1) > 1:
    raise InputError(
      f"{path}: several frames in one file (enhanced CT); convert it to NIfTI, with dcm2niix for example"
    )
  if int(header.get("SamplesPerPixel") or 1) != 1:
    raise InputError(f"{path}: a colour image; give the folder of the CT series alone")
  missing = [
    name
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    if header.get(name) is None or len(np.atleast_1d(header.get(name))) == 0
  ]
  if missing:
    raise InputError(f"{path}: no {', '.join(missing)}; this image has no place in space (a scout or a scanned film?)")
  try:
    thickness = header.get("SpacingBetweenSlices") or header.get("SliceThickness")
    return _Slice(
      path=path,
      series=str(header.get("SeriesInstanceUID", "unnamed")),
      shape=(int(header.Rows), int(header.Columns)),
      position=np.array(header.ImagePositionPatient, float).reshape(3),
      orientation=np.array(header.ImageOrientationPatient, float).reshape(2, 3),
      pixel_spacing=np.array(header.PixelSpacing, float).reshape(2),
      thickness=float(thickness) if thickness else None,
    )
  except (TypeError, ValueError) as error:
    raise InputError(f"{path}: damaged position, orientation or spacing ({error})") from error


def _chosen(directory: Path, slices: list[_Slice], series: str | None) -> list[_Slice]:
  if series is None:
    return slices
  matching = {item.series for item in slices if item.series.endswith(series)}
  if len(matching) != 1:
    have = ", ".join(sorted({item.series for item in slices}))
    raise InputError(f"{directory}: {len(matching)} series here end in {series}; there are {have}")
  return [item for item in slices if item.series in matching]


def _one_series(directory: Path, slices: list[_Slice]) -> list[_Slice]:
  by_series: dict[str, list[Path]] = {}
  for item in slices:
    by_series.setdefault(item.series, []).append(item.path)
  if len(by_series) > 1:
    listed = "; ".join(f"{uid}: {_names(paths)}" for uid, paths in by_series.items())
    raise InputError(f"{directory}: {len(by_series)} series in one folder, put each in its own ({listed})")
  first = slices[0]
  for item in slices[1:]:
    if item.shape != first.shape:
      raise InputError(
        f"{directory}: {first.path.name} has {first.shape} rows and columns, {item.path.name} {item.shape}; "
        "give the slices of one size alone"
      )
    same_way = np.abs(item.orientation - first.orientation).max() < 1e-3
    if not same_way or np.abs(item.pixel_spacing - first.pixel_spacing).max() > 1e-3:
      raise InputError(
        f"{directory}: {first.path.name} and {item.path.name} differ in orientation or pixel spacing; "
        "give the slices of one direction alone"
      )
  if first.pixel_spacing.min() <= 0:
    raise InputError(f"{first.path}: pixel spacing {first.pixel_spacing.tolist()} mm; both must be above zero")
  return slices


def _sorted(directory: Path, slices: list[_Slice]) -> list[_Slice]:
  """By position along the normal; refuses repeated slices and gaps."""
  normal = np.cross(*slices[0].orientation)
  if abs(np.linalg.norm(normal) - 1) > 0.01:
    raise InputError(
      f"{slices[0].path}: orientation {slices[0].orientation.tolist()} is not two right-angled directions"
    )
  slices = sorted(slices, key=lambda s: float(s.position @ normal))
  steps = np.diff([float(s.position @ normal) for s in slices])
  if not len(steps):
    return slices
  usual = float(np.median(steps))
  allowed = max(_UNEVEN_MM, _UNEVEN_SHARE * usual) + 1e-6
  for lower, upper, step in zip(slices, slices[1:], steps, strict=False):
    if step < 1e-3:
      raise InputError(f"{directory}: {lower.path.name} and {upper.path.name} are at the same place; remove one")
    if abs(step - usual) > allowed:
      raise InputError(
        f"{directory}: uneven slices: {step:.2f} mm between {lower.path.name} and {upper.path.name}, {usual:.2f} mm "
        "elsewhere; slices are missing, or two acquisitions are mixed"
      )
  return slices


def _affine(directory: Path, slices: list[_Slice]) -> Float[np.ndarray, "4 4"]:
  """Voxel (x, y, z) to RAS mm. The slice axis follows the positions, so that a tilted gantry stays tilted."""
  first, last = slices[0], slices[-1]
  affine = np.eye(4)
  # PixelSpacing is (between rows, between columns); the first orientation runs along a row, so across columns.
  affine[:3, 0] = first.orientation[0] * first.pixel_spacing[1]
  affine[:3, 1] = first.orientation[1] * first.pixel_spacing[0]
  if len(slices) > 1:
    affine[:3, 2] = (last.position - first.position) / (len(slices) - 1)
  elif first.thickness:
    affine[:3, 2] = np.cross(*first.orientation) * first.thickness
  else:
    raise InputError(f"{directory}: one slice without a thickness; give a whole series")
  affine[:3, 3] = first.position
  return _RAS_FROM_LPS @ affine


def _hounsfield(path: Path) -> Float32[np.ndarray, "y x"]:
  pydicom = _pydicom()
  try:
    image = pydicom.dcmread(path)
    pixels = image.pixel_array
  except (RuntimeError, ImportError) as error:
    # pydicom says so in a RuntimeError when no installed plugin decodes this transfer syntax.
    raise InputError(f"{path}: its pixels cannot be decoded ({error}); {_INSTALL}, or convert to NIfTI") from error
  except (AttributeError, ValueError, OSError, EOFError, NotImplementedError, KeyError) as error:
    raise InputError(f"{path}: truncated or damaged pixels ({error}); copy it again") from error
  slope, intercept = image.get("RescaleSlope"), image.get("RescaleIntercept")
  return pixels.astype(np.float32) * float(1 if slope is None else slope) + float(intercept or 0)


def _names(paths: list[Path]) -> str:
  more = f" and {len(paths) - _NAMES_SHOWN} more" if len(paths) > _NAMES_SHOWN else ""
  return ", ".join(p.name for p in paths[:_NAMES_SHOWN]) + more
