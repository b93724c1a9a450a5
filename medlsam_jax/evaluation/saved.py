"""Results that were written to files (`NAME_boxes.json`, `NAME_seg.nii.gz`) as what `evaluate_case` scores."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medlsam_jax.data import oblique
from medlsam_jax.data.nifti import read_label_nifti
from medlsam_jax.errors import InputError
from medlsam_jax.evaluation.case import Row, Task, evaluate_case
from medlsam_jax.evaluation.localization import PlacedPoints
from medlsam_jax.geometry import Box, Volume


def findings_from_dict(data: Mapping[str, Any], source: str = "<dict>") -> dict[str, PlacedPoints]:
  """Findings of a parsed `NAME_boxes.json`.

  Args:
    data: `{"organs": {NAME: {"verdict": str, "points_vox": parts x 6 x 3, ...}}}`, points in scan voxels (z, y, x) in
      the order of the scan's `FACES`; other entries are not looked at.

  Raises:
    InputError: if an entry is missing or of another shape; file and organ are named.
  """
  organs = data.get("organs") if isinstance(data, Mapping) else None
  if not isinstance(organs, Mapping):
    raise InputError(f'{source}: no "organs"; give the boxes file that `medlsam localize` or `segment` wrote')
  result = {}
  for organ, entry in organs.items():
    try:
      points = np.asarray(entry["points_vox"], float)
      verdict = str(entry["verdict"])
    except (KeyError, TypeError, ValueError) as error:
      raise InputError(f'{source}: {organ}: needs "verdict" and "points_vox" ({error!r})') from error
    if points.ndim != 3 or points.shape[1:] != (6, 3) or not len(points) or not np.isfinite(points).all():
      raise InputError(f'{source}: {organ}: "points_vox" must be parts x 6 x 3 finite numbers, got {points.shape}')
    result[organ] = PlacedPoints(points, verdict)
  return result


def evaluate_saved(
  name: str,
  boxes_file: str | os.PathLike[str] | None,
  labels_file: str | os.PathLike[str] | None,
  truth: Volume,
  values: Mapping[str, int],
  baseline_boxes: Mapping[str, Box] | None = None,
) -> list[Row]:
  """`evaluate_case` on files. A path that was given but does not exist is a scan that failed, not one left out.

  The label map is taken to have the label values that the boxes file lists for each organ (`"label"`), else `values`.

  Raises:
    InputError: if a file that exists cannot be used, or lies on another grid than truth.
  """
  findings, label_map, names = None, None, dict(values)
  if boxes_file is not None and Path(boxes_file).exists():
    data = _read_json(Path(boxes_file))
    findings = findings_from_dict(data, str(boxes_file))
    # the file counts a tilted scan's own voxels, `truth` was straightened when it was read
    findings = {
      organ: PlacedPoints(oblique.points_from_file(each.points, truth), each.verdict)
      for organ, each in findings.items()
    }
    names |= {organ: int(e["label"]) for organ, e in data["organs"].items() if "label" in e}
  if labels_file is not None and Path(labels_file).exists():
    volume = read_label_nifti(labels_file)
    label_map = SavedLabels(volume, names)
  given: dict[Task, object] = {"boxes": boxes_file, "masks": labels_file}
  expected = tuple(task for task, file in given.items() if file is not None)
  return evaluate_case(name, findings, label_map, truth, values, baseline_boxes, expected=expected or None)


@dataclasses.dataclass(frozen=True)
class SavedLabels:
  """A label map read from a file, with the organs' values."""

  volume: Volume
  names: dict[str, int]

  @property
  def array(self) -> np.ndarray:
    """Label values (z, y, x)."""
    return self.volume.array

  @property
  def grid(self):
    """Where the voxels lie."""
    return self.volume.grid


def _read_json(path: Path) -> dict:
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise InputError(f"{path}: not a readable JSON file ({error})") from error
