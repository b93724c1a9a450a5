"""Stored values to HU: scale, padding, unused bits and signs, and what is said where headers do not settle them."""

import numpy as np
import pydicom
import pytest
from dicom_files import write_series, write_slice

from medlsam_jax.errors import InputError
from medlsam_jax.io import dicom


@pytest.fixture
def stored():
  return np.random.default_rng(0).integers(0, 2000, (5, 6, 7))


@pytest.mark.filterwarnings("ignore::medlsam_jax.notices.MedlsamWarning")
def test_comma_decimals_are_read_and_said(tmp_path, stored):
  raw = {"RescaleSlope": ("DS", b"0,5 "), "ImagePositionPatient": ("DS", b"1,5\\-2,25\\3 ")}
  write_slice(tmp_path / "a.dcm", stored[0], (0, 0, 0), raw=raw)
  with pytest.warns(UserWarning, match=r"RescaleSlope is written with a comma"):
    volume = dicom.read_series(tmp_path)
  np.testing.assert_array_equal(volume.array[0], stored[0] * 0.5 - 1024)
  np.testing.assert_allclose(volume.grid.world_from_voxel(np.zeros(3)), [-1.5, 2.25, 3])


def test_a_comma_that_may_set_off_thousands_is_refused(tmp_path, stored):
  write_slice(tmp_path / "a.dcm", stored[0], (0, 0, 0), raw={"RescaleIntercept": ("DS", b"-1,024")})
  with pytest.raises(InputError, match="RescaleIntercept is '-1,024', not a number"):
    dicom.read_series(tmp_path)


@pytest.mark.parametrize("field", ["RescaleSlope", "RescaleIntercept"])
@pytest.mark.parametrize("content", [b"nan ", b"1\\2 ", b"one ", b"1e999 "])
def test_damaged_scale_is_refused_by_field(tmp_path, stored, field, content):
  write_series(tmp_path, stored, raw={field: ("DS", content)})
  with pytest.raises(InputError, match=rf"000.dcm.*: {field} is"):
    dicom.read_series(tmp_path)


@pytest.mark.filterwarnings("ignore::medlsam_jax.notices.MedlsamWarning")
def test_zero_slope_is_refused_in_all_and_left_out_in_one(tmp_path, stored):
  write_series(tmp_path, stored, step=1)
  write_slice(tmp_path / "002.dcm", stored[2], (-30, -40, 102), slope=0)
  with pytest.warns(UserWarning, match="left out 002.dcm: RescaleSlope is 0"):
    volume = dicom.read_series(tmp_path)
  np.testing.assert_array_equal(volume.array[2], (stored[1] + stored[3]) / 2 - 1024)
  write_series(tmp_path, stored, slope=0)
  with pytest.raises(InputError, match="RescaleSlope is 0"):
    dicom.read_series(tmp_path)


def test_absent_scale_is_said(tmp_path, stored):
  write_series(tmp_path, stored, drop=["RescaleSlope", "RescaleIntercept"])
  with pytest.warns(UserWarning, match="no RescaleSlope and RescaleIntercept in the files"):
    volume = dicom.read_series(tmp_path)
  np.testing.assert_array_equal(volume.array, stored)
  assert "stored values are taken" in volume.notes[0]


def test_scale_absent_in_one_slice_is_that_of_the_others_and_doubted(tmp_path, stored):
  write_series(tmp_path, stored)
  write_slice(tmp_path / "003.dcm", stored[3], (-30, -40, 107.5), raw={"RescaleIntercept": ("DS", b"")})
  with pytest.warns(UserWarning, match="no RescaleIntercept in 003.dcm; scaled as the other slices"):
    volume = dicom.read_series(tmp_path)
  np.testing.assert_array_equal(volume.array, stored - 1024)
  assert "003.dcm" in volume.doubts[0]


@pytest.mark.parametrize(
  ("extra", "doubt"),
  [
    ({"Modality": "MR"}, "Modality is MR"),
    ({"Modality": "PT"}, "Modality is PT"),
    ({"drop": ["Modality"]}, "no Modality"),
    ({"RescaleType": "OD"}, "RescaleType is OD"),
    ({"RescaleType": "Z_EFF"}, "RescaleType is Z_EFF"),
    ({"PhotometricInterpretation": "MONOCHROME1"}, "PhotometricInterpretation is MONOCHROME1"),
    ({"slope": -1, "intercept": 900}, "RescaleSlope is negative"),
  ],
)
def test_headers_that_make_values_doubtful_are_doubts_of_the_volume(tmp_path, stored, extra, doubt):
  write_series(tmp_path, stored, **extra)
  with pytest.warns(UserWarning, match=doubt):
    volume = dicom.read_series(tmp_path)
  assert len(volume.doubts) == 1 and doubt in volume.doubts[0]


def test_unspecified_rescale_type_is_said(tmp_path, stored):
  write_series(tmp_path, stored, RescaleType="US")
  with pytest.warns(UserWarning, match="RescaleType is US"):
    assert not dicom.read_series(tmp_path).doubts


def in_circle(stored):
  """Where a round field leaves something in a square image: not in the corners."""
  inside = np.ones(stored.shape, bool)
  for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1), (0, 1)):
    inside[:, row, column] = False
  return inside


@pytest.mark.filterwarnings("ignore::medlsam_jax.notices.MedlsamWarning")
@pytest.mark.parametrize("tagged", [True, False])
@pytest.mark.parametrize(("signed", "intercept"), [(True, 0), (True, -1024), (False, -1024)])
def test_padding_becomes_the_air_of_the_scan(tmp_path, stored, tagged, signed, intercept):
  inside = in_circle(stored)
  values = np.where(inside, stored - (1000 if intercept == 0 else 0), -2000)
  extra = {"raw": {"PixelPaddingValue": ("SS", (-2000).to_bytes(2, "little", signed=True))}} if tagged else {}
  write_series(tmp_path, values, signed=signed, intercept=intercept, **extra)
  if tagged:
    volume = dicom.read_series(tmp_path)
    assert not volume.notes
  else:
    with pytest.warns(UserWarning, match="in the corners is padding" if signed else "stored with a sign"):
      volume = dicom.read_series(tmp_path)
  np.testing.assert_array_equal(volume.array[inside], values[inside] + intercept)
  np.testing.assert_array_equal(volume.array[~inside], (values[inside] + intercept).min())


@pytest.mark.parametrize("value", [("US", b"\x30\xf8"), ("DS", b"-2000 "), ("SS", b"\x30\xf8")])
def test_padding_value_of_another_type_is_that_of_the_pixels(tmp_path, stored, value):
  values = np.where(in_circle(stored), stored - 1000, -2000)
  write_series(tmp_path, values, signed=True, intercept=0, raw={"PixelPaddingValue": value})
  volume = dicom.read_series(tmp_path)
  assert volume.array.min() >= -1000 and not volume.notes


def test_padding_range_is_honoured(tmp_path, stored):
  values = np.where(in_circle(stored), stored + 300, np.arange(stored.size).reshape(stored.shape) % 5 + 10000)
  write_series(tmp_path, values, PixelPaddingValue=10000, PixelPaddingRangeLimit=10004)
  assert dicom.read_series(tmp_path).array.max() < 1300


def test_padding_hides_no_offset(tmp_path, stored):
  values = np.where(in_circle(stored), stored + 24, -2000)
  write_series(tmp_path, values, signed=True, PixelPaddingValue=-2000, drop=["RescaleSlope", "RescaleIntercept"])
  with pytest.warns(UserWarning, match="no RescaleSlope"):
    assert dicom.read_series(tmp_path).array.min() >= 24


def test_padding_value_within_tissue_is_tissue(tmp_path, stored):
  stored[:, 2, 3] = 1024
  write_series(tmp_path, stored, PixelPaddingValue=1024)
  np.testing.assert_array_equal(dicom.read_series(tmp_path).array, stored - 1024.0)


def test_padding_of_a_whole_word_in_twelve_bits_is_padding(tmp_path, stored):
  values = np.where(in_circle(stored), stored, -2000)
  write_series(tmp_path, values, bits=12, PixelPaddingValue=63536)
  assert dicom.read_series(tmp_path).array.max() < 1000


def test_overlay_in_the_unused_bits_is_cut_away(tmp_path, stored):
  overlay = (np.indices(stored.shape).sum(0) % 2) << 12
  write_series(tmp_path, stored + overlay, bits=12)
  with pytest.warns(UserWarning, match="bits above BitsStored"):
    volume = dicom.read_series(tmp_path)
  np.testing.assert_array_equal(volume.array, stored - 1024.0)
  for path in tmp_path.iterdir():
    image = pydicom.dcmread(path)
    image.add_new((0x6000, 0x0102), "US", 12)
    image.save_as(path)
  assert not dicom.read_series(tmp_path).doubts


def test_sign_is_extended_from_the_highest_stored_bit(tmp_path, stored):
  values = stored - 1000
  write_series(tmp_path, values & 0x0FFF, bits=12, signed=True, intercept=0)
  np.testing.assert_array_equal(dicom.read_series(tmp_path).array, values)


def test_bits_in_the_upper_part_of_the_word_are_shifted_down(tmp_path, stored):
  write_series(tmp_path, stored << 4, bits=12, HighBit=15)
  np.testing.assert_array_equal(dicom.read_series(tmp_path).array, stored - 1024.0)


def test_signed_values_that_claim_to_be_without_sign_are_read_with_it(tmp_path, stored):
  write_series(tmp_path, stored - 1000, intercept=0)
  with pytest.warns(UserWarning, match="stored with a sign though PixelRepresentation"):
    volume = dicom.read_series(tmp_path)
  np.testing.assert_array_equal(volume.array, stored - 1000)


@pytest.mark.parametrize("extra", [{"BitsStored": 17}, {"HighBit": 9}, {"BitsAllocated": 12, "BitsStored": 12}])
def test_impossible_bits_are_refused(tmp_path, stored, extra):
  write_series(tmp_path, stored, **extra)
  with pytest.raises(InputError, match=r"000.dcm.*: .*Bits"):
    dicom.read_series(tmp_path)


def test_float_pixels_are_read(tmp_path, stored):
  for index, plane in enumerate(stored):
    path = write_slice(tmp_path / f"{index}.dcm", plane, (0, 0, index), intercept=0)
    image = pydicom.dcmread(path)
    del image.PixelData
    image.FloatPixelData = (plane + 0.25).astype("<f4").tobytes()
    image.BitsAllocated = 32
    image.save_as(path)
  np.testing.assert_array_equal(dicom.read_series(tmp_path).array, stored + 0.25)


def test_big_endian_and_implicit_files_are_read(tmp_path, stored):
  encodings = (("ExplicitVRBigEndian", False, False), ("ImplicitVRLittleEndian", True, True))
  for index, (syntax, implicit, little) in enumerate(encodings):
    path = write_slice(tmp_path / f"{index}.dcm", stored[index], (0, 0, index))
    image = pydicom.dcmread(path)
    image.decode()
    image.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
    image.PixelData = stored[index].astype("<u2" if little else ">u2").tobytes()
    pydicom.dcmwrite(path, image, implicit_vr=implicit, little_endian=little)
  np.testing.assert_array_equal(dicom.read_series(tmp_path).array, stored[:2] - 1024.0)


def test_a_slice_whose_scale_makes_its_values_jump_is_doubted(tmp_path, stored):
  write_series(tmp_path, stored)
  write_slice(tmp_path / "002.dcm", stored[2], (-30, -40, 105), intercept=0)
  with pytest.warns(UserWarning, match=r"change between 001.dcm and 002.dcm, 002.dcm and 003.dcm, and the values jump"):
    assert len(dicom.read_series(tmp_path).doubts) == 1
  write_slice(tmp_path / "002.dcm", stored[2] * 2, (-30, -40, 105), slope=0.5)
  assert not dicom.read_series(tmp_path).doubts


@pytest.mark.filterwarnings("ignore::medlsam_jax.notices.MedlsamWarning")
def test_damaged_padding_value_costs_no_scan(tmp_path, stored):
  write_series(tmp_path, stored + (1 << 13), bits=12, raw={"PixelPaddingValue": ("LO", b"none")})
  with pytest.warns(UserWarning, match="PixelPaddingValue is 'none', not a number; padding is taken as tissue"):
    np.testing.assert_array_equal(dicom.read_series(tmp_path).array, stored - 1024.0)
