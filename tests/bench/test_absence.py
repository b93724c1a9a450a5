"""Doubt measured and fitted: cases of known truth, models that find what separates them, and reports that can fail."""

import dataclasses
import json
import types

import numpy as np
import pytest
from template_files import SHAPE, cells

from bench import absence, doubt_cases, doubt_fit
from medlsam_jax.evaluation.labelled import LabelledScan
from medlsam_jax.geometry import Grid, Volume
from medlsam_jax.medlam.search import confidence, doubt

GRID = Grid(SHAPE, np.diag([-4.0, 4.0, 5.0, 1.0]))


def person(sound=None):
  scan = np.random.default_rng(0).integers(-900, 900, SHAPE).astype(np.float32)
  return LabelledScan("p", Volume(scan, GRID, "p"), Volume(cells(), GRID, "p"), {"liver": 5, "spleen": 1}, sound)


def test_crops_know_which_organs_are_gone():
  """The liver lies in slices 4 to 11 of 20, the spleen in 14 to 17."""
  by_kind = {case.kind: case for case in doubt_cases.crops(person(), ["liver", "spleen", "kidney"])}
  states = {kind: {organ: state for organ, (state, _) in case.truth.items()} for kind, case in by_kind.items()}
  assert states["whole"] == {"liver": "whole", "spleen": "whole"}
  assert states["lower"] == {"liver": "cut", "spleen": "gone"} and states["upper"] == {
    "liver": "cut",
    "spleen": "whole",
  }
  assert by_kind["upper"].truth["spleen"][1].low[0] == 14 - 9 and by_kind["upper"].scan.grid.shape[0] == 11


def test_unsound_labels_are_left_out():
  cases = doubt_cases.crops(person({"liver": "whole", "spleen": "odd size"}), ["liver", "spleen"])
  assert {organ for case in cases for organ in case.truth} == {"liver"}


def test_an_organ_that_the_scan_cuts_is_never_whole_in_a_crop_and_gone_where_nothing_of_it_is():
  cases = {case.kind: case for case in doubt_cases.crops(person({"liver": "whole", "spleen": "cut"}), ["spleen"])}
  assert cases["upper"].truth["spleen"][0] == "cut" and cases["lower"].truth["spleen"][0] == "gone"


def test_truth_is_turned_with_the_scan():
  cases = {case.kind: case for case in doubt_cases.nonsense(person(), ["liver"])}
  assert set(cases) == set(doubt_cases.NONSENSE)
  assert cases["upside down"].truth["liver"][1].low[0] == SHAPE[0] - 1 - 11
  assert cases["mirrored"].truth["liver"][1].low[2] == SHAPE[2] - 1 - 17
  np.testing.assert_array_equal(cases["mirrored"].scan.array[..., ::-1], person().scan.array)
  assert cases["label map"].scan.array.max() == 5 and cases["MR-like"].scan.array.min() > -200


def rows(count=400, seed=0):
  """Organs whose similarity tells right boxes from wrong ones, and whose depth tells gone ones, with some noise."""
  rng = np.random.default_rng(seed)
  made = []
  for number in range(count):
    state = ("whole", "whole", "gone")[number % 3]
    right = state == "whole" and rng.random() < 0.7
    made.append({
      "query": f"p{number // 20}", "kind": "whole", "organ": "liver", "state": state,
      "iou": None if state == "gone" else 0.7 if right else 0.2,
      "measures": {"similarity": rng.normal(0.8 if right else 0.5, 0.1),
                   "depth": rng.normal(-0.3 if state == "gone" else 0.4, 0.2), "noise": rng.normal()},
      "targets": np.zeros((1, 6, 3)).tolist(), "outside": [[False] * 6],
      "shape": [9, 9, 9], "spacing_mm": [3.0, 3.0, 3.0],
      "visible": 1.0, "similarity": 0.7, "agent_spread_mm": 5.0, "template_spread_mm": 5.0,
    })  # fmt: skip
  return made


def test_a_fit_finds_what_separates_and_nothing_where_nothing_does():
  calibration, said = doubt_fit.fit(rows())
  assert said["gone_auc"] > 0.95 and said["below_0.4_auc"] > 0.9 and said["gone_sensitivity"] > 0.7
  weights = dict(zip(calibration.right.measures, calibration.right.weights, strict=True))
  assert weights["similarity"] > 1 and abs(weights["noise"]) < 0.5
  shuffled = rows()
  rng = np.random.default_rng(1)
  for row in shuffled:
    row["measures"] = {name: rng.normal() for name in row["measures"]}
  _, said = doubt_fit.fit(shuffled)
  assert 0.35 < said["gone_auc"] < 0.65


def test_a_measure_that_is_sometimes_missing_is_fitted_all_the_same():
  known = rows()
  for row in known[::3]:
    del row["measures"]["noise"]
  assert doubt_fit.fit(known)[1]["gone_auc"] > 0.95


def test_auc_counts_pairs():
  assert doubt_fit.auc(np.array([2.0, 3.0]), np.array([1.0, 2.0])) == pytest.approx(0.875)
  assert np.isnan(doubt_fit.auc(np.array([]), np.array([1.0])))


def test_the_report_tells_a_good_calibration_from_none():
  calibration, _ = doubt_fit.fit(rows())
  good = absence.report(rows(seed=3), calibration, confidence.Thresholds())
  none = absence.report(rows(seed=3), None, confidence.Thresholds())
  assert good["auc_gone"] > 0.95 and good["specificity"] > 0.93 and good["auc_iou_below_0.4"] > 0.9
  assert none["auc_gone"] == 0.5 and none["sensitivity"] < 0.1
  assert good["sensitivity_at_specificity_0.98"] > 0.7 and none["sensitivity_at_specificity_0.98"] == 0
  for count, mean, right in good["calibration"]["bins"].values():
    assert count < 30 or abs(mean - right) < 0.15


def test_scans_that_look_right_once_turned_are_named():
  calibration = dataclasses.replace(doubt_fit.fit(rows())[0], turned_by=0.05)

  def scan(kind, similarity, own):
    known = {"similarity": own, "depth": 0.4, "noise": 0.0, "similarity_scan": similarity}
    return [row | {"kind": kind, "query": "p", "measures": known} for row in rows(3)]

  turned = [*scan("whole", 0.8, 0.8), *scan("upside down", 0.6, 0.4), *scan("mirrored", 0.78, 0.4)]
  result = absence.report(turned, calibration, confidence.Thresholds())["nonsense"]
  assert result["upside down"] == {"scans": 1, "organs believed": 0.0, "named": {"upside down": 1}}
  assert result["mirrored"]["named"] == {} and result["whole"] == {"scans": 1, "organs believed": 1.0, "named": {}}


def test_no_whole_scan_of_the_fit_looks_better_turned():
  whole = [row | {"measures": row["measures"] | {"similarity_scan": 0.7}} for row in rows(40)]
  turned = [row | {"kind": "mirrored", "measures": row["measures"] | {"similarity_scan": 0.72}} for row in whole[:20]]
  assert doubt_fit.fit([*whole, *turned])[0].turned_by == pytest.approx(0.03)


def test_the_fitted_network_is_the_same_but_for_its_header(tmp_path, small_network_file):
  from medlsam_jax.loading import load

  output = tmp_path / "calibrated.safetensors"
  calibration = absence.calibrate(small_network_file, output, rows())
  network = load(output)
  assert network.sha256 == load(small_network_file).sha256 and doubt.calibration_of(network) == calibration


def test_a_cut_run_goes_on(monkeypatch, tmp_path):
  searched = []

  def one(network, bank, preset, case):
    searched.append(case.kind)
    return [{"query": case.query, "kind": case.kind, "organ": "liver"}]

  monkeypatch.setattr(absence, "_searched", one)
  options = types.SimpleNamespace(seconds=None, search="exact", kinds=None)
  kept = tmp_path / "kept.jsonl"
  cases = list(doubt_cases.crops(person(), ["liver", "spleen"]))
  absence.measure(None, None, options, iter(cases[:2]), kept)
  found = absence.measure(None, None, options, iter(cases), kept)
  assert searched == [case.kind for case in cases] and len(found) == len(cases) == len(kept.read_text().splitlines())
  assert json.loads(kept.read_text().splitlines()[0])["kind"] == "whole"
  options.kinds = "foreign"
  assert absence.measure(None, None, options, iter(cases), tmp_path / "none.jsonl") == []


def test_nothing_is_fitted_on_validation():
  with pytest.raises(SystemExit):
    absence.main(["--data", "x", "--set", "validation", "--fit", "y.safetensors"])
