"""The page's frame: there and back by counting in every orientation, and large scans thinned out for the eye alone."""

import numpy as np
import pytest

from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Box, Grid
from medlsam_jax.view.frame import Frame, numbers_of

CODES = ("LPS", "RAS", "SRA", "RPI")


def grid_of(codes, shape=(5, 7, 9), spacing=(3.0, 2.0, 1.0)):
  """A grid whose array axes (x, y, z) run along `codes`."""
  affine = np.zeros((4, 4))
  affine[3, 3] = 1
  for axis, letter in enumerate(codes):
    row, sign = {"L": (0, -1), "R": (0, 1), "P": (1, -1), "A": (1, 1), "I": (2, -1), "S": (2, 1)}[letter]
    affine[row, axis] = sign * spacing[::-1][axis]
  affine[:3, 3] = (10, -20, 30)
  return Grid(shape, affine)


@pytest.mark.parametrize("codes", CODES)
def test_millimetres_of_the_page_are_those_of_the_world_but_for_the_start(codes):
  grid = grid_of(codes)
  voxels = np.array([[0, 0, 0], [4, 6, 8], [1.5, 2.25, 3.75]])
  page, world = Frame.of(grid).to_page(voxels), grid.world_from_voxel(voxels)
  np.testing.assert_allclose(page[1:] - page[:1], world[1:] - world[:1], atol=1e-9)
  np.testing.assert_allclose(Frame.of(grid).from_page(page), voxels, atol=1e-9)


@pytest.mark.parametrize("codes", CODES)
def test_a_voxel_is_shown_where_its_place_says(codes):
  grid, array = grid_of(codes), np.full((5, 7, 9), -1000.0, np.float32)
  array[1, 2, 3] = 700
  frame = Frame.of(grid)
  shown = frame.scan(array)
  (place,) = np.argwhere(shown == 700)
  x, y, z = frame.to_page(np.array([1, 2, 3]))
  np.testing.assert_allclose(place[::-1] * np.array(frame.about()["shown_spacing_mm"]), (x, y, z))
  labels = np.zeros((5, 7, 9), np.uint8)
  labels[1, 2, 3] = 42
  np.testing.assert_array_equal(np.argwhere(frame.labels(labels, [7, 42]) == 2), [place])


@pytest.mark.parametrize("codes", CODES)
def test_a_box_comes_back_as_it_went(codes):
  frame, box = Frame.of(grid_of(codes)), Box((1, 2, 3), (3, 5, 3))
  assert frame.box_from_page(frame.box_to_page(box)) == box


def test_a_box_is_cut_at_the_scan_and_never_thinner_than_a_voxel():
  frame = Frame.of(grid_of("RAS"))
  assert frame.box_from_page([[-99, -99, -99], [999, 999, 999]]) == Box((0, 0, 0), (4, 6, 8))
  thin = frame.box_from_page([[2.1, 4.1, 3.1], [2.2, 4.2, 3.2]])
  assert thin.low == thin.high == (1, 2, 2)
  with pytest.raises(InputError, match="outside the scan"):
    frame.box_from_page([[-99, 0, 0], [-98, 9, 9]])


@pytest.mark.parametrize("said", [None, "box", [[1, 2], [3, 4]], [[0, 0, 0], [1, 1, float("nan")]], [["a"] * 3] * 2])
def test_what_is_no_box_is_refused(said):
  with pytest.raises(InputError, match="not a box"):
    numbers_of(said, (2, 3), "a box")


def test_a_large_scan_is_thinned_out_where_voxels_lie_closest():
  grid = grid_of("RAS", shape=(10, 40, 41), spacing=(5.0, 1.0, 1.0))
  frame = Frame.of(grid, most=10 * 20 * 21)
  assert frame.factors == (1, 2, 2) and frame.shown_shape == (10, 20, 21)
  array = np.zeros((10, 40, 41), np.float32)
  array[4, 2:4, 6:8] = (100, 200), (300, 400)
  assert frame.scan(array)[4, 1, 3] == 250
  labels = np.zeros((10, 40, 41), np.uint8)
  labels[..., 40] = 1  # the last column, which stands alone
  assert (frame.labels(labels, [1])[..., -1] == 1).all() and frame.labels(labels, [1]).shape == frame.shown_shape


def test_a_thinned_voxel_lies_in_the_middle_of_those_it_stands_for():
  frame = Frame.of(grid_of("LPS", shape=(4, 8, 8), spacing=(2.0, 1.0, 1.0)), most=64)
  assert frame.factors == (1, 2, 2)
  assert frame.about()["shown_origin_mm"] == [0.5, 0.5, 0.0] and frame.about()["is_thinned"]


def test_an_edge_that_a_graphics_card_would_not_take_is_thinned_out_alone():
  assert Frame.of(grid_of("RAS", shape=(4, 4, 50)), longest=30).factors == (1, 1, 2)
