import warnings

import nibabel
import numpy as np
import pytest

from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Volume
from medlsam_jax.io import scan_checks, scans


def save(path, low=-1000, high=1000):
  array = np.random.default_rng(0).uniform(low, high, (4, 5, 6)).astype(np.float32)
  nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
  return path


def fake_series(folder):
  folder.mkdir()
  (folder / "slice").write_bytes(bytes(128) + b"DICM")
  return folder


def listed(*paths):
  return [(scan.name, scan.path) for scan in scans.list_scans(*paths)]


def names(*paths):
  return [scan.name for scan in scans.list_scans(*paths)]


def test_folder_lists_marked_scans_and_dicom_folders_by_name(tmp_path):
  for name in ("b_ct.nii.gz", "a_ct.nii", "a_seg.nii.gz", "other.nii.gz", ".hidden_ct.nii.gz", "labels.json"):
    (tmp_path / name).touch()
  fake_series(tmp_path / "aa")
  (tmp_path / "empty").mkdir()
  found = [("a", tmp_path / "a_ct.nii"), ("aa", tmp_path / "aa"), ("b", tmp_path / "b_ct.nii.gz")]
  assert listed(tmp_path) == found
  assert [str(scan) for scan in scans.list_scans(tmp_path)] == [str(path) for _, path in found]


def test_folder_without_marked_scans_lists_all_but_label_maps(tmp_path):
  for name in ("b.nii.gz", "a.nii", "a_seg.nii.gz", "a_labels.nii", "seg.nii.gz", "b_mask.nii.gz", "Segmentation.nii"):
    (tmp_path / name).touch()
  assert names(tmp_path) == ["a", "b"]


def test_folder_of_slices_is_one_scan_and_is_called_after_a_telling_folder(tmp_path):
  (tmp_path / "case_7").mkdir()
  series = fake_series(tmp_path / "case_7" / "series")
  assert listed(series) == [("case_7", series)]


def test_file_is_itself(tmp_path):
  path = save(tmp_path / "x.nii")
  assert listed(path) == listed(str(path)) == [("x", path)]


def test_list_file_is_relative_to_itself(tmp_path):
  (tmp_path / "lists").mkdir()
  save(tmp_path / "one two.nii")
  fake_series(tmp_path / "mine")
  (tmp_path / "lists" / "q.txt").write_text(f"# queries\n\n../one two.nii\n{tmp_path / 'mine'}\n")
  found = scans.list_scans(tmp_path / "lists" / "q.txt")
  assert [scan.path.resolve() for scan in found] == [tmp_path / "one two.nii", tmp_path / "mine"]


def test_one_bad_line_of_a_list_fails_alone(tmp_path):
  good = save(tmp_path / "x.nii")
  (tmp_path / "q.txt").write_text("x.nii\n\ngone_ct.nii\nempty\n")
  (tmp_path / "empty").mkdir()
  first, gone, empty = scans.list_scans(tmp_path / "q.txt")
  assert scans.ReadingOptions().read(first).source == str(good) and (gone.name, empty.name) == ("gone", "empty")
  with pytest.raises(InputError, match=r"q.txt, line 3: .*gone_ct.nii: no such file or folder"):
    scans.ReadingOptions().read(gone)
  with pytest.raises(InputError, match=r"q.txt, line 4: .*empty: no scans here, the folder is empty"):
    scans.ReadingOptions().read(empty)
  (tmp_path / "q.txt").write_text("gone.nii\ngone_too.nii\n")
  with pytest.raises(InputError, match=r"q.txt, line 1: .*gone.nii: no such file.*none of the other 1 lines"):
    scans.list_scans(tmp_path / "q.txt")


@pytest.mark.parametrize("file", ["imaging.nii.gz", "ct.nii.gz", "image.nii", "Volume.nii.gz"])
def test_case_folders_with_one_file_name_are_called_after_their_folders(tmp_path, file):
  for case in ("s0001", "s0002"):
    (tmp_path / case / "segmentations").mkdir(parents=True)
    for name in (file, "segmentation.nii.gz", "aggregated_vol.nii.gz", "segmentations/liver.nii.gz"):
      (tmp_path / case / name).touch()
  (tmp_path / "list.txt").write_text(f"s0002/{file}\ns0001\n")
  assert listed(tmp_path) == [(case, tmp_path / case / file) for case in ("s0001", "s0002")]
  assert names(tmp_path / "list.txt") == ["s0002", "s0001"]
  assert names(tmp_path / "s0001") == names(tmp_path / "s0001" / file) == ["s0001"]


def test_series_of_an_export_are_found_at_any_depth(tmp_path):
  places = ["anna/2020/1.2.840.1.1", "anna/2021/1.2.840.1.2", "bert/series"]
  for place in places:
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    fake_series(tmp_path / place)
  (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
  assert listed(tmp_path) == list(zip(["2020", "2021", "bert"], [tmp_path / place for place in places], strict=True))
  (tmp_path / "loop").symlink_to(tmp_path)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    assert len(names(tmp_path)) == 3


def test_folders_of_label_maps_are_not_searched(tmp_path):
  for place in ("imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "Segmentations/b.nii.gz", "masks/c.nii.gz", "imagesTs/d.nii"):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).touch()
  assert names(tmp_path) == ["a", "d"]


def test_series_without_slices_are_left_out_of_an_export(tmp_path):
  from dicom_files import write_series

  stored = np.zeros((2, 4, 4))
  write_series(tmp_path / "study" / "ct", stored)
  write_series(tmp_path / "study" / "structures", stored, Modality="RTSTRUCT")
  write_series(tmp_path / "study" / "scout", stored, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
  with pytest.warns(UserWarning) as told:
    assert [scan.path for scan in scans.list_scans(tmp_path)] == [tmp_path / "study" / "ct"]
  left_out = [str(each.message).partition(": left out")[0] for each in told]
  assert left_out == [str(tmp_path / "study" / name) for name in ("scout", "structures")]


def test_scans_below_a_folder_with_scans_are_told_and_left_out(tmp_path):
  save(tmp_path / "a_ct.nii")
  (tmp_path / "old" / "deep").mkdir(parents=True)
  save(tmp_path / "old" / "deep" / "b_ct.nii")
  with pytest.warns(UserWarning, match="scans in folders of it are left out: old; name these folders, in a list"):
    assert names(tmp_path) == ["a"]


def test_the_same_file_twice_is_taken_once(tmp_path):
  save(tmp_path / "x.nii")
  (tmp_path / "link.nii").symlink_to(tmp_path / "x.nii")
  (tmp_path / "q.txt").write_text("x.nii\nlink.nii\nx.nii\n")
  with pytest.warns(UserWarning) as told:
    assert names(tmp_path / "q.txt") == ["x"]
  assert "link.nii is the same as" in str(told[0].message) and "x.nii: listed twice" in str(told[1].message)


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"\xff\xfe\x00binary"])
def test_empty_or_binary_list_is_refused(tmp_path, content):
  (tmp_path / "q.txt").write_bytes(content)
  with pytest.raises(InputError, match=r"q.txt: (an empty list|not a list)"):
    scans.list_scans(tmp_path / "q.txt")


def test_two_scans_of_one_name_are_told_apart_by_their_folders_or_refused(tmp_path):
  for folder in ("a", "b"):
    (tmp_path / folder).mkdir()
    save(tmp_path / folder / "x_ct.nii")
  save(tmp_path / "b" / "x_ct.nii.gz")
  (tmp_path / "q.txt").write_text("a/x_ct.nii\nb/x_ct.nii\n")
  assert names(tmp_path / "q.txt") == ["a_x", "b_x"]
  (tmp_path / "q.txt").write_text("b/x_ct.nii\nb/x_ct.nii.gz\n")
  with pytest.raises(InputError, match="would both be called x"):
    scans.list_scans(tmp_path / "q.txt")


def test_missing_path_and_empty_folder_are_refused(tmp_path):
  with pytest.raises(InputError, match="no scans here"):
    scans.list_scans(tmp_path)
  for call in (scans.list_scans, scans.read_volume):
    with pytest.raises(InputError, match=r"gone: no such file"):
      call(tmp_path / "gone")


@pytest.mark.parametrize(
  ("file", "words"),
  [
    ("a.zip", "a.zip; unpack it first"),
    ("scan.mgz", "convert such files to .nii.gz"),
    ("scan.hdr", "convert such files to .nii.gz"),
    ("liver_seg.nii.gz", r"only label maps by their names \(liver_seg.nii.gz\)"),
    ("notes.txt", r"1 files, .txt\)"),
  ],
)
def test_folder_without_scans_says_what_is_there_instead(tmp_path, file, words):
  (tmp_path / "sub").mkdir()
  (tmp_path / "sub" / file).touch()
  with pytest.raises(InputError, match=f"no scans here.*{words}"):
    scans.list_scans(tmp_path)


@pytest.mark.parametrize(
  ("file", "words"), [("a.zip", "an archive; unpack it"), ("a.mgz", "convert it to .nii.gz"), ("A.HDR", "3D Slicer")]
)
def test_format_that_is_not_read_says_how_to_convert(tmp_path, file, words):
  (tmp_path / file).write_bytes(b"NRRD0004")
  with pytest.raises(InputError, match=words):
    scans.read_volume(tmp_path / file)


def test_link_to_nothing_permission_and_home_are_told(tmp_path, monkeypatch):
  (tmp_path / "link.nii").symlink_to(tmp_path / "gone.nii")
  with pytest.raises(InputError, match=r"link.nii: a link to .*gone.nii, which is not there"):
    scans.read_volume(tmp_path / "link.nii")
  save(tmp_path / "x.nii")
  monkeypatch.setenv("HOME", str(tmp_path))
  assert scans.read_volume("~/x.nii").array.shape == (6, 5, 4) and names("~/x.nii") == ["x"]
  for call in (scans.read_volume, scans.list_scans):
    with pytest.raises(InputError, match="an empty path"):
      call("")
    with pytest.raises(InputError, match="cannot be opened \\(File name too long"):
      call("x" * 300)
  monkeypatch.setattr(scans.os, "access", lambda path, how: False)
  for call in (scans.read_volume, scans.list_scans):
    with pytest.raises(InputError, match=r"x.nii: permission denied; ask for the right to read it"):
      call(tmp_path / "x.nii")


def test_folder_that_is_closed_is_told_and_the_others_go_on(tmp_path, monkeypatch):
  for case in ("a", "b"):
    (tmp_path / case).mkdir()
    save(tmp_path / case / "ct.nii")
  original = type(tmp_path).iterdir

  def closed(folder):
    if folder.name == "a":
      raise PermissionError(13, "Permission denied")
    return original(folder)

  monkeypatch.setattr(type(tmp_path), "iterdir", closed)
  for _ in range(2):
    with pytest.warns(UserWarning, match=r"a: the folder cannot be opened \(Permission denied\); left out"):
      assert "a" not in names(tmp_path)
    save(tmp_path / "x_ct.nii")
    (tmp_path / "b" / "ct.nii").unlink(missing_ok=True)
  with pytest.raises(InputError, match=r"a: the folder cannot be opened \(Permission denied\); ask for the right"):
    scans.list_scans(tmp_path / "a")


def test_a_folder_above_one_scan_is_read_as_that_scan(tmp_path):
  (tmp_path / "case_0").mkdir()
  save(tmp_path / "case_0" / "imaging.nii.gz")
  assert scans.read_volume(tmp_path).source == str(tmp_path / "case_0" / "imaging.nii.gz")
  save(tmp_path / "case_0" / "other.nii.gz")
  with pytest.raises(InputError, match=r"2 scans in this folder, case_0/imaging.nii.gz, case_0/other.nii.gz; give one"):
    scans.read_volume(tmp_path)


def test_series_is_chosen_where_there_is_one_and_said_where_not(tmp_path):
  from dicom_files import write_series

  for number, count in ((1, 3), (2, 4)):
    stored = np.random.default_rng(0).integers(0, 2000, (count, 5, 6))
    write_series(tmp_path / "two" / "study", stored, range(10 * number, 10 * number + count), series=f"1.2.3.{number}")
  write_series(tmp_path / "one" / "study", np.random.default_rng(1).integers(0, 2000, (5, 5, 6)), series="1.2.3.9")
  save(tmp_path / "a_file.nii")
  (tmp_path / "list.txt").write_text("two\none\na_file.nii\n")
  found = scans.list_scans(tmp_path / "list.txt")
  assert [scan.name for scan in found] == ["two", "one", "a_file"]
  options = scans.ReadingOptions(series="1.2.3.2")
  assert len(options.read(found[0], alone=False).array) == 4
  for scan in found[1:]:
    with pytest.warns(UserWarning, match=r"does not have the series 1.2.3.2; read without choosing one"):
      assert "does not have the series" in options.read(scan, alone=False).notes[0]
  with pytest.raises(InputError, match=r"no series here is called '1.2.3.2'"):
    options.read(found[1])
  with pytest.raises(InputError, match="a NIfTI file, which has no series"):
    options.read(found[2])


def test_series_is_chosen_on_a_listed_medium_too(tmp_path):
  from dicom_files import write_series

  for number, count in ((1, 3), (2, 4)):
    stored = np.random.default_rng(0).integers(0, 2000, (count, 5, 6))
    write_series(tmp_path / "disc" / "study", stored, range(10 * number, 10 * number + count), series=f"1.2.3.{number}")
  medium = tmp_path / "disc" / "DICOMDIR"
  medium.write_bytes(min((tmp_path / "disc" / "study").iterdir()).read_bytes())
  volume = scans.ReadingOptions(series="1.2.3.2").read(scans.ListedScan(medium, "disc"), alone=False)
  assert len(volume.array) == 4 and not volume.notes


def test_volume_is_read_from_a_file(tmp_path):
  assert scans.read_volume(save(tmp_path / "x.nii.gz")).array.shape == (6, 5, 4)


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
  scan_checks.check_scan(Volume(hu, grid))
  with pytest.raises(InputError, match=r"4x5x6 = .* over the limit"):
    scan_checks.check_scan(Volume(hu, grid), max_voxels=100)
  hu[0, 0, 0], hu[1, 1, 1] = np.inf, -np.inf
  with pytest.raises(InputError, match="0 NaN and 2 infinite of 120"):
    scan_checks.check_scan(Volume(hu, grid))
  with pytest.warns(UserWarning, match="do not look like CT"):
    scan_checks.check_scan(Volume(np.zeros(grid.shape, np.int16), grid))


def test_empty_array_is_refused():
  with pytest.raises(InputError, match="empty"):
    scan_checks.refuse_size((3, 0, 4), "x.nii")


def test_offset_makes_hounsfield_units_and_is_noted(tmp_path):
  path = save(tmp_path / "x.nii", 24, 2024)
  with pytest.warns(UserWarning, match="do not look like CT"):
    stored = scans.read_volume(path)
  volume = scans.read_volume(path, hu_offset=-1024)
  np.testing.assert_allclose(volume.array, stored.array - 1024)
  assert volume.doubts == () and volume.notes == (f"{path}: -1024 added to every value, as was asked",)
  with pytest.raises(InputError, match="an offset of nan HU"):
    scans.read_volume(path, hu_offset=float("nan"))
