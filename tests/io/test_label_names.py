"""A label map says itself what its values are called, and reads as before for programs that do not look."""

import gzip

import nibabel
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Extension

from medlsam_jax.errors import InputError
from medlsam_jax.evaluation.truth_names import own_tables
from medlsam_jax.geometry import Grid
from medlsam_jax.io import nifti
from medlsam_jax.io.label_names import names_inside
from medlsam_jax.io.label_table import read_label_table, table_beside
from medlsam_jax.io.labels import LabelMap

NAMES = {"liver": 5, "kidney_left": 2, "Tumour <1 & 2>": 300}


@pytest.fixture
def saved(tmp_path):
  grid = Grid((5, 6, 7), np.diag([-2.0, -2.0, 3.0, 1.0]))
  array = np.zeros(grid.shape, np.uint16)
  array[1, 2:4], array[3, 1], array[4, 4] = 5, 2, 300
  LabelMap(array, grid, NAMES).save(tmp_path / "a_seg.nii.gz")
  return tmp_path / "a_seg.nii.gz", array


def test_names_come_back_and_voxels_are_where_they_were(saved):
  path, array = saved
  assert names_inside(path) == NAMES
  assert np.array_equal(nifti.read_label_nifti(path).array, array)
  assert np.array_equal(np.asarray(nibabel.load(path).dataobj).T, array)


def test_a_file_is_its_own_table_where_none_lies_beside_it(saved, tmp_path):
  path, _ = saved
  assert table_beside(path, "a") == path and read_label_table(path) == NAMES
  (tmp_path / "labels.json").write_text('{"liver": 5, "more": 7}')
  assert table_beside(path, "a") == tmp_path / "labels.json"


def test_table_that_renames_values_of_the_header_counts_with_a_warning(saved, tmp_path):
  path, _ = saved
  (tmp_path / "labels.json").write_text('{"hepar": 5, "kidney_left": 2}')
  with pytest.warns(UserWarning, match=r"labels\.json: calls 5 hepar, not liver as the header of .*a_seg\.nii\.gz"):
    assert table_beside(path, "a") == tmp_path / "labels.json"


def test_table_that_moves_an_organ_of_the_header_is_refused_unless_it_is_given(saved, tmp_path):
  path, _ = saved
  (tmp_path / "labels.json").write_text('{"liver": 2, "kidney_left": 5}')
  words = r"labels\.json: liver is 2, not 5, kidney_left is 5, not 2 as the header"
  with pytest.raises(InputError, match=words):
    table_beside(path, "a")
  with pytest.raises(InputError, match=words):
    own_tables({"a": path}, None)
  assert own_tables({"a": path}, str(tmp_path / "labels.json")) == ({"a": {"liver": 2, "kidney_left": 5}}, {})


@pytest.mark.parametrize(
  "text",
  [
    b"<CaretExtension><LabelTable><Label Key='1'>liver</Label>",
    b"<!DOCTYPE a [<!ENTITY b 'c'>]><LabelTable><Label Key='1'>&b;</Label></LabelTable>",
    b"<LabelTable><Label Key='one'>liver</Label></LabelTable>",
    b"hello",
  ],
)
def test_other_extensions_name_nothing(tmp_path, text):
  image = nibabel.Nifti1Image(np.ones((3, 4, 5), np.uint8), np.eye(4))
  image.header.extensions.append(Nifti1Extension(30, text))
  nibabel.save(image, tmp_path / "a_seg.nii.gz")
  assert names_inside(tmp_path / "a_seg.nii.gz") == {}


def test_table_as_another_program_writes_it_is_read(tmp_path):
  text = (
    b'<?xml version="1.0" encoding="UTF-8"?> <CaretExtension>  <VolumeInformation Index="0">   <LabelTable>'
    b'<Label Key="1" Red="0.2" Green="0.1" Blue="0.3" Alpha="1"><![CDATA[spleen]]></Label>'
    b'<Label Key="2" Red="0.2" Green="0.1" Blue="0.3" Alpha="1"><![CDATA[spleen]]></Label>'
    b"</LabelTable></VolumeInformation></CaretExtension>"
  )
  image = nibabel.Nifti1Image(np.ones((3, 4, 5), np.uint8), np.eye(4))
  image.header.extensions.append(Nifti1Extension(6, b"a comment"))
  image.header.extensions.append(Nifti1Extension(0, text))
  nibabel.save(image, tmp_path / "a_seg.nii")
  assert names_inside(tmp_path / "a_seg.nii") == {"spleen": 1, "spleen_2": 2}


def test_a_file_that_is_none_names_nothing(tmp_path):
  path = tmp_path / "a_seg.nii.gz"
  path.write_bytes(gzip.compress(b"short"))
  assert names_inside(path) == {}
