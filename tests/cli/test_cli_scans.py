"""`localize` and `segment` over one scan, a folder, a list: files, exit codes, and what happens to a bad scan."""

import dataclasses
import json
import shutil

import matplotlib.image
import nibabel
import numpy as np
import pytest

from medlsam_jax.metrics import dice

FOUR = {"q0_seg.nii.gz", "q0_boxes.json", "q0_boxes.mrk.json", "q0_preview.png"}


def names(folder):
  return {path.name for path in folder.iterdir()}


def test_segment_writes_four_files_in_the_scans_own_space(medlsam, painter, search, one_query, tmp_path):
  result = medlsam("segment", *search, "--query", one_query, "--out", tmp_path / "out", "--seed", 3)
  assert (result.code, result.err) == (0, "")
  assert names(tmp_path / "out") == FOUR
  scan, labels = nibabel.load(one_query), nibabel.load(tmp_path / "out" / "q0_seg.nii.gz")
  assert labels.shape == scan.shape and np.allclose(labels.affine, scan.affine)
  assert labels.get_data_dtype() == np.uint8
  written = json.loads((tmp_path / "out" / "q0_boxes.json").read_text())
  assert list(written["organs"]) == ["beta", "alpha"]
  assert written["organs"]["beta"]["label"] == 2
  counts = np.bincount(np.asarray(labels.dataobj).ravel(), minlength=4)
  voxel_ml = abs(np.linalg.det(scan.affine[:3, :3])) / 1000
  assert written["organs"]["beta"]["volume_ml"] == pytest.approx(counts[2] * voxel_ml, abs=1e-3)
  picture = matplotlib.image.imread(tmp_path / "out" / "q0_preview.png")
  assert min(picture.shape[:2]) > 250 and picture[..., :3].std() > 0.02


def test_result_says_where_it_comes_from(medlsam, painter, search, one_query, tmp_path, mini_bank, small_network_file):
  from medlsam_jax.cli.provenance import bank_sha256
  from medlsam_jax.loading import load
  from medlsam_jax.medlam.bank.bank import Bank

  words = ["segment", *search, "--query", one_query, "--out", tmp_path / "out", "--seed", 3, "--steps", 2]
  assert medlsam(*words, "--masks", "network").code == 0
  origin = json.loads((tmp_path / "out" / "q0_boxes.json").read_text())["provenance"]
  assert origin["networks"]["localization"]["sha256"] == load(small_network_file).sha256
  assert origin["networks"]["segmentation"]["sha256"] == "0" * 64
  assert origin["bank"]["sha256"] == bank_sha256(Bank.load(mini_bank))
  assert origin["bank"]["templates"] == ["t0", "t1"]
  assert origin["seed"] == 3 and origin["settings"]["search"]["steps"] == 2
  assert origin["settings"]["segmentation"]["window_hu"] == [-160.0, 240.0]
  assert origin["painted"] == {"network": ["beta", "alpha"]}
  assert {"medlsam_jax", "jax", "flax", "python"} <= set(origin["versions"])


def test_the_same_seed_gives_the_same_file(medlsam, search, one_query, tmp_path):
  for out in ("a", "b"):
    assert medlsam("localize", *search, "--query", one_query, "--out", tmp_path / out, "--seed", 5).code == 0
  assert (tmp_path / "a" / "q0_boxes.json").read_bytes() == (tmp_path / "b" / "q0_boxes.json").read_bytes()


def test_localize_takes_templates_and_keeps_the_bank(medlsam, mini_templates, small_network_file, one_query, tmp_path):
  kept = tmp_path / "kept.safetensors"
  words = ["--network", small_network_file, "--query", one_query, "--organs", "alpha"]
  built = ["--templates", mini_templates, "--mode", "WPL", "--save-bank", kept]
  assert medlsam("localize", *words, *built, "--out", tmp_path / "a").code == 0
  assert names(tmp_path / "a") == FOUR - {"q0_seg.nii.gz"}
  assert medlsam("localize", *words, "--bank", kept, "--out", tmp_path / "b").code == 0
  first, second = (json.loads((tmp_path / out / "q0_boxes.json").read_text()) for out in "ab")
  assert first["organs"] == second["organs"] and list(first["organs"]) == ["alpha"]
  assert first["provenance"]["bank"]["sha256"] == second["provenance"]["bank"]["sha256"]


def test_folder_goes_on_past_a_bad_scan_and_fails_at_the_end(medlsam, painter, search, mini_queries, broken, tmp_path):
  folder = broken("NaN").parent
  for name in ("q0", "q1"):
    shutil.copy(mini_queries / f"{name}_ct.nii.gz", folder)
  result = medlsam("segment", *search, "--query", folder, "--out", tmp_path / "out")
  assert result.code == 1
  assert "2 done, 1 failed" in result.out and "failed: bad: " in result.err and "NaN" in result.err
  assert names(tmp_path / "out") == FOUR | {name.replace("q0", "q1") for name in FOUR}


def test_list_file_names_the_scans(medlsam, search, mini_queries, tmp_path):
  (tmp_path / "list.txt").write_text(f"# two\n{mini_queries / 'q1_ct.nii.gz'}\n{mini_queries / 'q0_ct.nii.gz'}\n")
  result = medlsam("localize", *search, "--query", tmp_path / "list.txt", "--out", tmp_path / "out", "--quiet")
  assert (result.code, result.out) == (0, "")
  assert {"q0_boxes.json", "q1_boxes.json"} < names(tmp_path / "out")


def test_skip_existing_does_only_what_is_missing(medlsam, painter, search, mini_queries, tmp_path):
  words = ["segment", *search, "--query", mini_queries, "--out", tmp_path / "out", "--skip-existing"]
  assert medlsam(*words).code == 0
  stamp = (tmp_path / "out" / "q0_seg.nii.gz").stat().st_mtime_ns
  (tmp_path / "out" / "q1_preview.png").unlink()
  result = medlsam(*words)
  assert result.code == 0 and "1 done, 1 skipped" in result.out
  assert (tmp_path / "out" / "q0_seg.nii.gz").stat().st_mtime_ns == stamp
  assert (tmp_path / "out" / "q1_preview.png").exists()


def test_a_defect_in_one_scan_does_not_stop_the_others(medlsam, search, mini_queries, tmp_path, monkeypatch):
  from medlsam_jax.io import scans

  original = scans.read_volume

  def faulty(path):
    if "q0" in str(path):
      raise RuntimeError("boom")
    return original(path)

  monkeypatch.setattr(scans, "read_volume", faulty)
  result = medlsam("localize", *search, "--query", mini_queries, "--out", tmp_path / "out")
  assert result.code == 1
  assert "Traceback" in result.err and "q0: a defect of medlsam: RuntimeError: boom" in result.err
  assert "q1_boxes.json" in names(tmp_path / "out")


def test_corrected_box_gives_a_new_mask(medlsam, painter, search, one_query, mini_queries, tmp_path):
  assert medlsam("localize", *search, "--query", one_query, "--out", tmp_path / "out").code == 0
  file = tmp_path / "out" / "q0_boxes.json"
  content = json.loads(file.read_text())
  truth = np.asarray(nibabel.load(mini_queries / "q0_seg.nii.gz").dataobj).T == 2
  corners = np.argwhere(truth)
  content["organs"]["beta"]["box_vox"] = [corners.min(0).tolist(), corners.max(0).tolist()]
  file.write_text(json.dumps(content))
  words = ["--boxes", file, "--query", one_query, "--out", tmp_path / "new", "--organs", "beta"]
  assert medlsam("segment", *words).code == 0
  mask = np.asarray(nibabel.load(tmp_path / "new" / "q0_seg.nii.gz").dataobj).T == 2
  box = np.zeros_like(truth)
  low, high = corners.min(0), corners.max(0) + 1
  box[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = True
  assert dice(mask, box) > 0.75  # the preset widens boxes by a few pixels
  written = json.loads((tmp_path / "new" / "q0_boxes.json").read_text())
  assert written["organs"]["beta"]["verdict"] == "given" and written["provenance"]["boxes"]["source"] == str(file)
  assert "seed" not in written["provenance"]


def test_six_points_are_enough_for_a_mask(medlsam, painter, one_query, mini_queries, tmp_path):
  image = nibabel.load(mini_queries / "q0_seg.nii.gz")
  where = np.argwhere(np.asarray(image.dataobj) == 1)
  points = [where[where[:, axis].argmin()] for axis in range(3)] + [where[where[:, axis].argmax()] for axis in range(3)]
  world = nibabel.affines.apply_affine(image.affine, np.array(points))
  (tmp_path / "points.json").write_text(json.dumps({"alpha": world.tolist()}))
  words = ["--boxes", tmp_path / "points.json", "--query", one_query, "--out", tmp_path / "out"]
  assert medlsam("segment", *words, "--clean-up", "--preset", "medlsam").code == 0
  mask = np.asarray(nibabel.load(tmp_path / "out" / "q0_seg.nii.gz").dataobj) == 1
  assert mask[tuple(where.T)].mean() > 0.9
  origin = json.loads((tmp_path / "out" / "q0_boxes.json").read_text())["provenance"]
  assert origin["settings"]["segmentation"]["fill_holes"] and origin["settings"]["segmentation"]["margin_px"] == 10


def test_slicer_file_of_a_result_gives_the_same_mask(medlsam, painter, search, one_query, tmp_path):
  words = ["--organs", "alpha", "--masks", "network"]
  assert medlsam("segment", *search, "--query", one_query, "--out", tmp_path / "out", *words).code == 0
  (tmp_path / "out" / "labels.json").write_text(json.dumps({"alpha": 1}))
  rois = tmp_path / "out" / "q0_boxes.mrk.json"
  assert medlsam("segment", "--boxes", rois, "--query", one_query, "--out", tmp_path / "new").code == 0
  first, second = (np.asarray(nibabel.load(tmp_path / out / "q0_seg.nii.gz").dataobj) for out in ("out", "new"))
  assert np.array_equal(first, second)


def test_dicom_folder_is_a_scan(medlsam, painter, tmp_path):
  from pathlib import Path

  shared = Path(__file__).parents[3] / "shared" / "data" / "dicom" / "series"
  if not shared.is_dir():
    pytest.skip("needs ../shared/data/dicom")
  series = tmp_path / "patient_7" / "dicom" / "series"
  series.parent.mkdir(parents=True)
  series.symlink_to(shared, target_is_directory=True)
  from medlsam_jax.io.scans import read_volume
  from medlsam_jax.notices import MedlsamWarning

  with pytest.warns(MedlsamWarning, match="covers 40 mm"):
    grid = read_volume(series).grid
  middle = np.array(grid.shape) // 2
  points = np.array([middle + np.eye(3, dtype=int)[axis] * sign * 5 for sign in (-1, 1) for axis in range(3)])
  (tmp_path / "p.json").write_text(json.dumps({"liver": grid.world_from_voxel(points).tolist()}))
  assert medlsam("segment", "--boxes", tmp_path / "p.json", "--query", series, "--out", tmp_path / "out").code == 0
  # `series` and `dicom` are called so everywhere: the folder above them names the scan
  assert "patient_7_seg.nii.gz" in names(tmp_path / "out")


def test_the_next_scan_that_is_not_done_is_read_while_one_is_worked_on(monkeypatch):
  import threading
  from pathlib import Path

  from medlsam_jax.cli import many_scans
  from medlsam_jax.errors import InputError
  from medlsam_jax.io import scans as reading
  from medlsam_jax.io.scans import ListedScan

  read, began = [], {name: threading.Event() for name in "abcd"}

  def slow_read(path):
    read.append(path.name)
    began[path.name].set()
    if path.name == "c":
      raise InputError("c: damaged")
    return path.name

  monkeypatch.setattr(reading, "read_volume", slow_read)
  paths = [ListedScan(Path(name), name) for name in "abcd"]
  with many_scans.ReadAhead(paths, is_done=lambda name: name == "b") as ahead:
    assert ahead(paths[0]) == "a"
    assert began["c"].wait(5), "nothing was read ahead"
    assert not began["d"].is_set()
    with pytest.raises(InputError, match="damaged"):
      ahead(paths[2])
    assert ahead(paths[3]) == "d"
  assert read == ["a", "c", "d"]


def test_a_rerun_says_what_it_replaces(medlsam, search, one_query, tmp_path):
  call = ["localize", *search, "--query", one_query, "--out", tmp_path / "out", "--quiet"]
  assert "replaced" not in medlsam(*call).err
  again = medlsam(*call)
  assert again.code == 0 and "results of q0 are there already and are replaced (--skip-existing" in again.err
  assert "replaced" not in medlsam(*call, "--skip-existing").err


def test_boxes_beside_an_older_label_map_are_told(medlsam, painter, search, one_query, tmp_path):
  call = [*search, "--query", one_query, "--out", tmp_path / "out", "--quiet"]
  assert medlsam("segment", *call).code == 0
  assert "*_seg.nii.gz of an earlier run stay" in medlsam("localize", *call).err


def test_a_reason_names_its_scan_once(medlsam, search, mini_queries, tmp_path):
  shutil.copytree(mini_queries, tmp_path / "scans")
  bad = tmp_path / "scans" / "bad_ct.nii.gz"
  bad.write_text("a letter")
  result = medlsam("localize", *search, "--query", tmp_path / "scans", "--out", tmp_path / "out")
  first, last = (line for line in result.err.splitlines() if "not a NIfTI" in line)
  assert first.startswith(f"medlsam: {bad}: ") and last.startswith("medlsam: failed: bad: not a NIfTI")


DOUBTS = ("its values are no HU",)


@pytest.fixture
def doubtful_q0(monkeypatch):
  """Reading `q0` finds something to doubt."""
  from medlsam_jax.io import scans

  original = scans.read_volume

  def read(path, *args, **options):
    doubts = DOUBTS if "q0" in str(path) else ()
    return dataclasses.replace(original(path, *args, **options), doubts=doubts)

  monkeypatch.setattr(scans, "read_volume", read)


def test_a_doubtful_scan_is_named_in_table_file_and_summary(
  medlsam, painter, search, mini_queries, tmp_path, doubtful_q0
):
  sure = ["--confidence.similarity", "-2", "--confidence.agent_spread_mm", "1e9", "--confidence.outside_visible", "-1"]
  sure += ["--confidence.template_spread_mm", "1e9", "--confidence.found_visible", "0"]
  result = medlsam("segment", *search, "--query", mini_queries, "--out", tmp_path / "out", *sure)
  assert result.code == 0
  assert "doubtful: its values are no HU" in result.out and "2 done, 1 doubtful" in result.out
  assert "doubtful: q0: its values are no HU" in result.err
  first, second = (json.loads((tmp_path / "out" / f"q{n}_boxes.json").read_text()) for n in (0, 1))
  assert first["scan"]["doubts"] == list(DOUBTS) and second["scan"]["doubts"] == []
  assert {organ["verdict"] for organ in first["organs"].values()} == {"uncertain"}
  assert {organ["verdict"] for organ in second["organs"].values()} == {"found"}


def test_the_table_shows_what_differs_by_organ_and_explains_it(medlsam, search, mini_queries, tmp_path):
  result = medlsam("localize", *search, "--query", mini_queries, "--out", tmp_path / "out")
  heading = next(line for line in result.out.splitlines() if line.startswith("organ"))
  assert "templates mm" in heading and "in scan" in heading and "spread mm" not in heading
  assert result.out.count("how far apart single templates send it") == 1  # not under each of two tables
