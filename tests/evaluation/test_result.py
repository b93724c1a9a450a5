"""A result in memory is scored as its files are: the same numbers, and no file is read."""

import dataclasses

import numpy as np
import pytest

from medlsam_jax.evaluation.result import evaluate_result
from medlsam_jax.evaluation.saved import SavedFiles, evaluate_saved
from medlsam_jax.finding import Finding
from medlsam_jax.geometry import Box, Grid, Volume
from medlsam_jax.io import oblique
from medlsam_jax.io.labels import LabelMap
from medlsam_jax.io.scan_result import BOXES, LABELS, ScanResult

TURN = np.eye(4)
TURN[:2, :2] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
PLACE = np.array([[-3.0, 0, 0, 20.5], [0, -2, 0, 31], [0, 0, 4, -700], [0, 0, 0, 1]])
VALUES = {"liver": 2, "spleen": 5, "tail": 7}


def made(affine, painted):
  """A result a little off the truth, and the truth."""
  truth = np.zeros((10, 12, 14), np.uint8)
  truth[2:7, 3:9, 4:12], truth[7:9, 1:3, 2:5] = 2, 5
  labels = oblique.straighten(Volume(truth, Grid(truth.shape, affine), "q_seg.nii.gz"), labels=True)
  scan = oblique.straighten(Volume(truth.astype(np.float32), Grid(truth.shape, affine), "q_ct.nii.gz"))
  off = np.random.default_rng(0).uniform(-0.4, 0.4, (1, 6, 3))
  findings = {"liver": Finding.of_boxes("liver", 1, [Box((1, 3, 4), (7, 9, 11))], "found")}
  findings["liver"] = dataclasses.replace(findings["liver"], points=findings["liver"].points + off, boxes=None)
  findings["spleen"] = Finding.of_boxes("spleen", 9, [Box((6, 1, 1), (9, 3, 4))], "outside field of view")
  array = np.select([np.roll(labels.array, 1, 2) == 2, labels.array == 5], [1, 9]).astype(np.uint8)
  names = {"liver": 1, "spleen": 9}
  mask = LabelMap(array, scan.grid, names, scan.file_grid) if painted else None
  return ScanResult("q", scan, findings, mask), labels


@pytest.mark.parametrize("painted", [True, False], ids=["painted", "boxes alone"])
@pytest.mark.parametrize("tilt", [np.eye(4), TURN], ids=["upright", "tilted"])
@pytest.mark.filterwarnings("ignore:.*its axes are tilted")
def test_the_same_scores_as_from_its_files(tmp_path, tilt, painted):
  result, truth = made(PLACE @ tilt, painted)
  baseline = {"liver": Box((1, 2, 3), (8, 9, 10))}
  rows = [dataclasses.asdict(row) for row in evaluate_result(result, truth, VALUES, baseline)]
  assert not list(tmp_path.iterdir())
  result.write(tmp_path, {})
  files = SavedFiles("q", tmp_path / f"q{BOXES}", tmp_path / f"q{LABELS}" if painted else None)
  saved = evaluate_saved(files, truth, VALUES, baseline, scan=result.scan)
  for row, other in zip(rows, map(dataclasses.asdict, saved), strict=True):
    assert row == pytest.approx(other, abs=1e-5)
  assert rows[0]["box_iou"] > 0.3 and rows[1]["failure"].startswith("called outside") and not rows[2]["present"]
  assert (rows[0]["dice"] is not None) == painted


def test_points_are_scored_as_exactly_as_a_file_states_them():
  result, truth = made(PLACE, False)
  fine = dataclasses.replace(result.findings["liver"], points=result.findings["liver"].points + 1e-5)
  moved = dataclasses.replace(result, findings=result.findings | {"liver": fine})
  first, second = (evaluate_result(each, truth, VALUES)[0] for each in (result, moved))
  assert first.point_error_mm == second.point_error_mm
