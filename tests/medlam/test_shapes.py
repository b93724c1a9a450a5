import numpy as np
import pytest

from medlsam_jax.medlam.search import shapes

FACES = np.arange(6)[None]
PLACES = np.array([[0, 6, 5], [9, 0, 4], [12, 8, 0], [20, 5, 4], [8, 16, 6], [11, 9, 12]])
"""Six points of a template: on the low faces at 0, on the high ones at 20, 16 and 12."""
SHAPES = np.stack([PLACES, PLACES + 7, PLACES])


def _found(scale=1.0, move=0.0):
  voxels = np.moveaxis(SHAPES - np.array([0, 7, 0])[:, None, None], 0, 1) * scale + move
  return voxels.astype(float), np.full((6, 3), 1 / 3)


def test_points_that_lie_as_in_the_templates_stay():
  voxels, weights = _found(move=30.0)
  points = shapes.fit(voxels, weights, SHAPES, FACES)
  assert points.shape == (1, 6, 3)
  np.testing.assert_allclose(points[0], PLACES + 30, atol=1e-9)


def test_an_organ_of_another_size_is_given_its_own_for_the_most_part():
  voxels, weights = _found(scale=1.2, move=30.0)
  points = shapes.fit(voxels, weights, SHAPES, FACES)[0]
  edges = np.diagonal(points[3:]) - np.diagonal(points[:3])
  template = np.array([20, 16, 12])
  assert np.all(edges < 1.2 * template) and np.all(edges > 1.13 * template)


def test_a_face_that_went_astray_is_held_by_the_others():
  voxels, weights = _found(move=30.0)
  voxels[0, :, 0] -= 15
  points = shapes.fit(voxels, weights, SHAPES, FACES)[0]
  assert 30 - 15 < points[0, 0] < 30 - 1
  assert np.abs(points[3, 0] - 50) < 2
  # along the other axes nothing was wrong
  np.testing.assert_allclose(points[:, 1:], PLACES[:, 1:] + 30, atol=1e-9)


def test_each_part_has_a_box_of_its_own():
  voxels, weights = _found(move=30.0)
  up = np.array([20, 0, 0])
  places = np.concatenate([SHAPES, SHAPES + up], 1)
  both = np.concatenate([voxels, voxels + up])
  faces = np.array([np.arange(6), np.arange(6, 12)])
  points = shapes.fit(both, np.tile(weights, (2, 1)), places, faces)
  np.testing.assert_allclose(points[1] - points[0], np.tile(up, (6, 1)), atol=1e-9)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flat_organ_is_no_division_by_zero(axis):
  voxels, weights = _found()
  flat = SHAPES.copy()
  flat[..., axis] = 3
  assert np.all(np.isfinite(shapes.fit(voxels, weights, flat, FACES)))
