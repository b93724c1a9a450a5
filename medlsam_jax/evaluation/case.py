"""One scan's results against its truth: a row per organ. The only place where a query's ground truth is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np

from medlsam_jax.errors import InputError
from medlsam_jax.evaluation.localization import score_box, score_finding, truth_points
from medlsam_jax.evaluation.segmentation import LabelBoxes, score_mask
from medlsam_jax.finding import OUTSIDE, Finding
from medlsam_jax.geometry import Box, Grid, Volume
from medlsam_jax.io.alignment import align_labels
from medlsam_jax.io.labels import LabelMap

Task = Literal["boxes", "masks"]
SCAN_FAILED = "scan failed"


@dataclasses.dataclass(frozen=True)
class Row:
  """Scores of one organ in one scan; None where a score does not apply: not asked for, or the organ is not there."""

  scan: str
  organ: str
  present: bool
  """Whether truth has a voxel of the organ in the scan."""
  verdict: str
  """Of the finding; empty when there is none."""
  failure: str
  """Why a score below stands for a result that is missing; empty when none is."""
  box_iou: float | None = None
  box_iou_published: float | None = None
  wall_distance_mm: float | None = None
  point_error_mm: float | None = None
  dice: float | None = None
  hd95_mm: float | None = None
  baseline_box_iou: float | None = None
  baseline_wall_distance_mm: float | None = None
  predicted_ml: float | None = None
  """Volume of the organ in the label map, also where truth does not have it."""
  true_ml: float | None = None
  """Volume of the organ in truth; 0 where truth does not have it. None in rows of before it was written."""


def evaluate_case(
  name: str,
  findings: Mapping[str, Finding] | None,
  label_map: LabelMap | Volume | None,
  truth: Volume,
  values: Mapping[str, int],
  baseline_boxes: Mapping[str, Box] | None = None,
  *,
  expected: tuple[Task, ...] | None = None,
) -> list[Row]:
  """Scores one scan.

  Args:
    name: of the scan, for the report.
    findings: by organ, in voxels of truth's grid; None where the search failed or was not asked for.
    label_map: on truth's voxels (in any axis order, cropped or padded), with its own label values in `names` (a
      `Volume` has those of `values`); or None.
    truth: label map of the scan.
    values: organs to score and their values in `truth`.
    baseline_boxes: of `MeanBoxes.place`, scored beside the findings.
    expected: which results should exist. One of them that is None then counts as failed: IoU or Dice 0, distances the
      scan's diagonal. None expects what is given, and both when neither is.

  Returns:
    One row per organ of `values`, in that order. Organs that truth does not have get a row without scores: there the
    verdict, and whether anything was painted, are what counts.

  Raises:
    InputError: if the label map does not lie on truth's voxels, or a label map is not of integers.
  """
  results: dict[Task, object] = {"boxes": findings, "masks": label_map}
  if expected is None:
    expected = tuple(task for task, result in results.items() if result is not None) or tuple(results)
  case = _Case(
    findings=findings,
    ours=None if label_map is None else LabelBoxes(_integers(name, "label map", _on_truth(name, label_map, truth))),
    names=dict(label_map.names if isinstance(label_map, LabelMap) else values),
    truth=LabelBoxes(_integers(name, "truth", truth.array)),
    grid=truth.grid,
    baseline_boxes=baseline_boxes,
    expected=expected,
  )
  return [case.row(name, organ, value) for organ, value in values.items()]


def unplaced_rows(name: str, organs: Iterable[str], diagonal_mm: float, expected: tuple[Task, ...]) -> list[Row]:
  """Rows of a scan that failed, of which truth says what is in it and not where: all organs are missing.

  Args:
    diagonal_mm: what distances count, since the scan's own diagonal is not known.
    expected: as `evaluate_case` takes it.
  """
  scores = missing_box(diagonal_mm) if "boxes" in expected else {}
  if "masks" in expected:
    scores |= {"dice": 0.0, "hd95_mm": diagonal_mm}
  return [Row(name, organ, True, "", SCAN_FAILED, **scores) for organ in organs]


def missing_box(diagonal_mm: float) -> dict[str, float]:
  """What a box that is missing scores."""
  scores = {"box_iou": 0.0, "box_iou_published": 0.0}
  return scores | {"wall_distance_mm": diagonal_mm, "point_error_mm": diagonal_mm}


@dataclasses.dataclass(frozen=True)
class _Case:
  """All that is known of one scan; label maps as boxes of their values."""

  findings: Mapping[str, Finding] | None
  ours: LabelBoxes | None
  names: Mapping[str, int]
  truth: LabelBoxes
  grid: Grid
  baseline_boxes: Mapping[str, Box] | None
  expected: tuple[Task, ...]

  def row(self, scan: str, organ: str, value: int) -> Row:
    finding = self.findings.get(organ) if self.findings is not None else None
    where = self.truth.slices(value)
    failures: list[str] = []
    scores: dict[str, float] = {"true_ml": self._volume_ml(self.truth.count(value))}
    if "boxes" in self.expected:
      failures += _missing_box(self.findings, finding, where is not None)
      if where is not None:
        box, points = _truth_of(self.truth, value, where, self.grid)
        scores |= dataclasses.asdict(score_finding(finding, box, points, self.grid))
    if where is not None and self.baseline_boxes is not None:
      iou, wall_mm = score_box(self.baseline_boxes.get(organ), Box.from_slices(where), self.grid)
      scores |= {"baseline_box_iou": iou, "baseline_wall_distance_mm": wall_mm}
    if "masks" in self.expected:
      painted = self._score_mask(organ, value, where is not None)
      failures += painted[0]
      scores |= painted[1]
    verdict = finding.verdict if finding is not None else ""
    return Row(scan, organ, where is not None, verdict, "; ".join(dict.fromkeys(failures)), **scores)

  def _score_mask(self, organ: str, value: int, present: bool) -> tuple[list[str], dict[str, float]]:
    """Why the mask is missing, if it is, and its scores."""
    ours = self.names.get(organ)
    voxels = 0 if self.ours is None else self.ours.count(ours)
    failures = [SCAN_FAILED] if self.ours is None else ["empty mask"] if present and not voxels else []
    scores: dict[str, float] = {}
    if present:
      scores |= dataclasses.asdict(score_mask(self.ours, ours, self.truth, value, self.grid))
    if self.ours is not None:
      scores["predicted_ml"] = self._volume_ml(voxels)
    return failures, scores

  def _volume_ml(self, voxels: int) -> float:
    return voxels * float(np.prod(self.grid.spacing_mm)) / 1000.0


def _on_truth(name: str, label_map: LabelMap | Volume, truth: Volume) -> np.ndarray:
  """The label map's values on the voxels of truth."""
  if label_map.grid.is_same(truth.grid):
    return label_map.array
  labels = label_map if isinstance(label_map, Volume) else Volume(label_map.array, label_map.grid, f"{name}: label map")
  return align_labels(labels, truth.grid, f"truth of {name}", truth.file_grid).array


def _integers(name: str, what: str, array: np.ndarray) -> np.ndarray:
  if array.dtype == bool or not np.issubdtype(array.dtype, np.integer):
    raise InputError(f"{name}: the {what} must hold integers (label values), not {array.dtype}")
  return array


def _missing_box(findings: Mapping[str, Finding] | None, finding: Finding | None, present: bool) -> list[str]:
  """Why the box of an organ is missing, if it is."""
  if findings is None:
    return [SCAN_FAILED]
  if present and finding is None:
    return ["no finding"]
  if present and finding is not None and finding.verdict == OUTSIDE:
    return ["called outside the field of view"]
  return []


def _truth_of(labels: LabelBoxes, value: int, where: tuple[slice, ...], grid: Grid) -> tuple[Box, np.ndarray]:
  """Box and extreme points of an organ in scan voxels, computed inside its own box."""
  box = Box.from_slices(where)
  return box, truth_points(labels.array[where] == value, Grid(_shape(where), grid.affine)) + np.array(box.low)


def _shape(where: tuple[slice, ...]) -> tuple[int, int, int]:
  extent = [s.stop - s.start for s in where]
  return extent[0], extent[1], extent[2]
