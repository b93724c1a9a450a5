"""Bad input gives one clear line that names the file and the organ, and leaves nothing half-written."""

import errno
import json
import os
import shutil

import nibabel
import numpy as np
import pytest

from medlsam_jax.io import atomic

SCANS = {
  "not a NIfTI": "not a NIfTI file",
  "truncated": "truncated or damaged",
  "2D": "2D",
  "4D": "4D",
  "RGB": "colour",
  "NaN": "1 NaN",
  "infinite": "1 infinite",
  "zero spacing": "spacing",
  "spacing of metres": "a CT has voxels of",
  "singular affine": "singular affine",
}


def left_behind(folder):
  return [path.name for path in folder.rglob("*")] if folder.exists() else []


@pytest.mark.parametrize("how", SCANS)
def test_bad_scan_is_refused_by_name(medlsam, painter, search, broken, tmp_path, how):
  path = broken(how)
  result = medlsam("segment", *search, "--query", path, "--out", tmp_path / "out")
  assert result.code == 1
  assert str(path) in result.err and SCANS[how] in result.err
  assert "Traceback" not in result.err and result.err.count("\n") == 1
  assert left_behind(tmp_path / "out") == []


def test_scan_over_the_size_limit_is_refused_with_the_limit(medlsam, search, one_query, tmp_path, monkeypatch):
  from medlsam_jax import geometry

  monkeypatch.setattr(geometry, "MAX_VOXELS", 100_000)
  result = medlsam("localize", *search, "--query", one_query, "--out", tmp_path / "out")
  assert result.code == 1 and str(one_query) in result.err and "limit of 0 million" in result.err
  assert left_behind(tmp_path / "out") == []


def test_scan_smaller_than_a_patch_works(medlsam, painter, search, broken, tmp_path):
  assert medlsam("segment", *search, "--query", broken("tiny"), "--out", tmp_path / "out").code == 0
  assert "bad_seg.nii.gz" in left_behind(tmp_path / "out")


def test_mr_like_values_are_warned_of(medlsam, search, broken, tmp_path):
  path = broken("MR")
  result = medlsam("localize", *search, "--query", path, "--out", tmp_path / "out")
  assert "warning: " in result.err and str(path) in result.err and "Hounsfield units" in result.err
  organs = json.loads((tmp_path / "out" / "bad_boxes.json").read_text())["organs"].values()
  assert {organ["verdict"] for organ in organs} <= {"uncertain", "outside field of view"}
  assert all("Hounsfield units" in organ["doubts"][0] for organ in organs)


@pytest.fixture
def templates(tmp_path, mini_templates):
  folder = tmp_path / "own_templates"
  shutil.copytree(mini_templates, folder)
  return folder


@pytest.fixture
def build(medlsam, templates, small_network_file, tmp_path):
  def run(*words):
    out = tmp_path / "bank.safetensors"
    result = medlsam("bank", "build", templates, "--out", out, "--network", small_network_file, *words)
    assert result.code == 2 and not out.exists() and "Traceback" not in result.err
    return result.err

  return run


def test_label_map_on_another_grid_leaves_its_template_out(medlsam, build, templates, small_network_file, tmp_path):
  def shift(name):
    path = templates / f"{name}_seg.nii.gz"
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine + np.diag([0.4, 0, 0, 0])), path)
    return str(path)

  path = shift("t1")
  out = tmp_path / "one.safetensors"
  result = medlsam("bank", "build", templates, "--out", out, "--network", small_network_file)
  assert result.code == 0 and out.exists()
  assert (
    f"warning: left out of the templates: {path}" in result.err and f"left out of the templates: {path}" in result.out
  )
  assert f"note: left out of the templates: {path}" in medlsam("bank", "info", out).out
  path = shift("t0")
  message = build()
  assert path in message and "grid" in message


def test_unknown_label_value(build, templates):
  (templates / "labels.json").write_text(json.dumps({"alpha": 1, "beta": 2}))
  message = build()
  assert "_seg.nii.gz" in message and "[3]" in message and "labels.json" in message


def test_unknown_organ(build):
  message = build("--organs", "alpha,appendix")
  assert "appendix" in message and "alpha, beta, gamma" in message


def test_organ_without_voxels(build, templates):
  (templates / "labels.json").write_text(json.dumps({"alpha": 1, "beta": 2, "gamma": 3, "delta": 4}))
  message = build("--organs", "delta")
  assert "delta" in message and "no voxels in any template" in message


def test_fewer_than_six_points(build, templates):
  for name in ("t0", "t1"):
    (templates / f"{name}_seg.nii.gz").unlink()
  (templates / "t0_points.json").write_text(json.dumps({"alpha": [[0, 0, i] for i in range(5)]}))
  message = build()
  assert "t0_points.json" in message and "alpha" in message and "5 points" in message


def test_points_outside_the_scan(medlsam, painter, one_query, tmp_path):
  points = [[900 + i, 900, 900 - i] for i in range(6)]
  (tmp_path / "p.json").write_text(json.dumps({"alpha": points}))
  result = medlsam("segment", "--boxes", tmp_path / "p.json", "--query", one_query, "--out", tmp_path / "out")
  assert result.code == 1 and "alpha" in result.err and "outside the scan" in result.err and "p.json" in result.err
  assert left_behind(tmp_path / "out") == []


def test_folder_without_annotations(build, templates):
  for path in templates.glob("*_seg.nii.gz"):
    path.unlink()
  assert "no annotations" in build()


def test_missing_weights(medlsam, mini_bank, one_query, tmp_path):
  result = medlsam("localize", "--bank", mini_bank, "--network", tmp_path / "gone.safetensors", "--query", one_query)
  assert result.code == 2 and "gone.safetensors" in result.err and "no such file" in result.err


def test_truncated_weights(medlsam, mini_bank, small_network_file, one_query, tmp_path):
  path = tmp_path / "cut.safetensors"
  path.write_bytes(small_network_file.read_bytes()[:-500])
  result = medlsam("localize", "--bank", mini_bank, "--network", path, "--query", one_query, "--out", tmp_path / "out")
  assert result.code == 2 and str(path) in result.err
  assert left_behind(tmp_path / "out") == []


def test_weights_of_another_network_than_the_banks(medlsam, mini_bank, one_query, tmp_path):
  import jax
  from medlam_weights import drawn

  from medlsam_jax.io.weights.weights_file import write_weights
  from medlsam_jax.medlam.network.medlam import MedLAM

  path = tmp_path / "other.safetensors"
  header = {"kind": "medlam", "base_channels": "1", "patch_edge": "64", "feature_scales": "4"}
  write_weights(path, drawn(MedLAM(base_channels=1, feature_scales=(4,)), jax.random.key(1)), header)
  result = medlsam("localize", "--bank", mini_bank, "--network", path, "--query", one_query, "--out", tmp_path / "out")
  assert result.code == 2 and "another network" in result.err


def test_weights_that_cannot_paint(medlsam, search, small_network_file, one_query, tmp_path):
  words = ["--model", small_network_file, "--query", one_query, "--out", tmp_path / "out"]
  result = medlsam("segment", *search, *words)
  assert result.code == 2 and "cannot segment" in result.err
  assert left_behind(tmp_path / "out") == []


def test_unwritable_output_is_said_before_any_work(medlsam, search, one_query, tmp_path):
  blocked = tmp_path / "file"
  blocked.write_text("")
  result = medlsam("localize", *search, "--query", one_query, "--out", blocked / "out")
  assert result.code == 2 and str(blocked) in result.err and "cannot be written" in result.err


def test_disk_full_in_the_middle_leaves_nothing(medlsam, painter, search, one_query, tmp_path, monkeypatch):
  from medlsam_jax.io import preview

  def fail(path, *_):
    path.write_bytes(b"half a picture")
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(preview, "write_preview", fail)
  result = medlsam("segment", *search, "--query", one_query, "--out", tmp_path / "out")
  assert result.code == 1 and "No space left on device" in result.err
  assert left_behind(tmp_path / "out") == []


@pytest.mark.parametrize("moment", ["preview", "segment"])
def test_ctrl_c_leaves_nothing_and_says_130(medlsam, painter, search, one_query, tmp_path, monkeypatch, moment):
  from medlsam_jax import pipeline
  from medlsam_jax.io import preview

  def interrupt(*_, **__):
    raise KeyboardInterrupt

  target = {"preview": (preview, "write_preview"), "segment": (pipeline, "segment")}[moment]
  monkeypatch.setattr(*target, interrupt)
  result = medlsam("segment", *search, "--query", one_query, "--out", tmp_path / "out")
  assert result.code == 130 and "Traceback" not in result.err
  assert left_behind(tmp_path / "out") == []


def test_interrupted_again_keeps_the_older_result(medlsam, search, one_query, tmp_path, monkeypatch):
  from medlsam_jax.io import preview

  words = ["localize", *search, "--query", one_query, "--out", tmp_path / "out"]
  assert medlsam(*words).code == 0
  before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

  def interrupt(*_, **__):
    raise KeyboardInterrupt

  monkeypatch.setattr(preview, "write_preview", interrupt)
  assert medlsam(*words, "--seed", 9).code == 130
  assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_query_that_is_not_there(medlsam, search, tmp_path):
  result = medlsam("localize", *search, "--query", tmp_path / "none.nii.gz", "--out", tmp_path / "out")
  assert result.code == 2 and "none.nii.gz" in result.err and not (tmp_path / "out").exists()


def test_boxes_of_another_scan(medlsam, painter, search, mini_queries, tmp_path):
  q0, q1 = (mini_queries / f"{name}_ct.nii.gz" for name in ("q0", "q1"))
  assert medlsam("localize", *search, "--query", q0, "--out", tmp_path / "out").code == 0
  file = tmp_path / "out" / "q0_boxes.json"
  result = medlsam("segment", "--boxes", file, "--query", q1, "--out", tmp_path / "new")
  assert result.code == 1 and str(file) in result.err and "another scan" in result.err
  assert left_behind(tmp_path / "new") == []


def test_folder_without_write_permission(medlsam, search, one_query, tmp_path, monkeypatch):
  (tmp_path / "out").mkdir(mode=0o555)
  if os.getuid() == 0:  # who may write anywhere: the system's answer to others is stood in for

    def refused(**_):
      raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(atomic.tempfile, "mkdtemp", refused)
  result = medlsam("localize", *search, "--query", one_query, "--out", tmp_path / "out")
  assert result.code == 2 and "Permission denied" in result.err
