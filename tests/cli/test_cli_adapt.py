"""`finetune --model sam3d-...` and `segment --model FILE` of what it writes, on a base small enough to compile."""

import json
import shutil

import numpy as np
import pytest
from adapting_runs import compile_quickly, words
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tiny_sam3d import ON_VIT, VIT, base, made_up

import medlsam_jax as ml
from medlsam_jax import loading
from medlsam_jax.io import nifti
from medlsam_jax.io.weights.weights_file import write_weights
from medlsam_jax.sam3d import parameters
from medlsam_jax.sam3d.adapter_file import write_adapters
from medlsam_jax.sam3d.cube_settings import CubeSettings

CONFIG = """
import dataclasses
from ml_collections import ConfigDict
from medlsam_jax.sam3d.training.settings import AdaptSettings

def get_config():
  config = ConfigDict(dataclasses.asdict(AdaptSettings()))
  config.model, config.name = "sam3d-tiny", "mine"
  return config
"""


@pytest.fixture(scope="module", autouse=True)
def known():
  """The tiny base is a kind like others, and programs are compiled quickly."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(loading.VARIANTS, VIT.name, VIT)
    patch.setitem(loading.sam.TABLES, VIT.name, None)
    compile_quickly(patch)
    yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory, mini_queries):
  """The base, adapters of it that were made up, a config, and boxes of the first query."""
  place = tmp_path_factory.mktemp("adapt")
  write_weights(place / "base.safetensors", base(VIT).variables, {"kind": VIT.name})
  network = loading.load(place / "base.safetensors", for_training=True)
  trained = parameters.split(made_up(parameters.shapes(ON_VIT), 7))[0]
  header = CubeSettings(spacing_mm=8.0, organs=("alpha", "beta", "gamma")).entry()
  write_adapters(place / "adapters.safetensors", ON_VIT, trained, network, header)
  (place / "mine.py").write_text(CONFIG)
  (place / "boxes.json").write_text(json.dumps({"organs": boxes(mini_queries)}))
  return place


def boxes(queries):
  labels = nifti.read_label_nifti(queries / "q0_seg.nii.gz").array
  found = {}
  for organ, value in (("beta", 2), ("alpha", 1)):
    where = np.argwhere(labels == value)
    found[organ] = {"box_vox": [where.min(0).tolist(), where.max(0).tolist()], "label": value}
  return found


@pytest.fixture
def paint(medlsam, folder, mini_queries, tmp_path):
  def run(model, *more, query=mini_queries / "q0_ct.nii.gz", given=folder / "boxes.json"):
    return medlsam("segment", "--model", model, "--boxes", given, "--query", query, "--out", tmp_path / "out", *more)

  return run


@pytest.mark.slow
def test_training_writes_adapters_that_paint(medlsam, folder, paint, mini_templates, mini_queries, tmp_path):
  run = ["finetune", "--config", folder / "mine.py", "--workdir", tmp_path / "run",
         f"--network={folder}/base.safetensors", *words(mini_templates, mini_queries)]  # fmt: skip
  result = medlsam(*run)
  assert result.code == 0, result.err
  file = tmp_path / "run" / "mine.safetensors"
  assert f"adapters: {file} (of step 4, the last)" in result.out and "held-out Dice" in result.out
  assert f"medlsam segment --model {file}" in result.out + result.err
  for name in ("validation.json", "metrics.jsonl", "config.json"):
    assert (tmp_path / "run" / name).is_file()
  with safe_open(file, "numpy") as opened:
    header = opened.metadata()
  assert header["base_sha256"] == loading.load(folder / "base.safetensors", for_training=True).sha256
  assert header["trained_steps"] == "4" and json.loads(header["cubes"])["organs"] == ["alpha", "beta", "gamma"]

  done = paint(file)
  assert done.code == 0, done.err
  labels = nifti.read_label_nifti(tmp_path / "out" / "q0_seg.nii.gz")
  assert set(np.unique(labels.array)) <= {0, 1, 2}
  again = medlsam(*run)
  assert again.code == 0 and "step 4" not in again.err.replace("of step 4", "")


@pytest.mark.slow
def test_training_that_makes_nothing_better_writes_no_adapters(medlsam, folder, mini_templates, mini_queries, tmp_path):
  more = {"optimizer.learning_rate": 1e-12, "optimizer.total_steps": 1, "checkpoint.best_metric": "validation_dice"}
  result = medlsam("finetune", "--config", folder / "mine.py", "--workdir", tmp_path / "run",
                   f"--network={folder}/base.safetensors", *words(mini_templates, mini_queries, **more))  # fmt: skip
  assert result.code == 0, result.err
  assert "no gain: validation_dice was" in result.out and "No adapters are written" in result.out
  assert not list((tmp_path / "run").glob("*.safetensors"))


def test_a_file_of_adapters_paints_volumes_and_says_so(paint, folder, mini_queries, tmp_path):
  result = paint(folder / "adapters.safetensors")
  assert (result.code, result.err) == (0, ""), result.err
  labels = nifti.read_label_nifti(tmp_path / "out" / "q0_seg.nii.gz").array
  scan = ml.read_volume(mini_queries / "q0_ct.nii.gz")
  found = ml.read_boxes(folder / "boxes.json", scan)
  np.testing.assert_array_equal(labels, ml.segment(scan, found, folder / "adapters.safetensors").array)
  predictor = ml.load_adapters(folder / "adapters.safetensors")
  np.testing.assert_array_equal(labels, ml.segment(scan, found, predictor).array)
  assert labels.any()

  origin = json.loads((tmp_path / "out" / "q0_boxes.json").read_text())["provenance"]
  assert origin["painted"] == {"cubes": ["beta", "alpha"]}
  network = origin["networks"]["segmentation"]
  base_sha256 = loading.load(folder / "base.safetensors", for_training=True).sha256
  assert (network["kind"], network["base_sha256"], network["base_kind"]) == ("sam3d", base_sha256, "sam-tiny")
  assert len(network["sha256"]) == 64 and network["source"].endswith("adapters.safetensors")
  assert origin["settings"]["cubes"]["spacing_mm"] == 8.0 and "segmentation" not in origin["settings"]


def test_points_mend_a_mask_and_are_recorded(paint, folder, mini_queries, tmp_path):
  scan = ml.read_volume(mini_queries / "q0_ct.nii.gz")
  middle = np.array([each["box_vox"] for each in boxes(mini_queries).values()], float).mean(1)
  inside, outside = scan.grid.world_from_voxel(middle).tolist()
  file = tmp_path / "points.json"
  file.write_text(json.dumps({"beta": [inside], "not beta": [outside]}))
  assert paint(folder / "adapters.safetensors").code == 0
  before = nifti.read_label_nifti(tmp_path / "out" / "q0_seg.nii.gz").array
  result = paint(folder / "adapters.safetensors", "--points", file)
  assert result.code == 0, result.err
  labels = nifti.read_label_nifti(tmp_path / "out" / "q0_seg.nii.gz").array
  assert (labels != before).any()
  points = ml.read_refining_points(file, scan)
  assert [each.is_inside for each in points["beta"]] == [True, False]
  found = ml.read_boxes(folder / "boxes.json", scan)
  painted = ml.segment(scan, found, folder / "adapters.safetensors", points=points)
  np.testing.assert_array_equal(labels, painted.array)
  origin = json.loads((tmp_path / "out" / "q0_boxes.json").read_text())["provenance"]
  assert origin["points"]["source"] == str(file)


@pytest.mark.parametrize(
  ("name", "place", "said"),
  [
    ("delta", [4, 4, 4], "points in delta, but no box; there is: beta, alpha"),
    ("beta", [99, 4, 4], "outside the scan"),
  ],
)
def test_points_that_mean_nothing_end_in_a_line(paint, folder, mini_queries, tmp_path, name, place, said):
  scan = ml.read_volume(mini_queries / "q0_ct.nii.gz")
  (tmp_path / "points.json").write_text(json.dumps({name: scan.grid.world_from_voxel(np.array([place])).tolist()}))
  result = paint(folder / "adapters.safetensors", "--points", tmp_path / "points.json")
  assert result.code == 1 and said in result.err and "Traceback" not in result.err


def test_points_are_refused_where_slices_or_templates_paint(medlsam, folder, mini_queries, search, tmp_path):
  (tmp_path / "points.json").write_text('{"beta": [[0, 0, 0]]}')
  query = ["--query", mini_queries / "q0_ct.nii.gz", "--out", tmp_path / "out", "--points", tmp_path / "points.json"]
  for given in (["--boxes", folder / "boxes.json"], search):
    result = medlsam("segment", *query, *given)
    assert result.code == 2 and "--points mends masks of a network for volumes" in result.err


def test_cleaning_up_is_for_volumes_too(paint, folder, tmp_path):
  from scipy import ndimage

  assert paint(folder / "adapters.safetensors", "--clean-up").code == 0
  labels = nifti.read_label_nifti(tmp_path / "out" / "q0_seg.nii.gz").array
  assert all(ndimage.label(labels == value, np.ones((3, 3, 3)))[1] <= 1 for value in (1, 2))


def test_organs_that_were_not_learned_are_named(paint, folder, tmp_path):
  organs = json.loads((folder / "boxes.json").read_text())["organs"]
  (tmp_path / "more.json").write_text(json.dumps({"organs": {**organs, "delta": {**organs["beta"], "label": 7}}}))
  result = paint(folder / "adapters.safetensors", given=tmp_path / "more.json")
  assert result.code == 0 and result.err.count("have not learned delta, but alpha, beta, gamma") == 1


@pytest.mark.parametrize("option", [["--propagate"], ["--axes", "all"], ["--preset", "medlsam"]], ids=lambda o: o[0])
def test_options_about_slices_are_refused_with_volumes(paint, folder, tmp_path, option):
  result = paint(folder / "adapters.safetensors", *option)
  assert result.code == 2 and f"{option[0]} is about slices" in result.err and not (tmp_path / "out").exists()


def test_adapters_of_another_base_are_refused(paint, folder, tmp_path):
  """The file that the adapters name holds other weights now."""
  shutil.copy(folder / "adapters.safetensors", tmp_path)
  write_weights(tmp_path / "other.safetensors", base(VIT, seed=9).variables, {"kind": VIT.name})
  arrays, header = with_header(tmp_path / "adapters.safetensors")
  save_file(arrays, tmp_path / "adapters.safetensors", header | {"base_source": str(tmp_path / "other.safetensors")})
  result = paint(tmp_path / "adapters.safetensors")
  assert result.code == 2 and "adapters of another base" in result.err


def test_a_base_is_found_beside_its_adapters_and_missed_by_name(paint, folder, tmp_path):
  arrays, header = with_header(folder / "adapters.safetensors")
  header["base_source"] = "elsewhere/moved.safetensors"
  save_file(arrays, tmp_path / "adapters.safetensors", header)
  result = paint(tmp_path / "adapters.safetensors")
  assert result.code == 2 and "adapters of a base that cannot be loaded: elsewhere/moved.safetensors" in result.err
  shutil.copy(folder / "base.safetensors", tmp_path / "moved.safetensors")
  assert loading.load_adapters(tmp_path / "adapters.safetensors").module.variant == ON_VIT.variant


@pytest.mark.parametrize("entry", ["sizes", "cubes"])
def test_a_damaged_header_ends_in_a_line(paint, folder, tmp_path, entry):
  arrays, header = with_header(folder / "adapters.safetensors")
  save_file(arrays, tmp_path / "adapters.safetensors", header | {entry: "{"})
  result = paint(tmp_path / "adapters.safetensors")
  assert result.code == 2 and "adapters.safetensors: its header does not" in result.err
  assert "Traceback" not in result.err


def test_a_truncated_file_and_one_that_is_not_there_end_in_a_line(paint, folder, tmp_path):
  cut = tmp_path / "cut.safetensors"
  cut.write_bytes((folder / "adapters.safetensors").read_bytes()[:-100])
  for file, said in ((cut, "truncated, damaged"), (tmp_path / "none.safetensors", "no such file")):
    result = paint(file)
    assert result.code == 2 and said in result.err


def test_adapters_are_no_network_of_slices(medlsam, folder, mini_queries, search, tmp_path):
  words = ["--masks", "prompted", "--model", folder / "adapters.safetensors"]
  result = medlsam("segment", *search, "--query", mini_queries / "q0_ct.nii.gz", "--out", tmp_path / "out", *words)
  assert result.code == 2 and "adapters" in result.err and "no network by themselves" in result.err


def with_header(path):
  with safe_open(path, "numpy") as opened:
    return load_file(path), opened.metadata()


@pytest.mark.parametrize(
  ("given", "said"),
  [
    (["--model", "sam3d-huge"], "has no mode 'sam3d-huge'; it has: sam3d-vit-b"),
    (["--model", "sam3d-vit-b", "--config", "configs/finetune.py:lora"], "leave --config away"),
    (["--model", "sam3d-vit-b", "--bank", "b.safetensors"], "--bank is about slices"),
    (["--config", "configs/sam3d.py:scratch", "--bank", "b.safetensors"], "--bank is about slices"),
    (["--config", "configs/sam3d.py:none"], "has no mode 'none'"),
    (["--model", "sam3d-vit-b", "--changes_rank=4"], "changes_rank"),
    (["--model", "sam3d-litemedsam-64", "--data.spacing_mm=0"], "data.spacing_mm"),
    (["--model", "sam3d-litemedsam-64", "--data.prompts=templates"], "prompts"),
  ],
  ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_go_together_is_refused_before_anything_is_read(medlsam, tmp_path, given, said):
  result = medlsam("finetune", "--workdir", tmp_path / "run", *given)
  assert result.code == 2 and said in result.err and "Traceback" not in result.err
  assert not (tmp_path / "run").exists()


def test_every_mode_of_the_config_is_a_run_that_could_be(monkeypatch):
  from medlsam_jax.cli import settings as config
  from medlsam_jax.sam3d.network.variants import VARIANTS
  from medlsam_jax.sam3d.training.setting_checks import check_adapting
  from medlsam_jax.sam3d.training.settings import AdaptSettings

  modes = [name for name in VARIANTS if name != "sam3d-tiny"]
  for mode in [*modes, "scratch", "smoke"]:
    settings = config.resolve(AdaptSettings(), f"configs/sam3d.py:{mode}", [])
    check_adapting(settings)
    assert VARIANTS[settings.model].base.name == settings.network and settings.name == f"adapters_{mode}"
    assert (settings.start == "scratch") == (mode == "scratch")


def test_help_shows_how(medlsam):
  assert "--model sam3d-litemedsam-64" in " ".join(medlsam("finetune", "--help").out.split())
