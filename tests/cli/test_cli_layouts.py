"""Scans as data sets, exports and other tools lay them out and store them."""

import json
import shutil

import nibabel
import numpy as np
import pytest


@pytest.fixture
def cases(mini_queries, tmp_path):
  """Both queries as KiTS would have them, with one table above."""
  folder = tmp_path / "kits"
  for number in (0, 1):
    case = folder / f"case_0000{number}"
    case.mkdir(parents=True)
    shutil.copy(mini_queries / f"q{number}_ct.nii.gz", case / "imaging.nii.gz")
    shutil.copy(mini_queries / f"q{number}_seg.nii.gz", case / "segmentation.nii.gz")
  shutil.copy(mini_queries / "labels.json", folder)
  return folder


@pytest.fixture
def stored(mini_queries, tmp_path):
  """A query whose intercept was left out."""
  image = nibabel.load(mini_queries / "q0_ct.nii.gz")
  path = tmp_path / "stored" / "q0_ct.nii.gz"
  path.parent.mkdir()
  nibabel.save(nibabel.Nifti1Image((np.asarray(image.dataobj) + 1024).astype(np.int16), image.affine), path)
  return path


def verdicts(folder, name, field="verdict"):
  organs = json.loads((folder / f"{name}_boxes.json").read_text())["organs"]
  return {organ: each[field] for organ, each in organs.items()}


def boxes(folder, name):
  return verdicts(folder, name, "box_vox")


def test_case_folders_give_results_by_their_names_and_are_scored(medlsam, search, cases, tmp_path):
  out = tmp_path / "out"
  assert medlsam("evaluate", *search, "--query", cases, "--no-masks", "--out", out).code == 0
  assert {path.name for path in out.glob("*_boxes.json")} == {"case_00000_boxes.json", "case_00001_boxes.json"}
  scores = json.loads((out / "evaluation.json").read_text())
  assert scores["scans"] == 2 and "box_iou" in scores["mean_over_organs"]


def test_truth_of_case_folders_is_found_by_their_names(medlsam, cases, mini_queries, tmp_path):
  predictions = tmp_path / "predictions"
  predictions.mkdir()
  for number in (0, 1):
    shutil.copy(mini_queries / f"q{number}_seg.nii.gz", predictions / f"case_0000{number}_seg.nii.gz")
  flat = tmp_path / "flat"
  flat.mkdir()
  for number in (0, 1):
    shutil.copy(mini_queries / f"q{number}_ct.nii.gz", flat / f"case_0000{number}_ct.nii.gz")
  for query in ([], ["--query", cases], ["--query", flat]):
    words = ["--predictions", predictions, "--truth", cases, *query, "--out", tmp_path / "out"]
    assert medlsam("evaluate", *words).code == 0
    scores = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert scores["scans"] == 2 and scores["mean_over_organs"]["dice"] == 1


def test_scan_without_truth_is_left_out_and_told(medlsam, search, cases, tmp_path):
  (cases / "case_00001" / "segmentation.nii.gz").unlink()
  result = medlsam("evaluate", *search, "--query", cases, "--no-masks", "--out", tmp_path / "out")
  assert result.code == 0 and "imaging.nii.gz: no truth for it" in result.err
  assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["scans"] == 1


def test_one_bad_line_of_a_list_does_not_end_the_others(medlsam, search, mini_queries, tmp_path):
  (tmp_path / "list.txt").write_text(f"gone_ct.nii.gz\n{mini_queries / 'q0_ct.nii.gz'}\n")
  result = medlsam("localize", *search, "--query", tmp_path / "list.txt", "--out", tmp_path / "out")
  assert result.code == 1 and "1 done, 1 failed" in result.out
  assert "failed: gone: " in result.err and "list.txt, line 1: " in result.err
  assert set(verdicts(tmp_path / "out", "q0")) == {"alpha", "beta"}
  (tmp_path / "list.txt").write_text("gone_ct.nii.gz\n")
  assert medlsam("localize", *search, "--query", tmp_path / "list.txt", "--out", tmp_path / "out").code == 2


def test_offset_gives_the_boxes_of_the_scan_in_hounsfield_units(medlsam, search, stored, mini_queries, tmp_path):
  call = ["localize", *search, "--query"]
  assert medlsam(*call, mini_queries / "q0_ct.nii.gz", "--out", tmp_path / "right").code == 0
  told = medlsam(*call, stored, "--out", tmp_path / "told")
  assert told.code == 0 and "--hu-offset -1024" in told.err
  assert "found" not in verdicts(tmp_path / "told", "q0").values()
  mended = medlsam(*call, stored, "--hu-offset", "-1024", "--out", tmp_path / "mended")
  assert mended.code == 0 and "do not look like CT" not in mended.err
  assert boxes(tmp_path / "mended", "q0") == boxes(tmp_path / "right", "q0") != boxes(tmp_path / "told", "q0")


READ = [
  "segment",
  "localize",
  "evaluate",
  "bank build",
  "data prepare",
  "pretrain",
  "finetune",
  "study prompts",
  "study all",
]


@pytest.mark.parametrize("command", READ)
def test_every_command_that_reads_scans_takes_an_offset_and_a_series(medlsam, command):
  words = medlsam(*command.split(), "--help").out
  assert "--hu-offset HU" in words and "--series UID" in words
  assert medlsam(*command.split(), "--hu-offset", "much").code == 2


def test_templates_are_read_with_the_offset_of_a_bank_that_is_built(
  medlsam, mini_templates, small_network_file, tmp_path
):
  stored = tmp_path / "stored"
  shutil.copytree(mini_templates, stored)
  for path in stored.glob("*_ct.nii.gz"):
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image((np.asarray(image.dataobj) + 1024).astype(np.int16), image.affine), path)
  from medlsam_jax.cli.provenance import bank_sha256
  from medlsam_jax.medlam.bank.bank import Bank

  call = ["--network", small_network_file, "--organs", "alpha", "--mode", "WPL", "--quiet"]
  assert medlsam("bank", "build", mini_templates, "--out", tmp_path / "a.safetensors", *call).code == 0
  mended = medlsam("bank", "build", stored, "--out", tmp_path / "b.safetensors", *call, "--hu-offset", "-1024")
  assert mended.code == 0 and "do not look like CT" not in mended.err
  assert "--hu-offset" in medlsam("bank", "build", stored, "--out", tmp_path / "c.safetensors", *call).err
  right, with_offset, without = (bank_sha256(Bank.load(tmp_path / f"{name}.safetensors")) for name in "abc")
  assert right == with_offset != without
