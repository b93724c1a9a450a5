"""Templates: scans with organs marked, by a label map or by six world points per organ.

A folder of templates holds `NAME_ct.nii.gz` (or `.nii`, or a folder `NAME` of DICOM slices) and beside each one or more
of

- `NAME_seg.nii.gz`: a label map on the scan's voxels (in any axis order, cropped or padded), read with
  `NAME_labels.json` or the folder's `labels.json`, `{"liver": 5, ...}`; without such a table organs are `label_5`;
- `NAME_points.json`, `NAME.mrk.json` or `NAME.fcsv`: see `io.point_files`.

Data sets laid out as `io.data_sets` knows them are read as they are.

A list file (`.txt`) has one template a line: the scan, then its annotations, separated by commas, tabs or spaces,
relative to the list file; a scan alone takes the annotations beside it.

Names rule: scans may number an organ differently, and results call it by one value. What cannot be used is left out
with a warning, and the others go on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from medlsam_jax import display, notices
from medlsam_jax.errors import InputError, TemplateError
from medlsam_jax.geometry import Volume
from medlsam_jax.io import (
  alignment,
  data_sets,
  dicom_labels,
  label_files,
  label_maps,
  label_values,
  point_files,
  scans,
  slicer_files,
)
from medlsam_jax.io.label_table import LABELS_FILE, read_label_table, table_beside, values_of_regions
from medlsam_jax.io.scan_names import SCAN_ENDING, VOLUME_SUFFIXES, names_of, scan_name, stem
from medlsam_jax.io.scans import ListedScan
from medlsam_jax.label_boxes import count_labels

POINT_ENDINGS = ("_points.json", ".mrk.json", ".fcsv")
ANNOTATION_ENDINGS = ("_seg.nii.gz", *POINT_ENDINGS)
_SHOWN = 5
"""Organs that one warning lists."""


@dataclasses.dataclass(frozen=True, eq=False)
class Template:
  """A scan and the organs marked in it."""

  name: str
  scan: Volume
  labels: Volume | None
  """Label map on the scan's grid, when there is one."""
  values: dict[str, int]
  """Organs that are masks: name -> their value in `labels`, the scan's own, each with at least one voxel."""
  points: dict[str, Float[np.ndarray, "6 3"]]
  """Organs given by points: scan voxels (z, y, x), fractional, ordered as the `FACES` **of the working grid** (LAS)."""
  point_values: dict[str, int] = dataclasses.field(default_factory=dict)
  """Label values for results of the organs in `points`: from `labels.json`, else the next free numbers."""

  result_values: dict[str, int] = dataclasses.field(default_factory=dict)
  """Label values for results of the organs in `values` where they are not the scan's own: one number for all scans."""
  unused: dict[str, int] = dataclasses.field(default_factory=dict)
  """Organs in `labels` that were not asked for: where they lie tells whether those that were are named rightly."""

  def __repr__(self) -> str:
    marked = [*self.values, *(f"{organ} (points)" for organ in self.points)]
    organs = f"{display.count(len(marked), 'organ')} ({display.some(marked)})"
    return f"Template {self.name}: {organs} in {self.scan!r}"

  @property
  def organs(self) -> dict[str, int]:
    """Every organ of this template and its label value in results."""
    return self.values | self.result_values | self.point_values


class Templates(list[Template]):
  """Templates in order, and `left_out`: what could not be used of what was given, a sentence each."""

  def __init__(self, templates: Iterable[Template] = (), left_out: Iterable[str] = ()):
    super().__init__(templates)
    self.left_out = tuple(left_out)


@dataclasses.dataclass(frozen=True, eq=False)
class _Annotations:
  """What is known of one template before its scan is read."""

  scan: ListedScan
  labels: Volume | None
  values: dict[str, int]
  points: dict[str, tuple[Float[np.ndarray, "6 3"], Path]]
  tables: dict[str, dict[str, int]]
  """By where they are from, `values` among them."""
  is_named: bool
  """Whether a table names what is in the label map."""
  unused: dict[str, int] = dataclasses.field(default_factory=dict)
  """Organs of the label map that were not asked for."""
  drawn: Path | None = None
  """A DICOM SEG or RTSTRUCT, which is laid on the scan when that is read; then there is no `labels`."""

  @property
  def named(self) -> set[str]:
    """Organs that are marked or that a table names."""
    return {organ for table in self.tables.values() for organ in table} | self.points.keys()

  def only(self, wanted: Collection[str]) -> _Annotations:
    """The same with the organs that are wanted; the others of the label map are kept as unused."""
    values = {organ: value for organ, value in self.values.items() if organ in wanted}
    points = {organ: six for organ, six in self.points.items() if organ in wanted}
    unused = {organ: value for organ, value in self.values.items() if organ not in wanted}
    return dataclasses.replace(self, values=values, points=points, unused=unused)


class _LeftOut:
  """What could not be used, and why."""

  def __init__(self) -> None:
    self.errors: list[InputError] = []
    self.sentences: list[str] = []

  @contextlib.contextmanager
  def instead_of_raising(self) -> Iterator[None]:
    """Keeps an InputError for later: the next template goes on."""
    try:
      yield
    except InputError as error:
      self.errors.append(error)
      self.sentences.append(f"left out of the templates: {error}")


def read_templates(
  path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
  organs: Sequence[str] | None = None,
  labels_file: str | os.PathLike[str] | None = None,
  *,
  series: str | None = None,
  hu_offset: float | None = None,
) -> Templates:
  """Reads the templates of a folder, a list file or one scan, or of several such together.

  Args:
    organs: keep these only; None keeps all. A template without any of them is left out.
    labels_file: table of label values for all that do not name their organs themselves (`label_table.names_itself`);
      None takes `NAME_labels.json`, else `labels.json`, beside each annotation.
    series, hu_offset: as `scans.read_volume`, for every template that is DICOM, and for every one.

  Returns:
    Templates in order of their names or of the list. Organs may be missing from some. A template that cannot be used
    is left out with a warning, and stands in `left_out`.

  Raises:
    TemplateError: no template at all, or an organ that no template has.
    InputError: no template can be used; the file and the organ are named. Label maps on another grid than their scan,
      values that the table does not name (only when `organs` is None), points as in `io.point_files`.
  """
  paths = [Path(each) for each in ([path] if isinstance(path, str | os.PathLike) else path)]
  where = ", ".join(map(str, paths))
  options = scans.ReadingOptions(series, hu_offset)
  if labels_file is not None:
    read_label_table(labels_file)  # a table that cannot be read is told once, not for every scan
  left, cases = _LeftOut(), []
  pairs = [pair for each in paths for pair in _pairs(each, left)]
  for scan, files in pairs if len(paths) == 1 else _named(pairs):
    with left.instead_of_raising():
      cases.append(_annotations(scan, files, labels_file, organs))
  wanted = _wanted(where, organs, cases, left)
  numbers = _numbers(cases, wanted)
  if organs is None:
    _warn_unnamed(cases)
  templates = []
  for case in cases:
    part = case.only(wanted)
    if part.values or part.points:
      with left.instead_of_raising():
        templates.append(_template(part, numbers, options, len(cases) == 1))
    elif not case.values and not case.points:
      left.sentences.append(f"{case.scan}: no organ is marked in it; left out of the templates")
  if not templates and left.errors:
    raise left.errors[0]
  if not templates:
    raise TemplateError(f"{where}: no organ is marked in any template")
  for sentence in left.sentences:
    notices.warn(sentence)
  gone = [organ for organ in organs or () if not any(organ in template.organs for template in templates)]
  if gone:
    raise TemplateError(f"{where}: {', '.join(gone)}: only in templates that were left out: {left.errors[0]}")
  return Templates(templates, left.sentences)


def _pairs(path: Path, left: _LeftOut) -> list[tuple[ListedScan, list[Path]]]:
  """Scans and their annotation files."""
  pairs = []
  if path.is_file() and path.suffix.lower() == ".txt":
    for number, line in scans.read_lines(path):
      with left.instead_of_raising():
        pairs.append(_listed(path, number, line))
    pairs = _named(pairs)
  else:
    pairs = []
    for scan in scans.list_scans(path):
      with left.instead_of_raising():
        pairs.append((scan, annotations_beside(scan)))
  marked = [(scan, files) for scan, files in pairs if files]
  bare = [scan.path.name for scan, files in pairs if not files]
  if not marked and left.errors:
    raise left.errors[0]
  if not marked:
    endings = ", NAME".join(ANNOTATION_ENDINGS)
    raise TemplateError(
      f"{path}: no annotations; each scan NAME needs one of NAME{endings}, or labels where {data_sets.KNOWN} have them"
    )
  if bare:
    left.sentences.append(f"{path}: left out of the templates, no annotation beside them: {', '.join(bare)}")
  return marked


def annotations_beside(scan: ListedScan) -> list[Path]:
  """The label map of a scan, and its files of points: called after it, or after its file where the folder names it."""
  labels = label_files.label_map_beside(scan.path)
  own = stem(scan.path)
  names = dict.fromkeys((own.removesuffix(SCAN_ENDING) or own, scan.name))
  points = [scan.path.parent / (name + ending) for name in names for ending in POINT_ENDINGS]
  return [*([] if labels is None else [labels]), *(p for p in points if p.is_file())]


def holds_masks(annotation: Path) -> bool:
  """Whether an annotation is a label map, or a folder of masks; else it is a file of points."""
  is_drawn = dicom_labels.is_drawn(annotation)
  return is_drawn or annotation.is_dir() or annotation.name.lower().endswith(VOLUME_SUFFIXES)


def _listed(path: Path, number: int, line: str) -> tuple[ListedScan, list[Path]]:
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
  scan = ListedScan(files[0], scan_name(files[0]))
  return scan, files[1:] or annotations_beside(scan)


def _named(pairs: list[tuple[ListedScan, list[Path]]]) -> list[tuple[ListedScan, list[Path]]]:
  """Listed scans with names that tell them apart."""
  names = names_of([scan.path for scan, _ in pairs])
  return [(dataclasses.replace(scan, name=name), files) for (scan, files), name in zip(pairs, names, strict=True)]


def _annotations(
  scan: ListedScan, files: list[Path], labels_file: str | os.PathLike[str] | None, organs: Sequence[str] | None
) -> _Annotations:
  name = scan.name
  labels: Volume | None = None
  drawn: Path | None = None
  values: dict[str, int] = {}
  points: dict[str, tuple[np.ndarray, Path]] = {}
  tables: dict[str, dict[str, int]] = {}
  is_named = False
  for file in files:
    named_in = table_beside(file, name, labels_file)
    table: dict[str, int] = {}
    if named_in is not None:
      table = tables[str(named_in)] = read_label_table(named_in)
    is_drawn, is_labels = dicom_labels.is_drawn(file), holds_masks(file)
    if is_labels and (other := drawn or (labels and labels.source)):
      raise InputError(f"{scan}: two label maps, {other} and {file}; give one")
    if is_drawn:
      drawn, values, is_named = file, table, True
    elif is_labels:
      labels = label_maps.read_label_map(file, organs)
      known = set() if named_in is None or organs is not None else values_of_regions(named_in)
      values = _present(labels, table, organs is None, known)
      is_named = bool(table)
      tables.setdefault(str(named_in or file), table or values)
    elif file.suffix.lower() in (".json", *slicer_files.TABLE_ENDINGS):
      for organ, world in point_files.read_points(file, name).items():
        if organ in points:
          raise InputError(f"{scan}: {organ} is marked in {points[organ][1]} and in {file}; keep one")
        points[organ] = (world, file)
    else:
      raise InputError(
        f"{file}: not an annotation; give a label map (.nii.gz, .nrrd, .mha, .dcm) or points (.json, .mrk.json, .fcsv)"
      )
  both = sorted(values.keys() & points.keys())
  if both:
    raise InputError(f"{scan}: {', '.join(both)}: both a mask and points; keep one")
  return _Annotations(scan, labels, values, points, tables, is_named, drawn=drawn)


def _present(labels: Volume, table: dict[str, int], strict: bool, known: Collection[int]) -> dict[str, int]:
  """Names of the values that occur, in the table's order; `known` are those that need none."""
  counts = count_labels(labels.array)
  if not table:
    return {f"label_{value}": value for value in counts}
  unknown = [value for value in counts if value not in table.values() and value not in known]
  if unknown and strict:
    listed = display.some(map(str, unknown), _SHOWN)
    raise InputError(
      f"{labels.source}: label values [{listed}] are not named in {LABELS_FILE}; name them there, or choose organs"
    )
  return {name: value for name, value in table.items() if value in counts}


def _numbers(cases: list[_Annotations], wanted: set[str]) -> dict[str, int]:
  """One label value per organ for results: the first table's where it is free, then points in order of appearance."""
  tables = (entry for case in cases for entry in case.tables.items())
  numbers, differing = label_values.result_values(tables)
  for sentence in label_values.differing_numbers(differing, [organ for organ in differing if organ in wanted]):
    notices.warn(sentence)
  for case in cases:
    for organ in case.points:
      numbers.setdefault(organ, label_values.next_free(numbers.values()))
  return numbers


def _warn_unnamed(cases: list[_Annotations]) -> None:
  """Says which table is missing, once for each folder."""
  folders: dict[Path, dict[str, int]] = {}
  for case in cases:
    if case.labels is not None and case.values and not case.is_named:
      folders.setdefault(Path(case.labels.source).parent, {}).update(case.values)
  for folder, values in folders.items():
    shown = display.some(values, _SHOWN)
    notices.warn(
      f"{folder / LABELS_FILE} is missing: organs are called by their label values ({shown}); write "
      f'{{"liver": {next(iter(values.values()))}, ...}} there to name them'
    )


def _wanted(where: str, organs: Sequence[str] | None, cases: list[_Annotations], left: _LeftOut) -> set[str]:
  available = list(dict.fromkeys(organ for case in cases for organ in (*case.values, *case.points)))
  if organs is None:
    return set(available)
  named = {organ for case in cases for organ in case.named}
  for organ in organs:
    if organ not in available and left.errors and not cases:
      raise left.errors[0]
    if organ not in available:
      why = "no voxels in any template" if organ in named else "unknown"
      lost = "".join(f"; {sentence}" for sentence in left.sentences if left.errors)
      raise TemplateError(f"{where}: organ {organ!r}: {why}; the templates have {', '.join(available) or 'none'}{lost}")
  return set(organs)


def _template(case: _Annotations, numbers: dict[str, int], options: scans.ReadingOptions, alone: bool) -> Template:
  scan = options.read(case.scan, alone)
  labels, values = _on_scan(case, scan)
  points = {
    organ: point_files.points_in_scan(world, scan.grid, organ, str(file))
    for organ, (world, file) in case.points.items()
  }
  return Template(
    name=case.scan.name,
    scan=scan,
    labels=labels,
    values=values,
    points=points,
    point_values={organ: numbers[organ] for organ in points},
    result_values={organ: numbers[organ] for organ, value in values.items() if numbers[organ] != value},
    unused=case.unused,
  )


def _on_scan(case: _Annotations, scan: Volume) -> tuple[Volume | None, dict[str, int]]:
  """The label map on the scan's voxels, and the organs that have a voxel there."""
  if case.drawn is not None:
    labels = label_maps.read_label_map(case.drawn, scan=scan)
    left: Collection[int] = count_labels(labels.array)
  elif case.labels is None:
    return None, case.values
  else:
    labels = alignment.align_labels(case.labels, scan.grid, scan.source, scan.file_grid)
    left = case.values.values() if labels.notes == case.labels.notes else count_labels(labels.array)
  gone = [organ for organ, value in case.values.items() if value not in left]
  if gone:
    notices.warn(f"{labels.source}: {', '.join(gone)}: no voxel of it lies in the scan; left out of this template")
  return labels, {organ: value for organ, value in case.values.items() if organ not in gone}
