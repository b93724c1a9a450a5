"""Results read back from files are scored as those in memory."""

import json

import nibabel
import numpy as np
import pytest

from medlsam_jax.errors import InputError
from medlsam_jax.evaluation.localization import truth_points
from medlsam_jax.evaluation.saved import evaluate_saved, findings_from_dict
from medlsam_jax.geometry import Grid, Volume

AFFINE = np.diag([3.0, 2.0, 4.0, 1.0])


@pytest.fixture
def truth():
  array = np.zeros((10, 12, 14), np.uint8)
  array[2:7, 3:9, 4:12] = 2
  return Volume(array, Grid(array.shape, AFFINE))


def _entry(truth, **more):
  points = truth_points(truth.array == 2, truth.grid)
  return {"verdict": "found", "points_vox": [points.tolist()], **more}


def test_files_score_as_what_they_hold(tmp_path, truth):
  (tmp_path / "q_boxes.json").write_text(json.dumps({"organs": {"liver": _entry(truth, label=30)}, "seed": 0}))
  painted = np.where(truth.array == 2, 30, 0).astype(np.uint8)
  nibabel.save(nibabel.Nifti1Image(painted.T, AFFINE), tmp_path / "q_seg.nii.gz")
  row = evaluate_saved("q", tmp_path / "q_boxes.json", tmp_path / "q_seg.nii.gz", truth, {"liver": 2})[0]
  assert row.box_iou == 1 and row.point_error_mm == 0 and row.dice == 1 and not row.failure


def test_files_that_were_promised_but_are_not_there_are_failures(tmp_path, truth):
  row = evaluate_saved("q", tmp_path / "q_boxes.json", tmp_path / "q_seg.nii.gz", truth, {"liver": 2})[0]
  assert row.failure == "scan failed" and row.box_iou == 0 and row.dice == 0
  row = evaluate_saved("q", tmp_path / "q_boxes.json", None, truth, {"liver": 2})[0]
  assert row.box_iou == 0 and row.dice is None


def test_parts_make_one_box():
  first = np.array([[2, 3, 4], [2, 3, 4], [2, 3, 4], [5, 8, 9], [5, 8, 9], [5, 8, 9]])
  parts = [first, first + np.array([3, 1, 1])]
  finding = findings_from_dict({"organs": {"liver": {"verdict": "found", "points_vox": parts}}})
  box = finding["liver"].box
  assert box.low == (2, 3, 4) and box.high == (8, 9, 10)
  np.testing.assert_array_equal(finding["liver"].whole_points[3], [8, 9, 10])


@pytest.mark.parametrize(
  ("data", "message"),
  [
    ({}, 'no "organs"'),
    ({"organs": {"liver": {"verdict": "found"}}}, "liver.*points_vox"),
    ({"organs": {"liver": {"verdict": "found", "points_vox": [[1, 2, 3]]}}}, "liver.*parts x 6 x 3"),
    ({"organs": {"liver": {"verdict": "found", "points_vox": [[[float("nan")] * 3] * 6]}}}, "liver.*finite"),
  ],
)
def test_bad_entries_are_refused_by_file_and_organ(data, message):
  with pytest.raises(InputError, match=rf"q\.json.*{message}"):
    findings_from_dict(data, "q.json")


def test_a_file_that_is_not_json_is_refused_by_name(tmp_path, truth):
  (tmp_path / "q_boxes.json").write_text("{")
  with pytest.raises(InputError, match="q_boxes"):
    evaluate_saved("q", tmp_path / "q_boxes.json", None, truth, {"liver": 2})
