"""A malformed field names itself in an InputError or is left out with its slice; nothing ends in a traceback."""

import warnings

import numpy as np
import pydicom
import pytest
from dicom_files import write_series, write_slice

from medlsam_jax.errors import InputError
from medlsam_jax.io import dicom, dicom_folder, dicom_frames, dicom_headers


@pytest.fixture
def stored():
  return np.random.default_rng(0).integers(0, 2000, (6, 6, 7))


MALFORMED = [
  ("ImagePositionPatient", "DS", b"nan\\0\\0 "),
  ("ImagePositionPatient", "DS", b"0\\inf\\0 "),
  ("ImagePositionPatient", "DS", b"0\\0"),
  ("ImagePositionPatient", "DS", b"\\\\0 "),
  ("ImagePositionPatient", "LO", b"left"),
  ("ImageOrientationPatient", "DS", b"1\\0\\0\\0\\1"),
  ("ImageOrientationPatient", "DS", b"0\\0\\0\\0\\0\\0 "),
  ("PixelSpacing", "DS", b"0.5 "),
  ("PixelSpacing", "DS", b"-0.5\\0.5"),
  ("PixelSpacing", "DS", b"x\\y "),
  ("Rows", "US", b"\0\0"),
  ("Rows", "US", b"\x06"),
  ("Columns", "IS", b"six "),
  ("RescaleSlope", "DS", b"\xb2\xb3"),
]


@pytest.mark.parametrize(("field", "vr", "content"), MALFORMED)
def test_malformed_field_is_named_in_all_slices_and_left_out_in_one(tmp_path, stored, field, vr, content):
  write_series(tmp_path / "all", stored, raw={field: (vr, content)})
  with pytest.raises(InputError, match=rf"000.dcm.*(?i:{field}|pixel spacing)"):
    dicom.read_series(tmp_path / "all")
  write_series(tmp_path / "one", stored)
  write_slice(tmp_path / "one" / "005.dcm", stored[5], (-30, -40, 112.5), raw={field: (vr, content)})
  with pytest.warns(UserWarning, match=rf"left out 005.dcm: .*(?i:{field}|pixel spacing)"):
    volume = dicom.read_series(tmp_path / "one")
  np.testing.assert_array_equal(volume.array, stored[:5] - 1024.0)


@pytest.mark.parametrize(
  ("field", "vr", "content"),
  [
    ("NumberOfFrames", "IS", b"N "),
    ("NumberOfFrames", "IS", b""),
    ("SliceThickness", "DS", b"5,0 mm"),
    ("InstanceNumber", "IS", b"one "),
    ("SpecificCharacterSet", "CS", b"ISO_IR 9999 "),
    ("SeriesDescription", "LO", b"Sch\xe4del"),
    ("PatientAge", "AS", b"old "),
    ("AcquisitionNumber", "IS", b"1.5 "),
    ("Rows", "SS", b"\x06\0"),
    ("Rows", "IS", b"6 "),
    ("RescaleIntercept", "LO", b"-1024 "),
    ("SamplesPerPixel", "US", b""),
    ("PixelRepresentation", "US", b""),
  ],
)
def test_what_is_malformed_but_settled_is_read_without_warnings_of_pydicom(tmp_path, stored, field, vr, content):
  write_series(tmp_path, stored, raw={field: (vr, content)})
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    volume = dicom.read_series(tmp_path)
  np.testing.assert_array_equal(volume.array, stored - 1024.0)
  assert [str(w.message) for w in caught] == list(volume.notes)


@pytest.mark.parametrize("field", dicom_frames.TAGS)
def test_noise_in_any_field_is_an_input_error_or_a_volume(tmp_path, stored, field, monkeypatch):
  # read here and not through the net that catches what nobody foresaw
  monkeypatch.setattr(dicom_folder, "frames_or_reason", read_or_reason)
  for content in (b"\xff\xfe\x01\x02", b"\\\\\\", b"-1", b"1e400 ", b"\0\0\0\0"):
    for vr in ("LO", "US"):
      write_slice(tmp_path / "000.dcm", stored[0], (0, 0, 0), raw={field: (vr, content)})
      with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
          volume = dicom.read_series(tmp_path)
        except InputError as error:
          assert str(tmp_path) in str(error)
        else:
          assert np.isfinite(volume.array).all() and np.isfinite(volume.affine).all()


def read_or_reason(path):
  try:
    return dicom_frames.read_frames(path)
  except dicom_headers.Unusable as error:
    return error


@pytest.mark.parametrize("length", range(130, 700, 19))
def test_file_cut_off_anywhere_is_left_out_by_name(tmp_path, stored, length):
  write_series(tmp_path, stored)
  content = (tmp_path / "005.dcm").read_bytes()
  (tmp_path / "005.dcm").write_bytes(content[: min(length, len(content) - 8)])
  with pytest.warns(UserWarning, match=r"left out 005.dcm: "):
    volume = dicom.read_series(tmp_path)
  np.testing.assert_array_equal(volume.array, stored[:5] - 1024.0)
  assert not volume.doubts


@pytest.mark.filterwarnings("ignore::medlsam_jax.notices.MedlsamWarning")
def test_one_slice_with_truncated_pixels_is_a_missing_slice(tmp_path, stored):
  write_series(tmp_path, stored, step=1)
  content = (tmp_path / "002.dcm").read_bytes()
  (tmp_path / "002.dcm").write_bytes(content[:-40])
  with pytest.warns(UserWarning, match="left out 002.dcm: truncated or damaged pixels"):
    volume = dicom.read_series(tmp_path)
  np.testing.assert_array_equal(volume.array[2], (stored[1] + stored[3]) / 2 - 1024)
  np.testing.assert_array_equal(volume.array[3], stored[3] - 1024)
  assert any("uneven" in note and "001.dcm" in note for note in volume.notes)


def test_many_damaged_slices_are_refused(tmp_path, stored):
  write_series(tmp_path, stored)
  for name in ("001.dcm", "004.dcm"):
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:-40])
  with pytest.raises(InputError, match=r"2 of 6 slices cannot be decoded: 001.dcm, 004.dcm: truncated"):
    dicom.read_series(tmp_path)


def test_more_pixels_than_the_header_says_are_refused(tmp_path, stored):
  write_series(tmp_path, stored)
  for path in tmp_path.iterdir():
    image = pydicom.dcmread(path)
    image.PixelData = image.PixelData * 3
    image.save_as(path)
  with pytest.raises(InputError, match="252 bytes of pixels, 84 expected"):
    dicom.read_series(tmp_path)


def test_deflated_files_are_read_and_damaged_ones_left_out(tmp_path, stored):
  write_series(tmp_path, stored)
  for path in tmp_path.iterdir():
    image = pydicom.dcmread(path)
    image.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    image.save_as(path, enforce_file_format=True)
  np.testing.assert_array_equal(dicom.read_series(tmp_path).array, stored - 1024.0)
  content = (tmp_path / "005.dcm").read_bytes()
  (tmp_path / "005.dcm").write_bytes(content[:-90] + b"\xaa" * 90)
  with pytest.warns(UserWarning, match=r"left out 005.dcm: "):
    assert dicom.read_series(tmp_path).array.shape[0] == 5
