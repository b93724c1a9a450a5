import tracemalloc

import nibabel
import numpy as np
import pytest

from medlsam_jax.errors import InputError
from medlsam_jax.io.label_values import next_free, result_values, whole_labels
from medlsam_jax.io.nifti import read_label_nifti

SHAPE = (20, 22, 24)


def organs(values=(1, 5, 29, 117)):
  array = np.zeros(SHAPE)
  for index, value in enumerate(values):
    array[2 + 4 * index : 5 + 4 * index, 4:12, 3:17] = value
  return array


def noise(width):
  return np.random.default_rng(0).uniform(-width, width, SHAPE)


@pytest.mark.parametrize(
  "array",
  [
    (organs() * 0.9999).astype(np.float32),
    organs() * 1.001,
    organs() + 0.02,
    organs() + 0.02 * (organs() > 0),
    organs() + noise(0.03),
    (organs() * 0.999).astype(np.float16),
  ],
  ids=["factor below", "factor above", "offset", "offset of the organs", "noise", "half precision"],
)
def test_values_a_hair_off_are_taken_as_the_nearest_with_a_note(array):
  found, notes = whole_labels(array, "a_seg.nii.gz")
  np.testing.assert_array_equal(found, organs())
  assert found.dtype == np.uint8
  assert len(notes) == 1 and "a_seg.nii.gz" in notes[0] and "nearest whole numbers" in notes[0]


def test_a_map_with_noise_in_every_voxel_takes_no_memory_for_each_of_its_values():
  array = np.random.default_rng(0).uniform(-0.03, 0.03, (200, 40, 40))
  array[:, 10:20] += 3
  tracemalloc.start()
  found, notes = whole_labels(array, "a")
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  np.testing.assert_array_equal(found, np.rint(array))
  assert "for -0" not in notes[0]
  assert peak < array.nbytes / 2


def test_rounding_of_a_stored_slope_needs_no_word():
  stored = np.float32(1 / 3) * (3 * organs()).astype(np.float32)
  found, notes = whole_labels(stored, "a")
  np.testing.assert_array_equal(found, organs())
  assert notes == () and whole_labels(organs().astype(np.uint8), "a")[1] == ()


@pytest.mark.parametrize(
  "array",
  [
    np.random.default_rng(0).random(SHAPE),
    0.9 * (organs((1,)) > 0),
    organs() + noise(0.2),
    organs((1, 5, 58_000_000)) * 0.9999,
    organs((1, 5, 58_000)) * 0.9999,
    np.random.default_rng(0).normal(0, 300, SHAPE),
    np.random.default_rng(0).normal(0, 300, SHAPE).astype(np.int16),
    np.random.default_rng(0).integers(0, 3000, SHAPE, dtype=np.uint16),
    np.where(organs() > 0, 50, -1000).astype(np.int16),
    np.where(organs() > 0, organs(), np.inf),
  ],
  ids=[
    "probabilities", "one probability", "noise", "factor that moves an atlas id", "factor that moves a large value",
    "CT", "whole CT", "CT from 0", "CT of two values", "infinite",
  ],
)  # fmt: skip
def test_what_is_in_doubt_is_refused(array):
  with pytest.raises(InputError, match=r"a_seg.nii.gz: (not a label map|infinite values)"):
    whole_labels(array, "a_seg.nii.gz")


def test_many_labels_and_single_voxels_are_no_scan():
  dense = np.repeat(np.repeat(np.arange(1, 2 * 11 * 6 + 1).reshape(2, 11, 6), 4, 2), 2, 1)
  assert len(np.unique(whole_labels(np.repeat(dense, 10, 0), "a")[0])) == 132
  seeds = np.zeros(SHAPE, np.int32)
  seeds.ravel()[::50] = np.arange(1, 1 + len(seeds.ravel()[::50]))
  np.testing.assert_array_equal(whole_labels(seeds, "a")[0], seeds)


def test_nan_and_ignored_voxels_are_background_with_a_note():
  array = organs()
  array[0, 0, :2] = np.nan
  array[0, 1, :3] = -1
  found, notes = whole_labels(array, "a")
  np.testing.assert_array_equal(found, organs())
  assert "2 of 10560 voxels of the label map are NaN" in notes[0]
  assert "3 of 10560 voxels have negative label values (-1)" in notes[1]
  outside = np.where(organs() == 0, -1, organs()).astype(np.int16)
  found, notes = whole_labels(outside, "a")
  np.testing.assert_array_equal(found, organs())
  assert len(notes) == 1


def test_label_that_did_not_fit_int8_is_named():
  found, notes = whole_labels(organs((1, 5, 200)).astype(np.uint8).view(np.int8), "a")
  np.testing.assert_array_equal(found, organs((1, 5)))
  assert "a label 200 becomes -56" in notes[0]


def test_large_values_keep_their_type():
  for value in (2**31 + 1, 2**63 + 3):
    found, notes = whole_labels(np.where(organs() > 0, np.uint64(value), np.uint64(0)), "a")
    assert found.max() == value and notes == ()
  with pytest.raises(InputError, match="out of range"):
    whole_labels(organs() * 1e30, "a")


def test_file_says_what_was_mended(tmp_path):
  path = tmp_path / "a_seg.nii.gz"
  nibabel.save(nibabel.Nifti1Image((organs() * 0.9999).astype(np.float32).T, np.diag([3.0, 3, 3, 1])), path)
  with pytest.warns(UserWarning, match="nearest whole numbers"):
    volume = read_label_nifti(path)
  np.testing.assert_array_equal(volume.array, organs())
  assert any("nearest whole numbers" in note for note in volume.notes)


def test_first_table_that_has_an_organ_gives_its_value():
  numbers, said = result_values([("a", {"liver": 5, "spleen": 1}), ("b", {"liver": 1, "gut": 2})])
  assert numbers == {"liver": 5, "spleen": 1, "gut": 2}
  assert said == {"liver": "liver is 5 in a and 1 in b; results call it 5"}


def test_value_of_two_organs_goes_to_the_first_and_no_stated_value_is_taken_by_another():
  numbers, said = result_values([("a", {"liver": 5}), ("b", {"spleen": 5, "kidney": 6}), ("c", {"gut": 2**40})])
  assert numbers == {"liver": 5, "spleen": 7, "kidney": 6, "gut": 8}
  assert said["spleen"] == "spleen is 5 in b, also that of liver; results call it 7"
  assert "too large" in said["gut"]


def test_next_number_is_free_where_the_largest_is_taken():
  assert next_free([]) == 1 and next_free([3, 1]) == 4 and next_free([1, 2**32 - 1]) == 2
