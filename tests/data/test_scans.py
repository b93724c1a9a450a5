import nibabel
import numpy as np
import pytest

from medlsam_jax.data import checks, scans
from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Volume


def save(path, low=-1000, high=1000):
  array = np.random.default_rng(0).uniform(low, high, (4, 5, 6)).astype(np.float32)
  nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
  return path


def fake_series(folder):
  folder.mkdir()
  (folder / "slice").write_bytes(bytes(128) + b"DICM")
  return folder


@pytest.mark.parametrize(
  ("path", "name"),
  [
    ("a/case_003_ct.nii.gz", "case_003"),
    ("case_003_CT.NII", "case_003_CT"),
    ("x.y_ct.nii", "x.y"),
    ("scan.nii.gz", "scan"),
    ("folder/patient.7", "patient.7"),
    ("direct", "direct"),
  ],
)
def test_name_of_a_scan(path, name):
  assert scans.scan_name(path) == name


def test_folder_lists_marked_scans_and_dicom_folders_by_name(tmp_path):
  for name in ("b_ct.nii.gz", "a_ct.nii", "a_seg.nii.gz", "other.nii.gz", ".hidden_ct.nii.gz", "labels.json"):
    (tmp_path / name).touch()
  fake_series(tmp_path / "aa")
  (tmp_path / "empty").mkdir()
  assert [p.name for p in scans.list_scans(tmp_path)] == ["a_ct.nii", "aa", "b_ct.nii.gz"]


def test_folder_without_marked_scans_lists_all_but_label_maps(tmp_path):
  for name in ("b.nii.gz", "a.nii", "a_seg.nii.gz", "a_labels.nii", "seg.nii.gz", "b_mask.nii.gz"):
    (tmp_path / name).touch()
  assert [p.name for p in scans.list_scans(tmp_path)] == ["a.nii", "b.nii.gz"]


def test_folder_of_slices_is_one_scan(tmp_path):
  assert scans.list_scans(fake_series(tmp_path / "series")) == [tmp_path / "series"]


def test_file_is_itself(tmp_path):
  assert scans.list_scans(save(tmp_path / "x.nii")) == [tmp_path / "x.nii"]


def test_list_file_is_relative_to_itself(tmp_path):
  (tmp_path / "lists").mkdir()
  save(tmp_path / "one two.nii")
  fake_series(tmp_path / "series")
  (tmp_path / "lists" / "q.txt").write_text(f"# queries\n\n../one two.nii\n{tmp_path / 'series'}\n")
  names = [p.resolve() for p in scans.list_scans(tmp_path / "lists" / "q.txt")]
  assert names == [tmp_path / "one two.nii", tmp_path / "series"]


def test_list_names_the_line_that_is_wrong(tmp_path):
  save(tmp_path / "x.nii")
  (tmp_path / "q.txt").write_text("x.nii\n\ngone.nii\n")
  with pytest.raises(InputError, match=r"q.txt, line 3: no such file or folder: .*gone.nii"):
    scans.list_scans(tmp_path / "q.txt")


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"\xff\xfe\x00binary"])
def test_empty_or_binary_list_is_refused(tmp_path, content):
  (tmp_path / "q.txt").write_bytes(content)
  with pytest.raises(InputError, match=r"q.txt: (an empty list|not a list)"):
    scans.list_scans(tmp_path / "q.txt")


def test_two_scans_of_one_name_are_refused(tmp_path):
  for folder in ("a", "b"):
    (tmp_path / folder).mkdir()
    save(tmp_path / folder / "x_ct.nii")
  (tmp_path / "q.txt").write_text("a/x_ct.nii\nb/x_ct.nii\n")
  with pytest.raises(InputError, match="would both be called x"):
    scans.list_scans(tmp_path / "q.txt")


def test_missing_path_and_empty_folder_are_refused(tmp_path):
  with pytest.raises(InputError, match="no scans here"):
    scans.list_scans(tmp_path)
  for call in (scans.list_scans, scans.read_volume):
    with pytest.raises(InputError, match=r"gone: no such file"):
      call(tmp_path / "gone")


def test_volume_is_read_from_a_file(tmp_path):
  assert scans.read_volume(save(tmp_path / "x.nii.gz")).array.shape == (6, 5, 4)


def test_folder_is_read_as_dicom_and_one_slice_is_refused(tmp_path):
  with pytest.raises(InputError, match="no DICOM slices"):
    scans.read_volume(tmp_path)
  (tmp_path / "a.dcm").touch()
  with pytest.raises(InputError, match="give the folder that holds the whole series"):
    scans.read_volume(tmp_path / "a.dcm")


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 4000)])
def test_mr_like_or_normalised_range_warns(tmp_path, low, high):
  with pytest.warns(UserWarning, match=r"x.nii: values from .* do not look like CT"):
    scans.read_volume(save(tmp_path / "x.nii", low, high))


@pytest.mark.filterwarnings("error")
def test_ct_does_not_warn(tmp_path):
  scans.read_volume(save(tmp_path / "x.nii"))


def test_check_of_a_scan_from_elsewhere(make_grid):
  grid = make_grid("RAS", (4, 5, 6))
  hu = np.full(grid.shape, -500, np.float32)
  checks.check_scan(Volume(hu, grid))
  with pytest.raises(InputError, match=r"4x5x6 = .* over the limit"):
    checks.check_scan(Volume(hu, grid), max_voxels=100)
  hu[0, 0, 0], hu[1, 1, 1] = np.inf, -np.inf
  with pytest.raises(InputError, match="0 NaN and 2 infinite of 120"):
    checks.check_scan(Volume(hu, grid))
  with pytest.warns(UserWarning, match="do not look like CT"):
    checks.check_scan(Volume(np.zeros(grid.shape, np.int16), grid))


def test_empty_array_is_refused():
  with pytest.raises(InputError, match="empty"):
    checks.refuse_size((3, 0, 4), "x.nii")


def test_offset_makes_hounsfield_units_and_is_noted(tmp_path):
  path = save(tmp_path / "x.nii", 24, 2024)
  with pytest.warns(UserWarning, match="do not look like CT"):
    stored = scans.read_volume(path)
  volume = scans.read_volume(path, hu_offset=-1024)
  np.testing.assert_allclose(volume.array, stored.array - 1024)
  assert volume.doubts == () and volume.notes == (f"{path}: -1024 added to every value, as was asked",)
  with pytest.raises(InputError, match="an offset of nan HU"):
    scans.read_volume(path, hu_offset=float("nan"))
