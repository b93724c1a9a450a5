"""Ways to paint against truth on the same boxes: boxes of labels, rows, the lines of a comparison, what is kept."""

import csv
import json

import numpy as np
import pytest

from medlsam_jax.errors import InputError
from medlsam_jax.evaluation.comparison import ComparedRow, Truth
from medlsam_jax.evaluation.comparison_report import MEAN, Comparison
from medlsam_jax.evaluation.kept_scores import KeptScores
from medlsam_jax.evaluation.labelled import not_whole
from medlsam_jax.evaluation.people import interval, organs_interval, organs_mean
from medlsam_jax.geometry import Volume
from medlsam_jax.io.labels import LabelMap

VALUES = {"liver": 1, "spleen": 2, "tail": 3}


@pytest.fixture
def truth(make_grid):
  """A liver of two slices, of which the upper one is smaller, and a spleen; no tail."""
  array = np.zeros((6, 10, 12), np.uint8)
  array[1, 2:8, 2:8] = array[2, 4:6, 3:5] = 1
  array[4, 1:3, 9:11] = 2
  return Truth("p", Volume(array, make_grid("LPS", array.shape, (2.0, 2.0, 2.0))), VALUES), array


def test_boxes_of_labels_are_tight_and_given_for_organs_that_are_there(truth):
  boxes = truth[0].boxes()
  assert list(boxes) == ["liver", "spleen"] and boxes["liver"].verdict == "given" and boxes["spleen"].value == 2
  np.testing.assert_array_equal(boxes["liver"].box.array(), [[1, 2, 2], [2, 7, 7]])


def test_a_box_for_each_slice_is_that_slices_own(truth):
  parts = truth[0].boxes(each_slice=True)["liver"].parts
  np.testing.assert_array_equal([part.array() for part in parts], [[[1, 2, 2], [1, 7, 7]], [[2, 4, 3], [2, 5, 4]]])


def test_rows_score_what_was_painted_under_its_own_values(truth, make_grid):
  scored, array = truth
  painted = np.zeros_like(array)
  painted[1, 2:8, 2:8] = 7  # all of the liver but its upper slice of four voxels
  rows = scored.rows("slices", LabelMap(painted, make_grid("LPS", array.shape), {"liver": 7, "spleen": 8}))
  assert [(row.organ, row.failure) for row in rows] == [("liver", ""), ("spleen", "empty mask")]
  assert rows[0].dice == pytest.approx(2 * 36 / (36 + 40))
  assert rows[0].surface_dice_2mm == rows[0].surface_dice_5mm == 1 > rows[0].dice
  assert (rows[1].dice, rows[1].surface_dice_5mm) == (0, 0)


def test_tolerances_are_of_2_and_of_5_mm(make_grid):
  array = np.zeros((3, 9, 30), np.uint8)
  array[1, 4, 4:14] = 1
  moved = np.roll(array, 2, 2)  # 4 mm
  grid = make_grid("LPS", array.shape, (2.0, 2.0, 2.0))
  row = Truth("p", Volume(array, grid), {"rod": 1}).rows("w", LabelMap(moved, grid, {"rod": 1}))[0]
  assert row.surface_dice_5mm == 1 and row.surface_dice_2mm == pytest.approx(0.9)  # all but the last voxel of each


def test_a_way_that_painted_nothing_scores_0_and_says_why(truth):
  rows = truth[0].rows("volume", None, "no memory")
  assert [(row.organ, row.failure, row.dice) for row in rows] == [("liver", "no memory", 0), ("spleen", "no memory", 0)]


def rows(way, **scores):
  """Rows of people p, q, ... by organ; None is a mask that is missing."""
  return [
    ComparedRow("pqr"[k], way, organ, "" if score is not None else "empty mask", *(score or 0.0,) * 3)
    for organ, each in scores.items()
    for k, score in enumerate(each)
  ]


def line(comparison, way, organ, labels="all"):
  key = (labels, way, organ)
  return next(each for each in comparison.lines() if (each["labels"], each["way"], each["organ"]) == key)


TWO = [*rows("slices", liver=(0.5, 0.7), spleen=(0.4,)), *rows("volume", liver=(0.9, None), spleen=(0.8,))]


def test_failures_are_in_every_mean_and_organs_weigh_the_same():
  comparison = Comparison("labels", TWO, {"slices": [3.0, 5.0], "volume": [1.0]})
  assert line(comparison, "volume", "liver")["dice"] == pytest.approx(0.45)
  mean = line(comparison, "volume", MEAN)
  assert (mean["n"], mean["failed"], mean["seconds"]) == (3, 1, 1.0)
  assert mean["dice"] == pytest.approx((0.45 + 0.8) / 2) and mean["surface_dice_2mm"] == mean["dice"]
  assert mean["dice_less_first"] == pytest.approx(mean["dice"] - (0.6 + 0.4) / 2)
  assert mean["dice_less_first_low"] < mean["dice_less_first"] < mean["dice_less_first_high"]
  assert "dice_less_first" not in line(comparison, "slices", MEAN)
  assert "1 mask missing: in every mean as 0" in comparison.notes()


def test_whole_labels_and_all_stand_apart_where_some_are_not_whole():
  comparison = Comparison("found", TWO, {"slices": [1.0], "volume": [1.0]}, cut={("q", "liver")})
  assert line(comparison, "volume", "liver", "whole")["dice"] == 0.9
  assert line(comparison, "volume", "liver", "all")["dice"] == pytest.approx(0.45)
  titles = [row[0] for row in comparison.table()]
  assert titles == [
    "way: organ",
    *(f"{way}: {organ}" for way in ("slices", "volume") for organ in ("liver", "spleen", MEAN)),
    *(f"{way}: {MEAN}, all labels" for way in ("slices", "volume")),
  ]
  assert "MedLAM" in comparison.title and "2 scans, whole labels" in comparison.title


def test_the_files_say_what_the_table_says(tmp_path):
  comparison = Comparison("labels", TWO, {"slices": [1.0], "volume": [2.0]}, waiting=3)
  comparison.write_csv(tmp_path / "c.csv")
  comparison.write_json(tmp_path / "c.json", {"ways": {}})
  with (tmp_path / "c.csv").open() as file:
    lines = list(csv.DictReader(file))
  assert [each["organ"] for each in lines] == ["liver", "spleen", MEAN] * 2
  assert lines[5]["dice"] == "0.625" and lines[5]["seconds"] == "2" and lines[0]["dice_less_first"] == ""
  said = json.loads((tmp_path / "c.json").read_text())
  assert said["waiting"] == 3 and len(said["rows"]) == 6 and said["rows"][0]["whole"] is True
  assert any("3 scans left" in note for note in comparison.notes())


def test_labels_that_sound_json_does_not_call_whole_are_known(tmp_path):
  for folder in ("a", "b"):
    (tmp_path / folder).mkdir()
  (tmp_path / "a" / "sound.json").write_text(json.dumps({"p": {"liver": "whole", "spleen": "cut"}}))
  truths = {"p": tmp_path / "a" / "p_seg.nii.gz", "q": tmp_path / "a" / "q_seg.nii.gz", "r": tmp_path / "b" / "r.nii"}
  organs = dict.fromkeys(truths, ("liver", "spleen"))
  assert not_whole(truths, organs) == {("p", "spleen"), ("q", "liver"), ("q", "spleen")}
  (tmp_path / "a" / "sound.json").write_text('{"p": ["liver"]}')
  with pytest.raises(InputError, match=r"sound\.json"):
    not_whole(truths, organs)


def test_intervals_are_of_people_and_not_of_labels():
  people = np.array([[0.2, 0.2], [0.8, 0.8]])
  assert organs_mean(people) == pytest.approx(0.5)
  assert organs_interval(people) == pytest.approx((0.2, 0.8)) == interval(people.tolist())
  with_gaps = np.array([[0.2, np.nan], [0.8, 0.6]])
  assert organs_mean(with_gaps) == pytest.approx((0.5 + 0.6) / 2)
  assert organs_interval(with_gaps) == pytest.approx(((0.2 + 0.6) / 2, (0.8 + 0.6) / 2))  # the spleen in each draw


def test_a_rare_organ_is_in_every_draw():
  a, b = [0.60, 0.62, 0.64, 0.66, 0.68], [np.nan] * 4 + [0.30]
  low, high = organs_interval(np.array([a, b]).T)
  mean = organs_mean(np.array([a, b]).T)
  assert mean == pytest.approx(0.47) and low < mean < high
  alone = organs_interval(np.array([a]).T)
  assert high - low == pytest.approx((alone[1] - alone[0]) / 2, abs=0.003)  # half the mean is the organ of one person
  rare = np.array([[0.9] * 9, [np.nan] * 7 + [0.2, 0.4]]).T
  assert organs_interval(rare) == pytest.approx(((0.9 + 0.2) / 2, (0.9 + 0.4) / 2))


def test_draws_that_have_every_organ_are_as_they_were():
  table = np.random.default_rng(3).random((6, 3))
  drawn = np.random.default_rng(0).integers(6, size=(2000, 6))
  means = [organs_mean(table[people]) for people in drawn]
  assert organs_interval(table) == pytest.approx(np.percentile(means, (2.5, 97.5)))


def test_of_one_person_there_is_no_interval():
  assert interval([[0.2, 0.8]]) is None and interval([[], [0.2]]) is None and interval([]) is None
  assert organs_interval(np.array([[0.2, 0.8]])) is None
  assert organs_interval(np.array([[0.2, np.nan], [np.nan, 0.8]])) is None  # nobody varies in either organ
  assert organs_interval(np.array([[0.2, np.nan], [np.nan, np.nan]])) is None
  comparison = Comparison(
    "labels", [*rows("slices", liver=(0.5,)), *rows("volume", liver=(0.9,))], {"slices": [], "volume": []}
  )
  assert comparison.lines()[1].keys() & {"dice_low", "dice_high"} == set()
  assert [row[-2] for row in comparison.table()[1:]] == ["", "", "+0.400", "+0.400"]


QUESTION = {"boxes": "labels", "organs": ["liver"]}


def test_kept_scores_answer_their_own_question_alone(tmp_path):
  kept = KeptScores(tmp_path / "new" / "kept.jsonl")
  kept.add(QUESTION, "p", {"rows": [1]})
  kept.add(QUESTION, "p", {"rows": [2]})
  for each in (kept, KeptScores(kept.path)):
    assert each.get(QUESTION, "p") == {"rows": [2]}
    assert each.get(QUESTION | {"boxes": "found"}, "p") is None and each.get(QUESTION, "q") is None


def test_a_line_that_a_kill_cut_short_costs_itself_alone(tmp_path):
  path = tmp_path / "kept.jsonl"
  kept = KeptScores(path)
  for scan in "pq":
    kept.add(QUESTION, scan, {"rows": []})
  path.write_text(path.read_text()[:-9])
  again = KeptScores(path)
  assert again.get(QUESTION, "p") and again.get(QUESTION, "q") is None
  again.add(QUESTION, "q", {"rows": [3]})
  assert KeptScores(path).get(QUESTION, "q") == {"rows": [3]}
