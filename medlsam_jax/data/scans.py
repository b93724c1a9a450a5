"""Which scans a path means, what they are called, and reading one whatever its format."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path

from medlsam_jax.data import checks, dicom, nifti
from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Volume

NIFTI_SUFFIXES = (".nii.gz", ".nii")
SCAN_ENDING = "_ct"
NOT_A_SCAN = ("_seg", "_label", "_labels", "_mask")
"""Endings of NIfTI names that are label maps, left out where a folder is listed."""


def read_volume(path: str | os.PathLike[str], *, series: str | None = None, hu_offset: float | None = None) -> Volume:
  """Reads a CT scan from a NIfTI file or a folder of DICOM slices, in HU on its own voxels (z, y, x).

  Warns of all that had to be settled or left out (`Volume.notes`) and of what makes the scan doubtful
  (`Volume.doubts`): values that are no HU, a thin slab.

  Args:
    series: the DICOM series to take where there are several: its UID, an ending of it that no other has, or its number.
    hu_offset: added to every value, for files that do not hold HU: -1024 where the rescale intercept was left out.

  Raises:
    InputError: as `nifti.read_nifti` and `dicom.read_series`; `series` for a file, or an offset that is no number.
  """
  path = Path(path)
  if hu_offset is not None and not math.isfinite(hu_offset):
    raise InputError(f"{path}: an offset of {hu_offset} HU; give a number, such as -1024")
  if not path.exists():
    raise InputError(f"{path}: no such file or folder")
  if path.is_dir() or path.suffix.lower() == ".dcm" or dicom.is_dicom_file(path):
    volume = dicom.read_series(path, series)
  else:
    volume = nifti.read_nifti(path)
  if hu_offset:
    note = f"{volume.source}: {hu_offset:+g} added to every value, as was asked"
    array = volume.array + volume.array.dtype.type(hu_offset)
    volume = dataclasses.replace(volume, array=array, notes=(*volume.notes, note))
  return checks.check_scan(volume)


def scan_name(path: str | os.PathLike[str]) -> str:
  """What a scan's results are called: `case_003_ct.nii.gz` and a folder `case_003` are both `case_003`."""
  return _stem(Path(path)).removesuffix(SCAN_ENDING)


def list_scans(path: str | os.PathLike[str]) -> list[Path]:
  """The scans that `path` means, in order of their names or of the list.

  - a NIfTI file, or a folder of DICOM slices: that scan;
  - a `.txt` file: one path a line, relative to the list file; empty lines and lines starting with `#` are skipped;
  - a folder: every `NAME_ct.nii.gz` (or `.nii`) and every subfolder that holds DICOM slices; where no name ends in
    `_ct`, every NIfTI file but those named as label maps (`NOT_A_SCAN`).

  The scans themselves are not opened: one that is broken is reported when it is read.

  Raises:
    InputError: no such path, no scan in it, a line of the list that names nothing, two scans of one name.
  """
  path = Path(path)
  if not path.exists():
    raise InputError(f"{path}: no such file or folder")
  if path.is_dir():
    scans = _in_folder(path)
    if not scans:
      raise InputError(f"{path}: no scans here; expected NAME_ct.nii.gz files or folders of DICOM slices")
  elif path.suffix.lower() == ".txt":
    scans = _in_list(path)
  else:
    scans = [path]
  names: dict[str, Path] = {}
  for scan in scans:
    other = names.setdefault(scan_name(scan), scan)
    if other is not scan:
      raise InputError(f"{path}: {other} and {scan} would both be called {scan_name(scan)}; rename one")
  return scans


def read_lines(path: Path) -> list[tuple[int, str]]:
  """Line number and text of each line that says something; `#` starts a comment line.

  Raises:
    InputError: not a text file, or nothing in it.
  """
  try:
    text = path.read_text(encoding="utf-8-sig")
  except (OSError, UnicodeDecodeError) as error:
    raise InputError(f"{path}: not a list of paths ({error})") from error
  lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
  lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
  if not lines:
    raise InputError(f"{path}: an empty list; write one path a line")
  return lines


def _in_list(path: Path) -> list[Path]:
  scans = []
  for number, line in read_lines(path):
    scan = path.parent / line
    if not scan.exists():
      raise InputError(f"{path}, line {number}: no such file or folder: {scan}")
    scans.append(scan)
  return scans


def _in_folder(path: Path) -> list[Path]:
  entries = sorted(p for p in path.iterdir() if not p.name.startswith("."))
  files = [p for p in entries if p.is_file() and p.name.lower().endswith(NIFTI_SUFFIXES)]
  marked = [p for p in files if _stem(p).endswith(SCAN_ENDING)]
  scans = marked or [p for p in files if not f"_{_stem(p).lower()}".endswith(NOT_A_SCAN)]
  if not scans and dicom.is_dicom_folder(path):
    return [path]
  folders = [p for p in entries if p.is_dir() and dicom.is_dicom_folder(p)]
  return sorted([*scans, *folders], key=lambda p: (scan_name(p), p.name))


def _stem(path: Path) -> str:
  suffix = next((s for s in NIFTI_SUFFIXES if path.name.lower().endswith(s)), "")
  return path.name[: len(path.name) - len(suffix)]
