"""`medlsam pretrain` and `demo` around stand-ins for the long parts."""

import json

import numpy as np
import pytest

from medlsam_jax.installation import install_hint


@pytest.fixture
def no_training(monkeypatch):
  """A training run that ends at once, with parameters of the network that was asked for."""
  import jax

  from medlsam_jax.medlam.network.medlam import MedLAM, init_variables
  from medlsam_jax.medlam.pretraining import recipe

  seen = {}

  def run(settings, directory, report, progress, probe, profile, network, ended):
    seen["probe"], seen["profile"] = probe, profile
    seen["settings"], seen["directory"] = settings, directory
    progress("phantom 1")
    report(1, {"loss": 2.0})
    report(2, {"loss": 1.0})
    ended({"productive": 0.75, "saving": 0.25})
    seen["start"], sizes = network, settings.network
    module = MedLAM(base_channels=sizes.base_channels, feature_scales=sizes.feature_scales)
    shapes = jax.eval_shape(lambda key: init_variables(module, key), jax.random.key(0))["params"]
    return jax.tree.map(lambda s: np.ones(s.shape, s.dtype), shapes)

  monkeypatch.setattr(recipe, "run", run)
  return seen


def seen_nothing_else(seen):
  return seen["probe"] is None and seen["profile"] is None and seen["start"] is None


def test_pretrain_writes_weights_metrics_and_config(medlsam, no_training, tmp_path):
  words = ["--config", "configs/medlam.py:smoke", "--workdir", tmp_path / "run", "--network.base_channels", "1"]
  result = medlsam("pretrain", *words, "--data.scans=A,B", "--network.feature_scales=4", "--network.search_scales=none",
                   "--name", "mine",
                   "--objectives.mss.temperature", "10", "--objectives.vicreg.weight", "0.5")  # fmt: skip
  assert result.code == 0 and "time: 75.0% productive, 25.0% saving" in result.out
  settings = no_training["settings"]
  assert settings.data.scans == ("A", "B") and settings.network.base_channels == 1
  assert settings.objectives["mss"] == {"weight": 20.0, "temperature": 10}
  assert settings.objectives["vicreg"] == {"weight": 0.5} and seen_nothing_else(no_training)
  assert list((tmp_path / "run" / "tensorboard").iterdir())
  lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
  assert lines == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
  assert json.loads((tmp_path / "run" / "config.json").read_text())["name"] == "mine"
  from medlsam_jax.loading import load

  network = load(tmp_path / "run" / "mine.safetensors")
  assert network.module.base_channels == 1 and network.module.feature_scales == (4,)


def test_pretrain_starts_from_given_weights(medlsam, no_training, tmp_path):
  from medlsam_jax.loading import load

  words = ["--config", "configs/medlam.py:tiny", "--workdir", tmp_path / "run", "--start-from", "tiny"]
  assert medlsam("pretrain", *words).code == 0
  given = load("tiny").params["conv0"]["second"]["kernel"]
  np.testing.assert_array_equal(no_training["start"]["conv0"]["second"]["kernel"], given)
  result = medlsam("pretrain", *words, "--network.base_channels", "4")
  assert result.code == 2 and "multiple" in result.err


def test_unknown_field_of_the_config_is_an_error(medlsam, no_training, tmp_path):
  words = ["--config", "configs/medlam.py:smoke", "--workdir", tmp_path / "run", "--data.scan=A"]
  result = medlsam("pretrain", *words)
  assert result.code == 2 and "--data.scan: unknown setting" in result.err and "settings" not in no_training
  assert not (tmp_path / "run").exists()


def test_unknown_mode_of_the_config_is_an_error(medlsam, no_training, tmp_path):
  result = medlsam("pretrain", "--config", "configs/medlam.py:huge", "--workdir", tmp_path / "run")
  assert result.code == 2 and "huge" in result.err and "tiny" in result.err


def test_missing_training_packages_are_named(medlsam, tmp_path, monkeypatch):
  import sys

  monkeypatch.setitem(sys.modules, "medlsam_jax.medlam.pretraining.recipe", None)
  monkeypatch.delattr("medlsam_jax.medlam.pretraining.recipe", raising=False)
  result = medlsam("pretrain", "--config", "configs/medlam.py:smoke", "--workdir", tmp_path / "run")
  assert result.code == 2 and install_hint("train") in result.err


@pytest.mark.slow
def test_demo_runs_from_phantoms_to_the_picture(medlsam, painter, small_network_file, tmp_path, monkeypatch):
  from medlsam_jax.cli import demo
  from medlsam_jax.phantom import people as phantom

  original = phantom.make_phantom
  monkeypatch.setattr(phantom, "make_phantom", lambda seed, *_: original(seed, (12.0, 12.0, 12.0)))
  monkeypatch.setattr(demo, "ORGANS", ("liver", "sacrum"))
  words = ["--out", tmp_path / "demo", "--network", small_network_file, "--model", "none"]
  result = medlsam("demo", "--phantoms", *words)
  assert result.code == 0
  assert "box IoU" in result.out and "Dice" in result.out and "baseline IoU" in result.out
  picture = tmp_path / "demo" / "phantom_004_preview.png"
  assert f"picture: {picture}" in result.out and picture.exists()
  assert (tmp_path / "demo" / "evaluation.json").exists()
  assert "virtual patients or phantoms" in result.out


def test_demo_on_a_person_scores_the_scan_in_the_package(medlsam, painter, small_network_file, tmp_path, monkeypatch):
  monkeypatch.setenv("MEDLSAM_CACHE", str(tmp_path / "cache"))
  result = medlsam("demo", "--out", tmp_path / "demo", "--network", small_network_file, "--model", "none")
  assert result.code == 0, result.err
  assert "baseline IoU" in result.out and "mandible" in result.out and "seen without labels" in result.out
  assert "virtual patients or phantoms" not in result.out
  assert f"picture: {tmp_path / 'demo' / 'kbp_059_preview.png'}" in result.out


def test_demo_does_not_use_phantoms_of_the_training():
  from medlsam_jax.cli import demo
  from medlsam_jax.cli.settings import resolve
  from medlsam_jax.medlam.pretraining.settings import PretrainSettings

  data = resolve(PretrainSettings(), "configs/medlam.py:tiny", []).data
  trained = set(range(data.first_phantom_seed, data.first_phantom_seed + data.phantoms))
  trained |= set(range(10**6, 10**6 + data.validation_phantoms))
  assert not trained & {*demo.TEMPLATE_SEEDS, *demo.QUERY_SEEDS}
  assert not set(demo.TEMPLATE_SEEDS) & set(demo.QUERY_SEEDS)
