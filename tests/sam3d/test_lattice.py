"""Lattices against SciPy's interpolation, and against functions of the world in which every grid shows the same."""

import itertools

import numpy as np
import pytest
from rearranging import rearranged
from scipy import ndimage

from medlsam_jax.geometry import DISPLAY_AXIS_CODES, Box, Grid, display_view, reorient_corners
from medlsam_jax.sam3d.lattice import Lattice

SPACING = np.array([3.0, 0.8, 1.1])
LPS = Grid((14, 40, 36), np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1]))
WAYS = {
  "LPS": ((0, 1, 2), (False, False, False)),
  "RAS": ((0, 1, 2), (False, True, True)),
  "LAS": ((0, 1, 2), (False, True, False)),
  "RPI": ((0, 1, 2), (True, False, True)),
  "SAR": ((2, 1, 0), (True, True, False)),
}


def noise(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def places(lattice):
  """Of all points, display voxels (3, a, b, c)."""
  along = [a + np.arange(n) * s for a, s, n in zip(lattice.start, lattice.step, lattice.shape, strict=True)]
  return np.stack(np.meshgrid(*along, indexing="ij"))


@pytest.mark.parametrize("outside", [0.0, -1000.0])
def test_short_steps_are_linear_between_voxels_and_blend_into_what_lies_beyond(outside):
  array = noise(6, 7, 8)
  lattice = Lattice((-1.3, 0.4, 5.0), (0.7, 0.25, 1.0), (14, 9, 6))
  expected = ndimage.map_coordinates(array, places(lattice), order=1, mode="grid-constant", cval=outside)
  np.testing.assert_allclose(lattice.sampled(array, outside), expected, atol=1e-3 if outside else 1e-6)


def test_long_steps_average_over_a_step():
  """Steps of two voxels weigh a voxel and its neighbours as 1, 2, 1; steps of one leave it as it is."""
  array = noise(9, 5, 5)
  result = Lattice((0.0, 0.0, 0.0), (2.0, 1.0, 1.0), (5, 5, 5)).sampled(array, 3.0)
  padded = np.pad(array, ((1, 1), (0, 0), (0, 0)), constant_values=3.0)
  expected = (padded[:-2:2] + 2 * padded[1:-1:2] + padded[2::2]) / 4
  np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize("codes", WAYS)
@pytest.mark.parametrize("step_mm", [0.7, 2.0])
def test_however_a_scan_is_stored_the_same_place_has_the_same_value(codes, step_mm):
  """A linear function of the world: what is linear between voxels, and averages over equal sides, keeps it."""
  array, grid = rearranged(np.zeros(LPS.shape), LPS, *WAYS[codes])
  assert grid.axis_codes == codes
  slope = np.array([1.0, -2.0, 0.5])
  array = grid.world_from_voxel(np.stack(np.indices(grid.shape), -1)) @ slope
  order, _ = grid.axes_to(DISPLAY_AXIS_CODES)
  voxel = np.array([7.2, 20.4, 15.1])  # of LPS
  place = voxel[list(WAYS[codes][0])]
  place = np.where(WAYS[codes][1], np.array(grid.shape) - 1 - place, place)
  centre = reorient_corners(Box(tuple(place), tuple(place)), grid, DISPLAY_AXIS_CODES)[0]
  np.testing.assert_allclose(centre, voxel)
  lattice = Lattice.around(centre, grid.spacing_mm[list(order)], step_mm, (5, 4, 6))
  offset = (np.stack(np.indices((5, 4, 6)), -1) - (np.array([5, 4, 6]) - 1) / 2) * step_mm
  expected = (LPS.world_from_voxel(voxel) + offset[..., ::-1] * [-1, -1, 1]) @ slope
  # an average over steps that are no whole number of voxels is off by some hundredths of a voxel
  np.testing.assert_allclose(
    lattice.sampled(display_view(array, grid), 0.0), expected, atol=0.15 if step_mm > 1 else 1e-3
  )


def test_masks_hold_what_is_at_least_half_inside():
  truth = ndimage.gaussian_filter(noise(20, 22, 24, seed=1), 2) > 0
  lattice = Lattice((1.2, -3.4, 0.6), (0.8, 0.9, 0.5), (20, 30, 40))
  share = ndimage.map_coordinates(truth.astype(float), places(lattice), order=1, mode="grid-constant")
  clear = np.abs(share - 0.5) > 1e-4
  mask = lattice.mask(truth)
  assert mask.dtype == bool and np.array_equal(mask[clear], (share >= 0.5)[clear]) and 0.2 < mask.mean() < 0.8


def test_places_are_whole_numbers_at_points():
  lattice = Lattice.around(np.array([4.0, 5.0, 6.0]), SPACING, 2.0, (5, 6, 7))
  points = places(lattice).reshape(3, -1).T
  np.testing.assert_allclose(lattice.from_scan(points), np.stack(np.indices((5, 6, 7))).reshape(3, -1).T, atol=1e-9)
  np.testing.assert_allclose(lattice.from_scan(np.array([4.0, 5.0, 6.0])), [2, 2.5, 3], atol=1e-12)


def test_values_go_back_to_voxels_as_they_lie_between_points():
  lattice = Lattice((-0.7, 2.3, 1.1), (1.9, 0.6, 1.3), (6, 9, 5))
  values, where = noise(6, 9, 5), lattice.reach((12, 10, 20))
  got = lattice.at_voxels(values, where)
  voxels = np.stack(np.meshgrid(*(np.arange(each.start, each.stop) for each in where), indexing="ij"), -1)
  expected = ndimage.map_coordinates(values, np.moveaxis(lattice.from_scan(voxels), -1, 0), order=1)
  assert got.size and got.shape == expected.shape
  np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("step_mm", [0.6, 1.0])
def test_a_smooth_scan_comes_back_from_a_cube(step_mm):
  z, y, x = np.indices((16, 30, 30))
  scan = (np.sin(z / 4) + np.cos(y / 6) + x / 20).astype(np.float32)
  lattice = Lattice.around(np.array([8.0, 15.0, 15.0]), np.array([2.0, 0.8, 1.0]), step_mm, (40, 24, 24))
  where = lattice.reach(scan.shape)
  back = lattice.at_voxels(lattice.sampled(scan, 0.0), where)
  # but at the border, where what lies beyond has its share
  inner = tuple(slice(max(1 - each.start, 0), len(range(*each.indices(n))) - (each.stop == n)) for each, n in
                zip(where, scan.shape, strict=True))  # fmt: skip
  np.testing.assert_allclose(back[inner], scan[where][inner], atol=0.03)
  assert back[inner].size > 1000


def test_reach_is_the_voxels_between_first_and_last_point():
  rng = np.random.default_rng(3)
  for _ in range(50):
    start, step, n = rng.uniform(-15, 15), rng.uniform(0.3, 3), int(rng.integers(2, 9))
    reach = Lattice((start, 0.0, 0.0), (step, 1.0, 1.0), (n, 2, 2)).reach((10, 5, 5))[0]
    inside = [k for k in range(10) if start - 1e-6 <= k <= start + (n - 1) * step + 1e-6]
    assert list(range(reach.start, reach.stop)) == inside
    assert 0 <= reach.start <= reach.stop <= 10


def test_a_lattice_beyond_the_scan_or_larger_than_it_sees_what_there_is():
  array = noise(4, 4, 4)
  for start in itertools.product((-30.0, 30.0), (0.0,), (0.0,)):
    away = Lattice(start, (1.0, 1.0, 1.0), (4, 4, 4))
    assert (away.sampled(array, -7.0) == -7).all() and array[away.reach(array.shape)].size == 0
    assert away.at_voxels(np.zeros((4, 4, 4), np.float32), away.reach(array.shape)).size == 0
  large = Lattice((-10.0, -10.0, -10.0), (1.0, 1.0, 1.0), (24, 24, 24))
  result = large.sampled(array, -7.0)
  np.testing.assert_allclose(result[10:14, 10:14, 10:14], array, atol=1e-6)
  assert (result == -7).sum() == 24**3 - 4**3
  assert large.reach(array.shape) == (slice(0, 4),) * 3
