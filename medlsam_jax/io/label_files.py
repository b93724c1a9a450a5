"""Which files of a data set are label maps, and whose: the one place that knows the names that data sets give them.

`NAME_seg.nii.gz` beside `NAME_ct.nii.gz` is ours; KiTS has `case_0/segmentation.nii.gz` beside `case_0/imaging.nii.gz`,
LiTS `segmentation-0.nii` beside `volume-0.nii`; layouts of whole data sets are in `io.data_sets`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from medlsam_jax.errors import InputError
from medlsam_jax.io import data_sets
from medlsam_jax.io.other_volumes import SLICER_SUFFIX
from medlsam_jax.io.scan_names import NIFTI_SUFFIXES, SCAN_ENDING, VOLUME_SUFFIXES, is_generic, scan_name, stem

ENDINGS = ("_seg", "_segmentation", "_label", "_labels")
"""What a label map's name adds to the scan's; in a folder of one case, what it is called (`seg`, `segmentation`)."""
_OTHER_ENDINGS = (
  "_segmentations", "_labelmap", "_mask", "_masks", "_gt", "_truth", "_annotation", "aggregated_vol", data_sets.DSEG,
)  # fmt: skip
_LABEL_FOLDER = re.compile(
  r"(label|mask|seg(mentation)?|annotation|instance|roi)s?(tr|ts|val?|_?train|_?val|_?test)?", re.IGNORECASE
)
_SUFFIXES = (*NIFTI_SUFFIXES, *(suffix.upper() for suffix in NIFTI_SUFFIXES), ".nrrd", ".mha", ".mhd", ".dcm")
"""Capitals as some systems export them: scans are taken whatever the capitals of their ending."""
_STRUCTURES = "_rtstruct"
"""What an RTSTRUCT's name adds to the scan's."""
_LEADING = re.compile(r"(seg(mentation)?s?|labels?|masks?)[-_.]", re.IGNORECASE)
_LITS = re.compile(r"^segmentation(?=[-_.])", re.IGNORECASE)
_VOLUME = re.compile(r"^volume(?=[-_.])", re.IGNORECASE)


def is_label_map(name: str) -> bool:
  """Whether a NIfTI file of this name is a label map, no scan."""
  bare = stem(name).lower().replace("-", "_")
  return (
    name.lower().endswith(SLICER_SUFFIX)
    or f"_{bare}".endswith((*ENDINGS, *_OTHER_ENDINGS))
    or _LEADING.match(name) is not None
  )


def is_label_folder(name: str) -> bool:
  """Whether a folder of this name holds label maps alone."""
  return _LABEL_FOLDER.fullmatch(name) is not None


def label_maps_beside(scan: Path) -> Iterator[Path]:
  """The label maps that lie beside a scan, or where a data set has them, and belong to it; ours first.

  Raises:
    InputError: nobody can say which of several belongs to it.
  """
  own = stem(scan)
  for name in dict.fromkeys((own.removesuffix(SCAN_ENDING) or own, own, scan_name(scan.absolute()))):
    yield from _existing(scan.parent, [name + ending for ending in (*ENDINGS, ".seg", _STRUCTURES)])
  if _VOLUME.match(own):
    yield from _existing(scan.parent, [_VOLUME.sub("segmentation", own)])
  if is_generic(own):
    yield from _existing(scan.parent, [ending.removeprefix("_") for ending in ENDINGS])
  yield from data_sets.labels_of(scan)


def label_map_beside(scan: Path) -> Path | None:
  """The first of `label_maps_beside`, None where there is none."""
  return next(label_maps_beside(scan), None)


def label_map_for(scan: Path, name: str, folder: Path) -> Path | None:
  """The label map in `folder` that belongs to a scan that is called `name`, None where there is none.

  It is called after the scan, or lies in a folder that is.
  """
  own = stem(scan)
  bare = own.removesuffix(SCAN_ENDING) or own
  for called in dict.fromkeys((name, *(() if is_generic(bare) else (bare, own)))):
    first = next(_existing(folder, [*(called + ending for ending in (*ENDINGS, ".seg", _STRUCTURES)), called]), None)
    if first is not None and first.absolute() != scan.absolute():
      return first
    inside = next(label_maps_beside(folder / called / scan.name), None)
    if inside is not None:
      return inside
    inside = next(_existing(folder / called, [ending.removeprefix("_") for ending in ENDINGS]), None)
    if inside is not None:
      return inside
  return None


def tables_near(annotation: Path, file: str) -> Iterator[Path]:
  """Where the table `file` of an annotation may lie: beside it; above it where it is one of the files of a case."""
  yield annotation.parent / file
  if f"_{stem(annotation).lower()}" in ENDINGS or is_label_folder(annotation.parent.name):
    yield annotation.parent.parent / file


def label_maps_in(folder: Path) -> dict[str, Path]:
  """The label maps of a folder of truth by what their scans are called, or one of each folder of a case in it.

  Raises:
    InputError: no such folder, or two of one name.
  """
  if not folder.is_dir():
    raise InputError(f"{folder}: no such folder")
  maps = [path for path in _listed(folder) if is_label_map(path.name)]
  if not maps and is_label_folder(folder.name):
    maps = _listed(folder)
  if not maps:
    by_case = (_of_case(case) for case in sorted(folder.iterdir()) if case.is_dir())
    maps = [of_case[0] for of_case in by_case if of_case]
  named: dict[str, Path] = {}
  for path in maps:
    other = named.setdefault(_scan_of(path), path)
    if other is not path:
      raise InputError(f"{other} and {path}: two label maps of {_scan_of(path)}; keep one there")
  return named


def _scan_of(path: Path) -> str:
  """What the scan is called that a label map belongs to."""
  own = stem(path)
  lower = own.lower()
  if path.is_dir():
    return path.absolute().parent.name
  for ending in ENDINGS:
    if lower.endswith(ending):
      return scan_name(path.absolute().parent / (own[: len(own) - len(ending)] + SCAN_ENDING))
    if lower == ending.removeprefix("_"):
      return path.absolute().parent.name
  return _LITS.sub("volume", own)


def _of_case(case: Path) -> list[Path]:
  """The label maps of one case, those first that are called by nothing else, or by an ending of ours."""
  if data_sets.is_mask_folder(case / data_sets.MASKS):
    return [case / data_sets.MASKS]
  labels = [path for path in _listed(case) if is_label_map(path.name)]
  return sorted(
    labels, key=lambda path: (f"_{stem(path).lower()}" not in ENDINGS, "aggregated" in path.name, path.name)
  )


def _listed(folder: Path) -> list[Path]:
  return sorted(p for p in folder.iterdir() if p.is_file() and p.name.lower().endswith(VOLUME_SUFFIXES))


def _existing(folder: Path, names: list[str]) -> Iterator[Path]:
  for name in names:
    for suffix in _SUFFIXES:
      if os.path.isfile(folder / (name + suffix)):
        yield folder / (name + suffix)
