"""`medlsam evaluate`: results made or given, failures counted, baseline beside them."""

import csv
import json
import shutil

import nibabel
import numpy as np
import pytest


def summary(folder):
  return json.loads((folder / "evaluation.json").read_text())


def test_evaluate_makes_results_and_scores_them_beside_the_baseline(
  medlsam, painter, mini_templates, mini_queries, small_network_file, tmp_path
):
  words = ["--templates", mini_templates, "--query", mini_queries, "--network", small_network_file, "--mode", "WPL"]
  result = medlsam("evaluate", *words, "--organs", "alpha,beta", "--out", tmp_path)
  assert result.code == 0
  for column in ("box IoU", "wall mm", "ALE mm", "Dice", "HD95 mm", "baseline IoU"):
    assert column in result.out
  assert "ALE: average localization error" in result.out and "virtual patients" not in result.out
  scores = summary(tmp_path)
  assert scores["scans"] == 2 and list(scores["organs"]) == ["alpha", "beta"]
  assert scores["organs"]["alpha"]["baseline_box_iou"]["mean"] > 0.3
  with (tmp_path / "evaluation.csv").open() as file:
    rows = list(csv.DictReader(file))
  assert [(row["scan"], row["organ"]) for row in rows] == [(s, o) for s in ("q0", "q1") for o in ("alpha", "beta")]


@pytest.fixture
def perfect(mini_queries, tmp_path):
  folder = tmp_path / "predictions"
  folder.mkdir()
  for name in ("q0", "q1"):
    shutil.copy(mini_queries / f"{name}_seg.nii.gz", folder)
  return folder


def test_truth_as_prediction_scores_one(medlsam, perfect, mini_queries, tmp_path):
  result = medlsam("evaluate", "--predictions", perfect, "--truth", mini_queries, "--out", tmp_path / "out")
  assert result.code == 0
  means = summary(tmp_path / "out")["mean_over_organs"]
  assert means["dice"] == 1 and means["hd95_mm"] == 0 and "box_iou" not in means


def test_missing_prediction_counts_as_failed(medlsam, perfect, mini_queries, tmp_path):
  (perfect / "q1_seg.nii.gz").unlink()
  result = medlsam("evaluate", "--predictions", perfect, "--query", mini_queries, "--out", tmp_path / "out")
  assert result.code == 1
  scores = summary(tmp_path / "out")
  assert scores["failed_scans"] == ["q1"] and scores["mean_over_organs"]["dice"] == 0.5


def test_scan_that_fails_now_is_not_scored_by_an_older_result(
  medlsam, painter, search, mini_queries, tmp_path, monkeypatch
):
  words = ["evaluate", *search, "--query", mini_queries, "--out", tmp_path / "out"]
  assert medlsam(*words).code == 0
  bad = tmp_path / "bad"
  shutil.copytree(mini_queries, bad)
  image = nibabel.load(bad / "q1_ct.nii.gz")
  array = np.asarray(image.dataobj).astype(np.float32)
  array[0, 0, 0] = np.nan
  nibabel.save(nibabel.Nifti1Image(array, image.affine), bad / "q1_ct.nii.gz")
  words[words.index(mini_queries)] = bad
  assert medlsam(*words).code == 1
  scores = summary(tmp_path / "out")
  assert scores["failed_scans"] == ["q1"]


def test_what_was_just_made_is_scored_in_memory_and_what_was_there_from_its_files(
  medlsam, painter, search, mini_queries, tmp_path, monkeypatch
):
  from medlsam_jax.cli import scoring

  read = []
  original = scoring.evaluate_saved
  monkeypatch.setattr(
    scoring, "evaluate_saved", lambda files, *a, **k: read.append(files.name) or original(files, *a, **k)
  )
  words = ["evaluate", *search, "--query", mini_queries, "--out", tmp_path]
  assert medlsam(*words).code == 0 and read == []
  made = summary(tmp_path)
  (tmp_path / "q1_boxes.json").unlink()
  assert medlsam(*words, "--skip-existing").code == 0 and read == ["q0"]
  assert summary(tmp_path)["mean_over_organs"] == pytest.approx(made["mean_over_organs"], rel=1e-6)


def test_organ_without_a_truth_value_is_named(medlsam, perfect, mini_queries, tmp_path):
  words = ["--predictions", perfect, "--truth", mini_queries, "--out", tmp_path / "out", "--organs", "spleen"]
  result = medlsam("evaluate", *words)
  assert result.code == 2 and "spleen" in result.err and "labels.json" in result.err


def test_scan_without_truth_is_named(medlsam, search, one_query, tmp_path):
  result = medlsam("evaluate", *search, "--query", one_query, "--out", tmp_path / "out")
  assert result.code == 2 and "q0_ct.nii.gz" in result.err and "no truth" in result.err


def test_folder_without_results_is_named(medlsam, mini_queries, tmp_path):
  (tmp_path / "none").mkdir()
  result = medlsam("evaluate", "--predictions", tmp_path / "none", "--truth", mini_queries, "--out", tmp_path / "out")
  assert result.code == 2 and "no results for any scan" in result.err


def test_options_of_making_results_are_refused_with_given_ones(medlsam, perfect, mini_queries):
  words = ["evaluate", "--predictions", perfect, "--truth", mini_queries]
  for extra, name in ((["--steps", 2], "--steps"), (["--search.agents", 3], "--search.agents")):
    result = medlsam(*words, *extra)
    assert result.code == 2 and name in result.err and "only scored" in result.err


def test_query_that_is_a_template_is_warned_of(medlsam, perfect, mini_queries, tmp_path):
  words = ["--predictions", perfect, "--query", mini_queries, "--templates", mini_queries, "--out", tmp_path / "out"]
  result = medlsam("evaluate", *words)
  assert result.code == 0
  assert "q0_ct.nii.gz is one of the templates too" in result.err and "baseline IoU" in result.out


def test_scan_that_cannot_be_compared_fails_alone_with_a_line_in_the_summary(medlsam, perfect, mini_queries, tmp_path):
  image = nibabel.load(mini_queries / "q0_seg.nii.gz")
  nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine * 1.03), perfect / "q0_seg.nii.gz")
  words = ["evaluate", "--predictions", perfect, "--truth", mini_queries, "--out", tmp_path / "out"]
  result = medlsam(*words)
  assert result.code == 1 and "q0_seg.nii.gz: the label map is on another grid" in result.err
  scores = summary(tmp_path / "out")
  assert scores["failed_scans"] == ["q0"] and "another grid" in scores["reasons"]["q0"]
  assert scores["mean_over_organs"]["dice"] == 0.5 and "another grid" in result.out
  again = medlsam(*words, "--resample")
  assert again.code == 0 and "resampled" in again.err
  assert 0.5 < summary(tmp_path / "out")["mean_over_organs"]["dice"] < 1


def test_truth_that_cannot_be_read_leaves_its_scan_out_of_the_means(medlsam, perfect, mini_queries, tmp_path):
  truth = tmp_path / "truth"
  shutil.copytree(mini_queries, truth)
  (truth / "q1_seg.nii.gz").write_bytes(b"no label map")
  words = ["evaluate", "--predictions", perfect, "--truth", truth, "--out", tmp_path / "out"]
  assert medlsam(*words).code == 1
  scores = summary(tmp_path / "out")
  assert scores["failed_scans"] == ["q1"] and scores["scans"] == 2 and scores["mean_over_organs"]["dice"] == 1
  (truth / "q0_seg.nii.gz").write_bytes(b"nor this one")
  result = medlsam(*words)
  assert result.code == 2 and "no scan could be scored" in result.err and "q0_seg.nii.gz" in result.err


@pytest.fixture
def without_table(mini_queries, tmp_path):
  """The mini queries with their truth, without a table of their organs."""
  folder = tmp_path / "unnamed"
  shutil.copytree(mini_queries, folder)
  (folder / "labels.json").unlink()
  return folder


def test_truth_without_a_table_is_named_by_the_results_and_it_says_so(
  medlsam, painter, search, mini_queries, without_table, tmp_path
):
  made = tmp_path / "made"
  assert medlsam("segment", *search, "--query", mini_queries, "--out", made).code == 0
  words = ["evaluate", "--predictions", made, "--truth"]
  assert medlsam(*words, mini_queries, "--out", tmp_path / "named").code == 0
  result = medlsam(*words, without_table, "--out", tmp_path / "out")
  assert result.code == 2 and "it has 3, they have beta 2, alpha 1" in result.err
  for path in without_table.glob("*_seg.nii.gz"):
    image = nibabel.load(path)
    array = np.asarray(image.dataobj)
    nibabel.save(nibabel.Nifti1Image(np.where(array == 3, 0, array), image.affine), path)
  result = medlsam(*words, without_table, "--out", tmp_path / "out")
  assert result.code == 0
  assert "labels.json is missing: truth is taken to number organs as the results do (beta 2, alpha 1)" in result.err
  assert summary(tmp_path / "out")["organs"] == summary(tmp_path / "named")["organs"]


def test_a_truth_that_nothing_names_fails_alone(medlsam, painter, search, mini_queries, without_table, tmp_path):
  made = tmp_path / "made"
  assert medlsam("segment", *search, "--query", mini_queries, "--out", made).code == 0
  path = without_table / "q0_seg.nii.gz"
  image = nibabel.load(path)
  array = np.asarray(image.dataobj)
  nibabel.save(nibabel.Nifti1Image(np.where(array == 3, 0, array), image.affine), path)
  result = medlsam("evaluate", "--predictions", made, "--truth", without_table, "--out", tmp_path / "out")
  assert result.code == 1 and "q1_labels.json" in result.err
  scores = summary(tmp_path / "out")
  assert scores["failed_scans"] == ["q1"] and "it has 3" in scores["reasons"]["q1"]
  assert scores["organs"]["beta"]["present"] == 1 and scores["failed"] == 0


def test_damaged_boxes_and_a_damaged_table_cost_their_own_scans_alone(medlsam, painter, search, mini_queries, tmp_path):
  made, truth = tmp_path / "made", tmp_path / "truth"
  assert medlsam("segment", *search, "--query", mini_queries, "--out", made).code == 0
  shutil.copytree(mini_queries, truth)
  words = ["evaluate", "--predictions", made, "--truth", truth, "--out", tmp_path / "out"]
  whole = (made / "q0_boxes.json").read_text()
  (made / "q0_boxes.json").write_text(whole[:100])
  result = medlsam(*words)
  scores = summary(tmp_path / "out")
  assert result.code == 1 and scores["failed_scans"] == ["q0"] and "q0_boxes.json" in scores["reasons"]["q0"]
  (made / "q0_boxes.json").write_text(whole)
  (truth / "q1_labels.json").write_text('{"alpha": 1')
  result = medlsam(*words)
  scores = summary(tmp_path / "out")
  assert result.code == 1 and scores["failed_scans"] == ["q1"] and "q1_labels.json" in scores["reasons"]["q1"]
  assert scores["organs"]["alpha"]["present"] == 1
  (truth / "labels.json").write_text("[")
  result = medlsam(*words)
  assert result.code == 2 and "labels.json: not valid JSON" in result.err


def test_each_truth_is_read_by_its_own_table(medlsam, perfect, mini_queries, without_table, tmp_path):
  path = without_table / "q1_seg.nii.gz"
  image = nibabel.load(path)
  other = np.array([0, 3, 1, 2], np.uint8)[np.asarray(image.dataobj)]
  nibabel.save(nibabel.Nifti1Image(other, image.affine), path)
  (without_table / "q1_labels.json").write_text(json.dumps({"alpha": 3, "beta": 1, "gamma": 2}))
  (without_table / "labels.json").write_text(json.dumps({"alpha": 1, "beta": 2, "gamma": 3}))
  for name in ("q0", "q1"):
    shutil.copy(without_table / f"{name}_seg.nii.gz", perfect)
  words = ["--predictions", perfect, "--truth", without_table, "--out", tmp_path / "out"]
  assert medlsam("evaluate", *words).code == 0
  assert summary(tmp_path / "out")["mean_over_organs"]["dice"] == 1


def test_truth_that_nothing_names_is_refused_with_the_file_to_write(medlsam, perfect, without_table, tmp_path):
  result = medlsam("evaluate", "--predictions", perfect, "--truth", without_table, "--out", tmp_path / "out")
  assert result.code == 2 and str(without_table / "q0_labels.json") in result.err and "Traceback" not in result.err
