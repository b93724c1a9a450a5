"""Which scans lie in a folder, at any depth that exports and data sets use, and why there are none."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from medlsam_jax import display, notices
from medlsam_jax.errors import InputError
from medlsam_jax.io import data_sets, dicom
from medlsam_jax.io.label_files import is_label_folder, is_label_map
from medlsam_jax.io.scan_names import SCAN_ENDING, VOLUME_SUFFIXES, stem

DEEPEST = 8
"""Folders below the one given that are looked into."""
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")
_OTHER_FORMATS = (".img", ".hdr", ".mgz", ".mgh", ".npy", ".npz")
_NAMES_SHOWN = 4


def scans_in(folder: Path) -> list[Path]:
  """The scans of a folder: NIfTI files, and folders of DICOM slices.

  Files named `_ct` are scans; where there are none, all but label maps. Where the folder itself has NIfTI scans, only
  folders of slices directly in it are added; where it has none, the folders below are searched in the same way. What
  is left out is warned.

  Raises:
    InputError: the folder cannot be opened.
  """
  files, folders = _entries(folder, must=True)
  scans = nifti_of(files)
  if scans:
    series = [each for each in folders if _holds_slices(each)]
    deeper = [each for each in folders if each not in series and next(_below(each, 2, set()), None) is not None]
    if deeper:
      notices.warn(f"{folder}: scans in folders of it are left out: {_names(deeper)}; name these folders, in a list")
    return [*scans, *series]
  found = list(_below(folder, 0, set()))
  if found and (lone := data_sets.without_scans(folder)):
    notices.warn(f"{lone}; left out")
  return found


def why_none(folder: Path) -> str:
  """What is in a folder without scans, and what to do."""
  names = [name.lower() for _, _, files in os.walk(folder) for name in files]
  for suffixes, words in (
    (_ARCHIVES, "unpack it first"),
    (_OTHER_FORMATS, "convert such files to .nii.gz (3D Slicer: load and save; Python: SimpleITK)"),
  ):
    other = [name for name in names if name.endswith(suffixes)]
    if other:
      return f"no scans here, but {other[0]}{' and others' if other[1:] else ''}; {words}"
  labels = [name for name in names if name.endswith(VOLUME_SUFFIXES)]
  if lone := data_sets.without_scans(folder):
    return f"no scans here; {lone}; put the CTs beside them"
  if labels:
    return f"no scans here, only label maps by their names ({labels[0]}); name the scan itself, or end its name in _ct"
  if not names:
    return "no scans here, the folder is empty"
  endings = ", ".join(
    ending or "no ending" for ending, _ in Counter(os.path.splitext(n)[1] for n in names).most_common(3)
  )
  return (
    f"no scans here ({len(names)} files, {endings}); expected NAME_ct.nii.gz files, folders of DICOM "
    f"slices, or a data set laid out as {data_sets.KNOWN} have it"
  )


def refuse_format(path: Path) -> None:
  """Raises InputError for a file of a format that is not read, with what to do."""
  name = path.name.lower()
  if name.endswith(_ARCHIVES):
    raise InputError(f"{path}: an archive; unpack it and give the folder or the .nii.gz file in it")
  if name.endswith(_OTHER_FORMATS):
    raise InputError(
      f"{path}: {Path(name).suffix} files are not read; convert it to .nii.gz (3D Slicer: load and save; Python: "
      "SimpleITK.WriteImage(SimpleITK.ReadImage(path), 'scan_ct.nii.gz'))"
    )


def _below(folder: Path, depth: int, seen: set[Path]) -> Iterator[Path]:
  """The scans of a folder and of those below it, each folder once, whatever links lead there."""
  place = folder.resolve()
  if depth > DEEPEST or place in seen:
    return
  seen.add(place)
  files, folders = _entries(folder)
  scans = nifti_of(files)
  yield from scans
  if scans:
    return
  if any(map(dicom.is_dicom_file, files)):
    if dicom.holds_slices(folder):
      yield folder
    elif depth and not any(path.name.upper() == "DICOMDIR" for path in files):
      notices.warn(f"{folder}: left out, its DICOM files are no slices of a scan (a report, a localizer, structures?)")
  for each in folders:
    yield from _below(each, depth + 1, seen)


def _entries(folder: Path, must: bool = False) -> tuple[list[Path], list[Path]]:
  """Files, and folders that may hold scans, in order of their names, without hidden ones."""
  try:
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    files = [path for path in entries if path.is_file()]
    folders = [path for path in entries if path.is_dir() and not is_label_folder(path.name)]
  except OSError as error:
    text = f"{folder}: the folder cannot be opened ({error.strerror or error})"
    if must:
      raise InputError(f"{text}; ask for the right to read it") from error
    notices.warn(f"{text}; left out")
    return [], []
  return files, folders


def _holds_slices(folder: Path) -> bool:
  """Whether a folder is a series; one that cannot be opened is left out."""
  return bool(_entries(folder)[0]) and dicom.holds_slices(folder)


def nifti_of(files: list[Path]) -> list[Path]:
  """Of files those that are scans by their names: NIfTI, NRRD and MetaImage files named `_ct`; where none is,
  all but label maps."""
  images = [path for path in files if path.name.lower().endswith(VOLUME_SUFFIXES)]
  images = [path for path in images if not data_sets.is_other_channel(path)]
  marked = [path for path in images if stem(path).endswith(SCAN_ENDING)]
  return marked or [path for path in images if not is_label_map(path.name)]


def _names(paths: list[Path]) -> str:
  return display.some((path.name for path in paths), _NAMES_SHOWN)
