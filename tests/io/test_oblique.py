"""Tilted scans: what is worked on straightened comes back on the file's own grid, at its place in the world."""

import nibabel
import numpy as np
import pytest

from medlsam_jax.geometry import Box, Grid, Volume
from medlsam_jax.io import nifti, oblique
from medlsam_jax.io.labels import LabelMap

SPACING = np.array([2.0, 1.5, 3.0])


def turned(degrees, codes="RAS", shape=(14, 26, 20)):
  """A grid turned about the vertical and a little about the left-right axis."""
  a, b = np.deg2rad(degrees), np.deg2rad(degrees / 3)
  about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
  about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
  signs = {"RAS": [1, 1, 1], "LPS": [-1, -1, 1]}[codes]
  affine = np.eye(4)
  affine[:3, :3] = about_z @ about_x @ np.diag(signs * SPACING)
  affine[:3, 3] = (12.0, -7.0, 31.0)
  return Grid(shape, affine)


def straightened(grid):
  with pytest.warns(UserWarning, match="tilted"):
    return oblique.straighten(Volume(np.zeros(grid.shape, np.float32), grid, "a_ct.nii.gz"))


def test_straight_scan_has_no_other_grid():
  volume = Volume(np.zeros((3, 4, 5), np.float32), Grid((3, 4, 5), np.eye(4)))
  assert oblique.straighten(volume).file_grid is None
  points = np.array([[1.0, 2.0, 3.0]])
  assert np.array_equal(oblique.points_to_file(points, volume), points)
  assert oblique.box_to_file(Box((0, 0, 0), (1, 2, 3)), volume) == Box((0, 0, 0), (1, 2, 3))


@pytest.mark.parametrize("codes", ["RAS", "LPS"])
@pytest.mark.parametrize("degrees", [9.0, -25.0])
def test_label_map_is_saved_on_the_files_grid_where_the_organ_is(tmp_path, degrees, codes):
  grid = turned(degrees, codes)
  volume = straightened(grid)
  centre = grid.world_from_voxel(np.array([7.0, 12.0, 9.0]))
  voxels = np.moveaxis(np.indices(volume.grid.shape), 0, -1)
  ball = np.linalg.norm(volume.grid.world_from_voxel(voxels) - centre, axis=-1) < 10
  labels = LabelMap(ball.astype(np.uint8) * 7, volume.grid, {"liver": 7}, volume.file_grid)
  labels.save(tmp_path / "a_seg.nii.gz")

  image = nibabel.load(tmp_path / "a_seg.nii.gz")
  assert image.shape == grid.shape[::-1]
  np.testing.assert_allclose(image.affine, grid.affine, atol=1e-5)
  saved = np.asarray(image.dataobj).T
  distance = np.linalg.norm(grid.world_from_voxel(np.moveaxis(np.indices(grid.shape), 0, -1)) - centre, axis=-1)
  reach = np.linalg.norm(SPACING) / 2  # the nearest voxel lies no further off
  assert set(np.unique(saved)) == {0, 7}
  assert (saved[distance < 10 - reach] == 7).all() and (saved[distance > 10 + reach] == 0).all()
  assert labels.volumes_ml()["liver"] == pytest.approx(np.count_nonzero(saved) * 9.0 / 1000)


def test_points_go_to_the_file_and_back_through_the_same_place():
  volume = straightened(turned(15.0))
  points = np.random.default_rng(0).uniform(-5, 30, (2, 6, 3))
  there = oblique.points_to_file(points, volume)
  np.testing.assert_allclose(volume.file_grid.world_from_voxel(there), volume.grid.world_from_voxel(points))
  np.testing.assert_allclose(oblique.points_from_file(there, volume), points)


def test_box_in_the_file_is_the_smallest_around_the_upright_one():
  volume = straightened(turned(15.0))
  box = Box((2, 5, 4), (9, 15, 12))
  found = oblique.box_to_file(box, volume).array() + np.array([[-0.5], [0.5]])
  low, high = box.array() + np.array([[-0.5], [0.5]])
  corners = np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1).T
  moved = oblique.points_to_file(corners, volume)
  np.testing.assert_allclose(found, [moved.min(0), moved.max(0)])


def test_label_file_of_a_tilted_scan_is_read_back_as_it_was_saved(tmp_path):
  grid = turned(12.0)
  volume = straightened(grid)
  array = np.zeros(volume.grid.shape, np.uint8)
  array[4:10, 8:20, 6:15] = 1
  LabelMap(array, volume.grid, {"liver": 1}, volume.file_grid).save(tmp_path / "seg.nii.gz")
  with pytest.warns(UserWarning, match="tilted"):
    back = nifti.read_label_nifti(tmp_path / "seg.nii.gz")
  assert back.grid.is_same(volume.grid)
  overlap = np.count_nonzero(back.array & array)
  assert 2 * overlap / (back.array.sum() + array.sum()) > 0.9
