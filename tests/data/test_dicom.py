import sys
from pathlib import Path

import numpy as np
import pytest

from medlsam_jax.data import alignment, checks, dicom, nifti
from medlsam_jax.errors import InputError
from medlsam_jax.geometry import reorient

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import FileDataset, FileMetaDataset  # noqa: E402
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid  # noqa: E402

SHARED = Path(__file__).parents[3] / "shared" / "data" / "dicom"
AXIAL = [1, 0, 0, 0, 1, 0]
SERIES = "1.2.826.0.1.3680043.8.498.1"


def write_slice(path, pixels, position, orientation=AXIAL, slope=1, intercept=-1024, series=SERIES, **extra):
  meta = FileMetaDataset()
  meta.MediaStorageSOPClassUID = CTImageStorage
  meta.MediaStorageSOPInstanceUID = generate_uid()
  meta.TransferSyntaxUID = ExplicitVRLittleEndian
  image = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
  image.SOPClassUID = CTImageStorage
  image.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
  image.Modality = "CT"
  image.SeriesInstanceUID = series
  image.Rows, image.Columns = pixels.shape
  image.PixelSpacing = [0.75, 0.5]
  image.ImagePositionPatient = [float(v) for v in position]
  image.ImageOrientationPatient = [float(v) for v in orientation]
  image.SliceThickness = 5
  image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
  image.BitsAllocated = image.BitsStored = 16
  image.HighBit, image.PixelRepresentation = 15, 0
  image.RescaleSlope, image.RescaleIntercept = slope, intercept
  image.PixelData = pixels.astype(np.uint16).tobytes()
  for key, value in extra.items():
    setattr(image, key, value)
  image.save_as(path, enforce_file_format=True)
  return path


@pytest.fixture
def stored():
  return np.random.default_rng(0).integers(0, 2000, (5, 6, 7))


def write_series(folder, stored, order=None, step=2.5, **extra):
  """Slices bottom to top; `order` gives the file numbers, so that names do not follow positions."""
  folder.mkdir(exist_ok=True)
  for index, number in enumerate(order or range(len(stored))):
    write_slice(folder / f"{number:03d}.dcm", stored[index], (-30, -40, 100 + step * index), **extra)
  return folder


def test_series_is_sorted_by_position_and_scaled_to_hu(tmp_path, stored):
  volume = dicom.read_series(write_series(tmp_path / "case", stored, order=[3, 0, 4, 1, 2], slope=2, intercept=-1000))
  assert volume.array.dtype == np.float32
  np.testing.assert_array_equal(volume.array, stored * 2.0 - 1000)
  np.testing.assert_allclose(volume.spacing_mm, [2.5, 0.75, 0.5])
  assert volume.grid.axis_codes == "LPS"
  # DICOM's (x, y, z) = (-30, -40, 100) is to the left and the back; RAS turns the first two round.
  np.testing.assert_allclose(volume.grid.world_from_voxel([0, 0, 0]), [30, 40, 100])
  np.testing.assert_allclose(volume.grid.world_from_voxel([2, 4, 6]), [30 - 6 * 0.5, 40 - 4 * 0.75, 105])


def test_each_slice_has_its_own_slope(tmp_path, stored):
  for index, plane in enumerate(stored):
    write_slice(tmp_path / f"{index}.dcm", plane, (0, 0, index), slope=index + 1, intercept=-index)
  expected = [plane * (index + 1.0) - index for index, plane in enumerate(stored)]
  np.testing.assert_array_equal(dicom.read_series(tmp_path).array, expected)


def test_coronal_slices_get_their_own_axes(tmp_path, stored):
  # Rows run to the left, columns to the feet: the normal, left x feet, points to the back... of LPS: +y.
  orientation = [1, 0, 0, 0, 0, -1]
  for index, plane in enumerate(stored):
    write_slice(tmp_path / f"{index}.dcm", plane, (0, 10 - 3 * index, 50), orientation=orientation)
  volume = dicom.read_series(tmp_path)
  assert volume.grid.axis_codes == "LIP"
  np.testing.assert_allclose(volume.spacing_mm, [3, 0.75, 0.5])
  # The last file written lies furthest to the front, so it comes first along the axis that runs to the back.
  np.testing.assert_array_equal(volume.array, stored[::-1] - 1024.0)
  np.testing.assert_allclose(volume.grid.world_from_voxel([0, 0, 0]), [0, 2, 50])


def test_tilted_gantry_is_straightened_with_a_warning(tmp_path):
  ball = np.linalg.norm(np.stack(np.indices((12, 24, 24)), -1) - [6, 12, 12], axis=-1) < 5
  for index, plane in enumerate(ball):
    write_slice(tmp_path / f"{index}.dcm", plane * 1000, (0, 0.3 * index, 2.0 * index))
  with pytest.warns(UserWarning, match="tilted by 8.5 degrees"):
    volume = dicom.read_series(tmp_path)
  assert np.count_nonzero(np.abs(volume.affine[:3, :3]) > 1e-9) == 3
  found = volume.grid.world_from_voxel(np.argwhere(volume.array > -524)).mean(axis=0)
  np.testing.assert_allclose(found, [-12 * 0.5, -(12 * 0.75 + 0.3 * 6), 12], atol=0.2)


def test_compressed_slices_are_decoded(tmp_path, stored):
  write_series(tmp_path, stored)
  for path in tmp_path.iterdir():
    image = pydicom.dcmread(path)
    image.compress(RLELossless)
    image.save_as(path)
  np.testing.assert_array_equal(dicom.read_series(tmp_path).array, stored - 1024.0)


def test_other_files_are_left_out_with_a_note(tmp_path, stored):
  write_series(tmp_path, stored)
  (tmp_path / "README.txt").write_text("hello")
  (tmp_path / "empty.dcm").write_bytes(b"")
  write_slice(tmp_path / "seg.dcm", stored[0], (0, 0, 0), Modality="SEG")
  report = pydicom.dcmread(tmp_path / "000.dcm")
  del report.Rows, report.Columns, report.PixelData
  report.Modality = "SR"
  report.save_as(tmp_path / "report.dcm")
  with pytest.warns(UserWarning, match=r"no DICOM image: README.txt, empty.dcm, report.dcm, seg.dcm"):
    assert dicom.read_series(tmp_path).array.shape == (5, 6, 7)


def test_gap_is_refused_naming_the_slices_beside_it(tmp_path, stored):
  write_series(tmp_path, stored)
  (tmp_path / "002.dcm").unlink()
  with pytest.raises(InputError, match=r"uneven slices: 5.00 mm between 001.dcm and 003.dcm, 2.50 mm"):
    dicom.read_series(tmp_path)


def test_positions_rounded_to_a_tenth_are_no_gap(tmp_path, stored):
  for index, plane in enumerate(stored):
    write_slice(tmp_path / f"{index}.dcm", plane, (0, 0, round(0.625 * index, 1)))
  np.testing.assert_allclose(dicom.read_series(tmp_path).spacing_mm[0], 0.625, atol=0.01)


def test_repeated_slice_is_refused_by_name(tmp_path, stored):
  write_series(tmp_path, stored)
  (tmp_path / "copy.dcm").write_bytes((tmp_path / "003.dcm").read_bytes())
  with pytest.raises(InputError, match=r"003.dcm and copy.dcm are at the same place"):
    dicom.read_series(tmp_path)


def test_mixed_series_are_refused_with_their_names_and_files(tmp_path, stored):
  write_series(tmp_path, stored)
  write_slice(tmp_path / "scout.dcm", stored[0], (0, 0, 0), series="1.2.3.4")
  with pytest.raises(InputError, match=r"2 series .*498.1: 000.dcm, .* and 1 more; 1.2.3.4: scout.dcm"):
    dicom.read_series(tmp_path)


def test_a_series_is_chosen_by_the_ending_of_its_uid(tmp_path, stored):
  write_series(tmp_path, stored)
  write_slice(tmp_path / "scout.dcm", stored[0], (0, 0, 0), series="1.2.3.4")
  assert dicom.read_series(tmp_path, series="498.1").array.shape == (5, 6, 7)
  with pytest.raises(InputError, match="0 series here end in 9.9"):
    dicom.read_series(tmp_path, series="9.9")


def test_slices_of_two_sizes_or_directions_are_refused(tmp_path, stored):
  write_series(tmp_path, stored)
  odd = write_slice(tmp_path / "odd.dcm", np.zeros((6, 8)), (-30, -40, 112.5))
  with pytest.raises(InputError, match=r"000.dcm has \(6, 7\) rows and columns, odd.dcm \(6, 8\)"):
    dicom.read_series(tmp_path)
  write_slice(odd, stored[0], (-30, -40, 112.5), orientation=[0, 1, 0, 0, 0, -1])
  with pytest.raises(InputError, match=r"000.dcm and odd.dcm differ in orientation"):
    dicom.read_series(tmp_path)


@pytest.mark.parametrize(
  ("extra", "message"),
  [
    ({"NumberOfFrames": 3}, "several frames"),
    ({"SamplesPerPixel": 3}, "a colour image"),
    ({"ImagePositionPatient": None}, "no ImagePositionPatient"),
    ({"PixelSpacing": [0, 0.5]}, r"pixel spacing \[0.0, 0.5\]"),
    ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "not two right-angled directions"),
  ],
)
def test_images_that_make_no_scan_are_refused_by_name(tmp_path, stored, extra, message):
  write_series(tmp_path, stored[:1], **extra)
  with pytest.raises(InputError, match=rf"000.dcm: .*{message}"):
    dicom.read_series(tmp_path)


def test_truncated_pixels_are_refused_by_name(tmp_path, stored):
  write_series(tmp_path, stored)
  content = (tmp_path / "001.dcm").read_bytes()
  (tmp_path / "001.dcm").write_bytes(content[:-40])
  with pytest.raises(InputError, match=r"001.dcm: truncated or damaged"):
    dicom.read_series(tmp_path)


def test_single_slice_takes_its_thickness(tmp_path, stored):
  write_series(tmp_path, stored[:1])
  np.testing.assert_allclose(dicom.read_series(tmp_path).spacing_mm, [5, 0.75, 0.5])


def test_folder_without_slices_is_refused(tmp_path):
  (tmp_path / "note.txt").write_text("hello")
  with pytest.raises(InputError, match="no DICOM slices in this folder"):
    dicom.read_series(tmp_path)
  with pytest.raises(InputError, match="no such folder"):
    dicom.read_series(tmp_path / "gone")


def test_size_limit_is_refused_before_decoding(tmp_path, stored, monkeypatch):
  monkeypatch.setattr(checks, "MAX_VOXELS", 100)
  with pytest.raises(InputError, match="over the limit"):
    dicom.read_series(write_series(tmp_path, stored))


def test_missing_pydicom_says_how_to_install(tmp_path, stored, monkeypatch):
  write_series(tmp_path, stored)
  monkeypatch.setitem(sys.modules, "pydicom", None)
  with pytest.raises(InputError, match=r"pip install 'medlsam_jax\[dicom\]'"):
    dicom.read_series(tmp_path)


def test_missing_decoder_says_how_to_install(tmp_path, stored, monkeypatch):
  write_series(tmp_path, stored[:1])

  def no_plugin(self):
    raise RuntimeError("Unable to decompress: the required plugins are missing")

  monkeypatch.setattr(pydicom.dataset.Dataset, "pixel_array", property(no_plugin))
  with pytest.raises(InputError, match=r"000.dcm: .*pip install 'medlsam_jax\[dicom\]'"):
    dicom.read_series(tmp_path)


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data/dicom")
def test_real_jpeg_2000_series_lies_on_the_grid_of_its_label_map():
  pytest.importorskip("openjpeg")
  volume = dicom.read_series(SHARED / "series")
  labels = nifti.read_label_nifti(SHARED / "seg.nii.gz")
  assert volume.array.shape == (20, 512, 512)
  assert volume.array.min() == -1024
  aligned = alignment.align_labels(labels, volume.grid, volume.source)
  np.testing.assert_array_equal(reorient(aligned.array, volume.grid, "RAS"), reorient(labels.array, labels.grid, "RAS"))
  # Organs are soft tissue or bone; were an axis turned round, they would fall on air.
  assert (volume.array[aligned.array > 0] > -200).mean() > 0.9
