"""Training runs of the tiny network on small scans: what is trained, measured, kept, resumed."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from adapting_runs import compile_quickly, settings
from flax.traverse_util import flatten_dict
from tiny_sam3d import LITE, ON_VIT, VIT, base

from medlsam_jax.errors import ConfigError, WeightsError
from medlsam_jax.io import nifti
from medlsam_jax.io.scans import read_volume
from medlsam_jax.label_boxes import find_labels
from medlsam_jax.loading import load_adapters
from medlsam_jax.sam3d import cube_predictor, parameters
from medlsam_jax.sam3d.adapter_file import base_of, write_adapters
from medlsam_jax.sam3d.cube_settings import CubeSettings, to_pixels
from medlsam_jax.sam3d.network.prompts import FACES, POSITIVE, points_of_box
from medlsam_jax.sam3d.training import recipe
from medlsam_jax.sam3d.training.setting_checks import check_adapting
from medlsam_jax.sam3d.training.step import Adapting
from medlsam_jax.train import loop
from medlsam_jax.train.optimizer import make_schedule
from medlsam_jax.train.settings import MeshSettings, OptimizerSettings
from medlsam_jax.train.sharding import make_mesh
from medlsam_jax.train.sigterm import Stopped

ROOT = Path(__file__).parents[2]
NO_GRADIENT = "key/bias"


@pytest.fixture(scope="module", autouse=True)
def quick():
  with pytest.MonkeyPatch.context() as patch:
    compile_quickly(patch)
    yield


@pytest.fixture(scope="module")
def whole(mini_templates, mini_queries, tmp_path_factory):
  """A run of four steps: its settings, what it said by step, the network, and its folder."""
  chosen, folder, said = settings(mini_templates, mini_queries), tmp_path_factory.mktemp("whole"), {}
  adapted = recipe.run(chosen, base(VIT), folder, lambda step, figures: said.setdefault(step, {}).update(figures))
  return chosen, said, adapted, folder


def flat(tree):
  return {name: np.asarray(leaf) for name, leaf in flatten_dict(tree, sep="/").items()}


def first_mesh():
  return make_mesh(MeshSettings())


@pytest.mark.slow
def test_every_trained_parameter_moves_and_what_is_frozen_is_the_bases(whole):
  chosen, _, adapted, _ = whole
  start = Adapting(chosen, ON_VIT, base(VIT), first_mesh())
  before, after = flat(start.start().params), flat(adapted.trained)
  assert before.keys() == after.keys()
  still = {name for name in before if np.array_equal(before[name], after[name])}
  assert all(name.endswith(NO_GRADIENT) for name in still), still
  of_base = flat(parameters.split(parameters.base_params(ON_VIT, base(VIT)))[1])
  assert of_base.keys() == flat(adapted.frozen).keys()
  for name, leaf in flat(adapted.frozen).items():
    np.testing.assert_array_equal(leaf, of_base[name], err_msg=name)


@pytest.mark.slow
def test_a_state_holds_nothing_of_what_is_frozen(whole):
  """Decay and moments could only reach what is there."""
  start = Adapting(whole[0], ON_VIT, base(VIT), first_mesh())
  state, trained = start.start(), parameters.split(parameters.shapes(ON_VIT))[0]
  size = sum(leaf.size for leaf in jax.tree.leaves(trained))
  assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) == size
  assert sum(leaf.size for leaf in jax.tree.leaves(state.optimizer) if leaf.ndim) == 2 * size


@pytest.mark.slow
def test_it_learns_measures_and_says_how_cubes_were_cut(whole):
  chosen, said, adapted, folder = whole
  assert all(np.isfinite(said[step]["loss"]) and said[step]["gradient_norm"] > 0 for step in (1, 2, 3, 4))
  scores = json.loads((folder / "validation.json").read_text())
  assert set(scores) == {"0", "2", "4"} and set(scores["4"]) == {"q0", "q1"}
  assert set(scores["4"]["q0"]) == {"alpha", "beta", "gamma"}
  mean = np.mean([np.mean([of[organ] for of in scores["4"].values()]) for organ in ("alpha", "beta", "gamma")])
  assert said[4]["validation_dice"] == pytest.approx(mean)
  cubes = CubeSettings.of_header(adapted.header, "x")
  assert cubes == CubeSettings(8.0, chosen.data.window_hu, chosen.data.margin, ("alpha", "beta", "gamma"))
  assert (adapted.header["trained_steps"], adapted.header["start"]) == ("4", "base")


@pytest.mark.slow
def test_a_stopped_run_goes_on_as_if_it_had_not_been(whole, tmp_path, monkeypatch):
  chosen, _, adapted, _ = whole
  with monkeypatch.context() as patch, pytest.raises(Stopped, match="step 2"):
    patch.setattr(loop, "stops_on_sigterm", lambda: contextlib.nullcontext(lambda step: step == 2))
    recipe.run(chosen, base(VIT), tmp_path)
  steps = []
  resumed = recipe.run(chosen, base(VIT), tmp_path, lambda step, figures: steps.append(step))
  assert sorted(set(steps)) == [3, 4]
  for name, leaf in flat(resumed.trained).items():
    np.testing.assert_allclose(leaf, flat(adapted.trained)[name], atol=1e-6, err_msg=name)

  with pytest.raises(ConfigError, match="adapts another network"):
    recipe.run(chosen, base(VIT, seed=9), tmp_path)
  with pytest.raises(ConfigError):
    recipe.run(dataclasses.replace(chosen, start="scratch"), None, tmp_path)


@pytest.mark.slow
def test_a_file_answers_as_the_run_did_by_one_program_for_all_cubes(whole, tmp_path):
  """Whatever the organs, cubes and points: compiled once, and once more for another number of cubes at a time."""
  _, _, adapted, _ = whole
  path = tmp_path / "adapters.safetensors"
  write_adapters(path, adapted.module, adapted.trained, base(VIT), adapted.header)
  predictor = load_adapters(path, base(VIT))
  assert predictor.edge == 16 and predictor.at_once == 1
  cube_predictor._program.cache_clear()
  rng = np.random.default_rng(0)
  cubes = rng.normal(40, 200, (3, 16, 16, 16)).astype(np.float32)
  faces = np.stack([points_of_box(np.array([[2.0, 3, 4], [9, 9, 12 - k]])) for k in range(3)])
  points, positive = rng.uniform(0, 15, (3, 2, 3)), np.array([[1, 0], [1, -1], [-1, -1]], np.int32)
  plain = predictor(cubes, faces, np.zeros((3, 0, 3)), np.zeros((3, 0), np.int32))
  pointed = predictor(cubes, faces, points, positive)
  program = cube_predictor._program(predictor.module, predictor.settings.window_hu)
  assert program._cache_size() == 1
  assert plain.shape == (3, 16, 16, 16) and np.abs(plain[0] - pointed[0]).max() > 1e-4
  np.testing.assert_allclose(plain[2], pointed[2], atol=1e-5)

  predictor.at_once = 2
  np.testing.assert_allclose(predictor(cubes, faces, points, positive), pointed, atol=1e-4)
  assert program._cache_size() == 2
  with pytest.raises(ValueError, match="5 points in a cube; 4 at most"):
    predictor(cubes, faces, np.zeros((3, 5, 3)), np.zeros((3, 5), np.int32))

  asked = np.concatenate([faces[0], points[0, :1]])[None, None].astype(np.float32)
  shown = to_pixels(cubes[:1], predictor.settings.window_hu, "imagenet")
  labels = np.array([[[*FACES, POSITIVE]]], np.int32)
  expected = jax.jit(parameters.apply, static_argnums=0)(
    predictor.module, adapted.trained, adapted.frozen, shown, asked, labels
  )
  one = predictor(cubes[:1], faces[:1], points[:1, :1], positive[:1, :1])
  np.testing.assert_allclose(one[0], expected[0, 0], atol=1e-4)


def test_validation_paints_each_organ_by_the_box_of_its_label(mini_queries, monkeypatch):
  """With a predictor that fills boxes, Dice is the share of a box that its organ fills."""
  from medlsam_jax.metrics import dice
  from medlsam_jax.sam3d.training import cube_validation

  labels = nifti.read_label_nifti(mini_queries / "q0_seg.nii.gz").array.astype(int)
  seen = cube_validation.HeldOut("q0", "q0", read_volume(mini_queries / "q0_ct.nii.gz"), labels, {"a": 1, "none": 9})
  asked = []

  def fill(scan, boxes, values, predictor):
    asked.append(boxes)
    painted = np.zeros(labels.shape, np.uint8)
    ((organ, (box,)),) = boxes.items()
    painted[tuple(slice(int(a), int(b) + 1) for a, b in zip(box.low, box.high, strict=True))] = values[organ]
    return painted

  monkeypatch.setattr(cube_validation, "paint_cubes", fill)
  scores = cube_validation.validated([seen], None)
  filled = np.zeros(labels.shape, bool)
  filled[find_labels(labels)[1]] = True
  assert scores == {"q0": {"a": pytest.approx(dice(filled, labels == 1))}} and len(asked) == 1


@pytest.mark.slow
def test_bfloat16_gives_about_what_float32_gives(whole, mini_templates, tmp_path):
  said = {}
  chosen = settings(mini_templates, dtype="bfloat16", remat=True, optimizer={"total_steps": 1})
  recipe.run(chosen, base(VIT), tmp_path, lambda step, figures: said.setdefault(step, {}).update(figures))
  assert said[1]["loss"] == pytest.approx(whole[1][1]["loss"], rel=0.02)
  assert said[1]["gradient_norm"] == pytest.approx(whole[1][1]["gradient_norm"], rel=0.2)


@pytest.mark.slow
def test_the_control_trains_everything_and_its_file_needs_no_base(mini_templates, tmp_path):
  chosen = settings(mini_templates, start="scratch", optimizer={"total_steps": 1})
  adapted = recipe.run(chosen, None, tmp_path)
  assert not adapted.frozen and flat(adapted.trained).keys() == flat(parameters.shapes(adapted.module)).keys()
  drawn = flat(parameters.scratch(adapted.module, jax.random.key(chosen.seed)))
  moved = {name for name, leaf in flat(adapted.trained).items() if not np.array_equal(leaf, drawn[name])}
  assert {"encoder/patch/kernel", "encoder/position", "encoder/block0/qkv/kernel"} <= moved
  path = tmp_path / "control.safetensors"
  write_adapters(path, adapted.module, adapted.trained, None, adapted.header)
  assert base_of(path) is None
  loaded = load_adapters(path)
  assert loaded.header["start"] == "scratch" and loaded.module.variant == adapted.module.variant


def test_a_base_of_another_kind_is_refused(mini_templates, tmp_path):
  with pytest.raises(WeightsError, match="sam3d-tiny adapts sam-tiny"):
    recipe.run(settings(mini_templates), base(LITE), tmp_path)


ON_EIGHT = """
import json, sys
import jax, numpy as np
from adapting_runs import settings
from tiny_sam3d import ON_VIT, VIT, base
from medlsam_jax.sam3d.training.labelled_cubes import CubeSource
from medlsam_jax.sam3d.training.scans import scans_to_learn
from medlsam_jax.sam3d.training.step import Adapting, source_edge
from medlsam_jax.train.settings import MeshSettings
from medlsam_jax.train.sharding import make_mesh, put_batch

chosen = settings(sys.argv[1], data={"cubes_per_step": 8, "organs_per_cube": 1})
learnt, edge = scans_to_learn(chosen.data, 20), source_edge(16, chosen)
found = []
for devices in (jax.devices()[:1], jax.devices()):
  mesh = make_mesh(MeshSettings(), devices)
  adapting = Adapting(chosen, ON_VIT, base(VIT), mesh)
  source = CubeSource(learnt.scans, edge, chosen.data, 0, range(8), 2)
  state, step = adapting.start(), adapting.step()
  for number in range(2):
    state, metrics = step(state, put_batch(source[number], 8, mesh))
  leaves = jax.tree.leaves(state.params)
  assert all(len(leaf.devices()) == len(devices) for leaf in leaves)
  found.append((jax.device_get(leaves), {name: float(value) for name, value in metrics.items()}))
(one, figures), (eight, others) = found
apart = np.concatenate([np.abs(a - b).ravel() for a, b in zip(one, eight)])
print(json.dumps([float(apart.mean()), figures, others]))
"""


@pytest.mark.slow
def test_eight_devices_give_what_one_gives(mini_templates):
  flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
  path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
  done = subprocess.run(
    [sys.executable, "-c", ON_EIGHT, str(mini_templates)],
    env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}, capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-3000:]
  apart, one, eight = json.loads(done.stdout)
  # two steps of AdamW move a parameter by up to 6e-3; where a gradient is nothing but rounding its sign is a draw
  assert apart < 1e-4 and one["loss"] > 0
  for name, value in one.items():
    assert eight[name] == pytest.approx(value, rel=2e-3, abs=1e-5), name


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    ({"model": "sam3d-huge"}, "model 'sam3d-huge' is unknown; choose .*sam3d-litemedsam-64"),
    ({"data": {"spacing_mm": 0.0}}, r"data\.spacing_mm 0\.0"),
    ({"data": {"spacing_mm": float("nan")}}, r"data\.spacing_mm nan"),
    ({"data": {"window_hu": [240.0, -160.0]}}, "data.window_hu"),
    ({"data": {"window_hu": [float("-inf"), 0.0]}}, "data.window_hu"),
    ({"data": {"background": 1.5}}, "data.background"),
    ({"data": {"organs_per_cube": 0}}, "data.organs_per_cube"),
    ({"views": {"zoom": [1.2, 0.8]}}, "views.zoom"),
    ({"views": {"points": -0.1}}, "views.points"),
    ({"loss": {"dice": 0.0, "bce": 0.0}}, "no mask would be learned"),
    ({"optimizer": {"accumulate": 2}}, "optimizer.accumulate"),
    ({"checkpoint": {"best_metric": "loss"}}, "checkpoint.best_metric"),
  ],
  ids=str,
)
def test_settings_that_cannot_go_together_are_refused_by_name(mini_templates, fields, words):
  with pytest.raises(ConfigError, match=words):
    check_adapting(settings(mini_templates, **fields))


@pytest.mark.parametrize(
  "damage", [{"window_hu": [240, -160]}, {"window_hu": [0]}, {"spacing_mm": 0}, {"spacing_mm": "x"}, {"margin": -1},
             {"window_hu": [float("-inf"), 1.0]}, {"organs": None}], ids=str
)  # fmt: skip
def test_a_header_by_which_no_cube_can_be_cut_is_refused(damage):
  entry = CubeSettings(organs=("liver",)).entry()
  assert CubeSettings.of_header(entry, "a.safetensors") == CubeSettings(organs=("liver",))
  broken = {"cubes": json.dumps(json.loads(entry["cubes"]) | damage)}
  for header in (broken, {}, {"cubes": "[]"}, {"cubes": "nonsense"}):
    with pytest.raises(WeightsError, match=r"a\.safetensors: its header"):
      CubeSettings.of_header(header, "a.safetensors")


@pytest.mark.parametrize(("step", "rate"), [(0, 0.0), (5, 0.5), (10, 1.0), (60, 0.505), (110, 0.01), (200, 0.01)])
def test_a_linear_rate_rises_and_falls_to_a_hundredth(step, rate):
  chosen = OptimizerSettings(total_steps=110, warmup_steps=10, learning_rate=1.0, decay="linear")
  assert float(make_schedule(chosen)(step)) == pytest.approx(rate, rel=1e-5)


def test_a_linear_rate_follows_the_clock_where_that_ends_the_run():
  chosen = OptimizerSettings(total_steps=110, warmup_steps=10, learning_rate=1.0, decay="linear")
  for share, rate in ((0.0, 1.0), (0.5, 0.505), (1.0, 0.01)):
    assert float(make_schedule(chosen, share)(50)) == pytest.approx(rate)
    assert float(make_schedule(chosen, share)(5)) == pytest.approx(rate / 2)
