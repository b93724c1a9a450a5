"""Results read back from files are scored as those in memory."""

import dataclasses
import json
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rearranging import rearranged

from medlsam_jax.errors import InputError
from medlsam_jax.evaluation.localization import truth_points
from medlsam_jax.evaluation.saved import SavedFiles, evaluate_saved, findings_from_dict
from medlsam_jax.finding import Finding
from medlsam_jax.geometry import Box, Grid, Volume
from medlsam_jax.io import boxes_file, oblique

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
  scan = {"shape": truth.grid.shape, "affine": AFFINE.tolist()}
  content = {"organs": {"liver": _entry(truth, label=30)}, "scan": scan, "seed": 0}
  (tmp_path / "q_boxes.json").write_text(json.dumps(content))
  painted = np.where(truth.array == 2, 30, 0).astype(np.uint8)
  nibabel.save(nibabel.Nifti1Image(painted.T, AFFINE), tmp_path / "q_seg.nii.gz")
  row = evaluate_saved(SavedFiles("q", tmp_path / "q_boxes.json", tmp_path / "q_seg.nii.gz"), truth, {"liver": 2})[0]
  assert row.box_iou == 1 and row.point_error_mm == 0 and row.dice == 1 and not row.failure


def test_label_map_without_boxes_has_the_numbers_of_its_own_table(tmp_path, truth):
  painted = np.where(truth.array == 2, 30, 2).astype(np.uint8)
  nibabel.save(nibabel.Nifti1Image(painted.T, AFFINE), tmp_path / "q_seg.nii.gz")
  files = SavedFiles("q", None, tmp_path / "q_seg.nii.gz")
  assert evaluate_saved(files, truth, {"liver": 2})[0].dice == 0
  (tmp_path / "labels.json").write_text(json.dumps({"liver": 30, "spleen": 2}))
  assert evaluate_saved(files, truth, {"liver": 2})[0].dice == 1


def test_files_that_were_promised_but_are_not_there_are_failures(tmp_path, truth):
  row = evaluate_saved(SavedFiles("q", tmp_path / "q_boxes.json", tmp_path / "q_seg.nii.gz"), truth, {"liver": 2})[0]
  assert row.failure == "scan failed" and row.box_iou == 0 and row.dice == 0
  row = evaluate_saved(SavedFiles("q", tmp_path / "q_boxes.json", None), truth, {"liver": 2})[0]
  assert row.box_iou == 0 and row.dice is None


@pytest.mark.parametrize(("label", "shown"), [("two", "'two'"), (None, "None"), (2.5, "2.5"), (0, "0")])
def test_a_label_value_that_is_none_is_refused_by_file_and_organ(tmp_path, truth, label, shown):
  (tmp_path / "q_boxes.json").write_text(json.dumps({"organs": {"liver": _entry(truth, label=label)}}))
  with pytest.raises(InputError, match=rf"q_boxes\.json: liver: label {shown} is not a whole number above 0"):
    evaluate_saved(SavedFiles("q", tmp_path / "q_boxes.json", None), truth, {"liver": 2})


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
    evaluate_saved(SavedFiles("q", tmp_path / "q_boxes.json", None), truth, {"liver": 2})


TURN = np.eye(4)
TURN[:2, :2] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
PLACE = np.array([[-3.0, 0, 0, 20.5], [0, -2, 0, 31], [0, 0, 4, -700], [0, 0, 0, 1]])


def organs():
  array = np.zeros((10, 12, 14), np.uint8)
  array[2:7, 3:9, 4:12] = 2
  array[3, 4, 3] = 2
  array[7:9, 1:3, 2:5] = 5
  return array


def write_results(folder, affine):
  """Boxes and a label map of a scan on `affine`, both a little off, and the truth."""
  array = organs()
  scan = oblique.straighten(Volume(array.astype(np.float32), Grid(array.shape, affine), "q_ct.nii.gz"))
  boxes = {"liver": Box((1, 3, 4), (7, 9, 11)), "spleen": Box((6, 1, 1), (9, 3, 4))}
  found = {o: Finding.of_boxes(o, v, (boxes[o],), "found") for o, v in (("liver", 1), ("spleen", 9))}
  text = boxes_file.to_text(boxes_file.to_dict("q", scan, found, None, {}))
  (folder / "q_boxes.json").write_text(text)
  painted = np.roll(np.select([array == 2, array == 5], [1, 9]).astype(np.uint8), 1, 2)
  nibabel.save(nibabel.Nifti1Image(painted.T, affine), folder / "q_seg.nii.gz")
  return array, scan.file_grid or scan.grid, {o: Box(b.low, b.high) for o, b in boxes.items()}, scan


def scores(folder, truth, grid, **more):
  volume = oblique.straighten(Volume(truth, grid, "truth_seg.nii.gz"), labels=True)
  rows = evaluate_saved(
    SavedFiles("q", folder / "q_boxes.json", folder / "q_seg.nii.gz"), volume, {"liver": 2, "spleen": 5}, **more
  )
  return [dataclasses.asdict(row) for row in rows]


@pytest.mark.filterwarnings("ignore:.*its axes are tilted")
@pytest.mark.parametrize("tilt", [np.eye(4), TURN], ids=["upright", "tilted"])
def test_a_box_that_was_corrected_by_hand_is_what_is_scored(tmp_path, tilt):
  truth, grid, _, _ = write_results(tmp_path, PLACE @ tilt)
  before = scores(tmp_path, truth, grid)
  content = json.loads((tmp_path / "q_boxes.json").read_text())
  assert all(entry.keys() >= boxes_file.WRITTEN for entry in content["organs"].values())
  low, high = np.array(content["organs"]["liver"]["box_world_mm"])
  content["organs"]["liver"]["box_world_mm"] = [(low + (high - low) / 2).tolist(), high.tolist()]
  (tmp_path / "q_boxes.json").write_text(json.dumps(content))
  with pytest.warns(UserWarning, match=r"q_boxes\.json: liver: the box was changed by hand"):
    after = scores(tmp_path, truth, grid)
  rows = {row["organ"]: (row["box_iou"], other["box_iou"]) for row, other in zip(before, after, strict=True)}
  assert rows["liver"][1] < rows["liver"][0] / 2
  assert rows["spleen"][0] == rows["spleen"][1] > 0


@given(
  st.booleans(),
  st.permutations(range(3)),
  st.tuples(*[st.booleans()] * 3),
  st.tuples(st.integers(-2, 2), st.integers(-2, 1), st.integers(-2, 2)),
  st.tuples(st.integers(-2, 1), st.integers(-2, 3), st.integers(-2, 2)),
  st.booleans(),
)
@settings(max_examples=25, deadline=None)
@pytest.mark.filterwarnings("ignore:.*tilted", "ignore:.*laid where they coincide")
def test_scores_do_not_depend_on_how_truth_is_stored(tilted, order, flip, low, high, with_baseline):
  with tempfile.TemporaryDirectory() as name:
    array, grid, boxes, scan = write_results(Path(name), TURN @ PLACE if tilted else PLACE)
    more = {"baseline_boxes": boxes, "scan": scan} if with_baseline else {}
    clean = scores(Path(name), array, grid, **more)
    other = scores(Path(name), *rearranged(array, grid, order, flip, low, high), **more)
  assert 0 < clean[0]["dice"] < 1 and 0 < clean[0]["box_iou"] < 1
  for got, want in zip(other, clean, strict=True):
    assert got == pytest.approx(want, abs=1e-3 if tilted else 1e-9)


@pytest.mark.filterwarnings("ignore:.*laid where they coincide")
def test_label_map_alone_is_scored_whatever_of_the_two_is_cropped(tmp_path):
  array, grid, *_ = write_results(tmp_path, PLACE)
  rows = [
    evaluate_saved(
      SavedFiles("q", None, tmp_path / "q_seg.nii.gz"), Volume(cut, own, "truth"), {"liver": 2, "spleen": 5}
    )
    for cut, own in ((array, grid), rearranged(array, grid, (2, 0, 1), (True, False, False), (2, 1, 2), (1, 3, 2)))
  ]
  assert [(r.dice, r.hd95_mm, r.predicted_ml) for r in rows[0]] == [
    (r.dice, r.hd95_mm, r.predicted_ml) for r in rows[1]
  ]


def test_origin_off_by_a_rounding_is_the_same_grid_and_by_half_a_voxel_another(tmp_path):
  array, grid, *_ = write_results(tmp_path, PLACE)
  rounded, moved = grid.affine.copy(), grid.affine.copy()
  rounded[:3, 3] += 0.03
  moved[0, 3] += 1.5
  assert scores(tmp_path, array, Grid(grid.shape, rounded)) == scores(tmp_path, array, grid)
  with pytest.raises(InputError, match=r"truth_seg.nii.gz: .* another grid than q_ct.nii.gz"):
    scores(tmp_path, array, Grid(grid.shape, moved))
  with pytest.warns(UserWarning, match="truth_seg.nii.gz: .*resampled"):
    assert scores(tmp_path, array, Grid(grid.shape, moved), resample=True)[0]["dice"] > 0.5


def test_boxes_without_a_scan_entry_are_counted_on_the_truth_with_a_word(tmp_path, truth):
  (tmp_path / "q_boxes.json").write_text(json.dumps({"organs": {"liver": _entry(truth)}}))
  with pytest.warns(UserWarning, match="q_boxes.json: says nothing of its scan"):
    row = evaluate_saved(SavedFiles("q", tmp_path / "q_boxes.json", None), truth, {"liver": 2})[0]
  assert row.box_iou == 1


@pytest.mark.parametrize(
  "change",
  [
    {"shape": [1, 2]},
    {"affine": None},
    {"affine": np.zeros((4, 4)).tolist()},
    {"shape": [10**6] * 3},
    {"shape": [0] * 3},
  ],
)
def test_a_scan_entry_of_no_sense_is_refused_by_name(tmp_path, change):
  array, grid, *_ = write_results(tmp_path, PLACE)
  content = json.loads((tmp_path / "q_boxes.json").read_text())
  content["scan"] |= change
  (tmp_path / "q_boxes.json").write_text(json.dumps(content))
  with pytest.raises(InputError, match=r"q_boxes.json: its scan entry"):
    scores(tmp_path, array, grid)


def test_truth_of_a_scan_without_orientation_is_laid_on_it_voxel_by_voxel(tmp_path):
  array, grid, *_ = write_results(tmp_path, PLACE)
  clean = scores(tmp_path, array, grid)
  write_results(tmp_path, np.diag([-3.0, 2.0, 4.0, 1.0]))
  content = json.loads((tmp_path / "q_boxes.json").read_text())
  content["scan"]["orientation"] = boxes_file.UNSTATED
  (tmp_path / "q_boxes.json").write_text(json.dumps(content))
  (tmp_path / "q_seg.nii.gz").unlink()
  with pytest.warns(UserWarning, match="q_ct.nii.gz states no orientation; laid on the voxels"):
    assert scores(tmp_path, array, grid)[0]["box_iou"] == clean[0]["box_iou"]
