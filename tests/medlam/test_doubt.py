"""Calibrated doubt: from what a search says of itself to probabilities, by coefficients in the weights' header."""

import dataclasses
import json

import numpy as np
import pytest

from medlsam_jax.errors import WeightsError
from medlsam_jax.finding import Agreement, Confidence, Finding
from medlsam_jax.geometry import Grid
from medlsam_jax.medlam.search import doubt
from medlsam_jax.medlam.search.confidence import Thresholds
from medlsam_jax.network import Network

SCAN = Grid((40, 40, 40), np.diag([3.0, 3.0, 3.0, 1.0]))
CORNERS = np.array([[10, 15, 15], [15, 10, 15], [15, 15, 10], [20, 15, 15], [15, 20, 15], [15, 15, 20]], float)


def finding(organ="liver", shift=(0, 0, 0), sent=(0, 0, 0), similarity=0.8, **changes):
  """An organ whose targets are `CORNERS` moved by `sent`, found at them moved by `shift` besides, in voxels of 3 mm."""
  targets = CORNERS[None] + np.array(sent)
  known = {
    "targets": targets, "outside": np.zeros((1, 6), bool), "visible": 1.0, "similarity": similarity,
    "agent_spread_mm": 10.0, "template_spread_mm": 5.0,
  }  # fmt: skip
  return Finding(organ, 1, targets + np.array(shift), "found", Confidence(**(known | changes)), ())


def calibration(**changes):
  """A box is right by its similarity around .5; an organ is gone by its depth below 0."""
  right = doubt.Logistic(("similarity",), (0.5,), (0.1,), (2.0,), 0.0)
  gone = doubt.Logistic(("depth",), (0.0,), (0.1,), (-2.0,), 0.0)
  return dataclasses.replace(doubt.Calibration(right, gone, 0.9, 0.5, 0.3), **changes)


def test_measures_say_how_the_fine_step_moved_the_points():
  same = doubt.measures({"liver": finding()}, SCAN)["liver"]
  assert same["moved"] == 0 and same["shape"] == 0 and same["size"] == 0 and same["similarity"] == 0.8
  moved = doubt.measures({"liver": finding(shift=(2, 0, 0))}, SCAN)["liver"]
  assert moved["moved"] == pytest.approx(np.log(7)) and moved["shape"] == pytest.approx(0), "the shape stays"
  bent = np.zeros((6, 3))
  bent[3, 0] = 5
  grown = doubt.measures({"liver": finding(shift=bent)}, SCAN)["liver"]
  assert grown["shape"] > 1 and grown["size"] > 0.2 and "company" not in grown and "faces" not in grown


def test_an_organ_that_moves_otherwise_than_the_others_stands_out():
  moves = {"a": (0, 4, 0), "b": (0, 4, 0), "c": (0, 4, 0), "d": (0, -4, 0)}
  said = doubt.measures({organ: finding(organ, shift) for organ, shift in moves.items()}, SCAN)
  assert said["a"]["company"] == pytest.approx(0) and said["d"]["company"] == pytest.approx(np.log(25))


def test_targets_beyond_the_scan_lie_at_a_negative_depth():
  inside, outside = (doubt.measures({"x": finding(sent=(z, 0, 0))}, SCAN)["x"]["depth"] for z in (0, 30))
  assert inside > 0.4 and outside == pytest.approx(-0.165)


def test_templates_that_disagree_are_measured_relative_to_the_box():
  points = np.stack([CORNERS[None], CORNERS[None] + 2.0])
  agreement = Agreement(("a", "b"), points, np.full((2, 1, 6), 0.7), np.full((2, 1, 6), 0.5), np.full(3, 3.0))
  said = doubt.measures({"x": finding(agreement=agreement)}, SCAN)["x"]
  assert said["faces_mm"] == pytest.approx(np.log(4)) and said["similarity_best"] == pytest.approx(0.7)


def test_verdicts_follow_the_probabilities():
  known = {
    "believed": finding("believed"),
    "unlike": finding("unlike", similarity=0.2),
    "gone": finding("gone", sent=(40, 0, 0)),
  }
  found = doubt.judged(known, SCAN, calibration(), Thresholds())
  assert [each.verdict for each in found.values()] == ["found", "uncertain", "outside field of view"]
  assert found["believed"].confidence.right_probability == pytest.approx(1 / (1 + np.exp(-6)))
  assert "right with a probability of 0%" in found["unlike"].doubts[0] and not found["believed"].doubts
  assert "not in the scan with a probability of" in found["gone"].doubts[0]
  cut = doubt.judged({"x": finding(visible=0.6)}, SCAN, calibration(), Thresholds())["x"]
  assert cut.verdict == "partly outside"


def test_a_doubtful_scan_that_looks_right_once_turned_is_named():
  doubtful = doubt.judged({"x": finding(similarity=0.45)}, SCAN, calibration(), Thresholds())
  assert doubt.is_doubtful(doubtful)
  assert not doubt.is_doubtful(doubt.judged({"x": finding()}, SCAN, calibration(), Thresholds()))
  turned = {"upside down": {"x": finding(similarity=0.8)}, "mirrored": {"x": finding(similarity=0.5)}}
  named = doubt.named(doubtful, turned, calibration())["x"]
  assert named.verdict == "uncertain" and named.doubts[0].startswith("the scan seems to be upside down")
  assert "0.80 against 0.45" in named.doubts[0]
  assert doubt.named(doubtful, {"mirrored": {"x": finding(similarity=0.7)}}, calibration()) is doubtful
  blind = {name: {"x": finding(similarity=None)} for name in turned}
  assert doubt.named(doubtful, blind, calibration()) is doubtful


def test_a_measure_that_is_not_known_counts_as_its_mean():
  model = doubt.Logistic(("similarity", "faces"), (0.5, 1.0), (0.1, 1.0), (2.0, 9.0), 0.0)
  assert model({"similarity": 0.5}) == 0.5 and model({"similarity": 0.5, "faces": 2.0}) > 0.99


def test_the_header_brings_the_calibration_back():
  network = Network(None, {}, "medlam", "here", calibration().to_header())
  assert doubt.calibration_of(network) == calibration()
  assert doubt.calibration_of(Network(None, {}, "medlam", "here")) is None


@pytest.mark.parametrize(
  "damage",
  [
    lambda said: "{",
    lambda said: json.dumps(said | {"gone_from": float("nan")}),
    lambda said: json.dumps(said | {"right": said["right"] | {"weights": [1.0, 2.0]}}),
    lambda said: json.dumps(said | {"right": said["right"] | {"scale": [0.0]}}),
    lambda said: json.dumps([said]),
    lambda said: json.dumps({name: value for name, value in said.items() if name != "gone"}),
  ],
)
def test_a_damaged_header_is_named(damage):
  text = damage(json.loads(calibration().to_header()["doubt"]))
  with pytest.raises(WeightsError, match="here: its header's 'doubt' is damaged"):
    doubt.calibration_of(Network(None, {}, "medlam", "here", {"doubt": text}))


def test_a_search_that_lacks_a_measure_is_judged_by_thresholds_as_before():
  model = doubt.Logistic(("faces",), (0.0,), (1.0,), (-1.0,), -9.0)
  before = {"x": finding()}
  found = doubt.judged(before, SCAN, calibration(right=model), Thresholds())
  assert found == before and not doubt.is_doubtful(found)
