"""The extra `dicom` decodes what scanners and archives store; where a decoder is missing, its package is named."""

import base64
import io
import sys

import gdcm
import numpy as np
import pydicom
import pytest
from dicom_files import write_enhanced, write_series, write_slice
from pydicom import encaps, uid
from pydicom.pixels import decoders

from medlsam_jax.errors import InputError
from medlsam_jax.io import dicom

LOSSLESS = {
  "JPEG Lossless": "JPEGLosslessProcess14",
  "JPEG Lossless, first order": "JPEGLosslessProcess14_1",
  "JPEG-LS": "JPEGLSLossless",
  "JPEG 2000": "JPEG2000Lossless",
}
LOSSY = {
  "JPEG-LS, near lossless": "JPEGLSNearLossless",
  "JPEG 2000, lossy": "JPEG2000",
  "JPEG, 12 bits": "JPEGExtendedProcess2_4",
}
# 12 x 10 values (97 row + 31 column) % 2000, lossless, unsigned and less 1000, written once by OpenJPH (imagecodecs)
HTJ2K = {
  False: (
    "/0//UQApQAAAAAAKAAAADAAAAAAAAAAAAAAACgAAAAwAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCI"
    "kJCQkJCQkJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAG4AAf+TwAAm3/sFB3QAAMAAEsAAEwD6AYd0"
    "AHz+Aod0AMAAEcAAEwArcwB1/QACNADAABJAABVAKOJ0ALJly/7AMYH+tgDAACrgABWgPOc859gv1+ALdwDAQCAQ+PQIRiEB7LgA"
    "/9k="
  ),
  True: (
    "/0//UQApQAAAAAAKAAAADAAAAAAAAAAAAAAACgAAAAwAAAAAAAAAAAABjwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCI"
    "kJCQkJCQkJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAG0AAf+TwAAlrwIHdAAAwAASwAATAPoBh3QA"
    "fP4Ch3QAwAARwAATACtzAHX9AAI0AMAAEkAAFUAo4nQAsmXL/sAxgf62AMAAKuAAFaA85zzn2C/X4At3AMBAIBD49AhGIQHsuAD/"
    "2Q=="
  ),
}


def smooth(bits, signed):
  """Three slices that lossy codes hardly change."""
  z, row, column = np.indices((3, 24, 20))
  values = 1000 + 200 * np.sin(row / 6 + z) + 300 * np.cos(column / 8)
  return np.rint(values * (8 if bits == 16 else 1)).astype(int) - (1000 if signed else 0)


def compress(path, name):
  reader = gdcm.ImageReader()
  reader.SetFileName(str(path))
  assert reader.Read()
  change = gdcm.ImageChangeTransferSyntax()
  change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, name)))
  change.SetInput(reader.GetImage())
  assert change.Change()
  writer = gdcm.ImageWriter()
  writer.SetFileName(str(path))
  writer.SetFile(reader.GetFile())
  writer.SetImage(change.GetOutput())
  assert writer.Write()


@pytest.mark.parametrize("name", LOSSLESS)
@pytest.mark.parametrize(("bits", "signed"), [(12, False), (16, False), (16, True), (12, True)])
def test_lossless_codes_give_the_values_back(tmp_path, name, bits, signed):
  values = smooth(bits, signed)
  write_series(tmp_path, values, bits=bits, signed=signed, intercept=-24, RescaleType="HU")
  for path in tmp_path.iterdir():
    compress(path, LOSSLESS[name])
  volume = dicom.read_series(tmp_path)
  np.testing.assert_array_equal(volume.array, values - 24)
  assert not volume.notes and not volume.doubts


@pytest.mark.filterwarnings("ignore::medlsam_jax.notices.MedlsamWarning")
@pytest.mark.parametrize("name", LOSSY)
def test_lossy_codes_give_nearly_the_values_back(tmp_path, name):
  values = smooth(12, False)
  write_series(tmp_path, values, bits=12)
  for path in tmp_path.iterdir():
    compress(path, LOSSY[name])
  np.testing.assert_allclose(dicom.read_series(tmp_path).array, values - 1024, atol=4)


@pytest.mark.parametrize("syntax", ["HTJ2KLossless", "HTJ2KLosslessRPCL", "HTJ2K"])
@pytest.mark.parametrize("signed", [False, True])
def test_high_throughput_jpeg_2000_is_decoded(tmp_path, syntax, signed):
  row, column = np.indices((12, 10))
  path = write_slice(tmp_path / "a.dcm", np.zeros((12, 10)), (0, 0, 0), signed=signed, intercept=0)
  store(path, base64.b64decode(HTJ2K[signed]), getattr(uid, syntax))
  np.testing.assert_array_equal(dicom.read_series(tmp_path).array[0], (97 * row + 31 * column) % 2000 - 1000 * signed)


def store(path, code, syntax):
  image = pydicom.dcmread(path)
  image.PixelData = encaps.encapsulate([code])
  image["PixelData"].is_undefined_length = True
  image.file_meta.TransferSyntaxUID = syntax
  image.save_as(path)


def test_baseline_jpeg_is_decoded(tmp_path):
  from PIL import Image

  values = smooth(12, False)[0] // 8
  encoded = io.BytesIO()
  Image.fromarray(values.astype(np.uint8)).save(encoded, "JPEG", quality=98)
  path = write_slice(tmp_path / "a.dcm", values, (0, 0, 0), BitsAllocated=8, BitsStored=8, HighBit=7)
  store(path, encoded.getvalue(), uid.JPEGBaseline8Bit)
  np.testing.assert_allclose(dicom.read_series(tmp_path).array[0], values - 1024, atol=3)


@pytest.mark.parametrize("syntax", ["RLELossless", "DeflatedExplicitVRLittleEndian"])
@pytest.mark.parametrize("signed", [False, True])
def test_run_lengths_and_deflated_files_are_read(tmp_path, syntax, signed):
  values = smooth(12, signed)
  write_series(tmp_path, values, bits=12, signed=signed)
  for path in tmp_path.iterdir():
    image = pydicom.dcmread(path)
    if syntax == "RLELossless":
      image.compress(uid.RLELossless)
    else:
      image.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    image.save_as(path, enforce_file_format=True)
  np.testing.assert_array_equal(dicom.read_series(tmp_path).array, values - 1024)


def test_frames_of_a_compressed_enhanced_file_are_decoded(tmp_path):
  values = smooth(12, False)
  path = write_enhanced(tmp_path / "x.dcm", values, [(0, 0, 3 * z) for z in range(3)])
  compress(path, "JPEGLosslessProcess14_1")
  np.testing.assert_array_equal(dicom.read_series(path).array, values - 1024)


@pytest.mark.filterwarnings("ignore::medlsam_jax.notices.MedlsamWarning")
@pytest.mark.parametrize("name", ["JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless"])
@pytest.mark.parametrize("damage", ["start lost", "end lost"])
def test_one_slice_of_damaged_code_is_a_missing_slice(tmp_path, name, damage):
  values = np.repeat(smooth(12, False), 3, axis=0)
  write_series(tmp_path, values, bits=12, step=1, RescaleType="HU")
  for path in tmp_path.iterdir():
    compress(path, name)
  content = (tmp_path / "004.dcm").read_bytes()
  start, end = content.index(b"\xff\xd8\xff" if "2000" not in name else b"\xff\x4f\xff"), content.rindex(b"\xff\xd9")
  zeros = slice(start, start + 40) if damage == "start lost" else slice(end - 60, end + 2)
  (tmp_path / "004.dcm").write_bytes(content[: zeros.start] + bytes(zeros.stop - zeros.start) + content[zeros.stop :])
  with pytest.warns(UserWarning, match=r"left out 004.dcm: truncated or damaged pixels .*JPEG"):
    volume = dicom.read_series(tmp_path)
  np.testing.assert_array_equal(volume.array, values - 1024)


@pytest.mark.parametrize(
  ("name", "package"),
  [
    ("JPEGLosslessProcess14_1", "pip install python-gdcm"),
    ("JPEGLSLossless", "pip install python-gdcm"),
    ("JPEGExtendedProcess2_4", "pip install python-gdcm"),
    ("JPEG2000Lossless", "pip install pylibjpeg pylibjpeg-openjpeg"),
  ],
)
def test_missing_decoder_names_the_code_and_the_package_that_has_it(tmp_path, monkeypatch, name, package):
  write_series(tmp_path, smooth(12, False), bits=12)
  for path in tmp_path.iterdir():
    compress(path, name)
  for decoder in vars(decoders).values():
    if isinstance(decoder, decoders.base.Decoder):
      monkeypatch.setattr(decoder, "_available", {})
  monkeypatch.setitem(sys.modules, "gdcm", None)
  with pytest.raises(InputError, match=rf"000.dcm: its pixels are JPEG.*1.2.840.*{package}") as caught:
    dicom.read_series(tmp_path)
  assert "[dicom]" not in str(caught.value)


def test_code_that_nothing_decodes_is_named(tmp_path):
  path = write_slice(tmp_path / "a.dcm", np.zeros((12, 10)), (0, 0, 0))
  store(path, b"\0" * 64, uid.MPEG2MPML)
  with pytest.raises(InputError, match=r"no decoder of MPEG2 .*1.2.840.10008.1.2.4.100"):
    dicom.read_series(tmp_path)
