"""Enhanced multi-frame CT: the same rules for frames as for slices, whichever group holds their geometry."""

import numpy as np
import pydicom
import pytest
from dicom_files import item, write_enhanced, write_series

from medlsam_jax.errors import InputError
from medlsam_jax.io import dicom, scans


@pytest.fixture
def stored():
  return np.random.default_rng(0).integers(0, 2000, (6, 6, 7))


POSITIONS = [(-30, -40, 100 + 2.5 * index) for index in range(6)]


@pytest.mark.parametrize("per_frame_spacing", [True, False])
def test_frames_are_sorted_by_position(tmp_path, stored, per_frame_spacing):
  order = [3, 0, 5, 1, 4, 2]
  path = tmp_path / "x.dcm"
  write_enhanced(path, stored[order], [POSITIONS[i] for i in order], per_frame_spacing)
  for given in (path, tmp_path):
    volume = scans.read_volume(given)
    np.testing.assert_array_equal(volume.array, stored - 1024.0)
    np.testing.assert_allclose(volume.spacing_mm, [2.5, 0.75, 0.5])
    np.testing.assert_allclose(volume.grid.world_from_voxel(np.zeros(3)), [30, 40, 100])
    assert not volume.notes


@pytest.mark.filterwarnings("ignore::medlsam_jax.notices.MedlsamWarning")
def test_each_frame_has_its_own_scale(tmp_path, stored):
  rescale = [(1 + index, -100 * index) for index in range(6)]
  write_enhanced(tmp_path / "x.dcm", stored, POSITIONS, rescale=rescale)
  expected = [plane * (1.0 + index) - 100 * index for index, plane in enumerate(stored)]
  np.testing.assert_array_equal(dicom.read_series(tmp_path).array, expected)


def test_frames_at_uneven_places_follow_the_rule_of_slices(tmp_path, stored):
  positions = [*POSITIONS[:5], (-30, -40, 100 + 2.5 * 6)]
  write_enhanced(tmp_path / "x.dcm", stored, positions)
  with pytest.warns(UserWarning, match=r"5.00 mm between x.dcm frame 5 .* and x.dcm frame 6"):
    assert dicom.read_series(tmp_path).array.shape[0] == 7
  positions = [*POSITIONS[:3], *[(0, -40, z) for _, _, z in POSITIONS[3:]]]
  write_enhanced(tmp_path / "x.dcm", stored, positions)
  with pytest.raises(InputError, match=r"x.dcm frame 3 .*x.dcm frame 4 .*sideways by 30.0 mm"):
    dicom.read_series(tmp_path)


def test_two_phases_in_one_file_are_told_apart(tmp_path, stored):
  content = [item(TemporalPositionIndex=1 + index // 3) for index in range(6)]
  changes = {"FrameContentSequence": content}
  write_enhanced(tmp_path / "x.dcm", stored, POSITIONS[:3] * 2, changes=changes)
  with pytest.raises(InputError, match=r"x.dcm frame 1 .*x.dcm frame 4 .*by TemporalPositionIndex \(1: 3 slices, 2: 3"):
    dicom.read_series(tmp_path)


def test_localizer_frames_are_left_out(tmp_path, stored):
  kinds = [item(FrameType=["ORIGINAL", "PRIMARY", "LOCALIZER" if index == 5 else "VOLUME"]) for index in range(6)]
  write_enhanced(tmp_path / "x.dcm", stored, POSITIONS, changes={"CTImageFrameTypeSequence": kinds})
  with pytest.warns(UserWarning, match=r"left out 1 frames of x.dcm: a localizer \(FrameType\)"):
    np.testing.assert_array_equal(dicom.read_series(tmp_path).array, stored[:5] - 1024.0)


def test_parts_of_a_concatenation_are_put_together(tmp_path, stored):
  write_enhanced(tmp_path / "a.dcm", stored[3:], POSITIONS[3:])
  write_enhanced(tmp_path / "b.dcm", stored[:3], POSITIONS[:3])
  np.testing.assert_array_equal(dicom.read_series(tmp_path).array, stored - 1024.0)


def test_frame_count_that_differs_from_the_groups_is_refused(tmp_path, stored):
  write_enhanced(tmp_path / "x.dcm", stored, POSITIONS, NumberOfFrames=7)
  with pytest.raises(InputError, match=r"NumberOfFrames is 7, PerFrameFunctionalGroupsSequence has 6"):
    dicom.read_series(tmp_path / "x.dcm")


def test_frame_count_that_is_no_number_is_that_of_the_groups(tmp_path, stored):
  path = write_enhanced(tmp_path / "x.dcm", stored, POSITIONS, NumberOfFrames="66")
  path.write_bytes(path.read_bytes().replace(b"IS\x02\x0066", b"IS\x02\x00N "))
  with pytest.warns(UserWarning, match="NumberOfFrames is 'N', not a number; read as 6 images"):
    np.testing.assert_array_equal(dicom.read_series(path).array, stored - 1024.0)


def test_truncated_frames_are_refused(tmp_path, stored):
  path = write_enhanced(tmp_path / "x.dcm", stored, POSITIONS)
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(InputError, match="truncated or damaged pixels"):
    dicom.read_series(path)


def test_compressed_frames_are_decoded_each(tmp_path, stored):
  path = write_enhanced(tmp_path / "x.dcm", stored, POSITIONS)
  image = pydicom.dcmread(path)
  image.compress(pydicom.uid.RLELossless)
  image.save_as(path)
  np.testing.assert_array_equal(dicom.read_series(path).array, stored - 1024.0)


def test_frames_without_a_place_are_named(tmp_path, stored):
  path = write_enhanced(tmp_path / "x.dcm", stored, POSITIONS)
  image = pydicom.dcmread(path)
  for frame in image.PerFrameFunctionalGroupsSequence:
    frame.PlanePositionSequence[0].ImagePositionPatient = None
  image.save_as(path)
  with pytest.raises(InputError, match=r"x.dcm: no ImagePositionPatient"):
    dicom.read_series(tmp_path)


def test_enhanced_file_beside_its_old_slices_is_listed(tmp_path, stored):
  write_series(tmp_path, stored, series="1.2.5")
  write_enhanced(tmp_path / "x.dcm", stored, POSITIONS)
  with pytest.raises(InputError, match=r"2 series, 2 of which"):
    dicom.read_series(tmp_path)
  np.testing.assert_array_equal(dicom.read_series(tmp_path / "x.dcm").array, stored - 1024.0)
