"""What the page asks for, without a browser: results are shown, points saved, boxes corrected, and the bank grows."""

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from medlsam_jax import pipeline
from medlsam_jax.cli.provenance import bank_sha256
from medlsam_jax.errors import ConfigError, InputError, TemplateError
from medlsam_jax.finding import Finding
from medlsam_jax.geometry import Box
from medlsam_jax.io.nifti import read_label_nifti
from medlsam_jax.io.scans import read_volume
from medlsam_jax.io.templates import read_templates
from medlsam_jax.loading import load
from medlsam_jax.medlam.bank.bank import Bank
from medlsam_jax.view import results
from medlsam_jax.view.desk import BEFORE, OTHER, RESULT
from medlsam_jax.view.jobs import Job
from medlsam_jax.view.template_folder import TemplateFolder

PATIENCE_S = 600
ALPHA = [[60, 60, 120], [90, 100, 180]]
"""A box in the mini scans, mm of the page."""


QUIET = pytest.mark.filterwarnings("ignore::medlsam_jax.notices.MedlsamWarning")
"""Of templates that differ, which is nothing here; in a thread a warning cannot be expected."""


def six_of(box):
  """Six points whose box it is, each in the middle of its face."""
  (x0, y0, z0), (x1, y1, z1) = box
  x, y, z = (x0 + x1) / 2, (y0 + y1) / 2, (z0 + z1) / 2
  return [[x, y, z0], [x, y, z1], [x0, y, z], [x1, y, z], [x, y0, z], [x, y1, z]]


def done(job):
  assert job.ended.wait(PATIENCE_S)
  state = job.state()
  assert state["state"] == "done", state
  return state["result"]


def test_points_made_in_the_page_give_the_bank_of_points_typed_by_hand(tmp_path, make_desk, small_network_file):
  desk = make_desk("scans/q0_ct.nii.gz", "--templates", "mine")
  frame = desk._opened(0).frame
  points = [(np.round(np.array(p) / frame.about()["spacing_mm"]) * frame.about()["spacing_mm"]).tolist()
            for p in six_of(ALPHA)]  # fmt: skip
  desk.save_points(0, {"alpha": points})
  volume = read_volume("scans/q0_ct.nii.gz")
  world = volume.grid.world_from_voxel(np.rint(frame.from_page(np.array(points))))
  typed = tmp_path / "typed"
  typed.mkdir()
  shutil.copy("scans/q0_ct.nii.gz", typed)
  (typed / "q0_points.json").write_text(json.dumps({"coordinate_system": "RAS", "alpha": world[::-1].tolist()}))
  network = load(small_network_file)
  ours, theirs = (Bank.build(network, read_templates(folder), "WPL") for folder in ("mine", typed))
  assert bank_sha256(ours) == bank_sha256(theirs)
  assert desk.about(0)["marked"]["points"]["alpha"] == pytest.approx(np.array(points), abs=2e-3)


@QUIET
@pytest.mark.parametrize("option", [("--hu-offset", "-50"), ("--series", "2")])
def test_how_the_scans_are_read_is_not_how_templates_are(make_desk, option):
  desk = make_desk("scans/q0_ct.nii.gz", "--templates", "templates", *option)
  (scan, *_), (typed, *_) = desk.engine._read(Job(1, "")), read_templates("templates")
  np.testing.assert_array_equal(scan.scan.array, typed.scan.array)


@pytest.mark.slow
@QUIET
def test_a_marked_organ_is_segmented_corrected_and_added_and_the_check_is_told(make_desk):
  desk = make_desk("scans/q0_ct.nii.gz", "--templates", "templates")
  assert desk.about(0)["organs"] == [] and desk.overview()["can_find"]
  done(desk.segment(0, {"alpha": {"points": six_of(ALPHA)}}))
  (organ,) = desk.about(0)["organs"]
  assert organ["verdict"] == "given" and organ["volume_ml"] > 0
  first = organ["box"]
  moved = [first[0], [first[1][0], first[1][1], first[1][2] - 12.6]]
  done(desk.segment(0, {"alpha": {"box": moved}}))
  (organ,) = desk.about(0)["organs"]
  np.testing.assert_allclose(organ["box"], moved, atol=0.01)
  result = done(desk.add(0, ["alpha"]))
  (row,) = result["check"]
  assert row["before"]["templates"] == row["after"]["templates"] == 2 and result["templates"] == 3
  assert row["this_scan_by_the_others"]["templates"] == 1
  (added,) = (each for each in read_templates("templates") if each.name == "q0")
  assert list(added.values) == ["alpha"]
  painted = read_label_nifti("out/q0_seg.nii.gz").array == desk._shown(0, RESULT).labels.names["alpha"]
  np.testing.assert_array_equal(added.labels.array == added.values["alpha"], painted)


@QUIET
def test_a_check_that_is_stopped_or_fails_tells_that_the_template_is_there(make_desk, monkeypatch):
  desk = make_desk("scans/q0_ct.nii.gz", "--templates", "mine")
  done(desk.segment(0, {"alpha": {"box": ALPHA}}))

  def check(organs, job):
    if desk.engine.folder.scans():
      job.stop()
      job.stage("checking the bank")
    return []

  monkeypatch.setattr(desk.engine, "check", check)
  job = desk.add(0, ["alpha"])
  assert job.ended.wait(PATIENCE_S)
  assert job.state()["error"].startswith("stopped; q0 is a template now, in mine") and desk.engine.folder.scans()


@QUIET
def test_organs_placed_by_hand_stay_where_they_are_unless_they_are_asked_for(make_desk, monkeypatch):
  desk = make_desk("scans/q0_ct.nii.gz", "--templates", "templates")
  done(desk.segment(0, {"alpha": {"box": ALPHA}}))
  searched = []

  def localize(network, bank, scan, seed, organs, progress):
    searched.append(organs)
    boxes = [Box((1, 2, 3), (6, 8, 9))]
    return {organ: Finding.of_boxes(organ, bank.organs[organ].value, boxes, "found") for organ in organs}

  monkeypatch.setattr(pipeline, "localize", localize)
  first = desk._shown(0, RESULT)
  done(desk.find(0, None))
  shown = desk._shown(0, RESULT)
  assert searched == [["beta", "gamma"]] and shown.findings["alpha"].verdict == "given"
  assert shown.findings["alpha"].box == first.findings["alpha"].box and shown.findings["beta"].verdict == "found"
  done(desk.segment(0, {"beta": {"box": BETA}, "gamma": {"box": BETA}}))
  job = desk.find(0, None)
  assert job.ended.wait(PATIENCE_S) and "placed by hand, and stay" in job.state()["error"]
  done(desk.find(0, ["beta"]))
  done(desk.find(0, None, placed_too=True))
  assert searched[1:] == [["beta"], ["alpha", "beta", "gamma"]]
  assert {each.verdict for each in desk._shown(0, RESULT).findings.values()} == {"found"}


@pytest.mark.slow
@QUIET
def test_the_check_is_that_of_medlsam_bank_check(make_desk, small_network_file):
  from medlsam_jax.evaluation import bank_check

  desk = make_desk("scans/q0_ct.nii.gz", "--templates", "templates")
  done(desk.segment(0, {"beta": {"box": ALPHA}}))
  (row,) = done(desk.add(0, ["beta"]))["check"]
  templates = [each for each in read_templates("templates") if each.name != "q0"]
  network = load(small_network_file)
  bank = Bank.build(network, templates, organs=["beta"])
  said = bank_check.by_organ(bank_check.check(network, bank, templates))["beta"]
  assert row["before"]["box_iou"] == pytest.approx(said.box_iou) and said.templates == 2


@pytest.mark.slow
@QUIET
def test_a_correction_goes_beside_the_result_and_both_are_shown(make_desk):
  desk = make_desk("scans", "--templates", "templates")
  done(desk.find(0, ["alpha", "beta"]))
  shutil.move("out", "results")
  kept = {path.name: path.read_bytes() for path in shutil.os.scandir("results") for path in [_path(path)]}
  desk = make_desk("scans", "--results", "results", "--compare", "results")
  assert {each["name"] for each in desk.about(0)["organs"]} == {"alpha", "beta"}
  assert set(desk.about(0)["others"]) == {OTHER}
  other = desk.label_bytes(0, RESULT)
  done(desk.segment(0, {"alpha": {"box": ALPHA}}))
  about = desk.about(0)
  assert about["is_corrected"] and set(about["others"]) == {BEFORE, OTHER}
  assert about["others"][BEFORE]["dice"]["beta"] in (None, pytest.approx(1, abs=0.2))
  assert desk.label_bytes(0, BEFORE) == other != desk.label_bytes(0, RESULT)
  assert {path.name: path.read_bytes() for path in map(_path, shutil.os.scandir("results")) if path.is_file()} == kept
  assert json.loads(_path("results/corrected/q0_boxes.json").read_text())["provenance"]["placed_by_hand"] == ["alpha"]


BETA = [[20, 20, 20], [50, 50, 60]]


def test_a_corrected_result_keeps_the_origin_of_what_was_not_corrected(make_desk):
  desk = make_desk("scans", "--templates", "none")
  done(desk.segment(0, {"alpha": {"box": ALPHA}, "beta": {"box": BETA}, "gamma": {"box": BETA}}))
  shutil.move("out", "results")
  path = _path("results/q0_boxes.json")
  said = json.loads(path.read_text())
  for entry in said["organs"].values():
    entry |= {"verdict": "found", "confidence": {"similarity": 0.8, "right_probability": 0.6}}
  said["provenance"] = {"bank": {"sha256": "abc"}, "networks": {"localization": {"sha256": "def"}}, "seed": 3}
  path.write_text(json.dumps(said))
  desk = make_desk("scans", "--results", "results")
  for organ in ("alpha", "beta"):
    done(desk.segment(0, {organ: {"box": ALPHA}}))
  corrected = json.loads(_path("results/corrected/q0_boxes.json").read_text())
  origin = corrected["provenance"]
  assert {name: origin[name] for name in ("bank", "networks", "seed")} == said["provenance"]
  assert origin["placed_by_hand"] == ["alpha", "beta"] and origin["corrected"]["made_in"] == "medlsam view"
  assert corrected["organs"]["gamma"]["confidence"] == {"similarity": 0.8, "right_probability": 0.6}
  assert "confidence" not in corrected["organs"]["alpha"]
  assert {each["name"]: each["right_probability"] for each in desk.about(0)["organs"]} == {
    "alpha": None, "beta": None, "gamma": 0.6,
  }  # fmt: skip


def test_an_organ_that_is_searched_again_was_not_placed_by_hand():
  found = {"a": Finding.of_boxes("a", 1, [Box((1, 1, 1), (2, 2, 2))], "found")}
  known = results.Shown({}, provenance={"seed": 1, "placed_by_hand": ["a", "b"], "corrected": {"bank": 1}})
  assert results.origin_of(known, found, (), {"versions": 2}) == {
    "seed": 1, "placed_by_hand": ["b"], "corrected": {"bank": 1, "versions": 2},
  }  # fmt: skip
  assert results.origin_of(None, found, ("a",), {"versions": 2}) == {"versions": 2, "placed_by_hand": ["a"]}


def test_organs_that_were_numbered_apart_keep_masks_of_their_own(make_desk, monkeypatch):
  desk = make_desk("scans/q0_ct.nii.gz", "--templates", "none")
  # the second is numbered before the first is written, as where a bank has numbered it: both are 1
  monkeypatch.setattr(desk, "_values", lambda number, organs: dict.fromkeys(organs, 1))
  done(desk.segment(0, {"alpha": {"box": ALPHA}}))
  alone = desk._shown(0, RESULT).labels["alpha"]
  done(desk.segment(0, {"beta": {"box": BETA}}))
  shown = desk._shown(0, RESULT)
  assert shown.labels.names == {"alpha": 1, "beta": 2} == shown.values()
  assert shown.labels["beta"].any() and np.array_equal(shown.labels["alpha"], alone)


def test_points_that_two_requests_save_at_once_are_both_kept(make_desk, monkeypatch):
  desk = make_desk("scans/q0_ct.nii.gz", "--templates", "mine")
  bring = TemplateFolder._bring

  def slow(*given):
    time.sleep(0.3)
    return bring(*given)

  monkeypatch.setattr(TemplateFolder, "_bring", slow)
  with ThreadPoolExecutor() as threads:
    list(threads.map(lambda organ: desk.save_points(0, {organ: six_of(ALPHA)}), ("alpha", "beta")))
  assert set(desk.about(0)["marked"]["points"]) == {"alpha", "beta"}


def test_points_that_a_moved_face_left_behind_are_no_extreme_points(make_desk):
  desk = make_desk("scans/q0_ct.nii.gz", "--templates", "none")
  wider = [[ALPHA[0][0] - 30, *ALPHA[0][1:]], ALPHA[1]]
  done(desk.segment(0, {"alpha": {"box": wider, "points": six_of(ALPHA)}, "beta": {"points": six_of(ALPHA)}}))
  alpha, beta = desk.about(0)["organs"]
  for organ in (alpha, beta):
    points, box = np.array(organ["points"]), np.array(organ["box"])
    assert (np.abs([points.min(0), points.max(0)] - box).max(1) < 7).all()  # half a voxel, and rounding to one


def test_a_large_scan_is_shown_thinned_and_segmented_whole(make_desk):
  desk = make_desk("scans/q0_ct.nii.gz", "--templates", "none", _most_voxels=9000)
  about = desk.about(0)["frame"]
  assert about["is_thinned"] and np.prod(about["shown_shape"]) <= 9000
  assert len(desk.volume_bytes(0)) == 352 + 2 * np.prod(about["shown_shape"])
  done(desk.segment(0, {"alpha": {"box": ALPHA}}))
  assert read_label_nifti("out/q0_seg.nii.gz").array.shape == read_volume("scans/q0_ct.nii.gz").array.shape
  assert len(desk.label_bytes(0, RESULT)) == np.prod(about["shown_shape"])


@QUIET
def test_a_template_does_not_find_itself(make_desk):
  desk = make_desk("scans/q0_ct.nii.gz", "--templates", "mine")
  desk.save_points(0, {"alpha": six_of(ALPHA)})
  job = desk.find(0, None)
  assert job.ended.wait(PATIENCE_S) and "the only template" in job.state()["error"]


@pytest.mark.parametrize(
  ("organs", "said"),
  [
    (None, "no organ"),
    ({"": {"box": ALPHA}}, "no name for an organ"),
    ({"alpha": {"box": [[1, 2], [3, 4]]}}, "not a box"),
    ({"alpha": 3}, "not a box"),
    ({"alpha": {"points": [[0, 0, 0]] * 5}}, "alpha: six points"),
    ({"alpha": {"box": [[-90, -90, -90], [-80, -80, -80]]}}, "outside the scan"),
  ],
)
def test_what_cannot_be_segmented_is_refused_before_any_work(make_desk, organs, said):
  desk = make_desk("scans/q0_ct.nii.gz", "--templates", "none")
  with pytest.raises(InputError, match=said):
    desk.segment(0, organs)
  assert not _path("out").exists()


@pytest.mark.parametrize(
  ("words", "error", "said"),
  [
    ([], ConfigError, "give a SCAN"),
    (["--results", "nowhere"], ConfigError, "no such folder"),
    (["scans", "--bank", "scans/q0_ct.nii.gz"], TemplateError, "q0_ct"),
    (["--results", "scans"], ConfigError, "no results here"),
  ],
)
def test_a_call_that_cannot_work_is_answered_in_a_line(make_desk, words, error, said):
  with pytest.raises(error, match=said):
    make_desk(*words)


def _path(path):
  from pathlib import Path

  return Path(path)
