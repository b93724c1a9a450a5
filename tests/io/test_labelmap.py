"""Label maps: masks by name, volumes, files."""

import nibabel
import numpy as np
import pytest

from medlsam_jax.errors import InputError, OutputError
from medlsam_jax.io.labels import LabelMap


@pytest.fixture
def labels(make_grid):
  grid = make_grid("RPI", shape=(4, 5, 6), spacing=(2.0, 3.0, 5.0))
  array = np.zeros(grid.shape, np.uint16)
  array[0, 0, :2] = 3
  array[2, 1:4, 5] = 300
  return LabelMap(array, grid, {"liver": 3, "left kidney": 300, "spleen": 4})


def test_an_organ_is_a_mask_by_name(labels):
  assert labels["liver"].sum() == 2 and labels["liver"].dtype == bool and not labels["spleen"].any()


def test_an_unknown_organ_is_named_with_those_there_are(labels):
  with pytest.raises(InputError, match=r"'heart'.*liver, left kidney, spleen"):
    labels["heart"]


def test_volumes_are_in_millilitres_and_include_empty_organs(labels):
  assert labels.volumes_ml() == pytest.approx({"liver": 0.06, "left kidney": 0.09, "spleen": 0.0})


def test_values_without_a_name_do_not_disturb_the_volumes(labels):
  named = LabelMap(labels.array, labels.grid, {"liver": 3})
  assert named.volumes_ml() == pytest.approx({"liver": 0.06})


def test_the_file_has_the_same_affine_and_the_smallest_type(labels, tmp_path):
  labels.save(tmp_path / "seg.nii.gz")
  image = nibabel.load(tmp_path / "seg.nii.gz")
  np.testing.assert_allclose(image.affine, labels.grid.affine)
  np.testing.assert_array_equal(np.asarray(image.dataobj).T, labels.array)
  assert image.get_data_dtype() == np.uint16
  LabelMap((labels.array == 3).astype(np.int64), labels.grid, {"liver": 1}).save(tmp_path / "small.nii.gz")
  assert nibabel.load(tmp_path / "small.nii.gz").get_data_dtype() == np.uint8


def test_a_folder_that_is_not_there_is_an_output_error(labels, tmp_path):
  with pytest.raises(OutputError):
    labels.save(tmp_path / "missing" / "seg.nii.gz")


@pytest.mark.parametrize("names", [{"a": 0}, {"a": -1}, {"a": 2, "b": 2}])
def test_values_must_be_positive_and_apart(labels, names):
  with pytest.raises(InputError, match="label value"):
    LabelMap(labels.array, labels.grid, names)


def test_an_array_of_another_shape_is_refused(labels):
  with pytest.raises(InputError, match="shape"):
    LabelMap(labels.array[1:], labels.grid, {"liver": 3})
