"""A folder of results as the page shows it: what is in the files of one scan, whoever wrote them."""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from medlsam_jax import display, metrics
from medlsam_jax.errors import InputError
from medlsam_jax.finding import Finding
from medlsam_jax.geometry import Box, Volume
from medlsam_jax.io import boxes_file, label_formats
from medlsam_jax.io.alignment import align_labels
from medlsam_jax.io.label_files import label_map_for
from medlsam_jax.io.label_maps import read_label_map
from medlsam_jax.io.label_table import names_itself, read_label_table, table_beside
from medlsam_jax.io.label_values import result_values
from medlsam_jax.io.labels import LabelMap
from medlsam_jax.io.point_files import read_json
from medlsam_jax.io.scan_result import BOXES
from medlsam_jax.io.scans import ListedScan
from medlsam_jax.label_boxes import find_labels

PLACED, CORRECTED = "placed_by_hand", "corrected"
"""In a provenance: organs that a person placed, and what made those that were laid over a result."""
MASKS = "_*_mask.nii.gz"
"""Files with the mask of one organ each, after the scan's name."""


@dataclasses.dataclass(frozen=True, eq=False)
class Shown:
  """One scan's result: findings by organ in voxels of the scan, its label map, and what else its file says."""

  findings: Mapping[str, Finding]
  labels: LabelMap | None = None
  said: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
  """Entry of each organ in the boxes file; empty for a label map alone."""
  provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  """Where the boxes file says that it comes from."""

  @property
  def organs(self) -> list[str]:
    """In the order of the files."""
    return list(dict.fromkeys((*self.findings, *(self.labels.names if self.labels else ()))))

  def values(self) -> dict[str, int]:
    """Label value of each organ: that of the label map, else of the boxes file."""
    of_findings = {organ: each.value for organ, each in self.findings.items()}
    return of_findings if self.labels is None else {**of_findings, **self.labels.names}

  @property
  def doubts(self) -> tuple[str, ...]:
    """A sentence where organs were painted and their masks are not there: tables alone were written, say."""
    there = {} if self.labels is None else self.labels.names
    lost = [organ for organ, entry in self.said.items() if entry.get("volume_ml") and organ not in there]
    if not lost:
      return ()
    return (
      f"{display.some(lost)}: painted, but no mask is in this folder; segment the scan with --output-type nifti to see "
      "them and to keep them beside what is corrected here",
    )

  def volumes_ml(self) -> dict[str, float]:
    """Painted volume of each organ."""
    return {} if self.labels is None else self.labels.volumes_ml()


def has_result(folder: Path, scan: ListedScan) -> bool:
  """Whether a folder has anything of a scan."""
  return _boxes(folder, scan).is_file() or label_map_for(scan.path, scan.name, folder) is not None


def stamp(folder: Path, scan: ListedScan) -> tuple[tuple[str, int, int], ...]:
  """Changes whenever a file of a scan's result does."""
  masks = folder.glob(glob.escape(scan.name) + MASKS)
  files = [_boxes(folder, scan), _label_file(folder, scan), *sorted(masks)]
  told = [(file, file.stat()) for file in files if file is not None and file.is_file()]
  return tuple((str(file), each.st_mtime_ns, each.st_size) for file, each in told)


def read(folder: Path, scan: ListedScan, volume: Volume) -> Shown | None:
  """The result of a scan in a folder of results or of label maps; None where there is none.

  Raises:
    InputError: files that cannot be read or that are of another scan.
  """
  path, found = _boxes(folder, scan), _label_file(folder, scan)
  if path.is_file():
    content = read_json(path)
    findings = boxes_file.from_dict(content, volume, str(path))
    said = content["organs"]
    assert isinstance(said, dict)  # `from_dict` has looked
    findings = {organ: _with_points(each, said[organ], volume) for organ, each in findings.items()}
    names = {organ: each.value for organ, each in findings.items()}
    origin = content.get("provenance")
    origin = origin if isinstance(origin, dict) else {}
    return Shown(findings, _painted(found, folder, scan, volume, names), said, origin)
  if found is None:
    return None
  table = table_beside(found, scan.name)
  painted = _labels(found, volume, None if table is None else read_label_table(table))
  return Shown({}, painted)


def agreement(first: Shown, second: Shown) -> dict[str, float | None]:
  """Dice of each organ that both have painted; None where neither has a voxel of it."""
  if first.labels is None or second.labels is None:
    return {}
  result: dict[str, float | None] = {}
  for organ in first.labels.names:
    if organ in second.labels.names:
      one, two = first.labels[organ], second.labels[organ]
      result[organ] = metrics.dice(one, two) if one.any() or two.any() else None
  return result


def merged(known: Shown | None, findings: Mapping[str, Finding], painted: LabelMap) -> Shown:
  """New organs laid over those that were there: whoever corrected one meant it.

  Organs that were there keep their values, and so do new ones unless an organ that was there has theirs: what was put
  by hand was numbered without the bank, and the other way round.
  """
  if known is None:
    return Shown(findings, painted)
  numbers, _ = result_values((("before", known.values()), ("now", painted.names)))
  findings = {
    organ: dataclasses.replace(each, value=numbers.get(organ, each.value)) for organ, each in findings.items()
  }
  kept = dict(known.findings)
  before = {} if known.labels is None else known.labels.names
  names = {**before, **{organ: numbers[organ] for organ in painted.names}}
  dtype = np.min_scalar_type(max(names.values(), default=0))
  if known.labels is None:
    array = np.zeros(painted.array.shape, dtype)
  else:
    array = known.labels.array.astype(np.promote_types(known.labels.array.dtype, dtype))
    for organ, value in before.items():
      box = Box.of_mask(known.labels[organ])
      if organ not in kept and box is not None:
        kept[organ] = Finding.of_boxes(organ, value, [box])
  for organ, value in painted.names.items():
    if organ in before:
      array[array == before[organ]] = 0
    array[painted.array == value] = numbers[organ]
  return Shown({**kept, **findings}, LabelMap(array, painted.grid, names, painted.file_grid))


def origin_of(
  known: Shown | None, findings: Mapping[str, Finding], by_hand: Sequence[str], made: Mapping[str, object]
) -> dict[str, object]:
  """Provenance of a result that new organs were laid over: what made the others stays in it.

  Args:
    known: what was there.
    findings: the new organs, `by_hand` those of them that a person placed.
    made: how they were made; beside an older result under `corrected`.
  """
  old = {} if known is None else dict(known.provenance)
  placed = old.pop(PLACED, ())
  placed = [organ for organ in placed if organ not in findings] if isinstance(placed, list | tuple) else []
  earlier = old.get(CORRECTED)
  new = dict(made) if known is None else {CORRECTED: {**(earlier if isinstance(earlier, dict) else {}), **made}}
  said = {PLACED: [*placed, *by_hand]} if placed or by_hand else {}
  return {**old, **new, **said}


def _boxes(folder: Path, scan: ListedScan) -> Path:
  return folder / (scan.name + BOXES)


def _label_file(folder: Path, scan: ListedScan) -> Path | None:
  """The file of a scan's label map: as `medlsam segment` calls its results, else as others call theirs."""
  return label_formats.find_result(folder, scan.name) or label_map_for(scan.path, scan.name, folder)


def _painted(
  found: Path | None, folder: Path, scan: ListedScan, volume: Volume, names: Mapping[str, int]
) -> LabelMap | None:
  """What was painted beside a boxes file of these organs and values: in one file, or one for each organ."""
  if found is not None:
    return _labels(found, volume, read_label_table(found) if names_itself(found) else names)
  files = {organ: folder / file for organ, file in label_formats.mask_names(scan.name, list(names)).items()}
  files = {organ: file for organ, file in files.items() if file.is_file()}
  if not files:
    return None
  array = np.zeros(volume.grid.shape, np.min_scalar_type(max(names.values())))
  for organ, file in files.items():
    array[_laid(file, volume) != 0] = names[organ]
  return LabelMap(array, volume.grid, {organ: names[organ] for organ in files}, volume.file_grid)


def _laid(path: Path, volume: Volume) -> Integer[np.ndarray, "z y x"]:
  read_map = read_label_map(path, scan=volume)
  return align_labels(read_map, volume.grid, volume.source, volume.file_grid).array


def _labels(path: Path, volume: Volume, names: Mapping[str, int] | None) -> LabelMap:
  array = _laid(path, volume)
  if names is None:
    names = {f"label_{value}": value for value in find_labels(array)}
  if not names:
    raise InputError(f"{path}: nothing is labelled in it")
  return LabelMap(array, volume.grid, names, volume.file_grid)


def _with_points(finding: Finding, entry: Mapping[str, Any], volume: Volume) -> Finding:
  """The same with the extreme points of its file, unless its box was changed there."""
  try:
    world = np.array(entry["extreme_points_world_mm"], float).reshape(6, 3)
  except (KeyError, TypeError, ValueError):
    return finding
  points = volume.grid.voxel_from_world(world)
  low, high = points.min(0), points.max(0)
  apart = max(np.abs(low - finding.box.low).max(), np.abs(high - finding.box.high).max())
  return dataclasses.replace(finding, points=points[None], boxes=tuple(finding.parts)) if apart <= 1 else finding
