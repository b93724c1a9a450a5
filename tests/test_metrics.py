"""Scores on cases small enough to count by hand, and what they give when something is missing."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medlsam_jax import metrics
from medlsam_jax.geometry import Box, Grid

EMPTY = np.zeros((4, 5, 6), bool)


def _cube(low, high, shape=(12, 12, 12)):
  mask = np.zeros(shape, bool)
  mask[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))] = True
  return mask


def test_box_iou_counts_inclusive_voxels_and_the_published_one_does_not():
  first, second = Box((0, 0, 0), (1, 1, 1)), Box((1, 0, 0), (2, 1, 1))
  assert metrics.box_iou(first, second) == pytest.approx(4 / 12)
  assert metrics.box_iou_published(first, second) == 0
  wide = Box((0, 0, 0), (2, 1, 1))
  assert metrics.box_iou(first, wide) == pytest.approx(8 / 12)
  assert metrics.box_iou_published(first, wide) == pytest.approx(1 / 2)


def test_box_iou_of_one_voxel_and_of_flat_boxes():
  voxel, flat = Box((3, 3, 3), (3, 3, 3)), Box((0, 0, 0), (0, 4, 4))
  assert metrics.box_iou(voxel, voxel) == 1
  assert metrics.box_iou_published(flat, flat) == 0


def test_boxes_apart_share_nothing_even_when_apart_on_two_axes():
  assert metrics.box_iou(Box((0, 0, 0), (1, 1, 1)), Box((5, 5, 0), (6, 6, 1))) == 0
  assert metrics.box_iou_published(Box((0, 0, 0), (1, 1, 1)), Box((5, 5, 0), (6, 6, 1))) == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=6, max_size=6))
def test_box_iou_equals_the_jaccard_of_the_filled_boxes(edges):
  pairs = [sorted(e) for e in edges]
  boxes = [Box(tuple(p[0] for p in three), tuple(p[1] for p in three)) for three in (pairs[:3], pairs[3:])]
  masks = [_cube(b.low, b.high) for b in boxes]
  assert metrics.box_iou(*boxes) == pytest.approx(metrics.jaccard(*masks))


def test_wall_distance_is_the_mean_over_six_faces_in_mm():
  first, second = Box((0, 0, 0), (4, 4, 4)), Box((1, 0, 0), (4, 6, 1))
  assert metrics.wall_distance_mm(first, second, (5, 2, 3)) == pytest.approx((5 + 2 * 2 + 3 * 3) / 6)


def test_point_error_is_the_mean_distance_in_mm(unchecked_shapes):
  points = np.zeros((6, 3))
  moved = points.copy()
  moved[0] = (1, 0, 0)
  moved[1] = (0, 3, 4)
  assert metrics.point_error_mm(points, moved, (3, 1, 1)) == pytest.approx((3 + 5) / 6)
  with pytest.raises(ValueError, match="pair up"):
    metrics.point_error_mm(points, moved[:5], (1, 1, 1))


def test_dice_and_jaccard_by_hand(unchecked_shapes):
  first, second = _cube((0, 0, 0), (1, 1, 1)), _cube((1, 0, 0), (2, 1, 1))
  assert metrics.dice(first, second) == pytest.approx(0.5)
  assert metrics.jaccard(first, second) == pytest.approx(1 / 3)
  with pytest.raises(ValueError, match="one grid"):
    metrics.dice(first, EMPTY)


def test_missing_things_give_what_the_module_says():
  box, points = Box((0, 0, 0), (1, 1, 1)), np.zeros((6, 3))
  full = ~EMPTY
  assert metrics.box_iou(None, None) == metrics.box_iou_published(None, None) == 1
  assert metrics.box_iou(box, None) == metrics.box_iou_published(None, box) == 0
  assert metrics.wall_distance_mm(None, None, (1, 1, 1)) == metrics.point_error_mm(None, None, (1, 1, 1)) == 0
  assert math.isinf(metrics.wall_distance_mm(None, box, (1, 1, 1)))
  assert metrics.wall_distance_mm(None, box, (1, 1, 1), missing_mm=70.0) == 70
  assert metrics.point_error_mm(points, None, (1, 1, 1), missing_mm=70.0) == 70
  assert metrics.dice(EMPTY, EMPTY) == metrics.jaccard(EMPTY, EMPTY) == 1
  assert metrics.dice(EMPTY, full) == metrics.jaccard(full, EMPTY) == 0
  assert metrics.hd95_mm(EMPTY, EMPTY, (1, 1, 1)) == 0
  assert metrics.hd95_mm(EMPTY, full, (2, 1, 3)) == pytest.approx(np.sqrt(8**2 + 5**2 + 18**2))
  assert metrics.surface_dice(EMPTY, EMPTY, (1, 1, 1), 1.0) == 1
  assert metrics.surface_dice(full, EMPTY, (1, 1, 1), 1.0) == 0
  assert metrics.surface_dice_at(EMPTY, EMPTY, (1, 1, 1), (1.0, 2.0)) == (1, 1)


def test_diagonal_runs_from_outer_face_to_outer_face():
  assert metrics.diagonal_mm(Grid((4, 5, 6), np.diag([3.0, 1.0, 2.0, 1.0]))) == pytest.approx(
    np.sqrt(8**2 + 5**2 + 18**2)
  )


def test_hd95_of_a_shifted_cube_is_the_shift_in_mm():
  first, second = _cube((2, 2, 2), (6, 6, 6)), _cube((4, 2, 2), (8, 6, 6))
  assert metrics.hd95_mm(first, second, (5, 1, 1)) == pytest.approx(10.0)
  assert metrics.hd95_mm(first, second, (1, 3, 3)) == pytest.approx(2.0)
  assert metrics.hd95_mm(first, first, (1, 3, 3)) == 0


def test_hd95_takes_the_worse_direction_and_leaves_out_a_few_far_voxels():
  first = np.zeros((3, 3, 60), bool)
  first[1, 1, :20] = True
  longer = first.copy()
  longer[1, 1, :40] = True
  assert metrics.hd95_mm(first, longer, (1, 1, 1)) == metrics.hd95_mm(longer, first, (1, 1, 1)) > 15
  speck = np.zeros((20, 20, 20), bool)
  speck[5:15, 5:15, 5:15] = True
  plain = speck.copy()
  speck[0, 0, 0] = True
  assert metrics.hd95_mm(plain, speck, (1, 1, 1)) == 0


def test_an_organ_cut_by_the_scans_border_has_a_surface_there():
  cut = _cube((0, 3, 3), (5, 8, 8))
  whole = _cube((2, 3, 3), (5, 8, 8))
  assert metrics.hd95_mm(cut, whole, (1, 1, 1)) == pytest.approx(2.0)


def test_hd95_equals_brute_force_on_random_blobs():
  rng = np.random.default_rng(0)
  from scipy import ndimage
  from scipy.spatial.distance import cdist

  spacing = np.array([2.5, 1.0, 0.7])
  for _ in range(5):
    masks = [ndimage.gaussian_filter(rng.standard_normal((9, 10, 11)), 1.5) > 0 for _ in range(2)]
    edges = []
    for mask in masks:
      padded = np.pad(mask, 1)
      inner = np.ones_like(mask)
      for axis in range(3):
        for step in (-1, 1):
          inner &= np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1]
      edges.append(np.argwhere(mask & ~inner) * spacing)
    table = cdist(*edges)
    there, back = table.min(1), table.min(0)
    expected = max(np.percentile(there, 95), np.percentile(back, 95))
    assert metrics.hd95_mm(*masks, spacing) == pytest.approx(expected)
    near = ((there <= 1.2).sum() + (back <= 1.2).sum()) / (len(there) + len(back))
    assert metrics.surface_dice(*masks, spacing, 1.2) == pytest.approx(near)
    assert metrics.surface_dice_at(*masks, spacing, (0.0, 1.2))[1] == pytest.approx(near)
