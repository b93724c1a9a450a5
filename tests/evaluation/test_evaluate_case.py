"""Rows of one scan: what is scored, what counts as failed, and what an absent organ gives."""

import dataclasses

import numpy as np
import pytest

from medlsam_jax import metrics
from medlsam_jax.errors import InputError
from medlsam_jax.evaluation.case import evaluate_case
from medlsam_jax.evaluation.localization import truth_points
from medlsam_jax.finding import Finding
from medlsam_jax.geometry import Box, Grid, Volume
from medlsam_jax.io.labels import LabelMap

VALUES = {"liver": 2, "spleen": 5, "tail": 9}
SPACING = (4.0, 2.0, 3.0)
AFFINES = {
  "RAS": np.diag([3.0, 2.0, 4.0, 1.0]),
  "LPS": np.diag([-3.0, -2.0, 4.0, 1.0]),
  "LAS": np.diag([-3.0, 2.0, 4.0, 1.0]),
  "PIR": np.array([[0, 0, 4.0, 0], [-3.0, 0, 0, 0], [0, -2.0, 0, 0], [0, 0, 0, 1]]),
}


def _truth(codes="RAS"):
  array = np.zeros((10, 12, 14), np.int16)
  array[2:7, 3:9, 4:12] = 2
  array[7:9, 1:3, 1:3] = 5
  return Volume(array, Grid(array.shape, AFFINES[codes]))


def _finding(points, verdict="found"):
  return Finding("liver", 2, np.asarray(points, float).reshape(-1, 6, 3), verdict)


def _perfect(truth, organ):
  return _finding(truth_points(truth.array == VALUES[organ], truth.grid))


@pytest.mark.parametrize("codes", AFFINES)
def test_a_perfect_finding_scores_perfectly_in_any_orientation(codes):
  truth = _truth(codes)
  assert truth.grid.axis_codes == codes
  findings = {"liver": _perfect(truth, "liver"), "spleen": _perfect(truth, "spleen")}
  liver, spleen, tail = evaluate_case("a", findings, truth, truth, VALUES, {"liver": findings["liver"].box})
  for row in (liver, spleen):
    assert (row.box_iou, row.box_iou_published, row.dice) == (1, 1, 1)
    assert (row.wall_distance_mm, row.point_error_mm, row.hd95_mm) == (0, 0, 0)
    assert row.present and not row.failure and row.verdict == "found"
  assert liver.baseline_box_iou == 1 and liver.baseline_wall_distance_mm == 0
  assert spleen.baseline_box_iou == 0
  assert spleen.baseline_wall_distance_mm == pytest.approx(metrics.diagonal_mm(truth.grid))
  assert liver.predicted_ml == liver.true_ml == pytest.approx(5 * 6 * 8 * 24 / 1000)
  assert not tail.present and tail.box_iou is None and tail.dice is None and not tail.failure


@pytest.mark.parametrize("codes", AFFINES)
def test_truth_points_lie_on_the_faces_of_the_tight_box_in_the_scans_order(codes):
  truth = _truth(codes)
  mask = truth.array == 2
  points = truth_points(mask, truth.grid)
  assert mask[tuple(points.astype(int).T)].all()
  assert Box.of_points(points) == Box.of_mask(mask)
  np.testing.assert_array_equal(np.diagonal(points[:3]), [2, 3, 4])
  np.testing.assert_array_equal(np.diagonal(points[3:]), [6, 8, 11])


def test_truth_points_are_the_same_places_whatever_the_orientation():
  rng = np.random.default_rng(0)
  mask = rng.random((7, 8, 9)) > 0.6
  world = truth_points(mask, Grid(mask.shape, AFFINES["LAS"]))
  flipped = truth_points(mask[:, ::-1, ::-1], Grid(mask.shape, AFFINES["RAS"] @ np.diag([1, -1, 1, 1])))
  for face in (0, 3):
    np.testing.assert_array_equal(flipped[face], [world[face][0], 7 - world[face][1], 8 - world[face][2]])
  np.testing.assert_array_equal(flipped[1], [world[4][0], 7 - world[4][1], 8 - world[4][2]])


def test_scores_of_a_shifted_finding_by_hand():
  truth = _truth()
  found = _perfect(truth, "liver")
  moved = _finding(found.points + np.array([1, 0, 0]))
  row = evaluate_case("a", {"liver": moved}, None, truth, {"liver": 2})[0]
  assert row.box_iou == pytest.approx(4 / 6)
  assert row.box_iou_published == pytest.approx(3 / 5)
  assert row.wall_distance_mm == pytest.approx(2 * 4 / 6)
  assert row.point_error_mm == pytest.approx(4)
  assert row.dice is None and row.hd95_mm is None and row.predicted_ml is None


def test_what_a_box_says_beyond_the_scan_is_not_held_against_it():
  array = np.zeros((6, 6, 6), np.uint8)
  array[3:, 2:4, 2:4] = 2
  truth = Volume(array, Grid(array.shape, AFFINES["RAS"]))
  points = truth_points(array == 2, truth.grid)
  points[3, 0] = 9
  row = evaluate_case("a", {"liver": _finding(points, "partly outside")}, None, truth, {"liver": 2})[0]
  assert row.box_iou == 1 and row.wall_distance_mm == 0
  assert row.box_iou_published == pytest.approx(2 / 6)
  gone = evaluate_case("a", {"liver": _finding(points + np.array([10, 0, 0]))}, None, truth, {"liver": 2})[0]
  assert gone.box_iou == 0 and gone.wall_distance_mm > 10


def test_missing_results_are_scored_as_failures_and_never_dropped():
  truth = _truth()
  diagonal = metrics.diagonal_mm(truth.grid)
  findings = {"liver": dataclasses.replace(_perfect(truth, "liver"), verdict="outside field of view")}
  empty = LabelMap(np.zeros_like(truth.array), truth.grid, {"liver": 2})
  liver, spleen, tail = evaluate_case("a", findings, empty, truth, VALUES)
  for row in (liver, spleen):
    assert (row.box_iou, row.box_iou_published, row.dice) == (0, 0, 0)
    assert (row.wall_distance_mm, row.point_error_mm, row.hd95_mm) == pytest.approx((diagonal,) * 3)
  assert liver.failure == "called outside the field of view; empty mask"
  assert spleen.failure == "no finding; empty mask" and tail.failure == ""


def test_a_failed_scan_fails_every_organ_in_the_tasks_that_were_expected():
  truth = _truth()
  both = evaluate_case("a", None, None, truth, VALUES)
  assert [row.failure for row in both] == ["scan failed"] * 3
  assert both[0].box_iou == 0 and both[0].dice == 0 and both[2].dice is None
  only = evaluate_case("a", None, None, truth, VALUES, expected=("boxes",))
  assert only[0].box_iou == 0 and only[0].dice is None
  half = evaluate_case("a", {"liver": _perfect(truth, "liver")}, None, truth, VALUES, expected=("boxes", "masks"))
  assert half[0].box_iou == 1 and half[0].dice == 0 and half[0].failure == "scan failed"


def test_label_map_is_read_with_its_own_values_and_painted_absent_organs_show():
  truth = _truth()
  array = np.zeros_like(truth.array)
  array[truth.array == 2] = 40
  array[0, 0, :5] = 41
  labels = LabelMap(array, truth.grid, {"liver": 40, "tail": 41})
  liver, spleen, tail = evaluate_case("a", None, labels, truth, VALUES)
  assert liver.dice == 1 and liver.box_iou is None
  assert spleen.dice == 0 and spleen.failure == "empty mask"
  assert tail.dice is None and tail.predicted_ml == pytest.approx(5 * 24 / 1000)
  assert tail.true_ml == 0 and (spleen.predicted_ml, spleen.true_ml) == (0, pytest.approx(2 * 2 * 2 * 24 / 1000))


def test_dice_and_hd95_equal_those_of_the_whole_masks():
  truth = _truth()
  array = np.roll(truth.array, (1, 2, 0), (0, 1, 2))
  row = evaluate_case("a", None, Volume(array, truth.grid), truth, {"liver": 2})[0]
  assert row.dice == pytest.approx(metrics.dice(array == 2, truth.array == 2))
  assert row.hd95_mm == pytest.approx(metrics.hd95_mm(array == 2, truth.array == 2, SPACING))


def test_label_maps_on_another_grid_or_without_integers_are_refused():
  truth = _truth()
  moved = truth.grid.affine.copy()
  moved[0, 3] = 5
  with pytest.raises(InputError, match="another grid than truth of scan 7"):
    evaluate_case("scan 7", None, Volume(truth.array, Grid(truth.grid.shape, moved)), truth, VALUES)
  with pytest.raises(InputError, match="truth must hold integers"):
    evaluate_case("a", {}, None, Volume(truth.array.astype(float), truth.grid), VALUES)
