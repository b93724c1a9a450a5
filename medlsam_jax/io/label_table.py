"""Tables of label values: which organ a number of a label map is.

Ours is `{"liver": 5, ...}`. The same the other way round, `{"5": "liver"}` (class maps of TotalSegmentator, nnU-Net
version 1), and either as the `labels` of a `dataset.json` of nnU-Net are read too, and so is a `dseg.tsv` of BIDS. A
folder of masks names organs by its files, which are numbered in order of their names.
"""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeGuard

from medlsam_jax import display, notices
from medlsam_jax.errors import InputError
from medlsam_jax.io import data_sets, dicom_labels, label_names, other_volumes
from medlsam_jax.io.label_files import tables_near
from medlsam_jax.io.point_files import read_json
from medlsam_jax.io.scan_names import NIFTI_SUFFIXES, VOLUME_SUFFIXES

_SHOWN = 3
"""Organs that one sentence lists."""
LABELS_FILE = "labels.json"
"""For all label maps of a folder; `NAME_labels.json` goes before it for those of the scan NAME."""


def read_label_table(path: str | os.PathLike[str]) -> dict[str, int]:
  """Organ name -> label value, in the file's order; an entry of value 0 (background) is left out.

  A region of nnU-Net (`"whole": [1, 2, 5]`) of one value is an organ; one of several is left out with a warning, since
  a voxel is of one organ here.

  Raises:
    InputError: malformed, values that are not whole numbers above zero, one value for two names or two for one.
  """
  path = Path(path)
  if path.is_dir():
    return {organ: value for value, organ in enumerate(data_sets.masks_in(path), 1)}
  if dicom_labels.is_drawn(path):
    return dict(dicom_labels.read_drawn(path, pixels=False).names)
  if path.name.lower().endswith(VOLUME_SUFFIXES):
    if inside := _inside(path):
      return inside
    raise InputError(f'{path}: its header names no organ; give a table, {{"liver": 5, ...}}')
  table: dict[str, int] = {}
  names: dict[int, str] = {}
  regions: list[str] = []
  for name, stated in _of_tsv(path) if path.suffix.lower() == ".tsv" else _entries(read_json(path), path):
    if _is_region(stated):
      regions.append(name)
      continue
    value = _whole(stated)
    if value is None:
      raise InputError(
        f'{path}: {name}: {stated!r} is not a label value; write {{"liver": 5, ...}}, whole numbers above 0'
      )
    if value in names:
      raise InputError(f"{path}: {names[value]} and {name} both have the value {value}")
    if value:
      if name in table:
        raise InputError(f"{path}: {name} has the values {table[name]} and {value}; give each its own name")
      names[value] = name
      table[name] = value
  if not table:
    raise InputError(f'{path}: names no organ; write {{"liver": 5, ...}}')
  if regions:
    notices.warn(
      f"{path}: {display.some(regions, _SHOWN)}: regions of several values, left out; a voxel is of one organ here"
    )
  return table


def names_itself(annotation: Path) -> bool:
  """Whether a file of labels draws its organs by name, numbers in it being its program's own: no table is about these.

  DICOM and 3D Slicer's segmentations do, and folders of masks.
  """
  if annotation.is_dir() or dicom_labels.is_drawn(annotation):
    return True
  return annotation.name.lower().endswith(other_volumes.SLICER_SUFFIX) and bool(_inside(annotation))


def table_beside(annotation: Path, name: str, given: str | os.PathLike[str] | None = None) -> Path | None:
  """The table for an annotation file of the scan `name`.

  What draws its organs by name (`names_itself`) is its own. Else the one that is given; `NAME_labels.json`, else
  `labels.json`, beside it, or for a file such as `case_0/segmentation.nii.gz` in the folder of the cases; those that
  data sets have (`data_sets.tables_of`); a NIfTI file itself whose header names its organs. A table beside it that
  calls values otherwise than that header goes before it, with a warning.

  Raises:
    InputError: the header gives an organ another value than the table beside it.
  """
  if names_itself(annotation):
    return annotation
  if given is not None:
    return Path(given)
  near = (path for file in (f"{name}_{LABELS_FILE}", LABELS_FILE) for path in tables_near(annotation, file))
  tables = itertools.chain(near, data_sets.tables_of(annotation))
  inside = _inside(annotation)
  table = next((path for path in tables if path.exists()), None)
  if table is not None and inside:
    _hold_against(read_label_table(table), inside, table, annotation)
  return table or (annotation if inside else None)


def _hold_against(table: Mapping[str, int], inside: Mapping[str, int], path: Path, annotation: Path) -> None:
  """Refuses a table that moves an organ of the header to another value, and warns of one that renames values."""
  moved = [
    f"{organ} is {table[organ]}, not {value}" for organ, value in inside.items() if table.get(organ, value) != value
  ]
  if moved:
    raise InputError(
      f"{path}: {display.some(moved, _SHOWN)} as the header of {annotation} says; correct the table, or give it by "
      "--labels if the header is wrong"
    )
  names = {value: organ for organ, value in table.items()}
  others = [
    f"{value} {names[value]}, not {organ}" for organ, value in inside.items() if names.get(value, organ) != organ
  ]
  if others:
    notices.warn(
      f"{path}: calls {display.some(others, _SHOWN)} as the header of {annotation} does; the table counts, remove it "
      "if it is of other label maps"
    )


def _inside(annotation: Path) -> dict[str, int]:
  """Organ -> value as a label map says itself; empty where it says nothing."""
  name = annotation.name.lower()
  if name.endswith(NIFTI_SUFFIXES):
    return label_names.names_inside(annotation)
  return other_volumes.names_inside(annotation) if name.endswith(VOLUME_SUFFIXES) else {}


def values_of_regions(path: str | os.PathLike[str]) -> set[int]:
  """Label values of a table's regions: known, though perhaps to no organ of its own.

  Raises:
    InputError: malformed.
  """
  path = Path(path)
  if path.suffix.lower() != ".json":
    return set()
  return {value for _, stated in _entries(read_json(path), path) if _is_region(stated) for value in stated}


def _is_region(stated: object) -> TypeGuard[list[int]]:
  """Whether an entry is several values that are one organ together."""
  return isinstance(stated, list) and len(stated) > 1 and all(_whole(each) is not None for each in stated)


def _whole(stated: object) -> int | None:
  """The value of an entry; None where it is none."""
  if isinstance(stated, list) and len(stated) == 1:
    stated = stated[0]
  if isinstance(stated, float) and stated.is_integer():
    stated = int(stated)
  return stated if isinstance(stated, int) and not isinstance(stated, bool) and stated >= 0 else None


def _of_tsv(path: Path) -> list[tuple[str, object]]:
  """Names and values of a table of BIDS: columns `index` and `name`, separated by tabs."""
  try:
    rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines(), delimiter="\t"))
    return [(row["name"], int(row["index"])) for row in rows]
  except (OSError, KeyError, TypeError, ValueError) as error:
    raise InputError(f"{path}: needs the columns index and name, whole numbers in the first ({error!r})") from error


def _entries(content: dict[str, object], path: Path) -> list[tuple[str, object]]:
  """Names and values, whichever way round the file has them."""
  inner = content.get("labels")
  if isinstance(inner, dict):
    content = inner
  turned = [(name, int(key)) for key, name in content.items() if key.isdecimal() and isinstance(name, str)]
  if turned and len(turned) == len(content):
    if any(name.isdecimal() for name, _ in turned):
      raise InputError(f'{path}: numbers on both sides; write {{"liver": 5, ...}}')
    return list(turned)
  return list(content.items())
