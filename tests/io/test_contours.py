"""Polygons of masks say of every pixel's centre what the mask says, by our reading and by matplotlib's."""

import numpy as np
import pytest
from matplotlib.path import Path

from medlsam_jax.io.contours import mask_of, polygons_of


def by_matplotlib(polygons, shape):
  """Even-odd, each polygon on its own; no centre lies on an edge."""
  rows, columns = np.indices(shape)
  centres = np.stack([columns.ravel(), rows.ravel()], 1)
  inside = [Path(np.concatenate([points, points[:1]])).contains_points(centres) for points in polygons]
  return (np.sum(inside, axis=0) % 2 == 1).reshape(shape) if polygons else np.zeros(shape, bool)


def test_any_mask_comes_back():
  rng = np.random.default_rng(5)
  for _ in range(200):
    mask = rng.random(rng.integers(1, 13, 2)) < rng.random()
    polygons = polygons_of(mask)
    assert np.array_equal(mask_of(polygons, mask.shape), mask)
    assert np.array_equal(by_matplotlib(polygons, mask.shape), mask)


def test_pieces_are_polygons_and_holes_are_keyholes():
  mask = np.zeros((12, 20), bool)
  mask[1:10, 1:10] = True
  mask[3:5, 3:5] = mask[6:8, 5:8] = False
  mask[4:7, 14:18] = True
  polygons = polygons_of(mask)
  assert len(polygons) == 2
  assert np.array_equal(by_matplotlib(polygons, mask.shape), mask)
  # by the winding rule too: the holes are gone round the other way
  points = next(polygon for polygon in polygons if len(polygon) > 8)
  angles = np.angle((np.roll(points, -1, 0) - (3.5, 3.5)) @ (1, 1j) / ((points - (3.5, 3.5)) @ (1, 1j)))
  assert angles.sum() == pytest.approx(0, abs=1e-6)


def test_holes_as_rings_of_their_own_are_read_too():
  outer = np.array([(-0.5, -0.5), (6.5, -0.5), (6.5, 5.5), (-0.5, 5.5)])
  hole = np.array([(1.5, 1.5), (3.5, 1.5), (3.5, 3.5), (1.5, 3.5)])
  expected = np.ones((6, 7), bool)
  expected[2:4, 2:4] = False
  assert np.array_equal(mask_of([outer, hole], (6, 7)), expected)


def test_what_reaches_outside_is_cut():
  square = np.array([(-5.0, -5.0), (2.5, -5.0), (2.5, 40.0), (-5.0, 40.0)])
  expected = np.zeros((4, 6), bool)
  expected[:, :3] = True
  assert np.array_equal(mask_of([square], (4, 6)), expected)
