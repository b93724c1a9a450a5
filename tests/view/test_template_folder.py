"""Templates made in the page: the files that a person would have written by hand, whole, none overwritten."""

import json

import nibabel
import numpy as np
import pytest
from template_files import SHAPE, cells, save, six, write_table

from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Grid
from medlsam_jax.io.labels import LabelMap
from medlsam_jax.io.scans import ListedScan, read_volume
from medlsam_jax.io.templates import read_templates
from medlsam_jax.view.template_folder import TemplateFolder

AFFINE = np.array([[-3.0, 0, 0, 40], [0, -3, 0, 50], [0, 0, 3, -60], [0, 0, 0, 1]])
GRID = Grid(SHAPE, AFFINE)


@pytest.fixture
def scan(tmp_path):
  """A scan outside the folder of templates."""
  path = tmp_path / "incoming" / "case_7_ct.nii.gz"
  path.parent.mkdir()
  array = np.random.default_rng(0).integers(-200, 300, SHAPE).astype(np.int16)
  nibabel.save(nibabel.Nifti1Image(array.T, AFFINE), path)
  return ListedScan(path, "case_7")


@pytest.fixture
def folder(tmp_path):
  return TemplateFolder(tmp_path / "templates")


def points(shift=0):
  return GRID.voxel_from_world(np.array(six(GRID, shift)))


def test_points_saved_in_the_page_are_those_typed_by_hand(tmp_path, scan, folder):
  volume = read_volume(scan.path)
  folder.save_points(scan, volume, {"liver": points()})
  by_hand = tmp_path / "by_hand"
  by_hand.mkdir()
  save(by_hand / "case_7_ct.nii.gz", volume.array.astype(np.int16), GRID)
  (by_hand / "case_7_points.json").write_text(json.dumps({"coordinate_system": "RAS", "liver": six(GRID)}))
  (ours,), (theirs,) = read_templates(folder.path), read_templates(by_hand)
  np.testing.assert_array_equal(ours.scan.array, theirs.scan.array)
  assert ours.scan.grid == theirs.scan.grid and ours.points.keys() == theirs.points.keys()
  np.testing.assert_allclose(ours.points["liver"], theirs.points["liver"], atol=1e-3)


def test_another_organ_is_added_and_the_same_one_is_replaced(scan, folder):
  volume = read_volume(scan.path)
  folder.save_points(scan, volume, {"liver": points()})
  folder.save_points(scan, volume, {"spleen": points(3)})
  path = folder.save_points(scan, volume, {"liver": points(6)})
  said = json.loads(path.read_text())
  assert list(said) == ["coordinate_system", "liver", "spleen"]
  np.testing.assert_allclose(said["liver"], six(GRID, 6), atol=1e-3)
  np.testing.assert_allclose(said["spleen"], six(GRID, 3), atol=1e-3)
  assert not list(folder.path.glob(".*"))


def test_points_of_a_file_in_lps_stay_where_they_were(scan, folder):
  folder.path.mkdir()
  lps = (np.array(six(GRID)) * [-1, -1, 1]).tolist()
  (folder.path / "case_7_points.json").write_text(json.dumps({"coordinate_system": "LPS", "liver": lps}))
  volume = read_volume(scan.path)
  save(folder.path / "case_7_ct.nii.gz", volume.array.astype(np.int16), GRID)
  path = folder.save_points(scan, volume, {"spleen": points(3)})
  np.testing.assert_allclose(json.loads(path.read_text())["liver"], six(GRID), atol=1e-3)


@pytest.mark.parametrize(
  "content", ['{"format": "medlsam_jax points 9", "organs": {}}', '{"liver": [[1, 2, 3]]}', '{"liver": [[1,2'],
)  # fmt: skip
def test_a_file_of_another_version_is_named_and_left_alone(scan, folder, content):
  folder.path.mkdir()
  volume = read_volume(scan.path)
  save(folder.path / "case_7_ct.nii.gz", volume.array.astype(np.int16), GRID)
  (folder.path / "case_7_points.json").write_text(content)
  with pytest.raises(InputError, match=r"case_7_points\.json"):
    folder.save_points(scan, volume, {"spleen": points()})
  assert (folder.path / "case_7_points.json").read_text() == content


def test_an_organ_has_one_mark_in_a_scan(scan, folder):
  folder.path.mkdir()
  volume = read_volume(scan.path)
  save(folder.path / "case_7_ct.nii.gz", volume.array.astype(np.int16), GRID)
  save(folder.path / "case_7_seg.nii.gz", cells(), GRID)
  write_table(folder.path)
  with pytest.raises(InputError, match=r"liver is marked in case_7_seg\.nii\.gz"):
    folder.save_points(scan, volume, {"liver": points()})


def test_another_scan_of_that_name_is_not_taken_for_this_one(scan, folder):
  folder.path.mkdir()
  volume = read_volume(scan.path)
  save(folder.path / "case_7_ct.nii.gz", volume.array.astype(np.int16) + 1, GRID)
  with pytest.raises(InputError, match="another scan of this name"):
    folder.save_points(scan, volume, {"liver": points()})
  assert not (folder.path / "case_7_points.json").exists()


def test_masks_take_the_place_of_points_and_keep_other_masks(scan, folder):
  volume = read_volume(scan.path)
  folder.save_points(scan, volume, {"liver": points(), "kidney": points(3)})
  labels = LabelMap(cells(), volume.grid, {"liver": 5, "spleen": 1})
  assert folder.save_masks(scan, volume, labels, ["liver"]) == ["liver"]
  assert folder.save_masks(scan, volume, labels, ["spleen"]) == []
  (template,) = read_templates(folder.path)
  assert set(template.values) == {"liver", "spleen"} and set(template.points) == {"kidney"}
  for organ in ("liver", "spleen"):
    np.testing.assert_array_equal(template.labels.array == template.values[organ], labels[organ])


def test_masks_with_large_label_values_keep_them(scan, folder):
  volume = read_volume(scan.path)
  folder.path.mkdir()
  save(folder.path / "case_7_ct.nii.gz", volume.array.astype(np.int16), GRID)
  labels = LabelMap(cells().astype(np.int32) * 70_000, volume.grid, {"kidney": 70_000, "liver": 350_000})
  labels.save(folder.path / "case_7_seg.nii.gz")
  write_table(folder.path, {"kidney": 70_000, "liver": 350_000})
  corner = np.zeros(SHAPE, np.uint8)
  corner[:2, :2, :2] = 1
  folder.save_masks(scan, volume, LabelMap(corner, volume.grid, {"spleen": 1}), ["spleen"])
  (template,) = read_templates(folder.path)
  assert template.values == {"kidney": 70_000, "liver": 350_000, "spleen": 350_001}
  np.testing.assert_array_equal(template.labels.array == 350_000, labels["liver"])


def test_an_organ_of_which_nothing_is_painted_is_no_template(scan, folder):
  volume = read_volume(scan.path)
  labels = LabelMap(cells(), volume.grid, {"liver": 5, "bladder": 9})
  with pytest.raises(InputError, match="nothing of it is painted"):
    folder.save_masks(scan, volume, labels, ["bladder"])
  assert not folder.path.exists()


@pytest.mark.parametrize("organ", ["", "  ", "coordinate_system"])
def test_what_is_no_name_is_refused(scan, folder, organ):
  with pytest.raises(InputError, match="no name for an organ"):
    folder.save_points(scan, read_volume(scan.path), {organ: points()})
