"""Boxes and extreme points of results against a truth mask, in voxels (z, y, x) of the scan.

What is compared, defined here alone:

- truth box: the tight box of the organ's voxels in the scan; an organ cut by the field of view has the box of what is
  visible. The box of a result is cut to the scan before `box_iou` and `wall_distance_mm`, since truth knows nothing
  beyond it; `box_iou_published` takes it as it is, as the published program does.
- truth extreme points: the template rule (one voxel on each face, `medlam.bank.points.extreme_points`) on the scan's
  own voxels turned to LAS, so that a file's orientation does not change which voxel of a face is taken.
- an organ without a result, or called outside the field of view though truth has it: IoU 0, and the scan's
  diagonal for both distances.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from medlsam_jax import metrics
from medlsam_jax.finding import OUTSIDE, Finding
from medlsam_jax.geometry import WORKING_AXIS_CODES, Box, Grid, reorient
from medlsam_jax.medlam.bank.points import extreme_points
from medlsam_jax.medlam.search import boxes
from medlsam_jax.working_grid import WorkingGrid


@dataclasses.dataclass(frozen=True)
class BoxScores:
  """Scores of one organ's box and points; distances in mm."""

  box_iou: float
  box_iou_published: float
  wall_distance_mm: float
  point_error_mm: float


def truth_points(mask: Bool[np.ndarray, "z y x"], grid: Grid) -> Float[np.ndarray, "6 3"]:
  """Extreme points of a mask that is not empty: scan voxels, in the order of the scan's `FACES`."""
  turned = reorient(mask, grid, WORKING_AXIS_CODES)
  same_voxels = WorkingGrid(grid, (turned.shape[0], turned.shape[1], turned.shape[2]), np.ones(3))
  return boxes.points_to_scan(extreme_points(turned), same_voxels)


def score_box(box: Box | None, truth: Box, grid: Grid) -> tuple[float, float]:
  """`box_iou` and `wall_distance_mm` of a box, cut to the scan, against a truth box; None is a box that is missing.

  A box wholly outside the scan has IoU 0 and the wall distance of the box as it is.
  """
  inside = box.clipped(grid.shape) if box is not None else None
  diagonal_mm = metrics.diagonal_mm(grid)
  wall_mm = metrics.wall_distance_mm(inside or box, truth, grid.spacing_mm, missing_mm=diagonal_mm)
  return metrics.box_iou(inside, truth), wall_mm


def score_finding(finding: Finding | None, truth_box: Box, points: Float[np.ndarray, "6 3"], grid: Grid) -> BoxScores:
  """Scores of a finding against an organ's truth box and truth points; None is a finding that is missing."""
  if finding is not None and finding.verdict == OUTSIDE:
    finding = None
  box = None if finding is None else finding.box
  iou, wall_mm = score_box(box, truth_box, grid)
  return BoxScores(
    box_iou=iou,
    box_iou_published=metrics.box_iou_published(box, truth_box),
    wall_distance_mm=wall_mm,
    point_error_mm=metrics.point_error_mm(
      None if finding is None else finding.whole_points, points, grid.spacing_mm, missing_mm=metrics.diagonal_mm(grid)
    ),
  )
