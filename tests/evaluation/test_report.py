"""Means per organ with failures inside them, presence decisions, and the files."""

import csv
import json

import pytest

from medlsam_jax.errors import OutputError
from medlsam_jax.evaluation.case import Row
from medlsam_jax.evaluation.report import MADE_UP_NOTE, NOTE, Report

ROWS = [
  Row("a", "liver", True, "found", "", 0.8, 0.7, 4.0, 6.0, 0.9, 3.0, 0.3, 12.0, 1000.0),
  Row("b", "liver", True, "", "scan failed", 0.0, 0.0, 500.0, 500.0, 0.0, 500.0, 0.5, 10.0),
  Row("a", "spleen", True, "uncertain", "", 0.6, 0.5, 8.0, 9.0, 0.8, 5.0, 0.1, 30.0, 150.0),
  Row("b", "spleen", False, "", "scan failed"),
  Row("a", "tail", False, "outside field of view", "", predicted_ml=0.0),
  Row("c", "tail", False, "found", "", predicted_ml=2.0),
]


def test_failures_stay_in_the_means_and_are_counted():
  summary = Report(ROWS).summary()
  liver = summary["organs"]["liver"]
  assert liver["box_iou"] == {"mean": pytest.approx(0.4), "sd": pytest.approx(0.5656854), "n": 2}
  assert liver["dice"]["mean"] == pytest.approx(0.45)
  assert (liver["present"], liver["failed"]) == (2, 1)
  assert summary["failed"] == 1 and summary["failed_scans"] == ["b"] and summary["scans"] == 3


def test_organs_weigh_the_same_in_the_overall_mean_and_absent_ones_are_not_in_it():
  summary = Report(ROWS).summary()
  assert summary["mean_over_organs"]["box_iou"] == pytest.approx((0.4 + 0.6) / 2)
  assert summary["organs"]["spleen"]["box_iou"] == {"mean": 0.6, "sd": 0.0, "n": 1}
  assert summary["organs"]["tail"] == {"present": 0, "failed": 0}


def test_absence_is_counted_as_decisions():
  presence = Report(ROWS).summary()["presence"]
  assert presence["in_truth"] == {"n": 3, "called_absent": 0, "uncertain": 1, "no_finding": 1, "called_present": 1}
  assert presence["not_in_truth"] == {
    "n": 3,
    "called_absent": 1,
    "uncertain": 0,
    "no_finding": 1,
    "called_present": 1,
    "painted_though_absent": 1,
  }


def test_table_shows_only_scores_that_exist_and_ends_with_the_mean():
  table = Report(ROWS).table()
  assert table[0][:4] == ["organ", "scans", "failed", "box IoU"] and "baseline IoU" in table[0]
  assert table[1][:4] == ["liver", "2", "1", "0.400 ± 0.566"]
  assert table[3] == ["tail", "0", "0", *["-"] * 8]
  assert table[-1][:4] == ["mean over organs", "3", "1", "0.500"]
  assert all(len(line) == len(table[0]) for line in table)
  boxes_only = Report([Row("a", "liver", True, "found", "", box_iou=0.5)]).table()
  assert boxes_only[0] == ["organ", "scans", "failed", "box IoU"]


def test_notes_say_what_failed_and_what_the_figures_are_not():
  notes = Report(ROWS).notes()
  assert notes[-1] == NOTE and "Research use only" in NOTE
  assert any("Failed scans (1): b" in line for line in notes)


def test_only_made_up_scans_are_called_virtual():
  ours, made_up = Report(ROWS), Report(ROWS, made_up=True)
  assert not any("virtual" in line or "phantom" in line for line in (*ours.notes(), ours.summary()["note"]))
  assert made_up.notes()[-1] == made_up.summary()["note"] == MADE_UP_NOTE and "virtual patients" in MADE_UP_NOTE


def test_columns_that_are_shown_are_explained_and_no_others():
  whole = " ".join(Report(ROWS).notes())
  assert all(f"{word}: " in whole for word in ("ALE", "HD95", "box IoU", "IoU max-min", "wall", "baseline"))
  boxes_only = " ".join(Report([Row("a", "liver", True, "found", "", box_iou=0.5)]).notes())
  assert "box IoU: " in boxes_only and "HD95" not in boxes_only and "ALE" not in boxes_only


def test_a_report_without_rows_is_empty_and_still_a_report():
  report = Report([])
  assert report.summary()["scans"] == 0
  assert report.table() == [["organ", "scans", "failed"], ["mean over organs", "0", "0"]]


def test_files_hold_every_row_and_no_temporary_stays(tmp_path):
  report = Report(ROWS)
  report.write_csv(tmp_path / "r.csv")
  report.write_json(tmp_path / "r.json")
  with open(tmp_path / "r.csv") as file:
    lines = list(csv.DictReader(file))
  assert len(lines) == len(ROWS)
  assert lines[0]["box_iou"] == "0.8" and lines[3]["box_iou"] == "" and lines[1]["failure"] == "scan failed"
  data = json.loads((tmp_path / "r.json").read_text())
  assert len(data["rows"]) == len(ROWS) and data["note"] == NOTE
  assert data["organs"]["liver"]["box_iou"]["n"] == 2
  assert sorted(p.name for p in tmp_path.iterdir()) == ["r.csv", "r.json"]


def test_an_unwritable_place_is_an_output_error(tmp_path):
  with pytest.raises(OutputError, match=r"missing/r\.csv"):
    Report(ROWS).write_csv(tmp_path / "missing" / "r.csv")


def test_single_value_is_shown_without_a_spread():
  table = Report([Row("a", "liver", True, "found", "", dice=0.5)]).table()
  assert table[1] == ["liver", "1", "0", "0.500"]
