"""Boxes as volumes against masks of voxels, averaged over cells."""

import jax.numpy as jnp
import numpy as np
import pytest

from medlsam_jax.sam3d.network.filled_boxes import filled_boxes
from medlsam_jax.sam3d.network.prompts import ABSENT, FACES, POSITIVE, points_of_box

EDGE = 8
BOXES = np.array([[[1, 2, 0], [5, 2, 7]], [[0, 0, 3], [7, 4, 6]]])


def filled(points, labels, cells):
  points, labels = np.asarray(points, np.float32)[None], np.asarray(labels, np.int32)[None]
  return np.asarray(filled_boxes(jnp.asarray(points), jnp.asarray(labels), EDGE, cells))[..., 0]


@pytest.mark.parametrize("cells", [2, 4, 8])
def test_a_cell_holds_its_share_of_the_boxs_voxels(cells):
  result = filled([points_of_box(box) for box in BOXES], [FACES, FACES], cells)
  for box, each in zip(BOXES, result, strict=True):
    voxels = np.zeros((EDGE,) * 3)
    voxels[tuple(slice(low, high + 1) for low, high in box.T)] = 1
    size = EDGE // cells
    np.testing.assert_allclose(each, voxels.reshape(cells, size, cells, size, cells, size).mean((1, 3, 5)), atol=1e-6)


def test_extreme_points_in_any_order_draw_the_box_of_their_outermost_coordinates():
  extreme = np.array([[1, 7, 7], [3, 2, 1], [4, 2, 0], [5, 0, 0], [2, 2, 3], [2, 2, 7]])
  order = [3, 0, 5, 1, 4, 2]
  given, labels = extreme[order], [FACES[face] for face in order]
  expected = filled([points_of_box(BOXES[0])], [FACES], 4)
  np.testing.assert_allclose(filled([given], [labels], 4), expected, atol=1e-6)


def test_without_all_six_faces_there_is_no_box():
  points = points_of_box(BOXES[0])
  assert not filled([points], [[*FACES[:5], ABSENT]], 4).any()
  assert not filled([points], [[POSITIVE] * 6], 4).any()
