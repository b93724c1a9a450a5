"""`medlsam study all` and `evaluate --compare` with truth in DICOM, and queries that fail: all of them count."""

import csv
import json
import shutil
import warnings

import numpy as np
import pytest
from dicom_files import write_slice
from study_stand_ins import VALUES, WIDE, install, labelled

from medlsam_jax import metrics
from medlsam_jax.cli import studying
from medlsam_jax.evaluation.study import work
from medlsam_jax.evaluation.truth_names import own_tables
from medlsam_jax.io import dicom
from medlsam_jax.io.labels import LabelMap

QUICK = ["--tables", "localization", "--models", "none", "--count", "2"]
FOUND = (WIDE - 1) / (WIDE + 1)
"""IoU of the stand-in."""


@pytest.fixture(scope="session")
def written(tmp_path_factory):
  """Five scans as DICOM, their labels in a SEG beside each; the last has no spleen."""
  root = tmp_path_factory.mktemp("dicom")
  for number in range(5):
    organs = tuple(VALUES) if number < 4 else ("liver",)
    scan, labels = labelled(f"c{number}", organs)
    folder = root / f"c{number}"
    folder.mkdir()
    series = {
      "series": f"1.2.3.{number + 1}",
      "StudyInstanceUID": "1.2.4",
      "FrameOfReferenceUID": f"1.2.5.{number + 1}",
    }
    for z, plane in enumerate(scan.array):
      write_slice(folder / f"{z:03d}.dcm", plane + 1024, [0, 0, 2.0 * z], InstanceNumber=z + 1, **series)
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      read = dicom.read_series(folder)
      names = {organ: VALUES[organ] for organ in organs}
      LabelMap(labels.array, read.grid, names, None, read.source_images).save(root / f"c{number}_seg.dcm", "dicom-seg")
  return root


@pytest.fixture
def data(written, tmp_path):
  return shutil.copytree(written, tmp_path / "data")


@pytest.fixture
def unreadable(data):
  """The scan of c4, whose segmentation names the liver alone."""
  for path in (data / "c4").iterdir():
    path.write_bytes(path.read_bytes()[:400])


@pytest.fixture
def study(medlsam, monkeypatch, data, small_network_file, tmp_path):
  install(monkeypatch, work, lambda bank, scan, settings: 1)

  def run(*words):
    call = ["study", "all", "--data", data, "--network", small_network_file, "--out", tmp_path / "out", *QUICK]
    return medlsam(*call, *words)

  return run


def lines(tmp_path):
  """By organ, of what MedLAM found."""
  with (tmp_path / "out" / "localization.csv").open() as file:
    return {row["organ"]: row for row in csv.DictReader(file) if row["line"] == "MedLAM"}


def diagonal_mm(data):
  return metrics.diagonal_mm(dicom.read_series(data / "c0").grid)


def test_truth_in_dicom_is_laid_on_its_scan(study, tmp_path):
  result = study()
  assert result.code == 0, result.err
  said = lines(tmp_path)
  assert (said["liver"]["n"], said["liver"]["failed"]) == ("3", "0") and said["spleen"]["n"] == "2"
  assert float(said["liver"]["box_iou"]) == pytest.approx(FOUND, abs=1e-5)


@pytest.mark.usefixtures("unreadable")
def test_a_query_whose_scan_cannot_be_read_counts_what_its_segmentation_names(study, data, tmp_path):
  assert study().code == 1
  said = lines(tmp_path)
  assert (said["liver"]["n"], said["liver"]["failed"]) == ("3", "1") and said["spleen"]["failed"] == "0"
  assert float(said["liver"]["box_iou"]) == pytest.approx(FOUND * 2 / 3, abs=1e-5)
  found_mm = float(said["spleen"]["point_error_mm"])
  assert float(said["liver"]["point_error_mm"]) == pytest.approx((2 * found_mm + diagonal_mm(data)) / 3, rel=1e-5)


@pytest.mark.parametrize("size", [0, 3000])
def test_a_query_whose_truth_is_damaged_counts_every_organ(study, data, tmp_path, size):
  truth = data / "c4_seg.dcm"
  truth.write_bytes(b"\0" * 128 + b"DICM" if not size else truth.read_bytes()[:size])
  assert study().code == 1
  said = lines(tmp_path)
  assert said["liver"]["failed"] == said["spleen"]["failed"] == "1" and said["liver"]["n"] == said["spleen"]["n"] == "3"
  page = (tmp_path / "out" / "study.md").read_text()
  assert "- queries: 3\n" in page and "c4: " in page.partition("## Failed")[2]


def test_a_scan_that_a_defect_stops_counts_by_its_own_diagonal(study, data, monkeypatch, tmp_path):
  rows = studying.Asked.rows

  def failing(asked, *rest):
    if asked._name == "c3":
      raise ZeroDivisionError("a defect")
    return rows(asked, *rest)

  monkeypatch.setattr(studying.Asked, "rows", failing)
  assert study().code == 1
  said = lines(tmp_path)
  assert said["liver"]["failed"] == said["spleen"]["failed"] == "1"
  found_mm = float(said["spleen"]["wall_distance_mm"]) * 2 - diagonal_mm(data)
  assert found_mm == pytest.approx(dicom.read_series(data / "c0").spacing_mm[2] / 3, rel=1e-3)


@pytest.mark.usefixtures("unreadable")
def test_evaluate_counts_a_scan_in_dicom_that_cannot_be_read(medlsam, data, tmp_path):
  for number in range(5):
    _, labels = labelled("")
    painted = np.select([labels.array == value for value in VALUES.values()], [1, 2]).astype(
      np.uint8
    )  # as a SEG numbers
    grid = dicom.read_series(data / "c0").grid
    LabelMap(painted, grid, {"liver": 1, "spleen": 2}).save(tmp_path / f"c{number}_seg.nii.gz")
  result = medlsam("evaluate", "--predictions", tmp_path, "--query", data, "--out", tmp_path / "out")
  assert result.code == 1, result.err
  organs = json.loads((tmp_path / "out" / "evaluation.json").read_text())["organs"]
  assert (organs["liver"]["present"], organs["liver"]["failed"]) == (5, 1)
  assert organs["liver"]["dice"]["mean"] == pytest.approx(0.8)
  assert organs["liver"]["hd95_mm"]["mean"] == pytest.approx(diagonal_mm(data) / 5)
  assert (organs["spleen"]["present"], organs["spleen"]["failed"]) == (4, 0)


@pytest.mark.usefixtures("unreadable", "painter")
def test_a_comparison_counts_a_scan_in_dicom_that_cannot_be_read(medlsam, data, tmp_path):
  words = ["evaluate", "--query", data, "--compare", "slices", "--boxes-from", "labels", "--out", tmp_path / "out"]
  result = medlsam(*words, "--organs", "liver,spleen")
  assert result.code == 1, result.err
  rows = json.loads((tmp_path / "out" / "comparison_labels.json").read_text())["rows"]
  lost = [(row["organ"], row["dice"], bool(row["failure"])) for row in rows if row["scan"] == "c4"]
  assert lost == [("liver", 0, True)] and len(rows) == 9


def test_a_table_that_is_given_renumbers_no_dicom(data, tmp_path):
  (tmp_path / "labels.json").write_text(json.dumps({"spleen": 1, "liver": 2}))
  truths = {"c0": data / "c0_seg.dcm", "x": data / "x_seg.nii.gz"}
  tables, _ = own_tables(truths, str(tmp_path / "labels.json"))
  assert tables == {"c0": {"liver": 1, "spleen": 2}, "x": {"spleen": 1, "liver": 2}}
