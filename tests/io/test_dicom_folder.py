"""Folders as archives, media and scanners write them: what makes the volume, what is left out, what is asked."""

import os
import shutil

import numpy as np
import pydicom
import pytest
from dicom_files import new_image, write_series, write_slice
from pydicom.uid import SecondaryCaptureImageStorage

from medlsam_jax.errors import InputError
from medlsam_jax.io import dicom, scans


@pytest.fixture
def stored():
  return np.random.default_rng(0).integers(0, 2000, (5, 6, 7))


def assert_whole(volume, stored):
  np.testing.assert_array_equal(volume.array, stored - 1024.0)
  np.testing.assert_allclose(volume.grid.world_from_voxel(np.zeros(3)), [30, 40, 100])


def test_other_files_are_left_out_with_their_reasons(tmp_path, stored):
  write_series(tmp_path, stored)
  (tmp_path / "README.txt").write_text("hello")
  (tmp_path / "empty.dcm").write_bytes(b"")
  (tmp_path / "export.zip").write_bytes(b"PK\x03\x04" + bytes(300))
  (tmp_path / ".hidden").write_bytes(b"x")
  (tmp_path / "DICOMDIR").write_bytes((tmp_path / "000.dcm").read_bytes())
  for modality in ("SEG", "RTDOSE", "PR", "SR"):
    write_slice(tmp_path / f"{modality}.dcm", stored[0], (0, 0, 0), Modality=modality)
  report = pydicom.dcmread(tmp_path / "000.dcm")
  del report.Rows, report.Columns, report.PixelData
  report.save_as(tmp_path / "plan.dcm")
  with pytest.warns(UserWarning, match=r"README.txt, empty.dcm, export.zip: no DICOM file; .*"):
    volume = dicom.read_series(tmp_path)
  assert_whole(volume, stored)
  said = " ".join(volume.notes)
  assert "left out PR.dcm: no scan (Modality PR)" in said and "and 2 more" in said
  assert "hidden" not in said and "DICOMDIR" not in said


@pytest.mark.parametrize(
  ("extra", "reason"),
  [
    ({"SamplesPerPixel": 3}, "a colour image"),
    ({"ImageType": ["DERIVED", "SECONDARY", "LOCALIZER"]}, "a localizer"),
    ({"drop": ["ImagePositionPatient"], "kind": SecondaryCaptureImageStorage}, "no ImagePositionPatient"),
    ({"NumberOfFrames": 12}, "12 frames without places of their own"),
  ],
)
@pytest.mark.parametrize("series", ["9.9.9", None])
def test_images_that_are_no_slices_are_left_out_of_their_folder(tmp_path, stored, extra, reason, series):
  write_series(tmp_path, stored)
  write_slice(tmp_path / "odd.dcm", stored[0], (-30, -40, 300), **({"series": series} if series else {}), **extra)
  with pytest.warns(UserWarning, match=f"left out odd.dcm: {reason}"):
    assert_whole(dicom.read_series(tmp_path), stored)
  alone = tmp_path / "alone"
  alone.mkdir()
  shutil.move(tmp_path / "odd.dcm", alone)
  with pytest.raises(InputError, match=f"odd.dcm: {reason}"):
    dicom.read_series(alone)


def test_file_without_preamble_is_read_and_text_is_not(tmp_path, stored):
  write_series(tmp_path, stored, preamble=False)
  assert (tmp_path / "000.dcm").read_bytes()[:2] == b"\x08\x00"
  (tmp_path / "notes").write_bytes(b"\x08\x00 a letter that starts with a group number" * 5)
  with pytest.warns(UserWarning, match="left out notes: no DICOM file"):
    assert_whole(dicom.read_series(tmp_path), stored)
  assert dicom.is_dicom_folder(tmp_path)


def test_implicit_file_without_preamble_is_read(tmp_path, stored):
  write_series(tmp_path, stored)
  for path in tmp_path.iterdir():
    image = pydicom.Dataset(pydicom.dcmread(path))
    pydicom.dcmwrite(path, image, implicit_vr=True, little_endian=True)
    assert path.read_bytes()[128:132] != b"DICM"
  assert_whole(dicom.read_series(tmp_path), stored)


def test_copies_are_dropped_by_name_and_a_cut_copy_does_not_replace_the_whole(tmp_path, stored):
  write_series(tmp_path, stored)
  shutil.copy(tmp_path / "003.dcm", tmp_path / "003 (copy).dcm")
  content = (tmp_path / "001.dcm").read_bytes()
  (tmp_path / "000a.dcm").write_bytes(content)
  (tmp_path / "001.dcm").write_bytes(content[:-30])
  with pytest.warns(UserWarning, match=r"copies of slices: 001.dcm of 000a.dcm, 003 \(copy\).dcm of 003.dcm"):
    assert_whole(dicom.read_series(tmp_path), stored)


def test_export_of_everything_twice_is_one_scan(tmp_path, stored):
  write_series(tmp_path / "a", stored)
  shutil.copytree(tmp_path / "a", tmp_path / "b")
  with pytest.warns(UserWarning, match=r"copies of slices: .* and 1 more"):
    assert_whole(dicom.read_series(tmp_path), stored)


def test_different_images_at_one_place_are_refused(tmp_path, stored):
  write_series(tmp_path, stored)
  write_slice(tmp_path / "again.dcm", stored[0], (-30, -40, 105))
  with pytest.raises(InputError, match=r"002.dcm \(.*\) and again.dcm .* are different images at the same place"):
    dicom.read_series(tmp_path)


def test_same_uid_in_all_slices_makes_no_copies(tmp_path, stored):
  write_series(tmp_path, stored, SOPInstanceUID="1.2.3")
  volume = dicom.read_series(tmp_path)
  assert_whole(volume, stored)
  assert not volume.notes


def test_the_one_ct_series_that_makes_a_volume_is_taken(tmp_path, stored):
  write_series(tmp_path, stored)
  write_slice(tmp_path / "one.dcm", stored[0], (0, 0, 0), series="1.2.1", SeriesDescription="monitoring")
  for index in range(9):
    write_slice(tmp_path / f"pet{index}.dcm", stored[0], (0, 0, index), series="1.2.2", Modality="PT")
    extra = {"ImageType": ["DERIVED", "SECONDARY", "MPR"], "orientation": [0, 1, 0, 0, 0, -1]}
    write_slice(tmp_path / f"mpr{index}.dcm", stored[0], (index, 0, 0), series="1.2.3", **extra)
  with pytest.warns(UserWarning, match=r"took series .*498.1 .* 5 slices, 2.50 mm apart; left out 1.2.3 .*derived"):
    volume = dicom.read_series(tmp_path)
  assert_whole(volume, stored)
  assert "'monitoring'" in volume.notes[-1] and "PT" in volume.notes[-1]


def test_a_small_series_does_not_stand_for_a_large_damaged_one(tmp_path, stored):
  for index in range(9):
    write_slice(tmp_path / f"a{index}.dcm", stored[0], (50 * (index > 4), 0, index), series="1.1")
  for index in range(3):
    write_slice(tmp_path / f"b{index}.dcm", stored[0], (0, 0, index), series="1.2")
  with pytest.raises(InputError, match=r"2 series, 1 of which .* 1.1 .*no volume, .*shift sideways"):
    dicom.read_series(tmp_path)
  for index in range(9):
    write_slice(tmp_path / f"a{index}.dcm", stored[0], (0, 0, index), series="1.1", slope=0)
  with pytest.raises(InputError, match=r"1.1: 9 damaged slices .*RescaleSlope is 0"):
    dicom.read_series(tmp_path)


@pytest.fixture
def two_series(tmp_path, stored):
  write_series(tmp_path, stored, SeriesNumber=4, SeriesDescription="ABD 5 mm", ConvolutionKernel="B30f")
  for index in range(4):
    write_slice(tmp_path / f"b{index}.dcm", stored[index], (0, 0, index), series="1.2.77", SeriesNumber=498)
  return tmp_path


def test_several_volumes_are_listed_and_none_is_taken(two_series):
  with pytest.raises(InputError, match="--series") as caught:
    dicom.read_series(two_series)
  assert "498.1 (number 4, 'ABD 5 mm', kernel B30f, CT): 5 slices, 2.50 mm apart" in str(caught.value)
  assert "1.2.77 (number 498, CT): 4 slices, 1.00 mm apart" in str(caught.value)


@pytest.mark.parametrize(
  ("series", "slices"),
  [("1.2.77", 4), ("77", 4), ("498.1", 5), ("4", 5), ("498", 4), ("1.2.826.0.1.3680043.8.498.1", 5)],
)
def test_series_is_chosen_by_uid_ending_or_number(two_series, series, slices):
  assert dicom.read_series(two_series, series).array.shape[0] == slices
  assert scans.read_volume(two_series, series=series).array.shape[0] == slices


@pytest.mark.parametrize("series", ["9.9", "", "1"])
def test_series_that_is_not_there_or_not_one_is_refused_with_the_list(two_series, series):
  write_slice(two_series / "c.dcm", np.zeros((6, 7)), (0, 0, 0), series="1.3.1")
  with pytest.raises(InputError, match=r"(no|2) series here .*1.2.77 "):
    dicom.read_series(two_series, series)


def test_folders_below_are_searched_for_one_series(tmp_path, stored):
  write_series(tmp_path / "export" / "study" / "series", stored)
  write_series(tmp_path / "export" / ".trash", stored, series="1.1")
  (tmp_path / "export" / "VERSION").write_text("1")
  with pytest.warns(UserWarning, match="left out VERSION"):
    assert_whole(dicom.read_series(tmp_path / "export"), stored)


def test_series_spread_over_folders_is_put_together(tmp_path, stored):
  write_series(tmp_path / "all", stored)
  for part, name in ((0, "000.dcm"), (1, "001.dcm"), (1, "002.dcm"), (0, "003.dcm"), (1, "004.dcm")):
    (tmp_path / "disc" / str(part)).mkdir(parents=True, exist_ok=True)
    shutil.move(tmp_path / "all" / name, tmp_path / "disc" / str(part) / name)
  assert_whole(dicom.read_series(tmp_path / "disc"), stored)


def test_dicomdir_stands_for_its_disc(tmp_path, stored):
  write_series(tmp_path / "DICOM" / "PA0" / "SE0", stored)
  index = new_image(tmp_path / "DICOMDIR", stored[0], kind="1.2.840.10008.1.3.10")
  del index.Rows, index.PixelData
  index.save_as(tmp_path / "DICOMDIR", enforce_file_format=True)
  assert_whole(dicom.read_series(tmp_path / "DICOMDIR"), stored)
  assert_whole(scans.read_volume(tmp_path / "DICOMDIR"), stored)
  assert_whole(dicom.read_series(tmp_path), stored)


def test_one_slice_stands_for_its_series(tmp_path, stored):
  write_series(tmp_path, stored)
  write_slice(tmp_path / "other.dcm", stored[0], (0, 0, 0), series="1.1")
  with pytest.warns(UserWarning, match="one slice of a series; read together"):
    assert_whole(scans.read_volume(tmp_path / "002.dcm"), stored)
  with pytest.raises(InputError, match=r"a.dcm: no DICOM file"):
    (tmp_path / "a.dcm").write_text("x")
    scans.read_volume(tmp_path / "a.dcm")


def test_pipes_and_broken_links_are_passed_over(tmp_path, stored):
  write_series(tmp_path, stored)
  os.mkfifo(tmp_path / "0pipe")
  (tmp_path / "0link").symlink_to(tmp_path / "gone")
  assert_whole(dicom.read_series(tmp_path), stored)


def test_a_series_number_for_each_image_is_listed_in_short(tmp_path, stored):
  for index in range(30):
    write_slice(tmp_path / f"{index}.dcm", stored[0], (0, 0, index), series=f"1.2.{index}")
  with pytest.raises(InputError, match=r"30 series, none of which .*; and 18 more"):
    dicom.read_series(tmp_path)


def test_copy_in_another_encoding_is_a_copy(tmp_path, stored):
  write_series(tmp_path, stored)
  image = pydicom.dcmread(tmp_path / "003.dcm")
  image.compress(pydicom.uid.RLELossless)
  image.save_as(tmp_path / "copy.dcm")
  with pytest.warns(UserWarning, match=r"copies of slices: (003.dcm of copy.dcm|copy.dcm of 003.dcm)"):
    assert_whole(dicom.read_series(tmp_path), stored)


def test_series_with_many_damaged_or_unreadable_slices_is_refused(tmp_path, stored):
  stored = np.tile(stored, (4, 1, 1))
  write_series(tmp_path, stored)
  for index in (0, 1, 2):
    write_slice(tmp_path / f"{index:03d}.dcm", stored[index], (-30, -40, 100 + 2.5 * index), slope=0)
  with pytest.raises(InputError, match=r"3 of 20 slices are damaged \(000.dcm, 001.dcm, 002.dcm: RescaleSlope is 0"):
    dicom.read_series(tmp_path)
  write_series(tmp_path, stored)
  for index in range(10):
    path = tmp_path / f"{index:03d}.dcm"
    path.write_bytes(path.read_bytes()[:300])
  with pytest.raises(InputError, match=r"10 of 20 slices are damaged \(.*: cut off"):
    dicom.read_series(tmp_path)
