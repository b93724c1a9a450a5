"""Found boxes and extreme points against a truth mask, in voxels (z, y, x) of the scan.

What is compared, defined here alone:

- truth box: the tight box of the organ's voxels in the scan; an organ cut by the field of view has the box of what is
  visible. The found box is cut to the scan before `box_iou` and `wall_distance_mm`, since truth knows nothing beyond
  it; `box_iou_published` takes it as found, as the published program does.
- truth extreme points: the template rule (one voxel on each face, `medlam.bank.points.extreme_points`) on the scan's
  own voxels turned to LAS, so that a file's orientation does not change which voxel of a face is taken.
- an organ that was not found, or was called outside the field of view though truth has it: IoU 0, and the scan's
  diagonal for both distances.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float

from medlsam_jax import metrics
from medlsam_jax.geometry import WORKING_AXIS_CODES, Box, Grid, WorkingGrid, reorient
from medlsam_jax.medlam.bank.points import extreme_points
from medlsam_jax.medlam.search import boxes

OUTSIDE = "outside field of view"
UNCERTAIN = "uncertain"


class Found(Protocol):
  """What is scored of a `medlam.search.finding.Finding`, or of one read back from a file."""

  @property
  def box(self) -> Box:
    """Box of the whole organ."""
    ...

  @property
  def whole_points(self) -> Float[np.ndarray, "6 3"]:
    """Six extreme points of the whole organ in the order of the scan's `FACES`."""
    ...

  @property
  def verdict(self) -> str:
    """One of `medlam.search.confidence.Verdict`."""
    ...


@dataclasses.dataclass(frozen=True, eq=False)
class PlacedPoints:
  """A finding without its confidence: what a file keeps of one, or a search that does not judge."""

  points: Float[np.ndarray, "parts 6 3"]
  """Scan voxels (z, y, x), in the order of the scan's `FACES`."""
  verdict: str

  @property
  def box(self) -> Box:
    """Smallest box around all parts."""
    return Box.around(boxes.part_boxes(self.points))

  @property
  def whole_points(self) -> Float[np.ndarray, "6 3"]:
    """Six extreme points of the organ as a whole."""
    return boxes.whole_points(self.points)


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


def score_box(found: Box | None, truth: Box, grid: Grid) -> tuple[float, float]:
  """`box_iou` and `wall_distance_mm` of a box, cut to the scan, against a truth box; None is a box that is missing.

  A box wholly outside the scan has IoU 0 and the wall distance of the box as it is.
  """
  inside = found.clipped(grid.shape) if found is not None else None
  diagonal_mm = metrics.diagonal_mm(grid)
  wall_mm = metrics.wall_distance_mm(inside or found, truth, grid.spacing_mm, missing_mm=diagonal_mm)
  return metrics.box_iou(inside, truth), wall_mm


def score_finding(found: Found | None, truth_box: Box, points: Float[np.ndarray, "6 3"], grid: Grid) -> BoxScores:
  """Scores of a finding against an organ's truth box and truth points; None is a finding that is missing."""
  if found is not None and found.verdict == OUTSIDE:
    found = None
  box = None if found is None else found.box
  iou, wall_mm = score_box(box, truth_box, grid)
  return BoxScores(
    box_iou=iou,
    box_iou_published=metrics.box_iou_published(box, truth_box),
    wall_distance_mm=wall_mm,
    point_error_mm=metrics.point_error_mm(
      None if found is None else found.whole_points, points, grid.spacing_mm, missing_mm=metrics.diagonal_mm(grid)
    ),
  )
