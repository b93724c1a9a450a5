import sys
from pathlib import Path

import numpy as np
import pytest
from dicom_files import write_series, write_slice

from medlsam_jax import geometry
from medlsam_jax.errors import InputError
from medlsam_jax.geometry import reorient
from medlsam_jax.io import alignment, dicom, nifti

SHARED = Path(__file__).parents[3] / "shared" / "data" / "dicom"


@pytest.fixture
def stored():
  return np.random.default_rng(0).integers(0, 2000, (5, 6, 7))


def test_series_is_sorted_by_position_and_scaled_to_hu(tmp_path, stored):
  volume = dicom.read_series(write_series(tmp_path / "case", stored, order=[3, 0, 4, 1, 2], slope=2, intercept=-1000))
  assert volume.array.dtype == np.float32
  np.testing.assert_array_equal(volume.array, stored * 2.0 - 1000)
  np.testing.assert_allclose(volume.spacing_mm, [2.5, 0.75, 0.5])
  assert volume.grid.axis_codes == "LPS"
  # DICOM's (x, y, z) = (-30, -40, 100) is to the left and the back; RAS turns the first two round.
  np.testing.assert_allclose(volume.grid.world_from_voxel(np.array([0, 0, 0])), [30, 40, 100])
  np.testing.assert_allclose(volume.grid.world_from_voxel(np.array([2, 4, 6])), [30 - 6 * 0.5, 40 - 4 * 0.75, 105])


@pytest.mark.filterwarnings("ignore::medlsam_jax.notices.MedlsamWarning")
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
  np.testing.assert_allclose(volume.grid.world_from_voxel(np.array([0, 0, 0])), [0, 2, 50])


def test_tilted_gantry_is_straightened_with_a_warning(tmp_path):
  ball = np.linalg.norm(np.stack(np.indices((12, 24, 24)), -1) - [6, 12, 12], axis=-1) < 5
  for index, plane in enumerate(ball):
    write_slice(tmp_path / f"{index}.dcm", plane * 1000, (0, 0.3 * index, 2.0 * index))
  with pytest.warns(UserWarning, match="tilted by 8.5 degrees"):
    volume = dicom.read_series(tmp_path)
  assert np.count_nonzero(np.abs(volume.affine[:3, :3]) > 1e-9) == 3
  found = volume.grid.world_from_voxel(np.argwhere(volume.array > -524)).mean(axis=0)
  np.testing.assert_allclose(found, [-12 * 0.5, -(12 * 0.75 + 0.3 * 6), 12], atol=0.2)


def test_positions_rounded_to_a_tenth_are_no_gap(tmp_path, stored):
  for index, plane in enumerate(stored):
    write_slice(tmp_path / f"{index}.dcm", plane, (0, 0, round(0.625 * index, 1)))
  np.testing.assert_allclose(dicom.read_series(tmp_path).spacing_mm[0], 0.625, atol=0.01)


def test_single_slice_takes_its_thickness(tmp_path, stored):
  write_series(tmp_path, stored[:1])
  np.testing.assert_allclose(dicom.read_series(tmp_path).spacing_mm, [5, 0.75, 0.5])


def test_folder_without_slices_is_refused(tmp_path):
  (tmp_path / "note.txt").write_text("hello")
  with pytest.raises(InputError, match=r"no DICOM slices here .*note.txt: no DICOM file"):
    dicom.read_series(tmp_path)
  with pytest.raises(InputError, match="no such folder"):
    dicom.read_series(tmp_path / "gone")


def test_size_limit_is_refused_before_decoding(tmp_path, stored, monkeypatch):
  monkeypatch.setattr(geometry, "MAX_VOXELS", 100)
  with pytest.raises(InputError, match="over the limit"):
    dicom.read_series(write_series(tmp_path, stored))


def test_missing_pydicom_says_how_to_install(tmp_path, stored, monkeypatch):
  write_series(tmp_path, stored)
  monkeypatch.setitem(sys.modules, "pydicom", None)
  with pytest.raises(InputError, match="reading DICOM needs pydicom: pip install"):
    dicom.read_series(tmp_path)


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data/dicom")
def test_real_jpeg_2000_series_lies_on_the_grid_of_its_label_map():
  volume = dicom.read_series(SHARED / "series")
  labels = nifti.read_label_nifti(SHARED / "seg.nii.gz")
  assert volume.array.shape == (20, 512, 512)
  assert volume.array.min() == -1024
  aligned = alignment.align_labels(labels, volume.grid, volume.source)
  np.testing.assert_array_equal(reorient(aligned.array, volume.grid, "RAS"), reorient(labels.array, labels.grid, "RAS"))
  # Organs are soft tissue or bone; were an axis turned round, they would fall on air.
  assert (volume.array[aligned.array > 0] > -200).mean() > 0.9
