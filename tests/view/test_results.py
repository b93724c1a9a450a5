"""Results in whatever format `medlsam segment --output-type` wrote them are shown, and corrected as a whole."""

import shutil

import numpy as np
import pytest
from dicom_files import write_slice

from medlsam_jax.finding import Finding
from medlsam_jax.geometry import Box
from medlsam_jax.io.label_formats import FORMATS
from medlsam_jax.io.labels import LabelMap
from medlsam_jax.io.nifti import read_label_nifti
from medlsam_jax.io.scan_result import ScanResult
from medlsam_jax.io.scans import read_volume

NAMES = {"Alpha": 2, "alpha": 5, "beta left": 3}
"""Two that file systems without capitals would take for one."""
MASKLESS = ("ctbl", "itksnap")
VOXELS = 4 * 6 * 6


def write_result(scan, kinds):
  volume = read_volume(scan)
  array = np.zeros(volume.grid.shape, np.uint8)
  findings = {}
  for place, (organ, value) in enumerate(NAMES.items()):
    low = 4 + 8 * place
    findings[organ] = Finding.of_boxes(organ, value, [Box((10, 10, low), (20, 20, low + 6))], "found")
    array[12:16, 12:18, low : low + 6] = value
  labels = LabelMap(array, volume.grid, NAMES, volume.file_grid, volume.source_images)
  ScanResult("q0", volume, findings, labels, kinds).write("results", {})


def done(job):
  assert job.ended.wait(600)
  assert job.state()["state"] == "done", job.state()


def masks_of(path, names):
  array = read_label_nifti(path).array
  return {organ: array == value for organ, value in names.items()}


@pytest.mark.filterwarnings("ignore::medlsam_jax.notices.MedlsamWarning")
@pytest.mark.parametrize("kind", [kind for kind, each in FORMATS.items() if not each.of_dicom and kind not in MASKLESS])
def test_masks_are_seen_and_stay_when_one_organ_is_corrected(make_desk, kind):
  write_result("scans/q0_ct.nii.gz", ["nifti"])
  before = masks_of("results/q0_seg.nii.gz", NAMES)
  shutil.rmtree("results")
  write_result("scans/q0_ct.nii.gz", [kind])
  desk = make_desk("scans/q0_ct.nii.gz", "--results", "results", "--templates", "none")
  about = desk.about(0)
  assert [organ["label"] for organ in about["organs"]] == [1, 2, 3] and not about["doubts"]
  voxel_ml = np.prod(about["frame"]["spacing_mm"]) / 1000
  assert [organ["volume_ml"] for organ in about["organs"]] == pytest.approx([VOXELS * voxel_ml] * 3, abs=0.01)
  box = about["organs"][1]["box"]
  done(desk.segment(0, {"alpha": {"box": [box[0], [*box[1][:2], box[1][2] - 5]]}}))
  shown = desk._shown(0, "result")
  after = masks_of("results/corrected/q0_seg.nii.gz", shown.labels.names)
  assert set(after) == set(NAMES) and not np.array_equal(after["alpha"], before["alpha"])
  for organ in ("Alpha", "beta left"):
    np.testing.assert_array_equal(after[organ], before[organ] & ~after["alpha"])


@pytest.mark.parametrize("kind", MASKLESS)
def test_results_whose_masks_are_nowhere_say_so(make_desk, kind):
  write_result("scans/q0_ct.nii.gz", [kind])
  about = make_desk("scans/q0_ct.nii.gz", "--results", "results", "--templates", "none").about(0)
  assert [organ["label"] for organ in about["organs"]] == [0, 0, 0]
  (doubt,) = about["doubts"]
  assert "alpha" in doubt and "--output-type nifti" in doubt


@pytest.mark.filterwarnings("ignore::medlsam_jax.notices.MedlsamWarning")
@pytest.mark.parametrize("kind", [kind for kind, each in FORMATS.items() if each.of_dicom])
def test_masks_in_dicom_files_are_seen_by_the_names_that_these_give(make_desk, tmp_path, kind):
  pytest.importorskip("highdicom")
  scan = tmp_path / "q0"
  scan.mkdir()
  for z in range(30):
    pixels = np.full((32, 32), 1000 + z)
    pixels[:8] = 0
    write_slice(scan / f"{z:03}.dcm", pixels, [0.0, 0.0, 3.0 * z])
  write_result(scan, [kind])
  about = make_desk(scan, "--results", "results", "--templates", "none").about(0)
  painted = {organ["name"]: organ["volume_ml"] for organ in about["organs"] if organ["label"]}
  assert set(painted) == set(NAMES) and len(set(painted.values())) == 1 and min(painted.values()) > 0
