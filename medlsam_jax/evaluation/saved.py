"""Results that were written to files (`NAME_boxes.json`, `NAME_seg.nii.gz`) as what `evaluate_case` scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from medlsam_jax import notices
from medlsam_jax.errors import InputError
from medlsam_jax.evaluation.case import Row, Task, evaluate_case
from medlsam_jax.finding import GIVEN, Finding
from medlsam_jax.geometry import Box, Volume
from medlsam_jax.io import oblique
from medlsam_jax.io.alignment import align_labels
from medlsam_jax.io.boxes_file import WRITTEN, from_dict, label_of, scan_grid
from medlsam_jax.io.label_table import read_label_table, table_beside
from medlsam_jax.io.labels import LabelMap
from medlsam_jax.io.nifti import read_label_nifti
from medlsam_jax.io.point_files import read_json


def findings_from_dict(data: Mapping[str, object], source: str = "<dict>") -> dict[str, Finding]:
  """Findings of a parsed `NAME_boxes.json`.

  Args:
    data: `{"organs": {NAME: {"verdict": str, "points_vox": parts x 6 x 3, ...}}}`, points in scan voxels (z, y, x) in
      the order of the scan's `FACES`; other entries are not looked at.

  Raises:
    InputError: if an entry is missing or of another shape; file and organ are named.
  """
  result = {}
  for organ, entry in _organs(data, source).items():
    try:
      points, verdict = np.asarray(entry["points_vox"], float), str(entry["verdict"])
    except (KeyError, TypeError, ValueError) as error:
      raise InputError(f'{source}: {organ}: needs "verdict" and "points_vox" ({error!r})') from error
    if points.ndim != 3 or points.shape[1:] != (6, 3) or not len(points) or not np.isfinite(points).all():
      raise InputError(f'{source}: {organ}: "points_vox" must be parts x 6 x 3 finite numbers, got {points.shape}')
    value = label_of(entry, 0, f"{source}: {organ}") if "label" in entry else 0
    result[organ] = Finding(organ, value, points, verdict)
  return result


@dataclasses.dataclass(frozen=True)
class SavedFiles:
  """The files of one scan's result; None for one that is not to be scored."""

  name: str
  boxes: Path | None
  labels: Path | None


def _organs(data: Mapping[str, object], source: str) -> Mapping[str, Mapping[str, object]]:
  organs = data.get("organs") if isinstance(data, Mapping) else None
  if not isinstance(organs, Mapping):
    raise InputError(f'{source}: no "organs"; give the boxes file that `medlsam localize` or `segment` wrote')
  return organs


def evaluate_saved(
  files: SavedFiles,
  truth: Volume,
  values: Mapping[str, int],
  baseline_boxes: Mapping[str, Box] | None = None,
  *,
  scan: Volume | None = None,
  resample: bool = False,
) -> list[Row]:
  """`evaluate_case` on files. A path that was given but does not exist is a scan that failed, not one left out.

  Scored is on the voxels of the scan, which the boxes file tells (its `scan` entry), else `scan`: truth and label map
  are laid on them (`io.alignment`), so that scores do not depend on how either is stored. Where neither tells, truth
  and label map are scored on the larger of the two. The label map is taken to have the label values that the boxes file
  lists for each organ (`"label"`), or without such a file those of its own table (`label_table.table_beside`), else
  `values` where no organ of these has that value.

  Args:
    scan: the scan itself, whose voxels `baseline_boxes` count.
    resample: take the nearest label of a truth or a label map that lies on another grid, instead of refusing it.

  Raises:
    InputError: if a file that exists cannot be used, or does not lie on the voxels of the scan.
  """
  boxes_file, labels_file = files.boxes, files.labels
  findings, written, labels = None, None, None
  stated: dict[str, int] = {}
  if boxes_file is not None and boxes_file.exists():
    data = read_json(boxes_file)
    findings = findings_from_dict(data, str(boxes_file))
    written = _scan_of(data, str(boxes_file))
    stated = {organ: each.value for organ, each in findings.items() if each.value}
  if labels_file is not None and labels_file.exists():
    labels = read_label_nifti(labels_file)
    if findings is None and (table := table_beside(labels_file, files.name)) is not None:
      stated = read_label_table(table)
  names = stated | {o: v for o, v in values.items() if o not in stated and v not in stated.values()}
  place = written or scan or _larger(labels, truth)
  if findings is not None:
    if written is None:
      notices.warn(f"{boxes_file}: says nothing of its scan; its points are counted on the voxels of {place.source}")
    findings = {
      organ: dataclasses.replace(each, points=oblique.points_from_file(each.points, place))
      for organ, each in findings.items()
    }
    findings |= _corrected(data, place, str(boxes_file))
  if baseline_boxes is not None and scan is not None:
    baseline_boxes = {organ: oblique.move_box(box, scan.grid, place.grid) for organ, box in baseline_boxes.items()}
  laid_truth, laid = (None if v is None else _laid(v, place, resample) for v in (truth, labels))
  assert laid_truth is not None
  given: dict[Task, object] = {"boxes": boxes_file, "masks": labels_file}
  expected = tuple(task for task, file in given.items() if file is not None)
  label_map = None if laid is None else LabelMap(laid.array, laid.grid, names)
  return evaluate_case(files.name, findings, label_map, laid_truth, values, baseline_boxes, expected=expected or None)


def _corrected(data: Mapping[str, object], place: Volume, source: str) -> dict[str, Finding]:
  """Organs whose box was changed by hand in a file of ours: scored is that box, not the points of the search."""
  whole = {organ: entry for organ, entry in _organs(data, source).items() if entry.keys() >= WRITTEN}
  if not whole:
    return {}
  read = from_dict({"scan": data.get("scan"), "organs": whole}, place, source)
  changed = {organ: each for organ, each in read.items() if each.verdict == GIVEN and whole[organ]["verdict"] != GIVEN}
  if changed:
    notices.warn(f"{source}: {', '.join(changed)}: the box was changed by hand; it is scored, not the points beside it")
  return changed


def _scan_of(data: Mapping[str, object], source: str) -> Volume | None:
  """The scan that a boxes file speaks of: where it lies, without its voxels."""
  grid = scan_grid(data.get("scan"), source)
  if grid is None:
    return None
  straight, file_grid = oblique.straightened(grid)
  scan = data["scan"]
  said = scan.get("source") if isinstance(scan, Mapping) else None
  return Volume(np.broadcast_to(np.uint8(0), straight.shape), straight, str(said or source), file_grid)


def _larger(labels: Volume | None, truth: Volume) -> Volume:
  """Of two label maps the one that the other lies in, and truth where neither does."""
  if labels is None:
    return truth
  relay = (truth.file_grid or truth.grid).relay_to(labels.file_grid or labels.grid)
  if relay is None:
    return truth
  low, high = relay.covered
  return labels if ((high - low + 1) == np.array(relay.shape)[list(relay.order)]).all() else truth


def _laid(labels: Volume, place: Volume, resample: bool) -> Volume:
  if labels is place:
    return labels
  return align_labels(labels, place.grid, place.source, place.file_grid, resample=resample)
