"""Templates made in the page: the files that a person would have written by hand, whole, none overwritten."""

import json
import shutil

import nibabel
import nrrd
import numpy as np
import pytest
from dicom_files import write_series
from template_files import SHAPE, cells, save, six, write_table

from medlsam_jax.errors import InputError, OutputError
from medlsam_jax.geometry import Grid
from medlsam_jax.io import label_formats, oblique
from medlsam_jax.io.labels import LabelMap
from medlsam_jax.io.scans import ListedScan, ReadingOptions, list_scans, read_volume
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
  (folder.path / "case_7_points.json").write_text(json.dumps({"liver": six(GRID)}))
  assert not folder.marked(scan, volume).points
  save(folder.path / "case_7_ct.nii.gz", volume.array.astype(np.int32), GRID)
  assert set(folder.marked(scan, volume).points) == {"liver"}


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


def mine(volume, shift=0):
  """Six points in the middle of a scan."""
  low, high = np.array(volume.grid.shape) // 4 + shift, np.array(volume.grid.shape) * 3 // 4 + shift
  rows = np.repeat((low + high)[None] / 2, 6, 0)
  for axis in range(3):
    rows[axis, axis], rows[axis + 3, axis] = low[axis], high[axis]
  return rows


def write_nrrd(path, array):
  lps = (np.diag([-1, -1, 1]) @ AFFINE[:3, :3]).T
  header = {"space": "left-posterior-superior", "space directions": lps, "kinds": ["domain"] * 3}
  nrrd.write(str(path), array.T, {**header, "space origin": AFFINE[:3, 3] * [-1, -1, 1]})


def as_plain_file(scan, folder):
  shutil.copy(scan.path, folder / "case_7.nii.gz")
  return scan


def as_capitals(scan, folder):
  shutil.copy(scan.path, folder / "Case_7.NII.GZ")
  return scan


def as_link(scan, folder):
  (folder / "case_7.nii.gz").symlink_to(scan.path)
  return scan


def as_link_of_another_name(scan, folder):
  (folder / "liver_3_ct.nii.gz").symlink_to(scan.path)
  return scan


def as_link_that_is_opened_itself(scan, folder):
  as_link(scan, folder)
  return ListedScan(folder / "case_7.nii.gz", "case_7")


def as_nrrd(scan, folder):
  write_nrrd(folder / "case_7_ct.nrrd", read_volume(scan.path).array.astype(np.int16))
  return scan


def as_slices(scan, folder):
  stored = np.random.default_rng(1).integers(700, 1400, (8, 20, 24)).astype(np.uint16)
  write_series(folder / "case_7", stored)
  write_series(scan.path.parent / "case_7", stored)
  return ListedScan(scan.path.parent / "case_7", "case_7")


def as_a_folder_of_its_own(scan, folder):
  (folder / "case_7").mkdir()
  shutil.copy(scan.path, folder / "case_7" / "imaging.nii.gz")
  return scan


LAYOUTS = [
  as_plain_file, as_capitals, as_link, as_link_of_another_name, as_link_that_is_opened_itself, as_nrrd, as_slices,
  as_a_folder_of_its_own,
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::medlsam_jax.notices.MedlsamWarning")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_was_marked_stays_however_the_scan_lies_in_the_folder(scan, folder, layout):
  folder.path.mkdir()
  scan = layout(scan, folder.path)
  volume = read_volume(scan.path)
  (here,) = list_scans(folder.path)
  typed = {
    organ: volume.grid.world_from_voxel(mine(volume, shift)).tolist() for organ, shift in (("liver", 0), ("b", 1))
  }
  (here.path.parent / f"{here.name}_points.json").write_text(json.dumps(typed))
  assert set(folder.marked(scan, volume).points) == {"liver", "b"} and folder.name_of(scan) == here.name
  folder.save_points(scan, volume, {"spleen": mine(volume, -1)})
  array = np.zeros(volume.grid.shape, np.uint8)
  array[2:4, 3:6, 4:8] = 1
  folder.save_masks(scan, volume, LabelMap(array, volume.grid, {"aorta": 1}, volume.file_grid), ["aorta"])
  (template,) = read_templates(folder.path)
  assert set(template.points) == {"liver", "b", "spleen"} and set(template.values) == {"aorta"}
  np.testing.assert_array_equal(template.labels.array, array)
  assert len(list_scans(folder.path)) == 1 and set(folder.organs()) == {"liver", "b", "spleen", "aorta"}


def beside_plain_files(folder):
  return folder


def in_folders_of_cases(folder):
  (folder / "s1").mkdir()
  return folder / "s1"


@pytest.mark.parametrize("place", [beside_plain_files, in_folders_of_cases])
def test_a_scan_that_comes_hides_none_that_was_there(scan, folder, place):
  folder.path.mkdir()
  there = place(folder.path)
  save(there / "other.nii.gz", cells().astype(np.int16) * 300 - 1000, GRID)
  (there / "other_points.json").write_text(json.dumps({"liver": six(GRID)}))
  folder.save_points(scan, read_volume(scan.path), {"spleen": points()})
  folder.save_points(scan, read_volume(scan.path), {"kidney": points(3)})
  assert {each.name: set(each.points) for each in read_templates(folder.path)} == {
    "case_7": {"spleen", "kidney"}, "other": {"liver"},
  }  # fmt: skip
  assert set(folder.scans()) == {"case_7", "other"}


def test_marks_whose_scan_is_gone_are_not_taken_for_those_of_this_one(scan, folder):
  folder.path.mkdir()
  orphan = folder.path / "case_7_points.json"
  orphan.write_text(json.dumps({"liver": six(GRID)}))
  with pytest.raises(InputError, match=r"case_7_points\.json: marks without their scan"):
    folder.save_points(scan, read_volume(scan.path), {"spleen": points()})
  assert list(json.loads(orphan.read_text())) == ["liver"] and len(list(folder.path.iterdir())) == 1


def test_scans_that_no_name_tells_apart_are_named(scan, folder):
  folder.path.mkdir()
  as_nrrd(scan, folder.path)
  shutil.copy(scan.path, folder.path)
  for ask in (folder.scans, folder.organs, lambda: folder.marked(scan, read_volume(scan.path))):
    with pytest.raises(InputError, match="would both be called case_7"):
      ask()


@pytest.mark.filterwarnings("ignore::medlsam_jax.notices.MedlsamWarning")
@pytest.mark.parametrize("given", [{"hu_offset": -100.0}, {}], ids=["offset", "as it is"])
@pytest.mark.parametrize("degrees", [0, 8])
@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
def test_a_template_has_the_values_that_the_page_showed(tmp_path, folder, given, degrees, ending):
  turn = np.deg2rad(degrees)
  affine = AFFINE.copy()
  affine[1:3, 1:3] = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ affine[1:3, 1:3]
  array = np.random.default_rng(0).integers(-200, 300, SHAPE).astype(np.int16)
  path = tmp_path / f"case_7_ct{ending}"
  if ending == ".nrrd":
    flip = np.diag([-1, -1, 1])
    header = {"space": "left-posterior-superior", "space directions": (flip @ affine[:3, :3]).T}
    nrrd.write(str(path), array.T, {**header, "kinds": ["domain"] * 3, "space origin": flip @ affine[:3, 3]})
  else:
    nibabel.save(nibabel.Nifti1Image(array.T, affine), path)
  reading = ReadingOptions(**given)
  folder = TemplateFolder(folder.path, reading)
  scan = ListedScan(path, "case_7")
  volume = reading.read(scan)
  labels = np.zeros(volume.grid.shape, np.uint8)
  labels[6:14, 6:14, 6:14] = 3
  labels = LabelMap(labels, volume.grid, {"spleen": 3}, volume.file_grid)
  folder.save_points(scan, volume, {"liver": mine(volume)})
  folder.save_masks(scan, volume, labels, ["spleen"])
  folder.save_points(scan, volume, {"kidney": mine(volume, 1)})
  (template,) = read_templates(folder.path)
  assert template.scan.grid.is_same(volume.grid) and set(template.points) == {"liver", "kidney"}
  np.testing.assert_array_equal(template.scan.array, volume.array)
  kept = np.count_nonzero(template.labels.array & labels.array) / np.count_nonzero(labels.array)
  assert kept > 0.95 if oblique.tilt_rad(Grid(SHAPE, affine)) else (template.labels.array > 0).sum() == 512


def test_a_scan_of_the_folder_is_not_marked_as_the_page_alone_reads_it(scan, folder):
  folder.path.mkdir()
  as_plain_file(scan, folder.path)
  inside, reading = ListedScan(folder.path / "case_7.nii.gz", "case_7"), ReadingOptions(hu_offset=-50.0)
  with pytest.raises(InputError, match="read without --series and --hu-offset"):
    TemplateFolder(folder.path, reading).save_points(inside, reading.read(inside), {"liver": points()})


def test_a_scan_behind_an_address_comes_to_lie_in_the_folder(scan, folder):
  import fsspec

  fs = fsspec.filesystem("memory")
  fs.pipe_file("/templates_view/case_7_ct.nii.gz", scan.path.read_bytes())
  (there,) = list_scans("memory://templates_view/case_7_ct.nii.gz")
  volume = ReadingOptions().read(there)
  folder.save_points(there, volume, {"liver": points()})
  folder.save_points(there, volume, {"spleen": points(3)})
  (template,) = read_templates(folder.path)
  np.testing.assert_array_equal(template.scan.array, read_volume(scan.path).array)
  assert template.name == "case_7" and set(template.points) == {"liver", "spleen"}


def test_masks_that_cannot_be_written_leave_the_folder_as_it_was(scan, folder, monkeypatch):
  volume = read_volume(scan.path)
  labels = LabelMap(cells(), volume.grid, {"liver": 5, "spleen": 1})

  def full(*given):
    raise OSError(28, "No space left on device")

  with monkeypatch.context() as patch:
    patch.setattr(label_formats, "write", full)
    with pytest.raises(OutputError, match="No space left"):
      folder.save_masks(scan, volume, labels, ["liver"])
    assert not folder.path.exists()
    folder.save_points(scan, volume, {"liver": points()})
    before = {path.name: path.read_bytes() for path in folder.path.iterdir()}
    with pytest.raises(OutputError, match="No space left"):
      folder.save_masks(scan, volume, labels, ["liver"])
    assert {path.name: path.read_bytes() for path in folder.path.iterdir()} == before
  folder.save_masks(scan, volume, labels, ["liver"])
  assert {path.name for path in folder.path.iterdir()} == {
    "case_7_ct.nii.gz", "case_7_labels.json", "case_7_seg.nii.gz",
  }  # fmt: skip


def test_a_file_of_another_name_that_has_the_masks_is_added_to(scan, folder):
  folder.path.mkdir()
  volume = read_volume(scan.path)
  shutil.copy(scan.path, folder.path)
  save(folder.path / "case_7_label.nii", cells(), GRID)
  write_table(folder.path)
  corner = np.zeros(SHAPE, np.uint8)
  corner[:2, :2, :2] = 1
  folder.save_masks(scan, volume, LabelMap(corner, volume.grid, {"aorta": 1}), ["aorta"])
  (template,) = read_templates(folder.path)
  assert set(template.values) == {"liver", "spleen", "aorta"}


def slicers(folder, labels):
  labels.save(folder / "case_7.seg.nrrd")


def plain_nrrd(folder, labels):
  labels.save(folder / "case_7_seg.nrrd")
  write_table(folder)


def metaimage(folder, labels):
  labels.save(folder / "case_7_seg.mha")
  write_table(folder)


def a_file_for_each(folder, labels):
  (folder / "segmentations").mkdir()
  for organ in ("liver", "spleen"):
    save(folder / "segmentations" / f"{organ}.nii.gz", labels[organ].astype(np.uint8), GRID)


@pytest.mark.parametrize("write", [slicers, plain_nrrd, metaimage, a_file_for_each])
def test_masks_in_any_format_that_a_bank_reads_are_shown_and_kept(scan, folder, write):
  folder.path.mkdir()
  volume = read_volume(scan.path)
  shutil.copy(scan.path, folder.path)
  labels = LabelMap(cells(), volume.grid, {"liver": 5, "spleen": 1})
  write(folder.path, labels)
  assert {"liver", "spleen"} <= set(folder.marked(scan, volume).masks) and {"liver", "spleen"} <= set(folder.organs())
  with pytest.raises(InputError, match="liver is marked in"):
    folder.save_points(scan, volume, {"liver": points()})
  before = sorted(folder.path.rglob("*"))
  with pytest.raises(InputError, match=r"cannot add to; save them as case_7_seg\.nii\.gz"):
    folder.save_masks(scan, volume, LabelMap(cells(), volume.grid, {"aorta": 1}), ["aorta"])
  assert sorted(folder.path.rglob("*")) == before
  folder.save_points(scan, volume, {"aorta": points()})
  (template,) = read_templates(folder.path)
  assert set(template.values) == {"liver", "spleen"} and set(template.points) == {"aorta"}
