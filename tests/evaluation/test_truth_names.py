import json

import nibabel
import numpy as np
import pytest

from medlsam_jax.evaluation.truth_names import borrowed_tables, own_tables


@pytest.fixture
def truths(tmp_path):
  """Two truths with the values 1 and 5."""
  array = np.zeros((4, 4, 4), np.uint8)
  array[1], array[3] = 1, 5
  paths = {name: tmp_path / f"{name}_seg.nii.gz" for name in ("a", "b")}
  for path in paths.values():
    nibabel.save(nibabel.Nifti1Image(array, np.diag([3.0, 3, 3, 1])), path)
  return paths


def test_own_table_goes_before_that_of_the_folder_and_a_given_one_before_all(truths, tmp_path):
  assert own_tables(truths, None) == ({}, {})
  (tmp_path / "b_labels.json").write_text(json.dumps({"hepar": 5}))
  assert own_tables(truths, None) == ({"b": {"hepar": 5}}, {})
  (tmp_path / "labels.json").write_text(json.dumps({"liver": 5}))
  assert own_tables(truths, None) == ({"a": {"liver": 5}, "b": {"hepar": 5}}, {})
  (tmp_path / "other.json").write_text(json.dumps({"0": "background", "5": "leber"}))
  assert own_tables(truths, str(tmp_path / "other.json")) == ({"a": {"leber": 5}, "b": {"leber": 5}}, {})


def test_numbers_of_the_results_are_taken_where_they_fit_with_a_warning(truths):
  results = {"a": {"liver": 5, "spleen": 1, "gut": 0}, "b": {}}
  with pytest.warns(UserWarning, match=r"labels.json is missing: .*as the results do \(liver 5, spleen 1\)"):
    tables, reasons = borrowed_tables(truths, results)
  assert reasons == {} and tables == {"a": {"liver": 5, "spleen": 1}, "b": {"liver": 5, "spleen": 1}}
  assert borrowed_tables({}, results) == ({}, {})


def test_a_truth_that_the_numbers_do_not_fit_is_left_out_and_the_others_keep_theirs(truths):
  truths["b"].write_bytes(b"no label map")
  truths["c"] = truths["a"]
  results = {"a": {"liver": 1, "spleen": 2}, "b": {"liver": 5}, "c": {"liver": 5, "spleen": 1}}
  with pytest.warns(UserWarning, match=r"as the results do \(liver 5, spleen 1\)"):
    tables, reasons = borrowed_tables(truths, results)
  assert tables == {"c": {"liver": 5, "spleen": 1}} and set(reasons) == {"a", "b"}
  assert "a_seg.nii.gz" in reasons["a"] and "it has 5, they have liver 1, spleen 2; write" in reasons["a"]
  assert "a_labels.json" in reasons["a"] and "b_seg.nii.gz" in reasons["b"]
  tables, reasons = borrowed_tables({"a": truths["a"]}, {"a": {"liver": 0}})
  assert tables == {} and "nothing says which organ a value is; write" in reasons["a"]
