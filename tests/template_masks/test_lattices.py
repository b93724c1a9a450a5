"""Nodes around a box: what is sampled lies where it should, whatever the scan's axes, and comes back there."""

import numpy as np
import pytest

from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Box, Grid
from medlsam_jax.template_masks import lattices
from medlsam_jax.template_masks.lattices import Lattice


def _grid(codes: str, shape, spacing) -> Grid:
  affine = np.eye(4)
  affine[:3, :3] = 0
  for axis, letter in enumerate(codes):
    world = next(i for i, pair in enumerate(("LR", "PA", "IS")) if letter in pair)
    affine[world, axis] = spacing[2 - axis] * (1 if letter in "RAS" else -1)
  return Grid(shape, affine)


def test_a_ramp_is_sampled_exactly():
  ramp = np.arange(20.0)[:, None, None] * np.ones((1, 8, 9))
  lattice = Lattice(np.array([4.0, 1.0, 2.0]), np.array([0.5, 0.7, 1.0]), (10, 5, 4))
  values, inside = lattices.sample(ramp, lattice)
  assert inside.all()
  np.testing.assert_allclose(values[:, 0, 0], 4.0 + 0.5 * (np.arange(10) + 0.5) - 0.5, atol=1e-5)


def test_nodes_outside_the_scan_are_told_and_hold_nothing():
  values, inside = lattices.sample(np.ones((6, 6, 6)), Lattice(np.full(3, -3.0), np.full(3, 1.0), (12, 12, 12)))
  assert inside.sum() == 6**3
  np.testing.assert_array_equal(values, inside)


def test_coarse_nodes_average_what_they_span():
  noise = np.random.default_rng(0).normal(size=(60, 60, 60))
  values, _ = lattices.sample(noise, Lattice(np.zeros(3), np.full(3, 6.0), (10, 10, 10)))
  assert values.std() < 0.2


@pytest.mark.parametrize("codes", ["LAS", "RPI", "LPS", "SRA"])
def test_a_box_comes_back_to_its_own_voxels(codes):
  grid = _grid(codes, (14, 16, 18), (2.0, 1.5, 4.0))
  mask = np.zeros(grid.shape, bool)
  mask[3:9, 4:12, 5:10] = True
  box = Box.of_mask(mask)
  edges = lattices.turned_edges(box, grid)
  lattice = Lattice.around(edges, np.full(3, 2.0), (30, 30, 30))
  share, _ = lattices.sample(lattices.turned(mask, grid), lattice)
  back = np.zeros(grid.shape, bool)
  view = lattices.turned(back, grid)
  window, values = lattices.spread(share, lattice, view.shape)
  view[window] = values > 0.5
  np.testing.assert_array_equal(back, mask)


def test_nodes_carried_to_another_box_lie_alike_in_it():
  source, target = np.array([[2.0, 2, 2], [6, 10, 4]]), np.array([[0.0, 0, 0], [8, 4, 1]])
  lattice = Lattice.around(source, np.zeros(3), (4, 4, 4)).carried(source, target)
  np.testing.assert_allclose(lattice.low, target[0])
  np.testing.assert_allclose(lattice.low + 4 * lattice.step, target[1])


def test_a_box_far_outside_covers_no_voxel():
  lattice = Lattice(np.full(3, 40.0), np.ones(3), (5, 5, 5))
  window, values = lattices.spread(np.ones((5, 5, 5)), lattice, (10, 10, 10))
  assert values.size == 0
  assert np.zeros((10, 10, 10))[window].size == 0
  sampled, inside = lattices.sample(np.ones((10, 10, 10)), lattice)
  assert not inside.any()
  assert not sampled.any()


def test_a_corner_that_is_no_number_is_refused():
  with pytest.raises(InputError, match="not a finite number"):
    lattices.turned_edges(Box((0.0, float("nan"), 0.0), (1.0, 1.0, 1.0)), _grid("LAS", (4, 4, 4), (1, 1, 1)))
