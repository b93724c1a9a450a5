"""Tables of label values: which organ a number of a label map is.

Ours is `{"liver": 5, ...}`. The same the other way round, `{"5": "liver"}` (class maps of TotalSegmentator, nnU-Net
version 1), and either as the `labels` of a `dataset.json` of nnU-Net are read too.
"""

from __future__ import annotations

import os
from pathlib import Path

from medlsam_jax.errors import InputError
from medlsam_jax.io.label_files import tables_near
from medlsam_jax.io.point_files import read_json

LABELS_FILE = "labels.json"
"""For all label maps of a folder; `NAME_labels.json` goes before it for those of the scan NAME."""


def read_label_table(path: str | os.PathLike[str]) -> dict[str, int]:
  """Organ name -> label value, in the file's order; an entry of value 0 (background) is left out.

  Raises:
    InputError: malformed, values that are not whole numbers above zero, one value for two names or two for one.
  """
  path = Path(path)
  table: dict[str, int] = {}
  names: dict[int, str] = {}
  for name, value in _entries(read_json(path), path):
    if isinstance(value, float) and value.is_integer():
      value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
      raise InputError(
        f'{path}: {name}: {value!r} is not a label value; write {{"liver": 5, ...}}, whole numbers above 0'
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
  return table


def table_beside(annotation: Path, name: str) -> Path | None:
  """The table for an annotation file of the scan `name`: `NAME_labels.json`, else `labels.json`, beside it.

  For a file such as `case_0/segmentation.nii.gz`, either may also lie in the folder of the cases.
  """
  tables = (path for file in (f"{name}_{LABELS_FILE}", LABELS_FILE) for path in tables_near(annotation, file))
  return next((path for path in tables if path.is_file()), None)


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
