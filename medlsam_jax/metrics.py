"""Scores of boxes, points and masks; arrays, points and spacings are (z, y, x), lengths in mm.

What each gives when something is missing, stated once. `None` is a missing box or set of points, a mask without a true
voxel is an empty mask:

- `box_iou`, `box_iou_published`: 1 where both are missing, 0 where one is;
- `dice`, `jaccard`, `surface_dice`, `surface_dice_at`: likewise;
- `hd95_mm`: 0 where both are missing; where one is, the diagonal of the masks' array in mm;
- `wall_distance_mm`, `point_error_mm`: 0 where both are missing; where one is, `missing_mm`: infinity unless a caller
  gives the scan's diagonal.

A missing prediction is thus never at distance 0 of something, and means over scans stay finite where the diagonal is
used. Whether organs that truth does not have enter a mean at all is decided in `evaluation`, not here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Num
from scipy import ndimage

from medlsam_jax.geometry import Box, Grid

Mask = Bool[np.ndarray, "*shape"]
Spacing = tuple[float, float, float] | Float[np.ndarray, "3"]


def diagonal_mm(grid: Grid) -> float:
  """Length of the scan's diagonal, outer face to outer face: the distance given to what was not found."""
  return float(np.linalg.norm(np.array(grid.shape) * grid.spacing_mm))


def _iou(first: Box | None, second: Box | None, rim: float) -> float:
  if first is None or second is None:
    return float(first is None and second is None)
  low = np.maximum(first.low, second.low)
  high = np.minimum(first.high, second.high)
  shared = float(np.prod(np.maximum(high - low + rim, 0)))
  volumes = [float(np.prod(np.maximum(np.subtract(b.high, b.low) + rim, 0))) for b in (first, second)]
  union = sum(volumes) - shared
  return shared / union if union > 0 else 0.0


def box_iou(first: Box | None, second: Box | None) -> float:
  """Intersection over union of two boxes whose corners are **inclusive** voxels: an extent is `high - low + 1`.

  Both boxes must be of one grid. Boxes of one voxel count as one voxel. Missing boxes: see the module.
  """
  return _iou(first, second, 1.0)


def box_iou_published(first: Box | None, second: Box | None) -> float:
  """Intersection over union as the published program counts it: an extent is `high - low`.

  Flat boxes have no volume here; two of them give 0. Disjoint boxes give 0 (published: 1e-8 shared voxels).
  """
  return _iou(first, second, 0.0)


def wall_distance_mm(
  first: Box | None, second: Box | None, spacing_mm: Spacing, *, missing_mm: float = math.inf
) -> float:
  """Mean over the six faces of the distance in mm between the faces of two boxes of one grid."""
  if first is None or second is None:
    return 0.0 if first is None and second is None else missing_mm
  return float(np.mean(np.abs(first.array() - second.array()) * np.asarray(spacing_mm, float)))


def point_error_mm(
  first: Num[np.ndarray, "n 3"] | None,
  second: Num[np.ndarray, "n 3"] | None,
  spacing_mm: Spacing,
  *,
  missing_mm: float = math.inf,
) -> float:
  """Mean Euclidean distance in mm between points in the same order (ALE of the MedLSAM paper, six extreme points).

  Raises:
    ValueError: if there are not equally many points, or none.
  """
  if first is None or second is None:
    return 0.0 if first is None and second is None else missing_mm
  first, second = np.asarray(first, float), np.asarray(second, float)
  if first.shape != second.shape or first.ndim != 2 or not len(first):
    raise ValueError(f"points must pair up, got shapes {first.shape} and {second.shape}")
  return float(np.linalg.norm((first - second) * np.asarray(spacing_mm, float), axis=-1).mean())


def _counts(first: Mask, second: Mask) -> tuple[int, int, int]:
  """True voxels of both masks, of the first and of the second."""
  first, second = _same_shape(first, second)
  return int(np.count_nonzero(first & second)), int(np.count_nonzero(first)), int(np.count_nonzero(second))


def _same_shape(first: Mask, second: Mask) -> tuple[Mask, Mask]:
  first, second = np.asarray(first, bool), np.asarray(second, bool)
  if first.shape != second.shape:
    raise ValueError(f"masks must be of one grid, got shapes {first.shape} and {second.shape}")
  return first, second


def dice(first: Mask, second: Mask) -> float:
  """Twice the shared voxels over the voxels of both masks. Empty masks: see the module.

  Raises:
    ValueError: if the masks differ in shape; so do all scores of masks.
  """
  both, a, b = _counts(first, second)
  return 2 * both / (a + b) if a + b else 1.0


def jaccard(first: Mask, second: Mask) -> float:
  """Shared voxels over the voxels of either mask. Empty masks: see the module."""
  both, a, b = _counts(first, second)
  return both / (a + b - both) if a + b else 1.0


def hd95_mm(first: Mask, second: Mask, spacing_mm: Spacing) -> float:
  """Hausdorff distance at the 95th percentile, in mm: the larger of the two directed percentiles.

  Surfaces are the voxels of a mask with a face neighbour outside it, the scan's border being outside; distances run
  from voxel centre to voxel centre. Empty masks: see the module.
  """
  first, second = _same_shape(first, second)
  if not first.any() or not second.any():
    return 0.0 if first.any() == second.any() else float(np.linalg.norm(np.multiply(first.shape, spacing_mm)))
  there, back = _surface_distances(first, second, spacing_mm)
  return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def surface_dice(first: Mask, second: Mask, spacing_mm: Spacing, tolerance_mm: float) -> float:
  """Share of both surfaces' voxels that lie within `tolerance_mm` of the other surface (surfaces as in `hd95_mm`)."""
  return surface_dice_at(first, second, spacing_mm, (tolerance_mm,))[0]


def surface_dice_at(
  first: Mask, second: Mask, spacing_mm: Spacing, tolerances_mm: Sequence[float]
) -> tuple[float, ...]:
  """`surface_dice` at several tolerances, for the distances of one."""
  first, second = _same_shape(first, second)
  if not first.any() or not second.any():
    return (float(first.any() == second.any()),) * len(tolerances_mm)
  distances = np.concatenate(_surface_distances(first, second, spacing_mm))
  return tuple(float(np.mean(distances <= tolerance)) for tolerance in tolerances_mm)


def _surface_distances(
  first: Mask, second: Mask, spacing_mm: Spacing
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]:
  """Distance of each surface voxel to the other surface, both ways; only the box around both masks is computed."""
  box = Box.of_mask(first | second)
  assert box is not None
  cut = tuple(slice(int(low), int(high) + 1) for low, high in zip(box.low, box.high, strict=True))
  surfaces = [mask[cut] & ~ndimage.binary_erosion(mask[cut]) for mask in (first, second)]
  to = [ndimage.distance_transform_edt(~surface, sampling=np.asarray(spacing_mm, float)) for surface in surfaces]
  return to[1][surfaces[0]], to[0][surfaces[1]]
