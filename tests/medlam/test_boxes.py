import numpy as np
import pytest

from medlsam_jax.geometry import Box
from medlsam_jax.medlam.bank.points import extreme_points
from medlsam_jax.medlam.search import boxes
from medlsam_jax.working_grid import working_grid


def _points(low, high) -> np.ndarray:
  """Six points on the faces of a box, at its middle otherwise."""
  middle = (np.array(low, float) + high) / 2
  points = np.tile(middle, (6, 1))
  for axis in range(3):
    points[axis, axis], points[3 + axis, axis] = low[axis], high[axis]
  return points


def test_points_of_one_face_change_places_where_they_crossed():
  points = _points((9, 2, 3), (4, 5, 6))
  ordered = boxes.order_faces(points)
  assert ordered[0].tolist() == points[3].tolist()
  assert ordered[3].tolist() == points[0].tolist()
  assert Box.of_points(ordered) == Box((4, 2, 3), (9, 5, 6))
  assert points[0, 0] == 9


@pytest.mark.parametrize("codes", ["LAS", "RAS", "LPI", "SAR", "PIL", "ISP"])
def test_a_box_lands_on_the_same_voxels_whatever_the_axis_order(make_grid, codes):
  grid = make_grid((14, 11, 9), codes)
  mask = np.zeros(grid.shape, bool)
  mask[2:6, 3:10, 1:4] = True
  order, flip = grid.axes_to("LAS")
  turned = mask.transpose(order)[tuple(slice(None, None, -1) if f else slice(None) for f in flip)]
  for convention in ("published", "consistent"):
    working = working_grid(grid, convention)
    found = boxes.points_to_scan(extreme_points(turned)[None], working)
    assert Box.of_points(found[0]) == Box.of_mask(mask)
    assert all(mask[tuple(p)] for p in found[0].astype(int))


def test_the_outermost_working_voxel_covers_all_its_finer_scan_voxels(make_grid):
  grid = make_grid((60, 60, 60), "LAS", 1.0)
  found = boxes.points_to_scan(_points((2, 3, 4), (5, 6, 7)), working_grid(grid, "consistent"))
  assert Box.of_points(found) == Box((6, 9, 12), (17, 20, 23))


def test_points_of_the_scan_come_back_from_the_working_grid(make_grid):
  for convention in ("published", "consistent"):
    working = working_grid(make_grid((40, 60, 60), "LAS", 1.5), convention)
    points = _points((4, 8, 12), (20, 24, 28))
    back = boxes.points_to_scan(boxes.points_from_scan(points, working), working)
    assert np.allclose(back, points)
