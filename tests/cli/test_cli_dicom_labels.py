"""`evaluate` with truth in DICOM: the scores are those of the same truth in NIfTI."""

import csv
import json
import warnings

import pytest
from labelled_series import ORGANS, labels_of, read, write_labelled

from medlsam_jax.finding import Finding
from medlsam_jax.geometry import Box
from medlsam_jax.io.labels import LabelMap
from medlsam_jax.io.scan_result import ScanResult


@pytest.mark.parametrize("kind", ["dicom-seg", "rtstruct"])
def test_truth_may_be_dicom(medlsam, tmp_path, kind):
  scan = read(write_labelled(tmp_path / "case", plane=(28, 24)))
  labels = labels_of(scan)
  for folder in ("nifti", "dicom", "out"):
    (tmp_path / folder).mkdir()
  (tmp_path / "nifti" / "labels.json").write_text(json.dumps(ORGANS))
  labels.save(tmp_path / "nifti" / "case_seg.nii.gz")
  labels.save(tmp_path / "dicom" / ("case_seg.dcm" if kind == "dicom-seg" else "case_rtstruct.dcm"), kind)
  moved = labels.array.copy()
  moved[:, 1:] = labels.array[:, :-1]
  findings = {organ: Finding.of_boxes(organ, value, [Box((1, 2, 2), (5, 9, 9))]) for organ, value in ORGANS.items()}
  painted = LabelMap(moved, labels.grid, labels.names)
  ScanResult("case", scan, findings, painted).write(tmp_path / "out", {})
  scores = {}
  for folder in ("nifti", "dicom"):
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      words = ["--predictions", tmp_path / "out", "--truth", tmp_path / folder, "--query", tmp_path / "case"]
      words += ["--organs", "liver,kidney_left,kidney_right"]  # a segmentation leaves out what is empty
      numbers = ["--labels", tmp_path / "nifti" / "labels.json"] if folder == "nifti" else []
      result = medlsam("evaluate", *words, *numbers, "--out", tmp_path / "scores")
    assert result.code == 0, result.err
    rows = csv.DictReader((tmp_path / "scores" / "evaluation.csv").read_text().splitlines())
    scores[folder] = {row["organ"]: row["dice"] for row in rows if row["scan"] == "case"}
  assert scores["dicom"].keys() == scores["nifti"].keys() and len(scores["dicom"]) == 3
  assert scores["dicom"] == scores["nifti"] and 0 < float(scores["nifti"]["liver"]) < 1


def test_truth_in_dicom_without_its_scan_says_what_is_missing(medlsam, tmp_path):
  scan = read(write_labelled(tmp_path / "case", plane=(28, 24)))
  for folder in ("out", "truth"):
    (tmp_path / folder).mkdir()
  labels_of(scan).save(tmp_path / "out" / "case_seg.nii.gz")
  labels_of(scan).save(tmp_path / "truth" / "case_seg.dcm")
  result = medlsam("evaluate", "--predictions", tmp_path / "out", "--truth", tmp_path / "truth")
  assert result.code == 2 and "truth in DICOM needs its scans: give --query" in result.err
