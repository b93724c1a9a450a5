"""`medlsam evaluate --compare`: ways to paint on the same boxes, kept as they come, cut and taken up again."""

import csv
import json
import shutil

import data_set_files
import nibabel
import numpy as np
import pytest
from adapting_runs import compile_quickly
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tiny_sam3d import ON_VIT, VIT, base, made_up

from medlsam_jax import loading
from medlsam_jax.cli import ways
from medlsam_jax.errors import InputError
from medlsam_jax.io.weights.weights_file import write_weights
from medlsam_jax.sam3d import parameters
from medlsam_jax.sam3d.adapter_file import write_adapters
from medlsam_jax.sam3d.cube_settings import CubeSettings

pytestmark = pytest.mark.usefixtures("painter")
ORGANS = ["--organs", "alpha,beta"]


@pytest.fixture
def compare(medlsam, mini_queries, tmp_path):
  def run(asked, *more, query=mini_queries, boxes="labels", organs=ORGANS):
    words = ["evaluate", "--query", query, "--compare", asked, "--boxes-from", boxes, "--out", tmp_path / "out"]
    return medlsam(*words, *organs, *more)

  return run


@pytest.fixture
def painted(monkeypatch):
  """Ways that paint, in turn, as (way, boxes by organ)."""
  asked, paint = [], ways.Way.paint

  def noted(way, scan, boxes, *rest):
    asked.append((way.title, dict(boxes)))
    return paint(way, scan, boxes, *rest)

  monkeypatch.setattr(ways.Way, "paint", noted)
  return asked


def means(folder, name="comparison_labels"):
  """Line of the mean over organs, by way."""
  with (folder / f"{name}.csv").open() as file:
    lines = list(csv.DictReader(file))
  return {line["way"]: line for line in lines if line["organ"] == "mean over organs" and line["labels"] == "all"}


def rows(folder, name="comparison_labels"):
  return json.loads((folder / f"{name}.json").read_text())["rows"]


def test_ways_are_held_against_the_first_on_the_labels_own_boxes(compare, painted, mini_queries, tmp_path):
  result = compare("slices,axes,tight")
  assert result.code == 0, result.err
  truth = np.asarray(nibabel.load(mini_queries / "q0_seg.nii.gz").dataobj).T
  where = np.argwhere(truth == 2)
  assert [title for title, _ in painted] == ["slices", "axes", "tight"] * 2
  np.testing.assert_array_equal(painted[0][1]["beta"].box.array(), [where.min(0), where.max(0)])
  assert list(painted[0][1]) == list(painted[1][1]) == ["alpha", "beta"]
  assert len(painted[2][1]["beta"].parts) > 1
  line = means(tmp_path / "out")
  assert list(line) == ["slices", "axes", "tight"] and {each["n"] for each in line.values()} == {"4"}
  assert 0.3 < float(line["slices"]["dice"]) < float(line["tight"]["dice"]) < 1
  difference = float(line["tight"]["dice"]) - float(line["slices"]["dice"])
  assert float(line["tight"]["dice_less_first"]) == pytest.approx(difference, abs=1e-5)
  assert float(line["slices"]["surface_dice_2mm"]) <= float(line["slices"]["surface_dice_5mm"])
  assert all(float(each["seconds"]) > 0 for each in line.values())
  for text in ("boxes of the labels", "tight: beta", "surface Dice 2 mm", "Research use only"):
    assert text in result.out


def test_found_boxes_are_those_of_the_search_and_have_files_of_their_own(compare, painted, search, tmp_path):
  result = compare("slices,templates", *search, boxes="found")
  assert result.code == 0, result.err
  found = painted[0][1]
  assert found["beta"].verdict != "given" and found["beta"].confidence is not None
  said = json.loads((tmp_path / "out" / "comparison_found.json").read_text())
  assert len(said["search_seconds"]) == 2 and said["search"]["bank"]["templates"] == ["t0", "t1"]
  assert list(means(tmp_path / "out", "comparison_found")) == ["slices", "templates"]
  assert not (tmp_path / "out" / "comparison_labels.csv").exists() and "boxes that MedLAM found" in result.out


def test_templates_paint_the_labels_boxes_too(compare, search, tmp_path):
  assert compare("slices,templates", *search).code == 0
  line = means(tmp_path / "out")
  assert float(line["templates"]["dice"]) > float(line["slices"]["dice"])


def test_masks_are_painted_once_and_scored_with_clean_up_too(compare, painted, monkeypatch, tmp_path):
  def with_a_stray_voxel(way, scan, boxes, *rest):
    labels = paint(way, scan, boxes, *rest)
    labels.array[0, 0, 0] = labels.names["beta"]
    return labels

  paint = ways.Way.paint
  monkeypatch.setattr(ways.Way, "paint", with_a_stray_voxel)
  assert compare("slices,slices+clean-up").code == 0
  assert [title for title, _ in painted] == ["slices", "slices"]
  line = means(tmp_path / "out")
  assert float(line["slices+clean-up"]["dice"]) > float(line["slices"]["dice"])


def test_what_was_scored_is_taken_up_again_and_a_further_way_is_added(compare, painted, tmp_path):
  assert compare("slices").code == 0
  before = means(tmp_path / "out")["slices"]
  painted.clear()
  result = compare("axes,slices")
  assert result.code == 0 and [title for title, _ in painted] == ["axes", "axes"]
  assert means(tmp_path / "out")["slices"]["dice"] == before["dice"]
  assert means(tmp_path / "out")["slices"]["seconds"] == before["seconds"]
  painted.clear()
  assert compare("axes,again=slices").code == 0 and not painted  # what it is called does not count
  assert compare("slices", organs=["--organs", "beta"]).code == 0 and len(painted) == 2  # organs compete for voxels
  assert compare("slices", "--segmentation.margin_px", 9).code == 0 and len(painted) == 4


def test_time_that_is_up_leaves_scans_to_the_next_call(compare, painted, monkeypatch, tmp_path):
  result = compare("slices,axes", "--seconds", 0)
  assert result.code == 2 and "nothing is scored yet" in result.err and not painted
  paint = ways.Way.paint

  def stopped(way, scan, *rest):
    if "q1" in scan.source:
      raise KeyboardInterrupt
    return paint(way, scan, *rest)

  monkeypatch.setattr(ways.Way, "paint", stopped)
  assert compare("slices,axes").code == 130
  result = compare("slices,axes", "--seconds", 0)
  assert result.code == 0 and "1 scan left for want of time" in result.out
  assert {row["scan"] for row in rows(tmp_path / "out")} == {"q0"}
  monkeypatch.setattr(ways.Way, "paint", paint)
  assert compare("slices,axes", "--seconds", 600).code == 0
  assert {row["scan"] for row in rows(tmp_path / "out")} == {"q0", "q1"}


def test_scans_that_one_way_had_no_time_for_are_in_no_mean(compare, tmp_path, mini_queries):
  assert compare("slices").code == 0
  one = tmp_path / "one.txt"
  one.write_text(f"{mini_queries / 'q1_ct.nii.gz'}\n")
  assert compare("slices,axes", query=one).code == 0
  result = compare("slices,axes", "--seconds", 0)
  assert result.code == 0 and {row["scan"] for row in rows(tmp_path / "out")} == {"q1"}


def test_a_way_and_a_scan_that_fail_count_0_and_are_tried_again(compare, painted, monkeypatch, mini_queries, tmp_path):
  bad = tmp_path / "bad"
  shutil.copytree(mini_queries, bad)
  whole = (bad / "q1_ct.nii.gz").read_bytes()
  (bad / "q1_ct.nii.gz").write_text("no scan")
  paint = ways.Way.paint

  def failing(way, *rest):
    if way.title == "axes":
      raise InputError("too thick")
    return paint(way, *rest)

  monkeypatch.setattr(ways.Way, "paint", failing)
  result = compare("slices,axes", query=bad)
  assert result.code == 1 and "q0: axes: too thick" in result.err and "q1" in result.out
  line = means(tmp_path / "out")
  assert (line["slices"]["n"], line["slices"]["failed"]) == ("4", "2")
  assert (float(line["axes"]["dice"]), line["axes"]["failed"], line["axes"]["seconds"]) == (0, "4", "")
  alone = [row["dice"] for row in rows(tmp_path / "out") if row["way"] == "slices" and row["scan"] == "q0"]
  assert float(line["slices"]["dice"]) == pytest.approx(np.mean(alone) / 2, abs=1e-5) and min(alone) > 0
  monkeypatch.setattr(ways.Way, "paint", paint)
  (bad / "q1_ct.nii.gz").write_bytes(whole)
  assert compare("slices,axes", query=bad).code == 0
  assert means(tmp_path / "out")["axes"]["failed"] == "0"


def test_labels_that_are_not_whole_are_kept_apart(compare, mini_queries, tmp_path):
  folder = tmp_path / "people"
  shutil.copytree(mini_queries, folder)
  (folder / "sound.json").write_text(json.dumps({"q0": {"alpha": "whole", "beta": "cut"}, "q1": {"alpha": "whole"}}))
  result = compare("slices", query=folder)
  assert result.code == 0 and "slices: mean over organs, all labels" in result.out
  with (tmp_path / "out" / "comparison_labels.csv").open() as file:
    whole = [line for line in csv.DictReader(file) if line["labels"] == "whole"]
  assert [(line["organ"], line["n"]) for line in whole] == [("alpha", "2"), ("mean over organs", "2")]


def test_no_search_is_made_for_boxes_of_labels(compare, monkeypatch):
  from medlsam_jax import pipeline

  monkeypatch.setattr(pipeline, "localize", lambda *_, **__: pytest.fail("searched"))
  assert compare("slices").code == 0


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
  """Made-up adapters of a tiny base, in a file."""
  place = tmp_path_factory.mktemp("adapters")
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(loading.VARIANTS, VIT.name, VIT)
    patch.setitem(loading.sam.TABLES, VIT.name, None)
    compile_quickly(patch)
    write_weights(place / "base.safetensors", base(VIT).variables, {"kind": VIT.name})
    network = loading.load(place / "base.safetensors", for_training=True)
    trained = parameters.split(made_up(parameters.shapes(ON_VIT), 7))[0]
    write_adapters(place / "mine.safetensors", ON_VIT, trained, network, CubeSettings(spacing_mm=8.0).entry())
    yield place / "mine.safetensors"


def test_adapters_paint_volumes_beside_slices_and_are_known_wherever_they_lie(compare, painted, adapters, tmp_path):
  result = compare(f"slices,volume={adapters}")
  assert result.code == 0, result.err
  assert list(means(tmp_path / "out")) == ["slices", "volume"]
  about = json.loads((tmp_path / "out" / "comparison_labels.json").read_text())["ways"]["volume"]
  assert about["kind"] == "sam3d" and about["cubes"]["spacing_mm"] == 8 and about["source"] == str(adapters)
  kept = (tmp_path / "out" / "comparison_labels.jsonl").read_text()
  assert about["sha256"] in kept and str(adapters) not in kept and adapters.name not in kept
  for file in ("base", "mine"):
    shutil.copy(adapters.with_name(f"{file}.safetensors"), tmp_path / f"{file}.safetensors")
  painted.clear()
  assert compare(f"slices,volume={tmp_path / 'mine.safetensors'}").code == 0 and not painted


def test_a_network_of_volumes_is_none_of_slices(compare, adapters):
  result = compare("slices", "--model", adapters)
  assert result.code == 2 and "paints volumes" in result.err


def test_weights_that_cannot_be_had_end_it_before_anything_is_painted(compare, painted, adapters, tmp_path):
  with safe_open(adapters, "numpy") as opened:
    header = opened.metadata()
  save_file(load_file(adapters), tmp_path / "damaged.safetensors", header | {"sizes": "{"})
  result = compare(f"slices,volume={tmp_path / 'damaged.safetensors'}")
  assert result.code == 2 and "damaged.safetensors: its header does not" in result.err and not painted


def test_a_data_set_with_a_mask_for_each_organ_is_painted_and_scored(compare, painted, tmp_path):
  names = data_set_files.totalsegmentator(tmp_path / "set")
  result = compare("slices", query=tmp_path / "set", organs=["--organs", "liver,spleen"])
  assert result.code == 0, result.err
  where = np.argwhere(data_set_files.labels(2) == 5)
  np.testing.assert_array_equal(painted[1][1]["liver"].box.array(), [where.min(0), where.max(0)])
  assert {row["scan"] for row in rows(tmp_path / "out")} == set(names)
  assert float(means(tmp_path / "out")["slices"]["dice"]) > 0.8  # organs are boxes
