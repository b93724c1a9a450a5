"""Parts of an organ to one box a slice."""

import numpy as np
import pytest

from medlsam_jax.geometry import Box, Grid
from medlsam_jax.sam.slice_boxes import boxes_by_slice, tight_boxes

LPS = Grid((10, 20, 30), np.diag([-1.0, -1.0, 1.0, 1.0]))


def test_parts_that_share_a_slice_give_one_box_around_both():
  found = boxes_by_slice([Box((1, 4, 5), (3, 8, 9)), Box((3, 6, 2), (4, 10, 7))], LPS)
  assert sorted(found) == [1, 2, 3, 4]
  np.testing.assert_array_equal(found[2], [5, 4, 10, 9])
  np.testing.assert_array_equal(found[3], [2, 4, 10, 11])
  np.testing.assert_array_equal(found[4], [2, 6, 8, 11])


def test_a_gap_between_parts_is_interpolated():
  parts = [Box((1, 4, 4), (1, 7, 7)), Box((5, 8, 12), (5, 11, 19))]
  found = boxes_by_slice(parts, LPS)
  np.testing.assert_allclose(found[3], [8, 6, 14, 10])
  assert sorted(boxes_by_slice(parts, LPS, fill_gaps=False)) == [1, 5]


def test_order_of_parts_and_crossed_corners_do_not_matter():
  parts = [Box((1, 4, 5), (3, 8, 9)), Box((5, 6, 2), (7, 10, 7))]
  crossed = [Box(parts[1].high, parts[1].low), Box((3, 4, 9), (1, 8, 5))]
  first, second = boxes_by_slice(parts, LPS), boxes_by_slice(crossed, LPS)
  assert first.keys() == second.keys()
  for index in first:
    np.testing.assert_array_equal(first[index], second[index])


def test_what_reaches_outside_the_scan_is_clipped():
  found = boxes_by_slice([Box((-5, -3, 25), (2, 4, 44))], LPS)
  assert sorted(found) == [0, 1, 2]
  np.testing.assert_array_equal(found[0], [25, 0, 30, 5])


@pytest.mark.parametrize("low, high", [((-9, 3, 3), (-1, 8, 8)), ((2, -9, 3), (3, -1, 8)), ((2, 3, 30), (3, 8, 44))])
def test_a_box_outside_the_scan_gives_no_slice(low, high):
  assert boxes_by_slice([Box(low, high)], LPS) == {}


def test_a_stray_corner_far_away_costs_no_loop():
  assert sorted(boxes_by_slice([Box((-1e9, 3, 3), (1e9, 8, 8))], LPS)) == list(range(10))


def test_no_parts_give_nothing():
  assert boxes_by_slice([], LPS) == {}


def test_extra_slices_lengthen_or_shorten_the_organ():
  part = [Box((4, 3, 3), (6, 8, 8))]
  assert sorted(boxes_by_slice(part, LPS, extra_slices=2)) == [2, 3, 4, 5, 6, 7, 8]
  assert sorted(boxes_by_slice(part, LPS, extra_slices=-1)) == [5]
  assert boxes_by_slice(part, LPS, extra_slices=-2) == {}


def test_tight_boxes_of_a_mask_follow_it_slice_by_slice():
  affine = np.array([[0, 0, 2.0, 0], [3.0, 0, 0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1]])  # x, y, z run A, I, R
  grid = Grid((5, 8, 6), affine)
  mask = np.zeros(grid.shape, bool)
  mask[1:3, 2, 1:4] = True
  mask[3, 5, 2] = True
  boxes = tight_boxes(mask, grid)
  assert [(b.low, b.high) for b in boxes] == [((1, 2, 1), (2, 2, 3)), ((3, 5, 2), (3, 5, 2))]
  assert sorted(boxes_by_slice(boxes, grid, fill_gaps=False)) == [2, 5]
