"""A scan with tilted axes through the commands: label map on the file's own grid, boxes where they are in the world."""

import json

import nibabel
import numpy as np
import pytest

TURN_DEGREES = 20


@pytest.fixture
def tilted_query(tmp_path, one_query):
  """The query turned about the vertical, with a six-point file of an upright block in it."""
  image = nibabel.load(one_query)
  angle = np.deg2rad(TURN_DEGREES)
  turn = np.eye(4)
  turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
  affine = turn @ image.affine
  path = tmp_path / "tilted_ct.nii.gz"
  nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), affine), path)
  centre = nibabel.affines.apply_affine(affine, (np.array(image.shape) - 1) / 2)
  half = np.array([20.0, 24.0, 30.0])
  points = [centre + sign * half * np.eye(3)[axis] for sign in (-1, 1) for axis in range(3)]
  (tmp_path / "points.json").write_text(json.dumps({"liver": np.array(points).tolist()}))
  return path, affine, centre, half


def test_label_map_of_a_tilted_scan_is_on_its_own_grid(medlsam, painter, tilted_query, tmp_path):
  path, affine, centre, half = tilted_query
  words = ["--query", path, "--segmentation.margin_px", 0]
  result = medlsam("segment", "--boxes", tmp_path / "points.json", *words, "--out", tmp_path / "out")
  assert result.code == 0 and "tilted by 20.0 degrees" in result.err
  labels = nibabel.load(tmp_path / "out" / "tilted_seg.nii.gz")
  assert labels.shape == nibabel.load(path).shape
  np.testing.assert_allclose(labels.affine, affine, atol=1e-4)
  painted = np.asarray(labels.dataobj) > 0
  voxels = np.moveaxis(np.indices(painted.shape), 0, -1)
  off = np.abs(nibabel.affines.apply_affine(affine, voxels) - centre) - half
  assert painted[(off < -6).all(-1)].mean() > 0.99 and not painted[(off > 8).any(-1)].any()

  written = json.loads((tmp_path / "out" / "tilted_boxes.json").read_text())
  entry = written["organs"]["liver"]
  np.testing.assert_allclose(written["scan"]["affine"], affine, atol=1e-4)
  assert written["scan"]["shape"] == list(painted.shape[::-1])
  assert np.abs(np.array(entry["box_world_mm"]) - [centre - half, centre + half]).max() < 6  # a voxel
  world = nibabel.affines.apply_affine(affine, np.array(entry["extreme_points_vox"])[:, ::-1])
  np.testing.assert_allclose(world, entry["extreme_points_world_mm"], atol=0.02)
  assert entry["volume_ml"] == pytest.approx(painted.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000, abs=1e-3)

  again = medlsam("segment", "--boxes", tmp_path / "out" / "tilted_boxes.json", *words, "--out", tmp_path / "again")
  assert again.code == 0
  same = np.asarray(nibabel.load(tmp_path / "again" / "tilted_seg.nii.gz").dataobj)
  assert np.array_equal(same, np.asarray(labels.dataobj))


def test_boxes_of_a_tilted_scan_come_from_a_search_too(medlsam, search, tilted_query, tmp_path):
  path, affine, *_ = tilted_query
  assert medlsam("localize", *search, "--query", path, "--out", tmp_path / "out").code == 0
  for entry in json.loads((tmp_path / "out" / "tilted_boxes.json").read_text())["organs"].values():
    world = nibabel.affines.apply_affine(affine, np.array(entry["extreme_points_vox"])[:, ::-1])
    np.testing.assert_allclose(world, entry["extreme_points_world_mm"], atol=0.02)
    corners = np.array(np.meshgrid(*zip(*entry["box_world_mm"], strict=True))).reshape(3, -1).T
    voxels = nibabel.affines.apply_affine(np.linalg.inv(affine), corners)[:, ::-1]
    assert np.abs(voxels.min(0) - 0.5 - np.array(entry["box_vox"][0]) + 1).max() < 1e-2
    assert np.abs(voxels.max(0) - 0.5 - np.array(entry["box_vox"][1])).max() < 1e-2
