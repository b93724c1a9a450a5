"""Templates: scans with organs marked, by a label map or by six world points per organ.

A folder of templates holds `NAME_ct.nii.gz` (or `.nii`, or a folder `NAME` of DICOM slices) and beside each one or more
of

- `NAME_seg.nii.gz`: a label map on the scan's voxels (in any axis order, cropped or padded), read with `labels.json`,
  `{"liver": 5, ...}`, in the same folder; without that table organs are called `label_5`;
- `NAME_points.json`, `NAME.mrk.json` or `NAME.fcsv`: see `data.point_files`.

A list file (`.txt`) has one template a line: the scan, then its annotations, separated by commas, tabs or spaces,
relative to the list file; a scan alone takes the annotations beside it.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from medlsam_jax import display, notices
from medlsam_jax.data import alignment, nifti, point_files, scans, slicer_files
from medlsam_jax.errors import InputError, TemplateError
from medlsam_jax.geometry import Volume

LABELS_FILE = "labels.json"
ANNOTATION_ENDINGS = ("_seg.nii.gz", "_seg.nii", "_points.json", ".mrk.json", ".fcsv")


@dataclasses.dataclass(frozen=True, eq=False)
class Template:
  """A scan and the organs marked in it."""

  name: str
  scan: Volume
  labels: Volume | None
  """Label map on the scan's grid, when there is one."""
  values: dict[str, int]
  """Organs that are masks: name -> their value in `labels`, each with at least one voxel."""
  points: dict[str, Float[np.ndarray, "6 3"]]
  """Organs given by points: scan voxels (z, y, x), fractional, ordered as the `FACES` **of the working grid** (LAS)."""
  point_values: dict[str, int] = dataclasses.field(default_factory=dict)
  """Label values for results of the organs in `points`: from `labels.json`, else the next free numbers."""

  def __repr__(self) -> str:
    marked = [*self.values, *(f"{organ} (points)" for organ in self.points)]
    organs = f"{display.count(len(marked), 'organ')} ({display.some(marked)})"
    return f"Template {self.name}: {organs} in {self.scan!r}"

  @property
  def organs(self) -> dict[str, int]:
    """Every organ of this template and its label value."""
    return self.values | self.point_values


@dataclasses.dataclass(frozen=True, eq=False)
class _Annotations:
  """What is known of one template before its scan is read."""

  scan: Path
  labels: Volume | None
  values: dict[str, int]
  points: dict[str, tuple[Float[np.ndarray, "6 3"], Path]]
  table: dict[str, int]


def read_templates(
  path: str | os.PathLike[str], organs: Sequence[str] | None = None, labels_file: str | os.PathLike[str] | None = None
) -> list[Template]:
  """Reads the templates of a folder, a list file or one scan.

  Args:
    organs: keep these only; None keeps all. A template without any of them is left out.
    labels_file: table of label values for all; None takes `labels.json` beside each annotation.

  Returns:
    Templates in order of their names or of the list. Organs may be missing from some.

  Raises:
    TemplateError: no template at all, an organ that no template has, or one organ with two label values.
    InputError: a file cannot be used; it and the organ are named. Label maps on another grid than their scan, values
      that the table does not name (only when `organs` is None), points as in `data.point_files`.
  """
  path = Path(path)
  table = None if labels_file is None else read_label_table(labels_file)
  cases = [_annotations(scan, files, table, strict=organs is None) for scan, files in _pairs(path)]
  numbers = _numbers(cases)
  wanted = _wanted(path, organs, cases)
  templates = []
  for case in cases:
    values = {organ: value for organ, value in case.values.items() if organ in wanted}
    points = {organ: found for organ, found in case.points.items() if organ in wanted}
    if values or points:
      templates.append(_template(dataclasses.replace(case, values=values, points=points), numbers))
    elif not case.values and not case.points:
      notices.warn(f"{case.scan}: no organ is marked in it; left out of the templates")
  if not templates:
    raise TemplateError(f"{path}: no organ is marked in any template")
  return templates


def read_label_table(path: str | os.PathLike[str]) -> dict[str, int]:
  """`labels.json`: organ name -> label value, in the file's order; an entry of value 0 (background) is left out.

  Raises:
    InputError: malformed, values that are not whole numbers above zero, one value for two names.
  """
  path = Path(path)
  table: dict[str, int] = {}
  names: dict[int, str] = {}
  for name, value in point_files.read_json(path).items():
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
      raise InputError(
        f'{path}: {name}: {value!r} is not a label value; write {{"liver": 5, ...}}, whole numbers above 0'
      )
    if value in names:
      raise InputError(f"{path}: {names[value]} and {name} both have the value {value}")
    if value:
      names[value] = name
      table[name] = value
  if not table:
    raise InputError(f'{path}: names no organ; write {{"liver": 5, ...}}')
  return table


def _pairs(path: Path) -> list[tuple[Path, list[Path]]]:
  """Scans and their annotation files."""
  if path.is_file() and path.suffix.lower() == ".txt":
    pairs = [_listed(path, number, line) for number, line in scans.read_lines(path)]
  else:
    pairs = [(scan, _beside(scan)) for scan in scans.list_scans(path)]
  marked = [(scan, files) for scan, files in pairs if files]
  bare = [scan.name for scan, files in pairs if not files]
  if not marked:
    raise TemplateError(f"{path}: no annotations; each scan NAME needs one of NAME{', NAME'.join(ANNOTATION_ENDINGS)}")
  if bare:
    notices.warn(f"{path}: left out of the templates, no annotation beside them: {', '.join(bare)}")
  names = [scans.scan_name(scan) for scan, _ in marked]
  twice = next((name for name in names if names.count(name) > 1), None)
  if twice is not None:
    raise TemplateError(f"{path}: two templates are called {twice}; rename one")
  return marked


def _beside(scan: Path) -> list[Path]:
  candidates = [scan.parent / (scans.scan_name(scan) + ending) for ending in ANNOTATION_ENDINGS]
  return [p for p in candidates if p.is_file()]


def _listed(path: Path, number: int, line: str) -> tuple[Path, list[Path]]:
  separator = next((s for s in ("\t", ",") if s in line), None)
  try:
    if (path.parent / line).exists():
      names = [line]
    elif separator is None:
      names = shlex.split(line)
    else:
      names = [name.strip() for name in line.split(separator) if name.strip()]
  except ValueError as error:
    raise InputError(f"{path}, line {number}: {error}") from error
  files = [path.parent / name for name in names]
  for file in files:
    if not file.exists():
      raise InputError(f"{path}, line {number}: no such file or folder: {file}")
  return files[0], files[1:] or _beside(files[0])


def _annotations(scan: Path, files: list[Path], table: dict[str, int] | None, strict: bool) -> _Annotations:
  labels: Volume | None = None
  values: dict[str, int] = {}
  points: dict[str, tuple[np.ndarray, Path]] = {}
  used: dict[str, int] = table or {}
  for file in files:
    beside = file.parent / LABELS_FILE
    if table is None and beside.is_file():
      used = used | read_label_table(beside)
    if file.name.lower().endswith(scans.NIFTI_SUFFIXES):
      if labels is not None:
        raise InputError(f"{scan}: two label maps, {labels.source} and {file}; give one")
      labels = nifti.read_label_nifti(file)
      values = _present(labels, used, strict)
    elif file.suffix.lower() in (".json", *slicer_files.TABLE_ENDINGS):
      for organ, world in point_files.read_points(file, scans.scan_name(scan)).items():
        if organ in points:
          raise InputError(f"{scan}: {organ} is marked in {points[organ][1]} and in {file}; keep one")
        points[organ] = (world, file)
    else:
      raise InputError(f"{file}: not an annotation; give a label map (.nii.gz) or points (.json, .mrk.json, .fcsv)")
  both = sorted(values.keys() & points.keys())
  if both:
    raise InputError(f"{scan}: {', '.join(both)}: both a mask and points; keep one")
  return _Annotations(scan, labels, values, points, used)


def _present(labels: Volume, table: dict[str, int], strict: bool) -> dict[str, int]:
  """Names of the values that occur, in the table's order."""
  found = sorted({int(value) for plane in labels.array for value in np.unique(plane)} - {0})
  if found and found[0] < 0:
    raise InputError(f"{labels.source}: label {found[0]}; labels must be 0 (background) or above")
  if not table:
    return {f"label_{value}": value for value in found}
  unknown = [value for value in found if value not in table.values()]
  if unknown and strict:
    raise InputError(
      f"{labels.source}: label values {unknown} are not named in {LABELS_FILE}; name them there, or choose organs"
    )
  return {name: value for name, value in table.items() if value in found}


def _numbers(cases: list[_Annotations]) -> dict[str, int]:
  """One label value per organ over all templates: masks and tables first, then points in order of appearance."""
  numbers: dict[str, int] = {}
  for case in cases:
    for organ, value in (case.table | case.values).items():
      if numbers.setdefault(organ, value) != value:
        raise TemplateError(
          f"{organ} has the label value {numbers[organ]} in one template and {value} for {case.scan}; "
          f"give one {LABELS_FILE} for all"
        )
  names: dict[int, str] = {}
  for organ, value in numbers.items():
    if names.setdefault(value, organ) != organ:
      raise TemplateError(
        f"label value {value} is {names[value]} in one template and {organ} in another; give one {LABELS_FILE} for all"
      )
  for case in cases:
    for organ in case.points:
      numbers.setdefault(organ, max(numbers.values(), default=0) + 1)
  return numbers


def _wanted(path: Path, organs: Sequence[str] | None, cases: list[_Annotations]) -> set[str]:
  available = list(dict.fromkeys(organ for case in cases for organ in (*case.values, *case.points)))
  if organs is None:
    return set(available)
  named = {organ for case in cases for organ in case.table}
  for organ in organs:
    if organ not in available:
      why = "no voxels in any template" if organ in named else "unknown"
      raise TemplateError(f"{path}: organ {organ!r}: {why}; the templates have {', '.join(available) or 'none'}")
  return set(organs)


def _template(case: _Annotations, numbers: dict[str, int]) -> Template:
  scan = scans.read_volume(case.scan)
  labels, values = _on_scan(case, scan)
  points = {
    organ: point_files.points_in_scan(world, scan.grid, organ, str(file))
    for organ, (world, file) in case.points.items()
  }
  return Template(
    name=scans.scan_name(case.scan),
    scan=scan,
    labels=labels,
    values=values,
    points=points,
    point_values={organ: numbers[organ] for organ in points},
  )


def _on_scan(case: _Annotations, scan: Volume) -> tuple[Volume | None, dict[str, int]]:
  """The label map on the scan's voxels, and the organs that have a voxel there."""
  if case.labels is None:
    return None, case.values
  labels = alignment.align_labels(case.labels, scan.grid, scan.source, scan.file_grid)
  gone = (
    [] if labels.notes == case.labels.notes else [n for n, v in case.values.items() if not (labels.array == v).any()]
  )
  if gone:
    notices.warn(f"{labels.source}: {', '.join(gone)}: no voxel of it lies in the scan; left out of this template")
  return labels, {organ: value for organ, value in case.values.items() if organ not in gone}
