"""`--output-type`: the label map in the formats that were asked for; what none can hold is told before the work."""

import json

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
from labelled_series import write_labelled

BOXES = {"liver": [[2, 3, 1], [6, 10, 6]], "kidney_left": [[1, 11, 8], [3, 12, 10]]}


@pytest.fixture
def boxes(tmp_path):
  path = tmp_path / "boxes.json"
  path.write_text(json.dumps({"organs": {organ: {"box_vox": box} for organ, box in BOXES.items()}}))
  return path


def test_every_type_that_was_asked_for_is_written(medlsam, painter, tmp_path, boxes):
  words = [
    "segment",
    "--boxes",
    boxes,
    "--query",
    write_labelled(tmp_path / "case", plane=(28, 24)),
    "--out",
    tmp_path / "out",
  ]
  result = medlsam(*words, "--output-type", "nifti,nifti-each,dicom-seg,dicom-seg-labelmap,rtstruct")
  assert result.code == 0, result.err
  names = {path.name for path in (tmp_path / "out").iterdir()}
  each = {"case_liver_mask.nii.gz", "case_kidney_left_mask.nii.gz"}
  assert names == each | {"case_seg.nii.gz", "case_seg.dcm", "case_seg_labelmap.dcm", "case_rtstruct.dcm"} | {
    "case_boxes.json", "case_boxes.mrk.json", "case_preview.png",
  }  # fmt: skip
  labels = np.asarray(nibabel.load(tmp_path / "out" / "case_seg.nii.gz").dataobj)
  for value, organ in enumerate(BOXES, 1):
    alone = np.asarray(nibabel.load(tmp_path / "out" / f"case_{organ}_mask.nii.gz").dataobj)
    assert alone.any() and np.array_equal(alone == 1, labels == value)
  segments = pydicom.dcmread(tmp_path / "out" / "case_seg.dcm").SegmentSequence
  assert [segment.SegmentLabel for segment in segments] == list(BOXES)
  assert all(name in result.out for name in names)


def test_a_scan_that_a_type_cannot_refer_to_fails_before_the_work(medlsam, painter, mini_queries, tmp_path, boxes):
  words = ["segment", "--boxes", boxes, "--query", mini_queries / "q0_ct.nii.gz", "--out", tmp_path / "out"]
  result = medlsam(*words, "--output-type", "nifti,dicom-seg")
  assert result.code == 1 and "dicom-seg refers to the images of a DICOM series" in result.err
  assert "Traceback" not in result.err and not (tmp_path / "out").exists()


def test_an_unknown_type_is_told_with_the_known_ones(medlsam, tmp_path, boxes):
  result = medlsam("segment", "--boxes", boxes, "--query", tmp_path, "--output-type", "dicom")
  assert result.code == 2 and "'dicom' is unknown; choose of nifti, " in result.err


def test_tilted_scan_is_refused_a_format_that_cannot_hold_it_before_the_work(medlsam, painter, tmp_path, boxes):
  case = write_labelled(tmp_path / "case", "tilted gantry", plane=(28, 24))
  words = ["segment", "--boxes", boxes, "--query", case, "--out", tmp_path / "out"]
  result = medlsam(*words, "--output-type", "nifti,mha")
  assert result.code == 1 and "not at right angles (a tilted gantry), which mha cannot hold" in result.err
  assert not (tmp_path / "out").exists()
  result = medlsam(*words, "--output-type", "nifti,seg-nrrd")
  assert result.code == 0 and (tmp_path / "out" / "case.seg.nrrd").is_file()


def test_header_that_one_format_cannot_take_costs_that_file_alone(medlsam, painter, tmp_path, boxes, monkeypatch):
  def refuse(**_):
    raise RuntimeError("what is this header")

  monkeypatch.setattr(highdicom.seg, "Segmentation", refuse)
  words = ["segment", "--boxes", boxes, "--query", write_labelled(tmp_path / "case", plane=(28, 24))]
  result = medlsam(*words, "--out", tmp_path / "out", "--output-type", "dicom-seg,nifti")
  assert result.code == 1 and "case_boxes.json" in result.out and "Traceback" not in result.err
  assert "not written: dicom-seg: " in result.err and "what is this header" in result.err
  assert {path.name for path in (tmp_path / "out").iterdir()} == {
    "case_seg.nii.gz", "case_boxes.json", "case_boxes.mrk.json", "case_preview.png",
  }  # fmt: skip
