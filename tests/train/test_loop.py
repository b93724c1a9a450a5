"""The whole engine around a linear model: it is killed, goes on, and goes on over other devices."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import linear_run
import numpy as np
import pytest

from medlsam_jax import platform
from medlsam_jax.errors import ConfigError
from medlsam_jax.notices import MedlsamWarning
from medlsam_jax.train import checkpoint


def started(directory, devices=1, **arguments):
  """The run as a program of its own."""
  flags = f"--xla_force_host_platform_device_count={devices}"
  words = [sys.executable, linear_run.__file__, str(directory), json.dumps(arguments)]
  environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
  return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def reports(lines):
  """Figures by step."""
  by_step = {}
  for line in lines:
    row = json.loads(line)
    by_step.setdefault(row.pop("step"), {}).update(row)
  return by_step


def finished(process):
  out, err = process.communicate(timeout=120)
  assert process.returncode == 0, err[-3000:]
  return reports(out.splitlines())


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
  folder = tmp_path_factory.mktemp("unbroken")
  return finished(started(folder)), folder


def test_it_learns_and_measures(unbroken):
  figures = unbroken[0]
  assert sorted(figures) == [1, 2, 3, 4, 5, 6]
  assert float.fromhex(figures[6]["loss"]) < float.fromhex(figures[1]["loss"])
  assert [step for step, each in figures.items() if "slope_error" in each] == [3, 6]


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "asked to end"])
def test_a_run_that_was_ended_goes_on_to_the_very_bit(unbroken, tmp_path, sent):
  process, lines = started(tmp_path, seconds=0.5), []
  for line in process.stdout:
    lines.append(line)
    if json.loads(line)["step"] == 3:
      process.send_signal(sent)
      break
  process.communicate(timeout=120)
  assert process.returncode not in (0, None)
  kept = checkpoint.steps_in(tmp_path / "checkpoints")
  assert kept and max(kept) < 6
  rest = finished(started(tmp_path))
  assert sorted(rest) == list(range(max(kept) + 1, 7))
  assert rest == {step: unbroken[0][step] for step in rest}


@pytest.mark.parametrize("mesh", [{"data": 8}, {"data": 4, "model": 2}], ids=["data", "data and model"])
def test_eight_devices_go_on_where_one_stopped(unbroken, tmp_path, mesh):
  linear_run.run(tmp_path, optimizer={"total_steps": 2})
  rest = finished(started(tmp_path, devices=8, mesh=mesh))
  assert sorted(rest) == [3, 4, 5, 6]
  for step, figures in rest.items():
    whole = [float.fromhex(each["loss"]) for each in (figures, unbroken[0][step])]
    assert whole[0] == pytest.approx(whole[1], rel=1e-5)


def test_the_last_state_is_given_or_the_best(tmp_path):
  last = linear_run.run(tmp_path / "last")
  assert (last.step, last.metrics) == (6, {})
  errors = {}

  def report(step, metrics):
    errors.update({step: metrics["slope_error"]} if "slope_error" in metrics else {})

  # a rate so high that the slopes get worse after each step that is measured
  best = linear_run.run(tmp_path / "best", report, gives_best=True, optimizer={"learning_rate": 50.0})
  assert set(errors) == {0, 3, 6} and min(errors, key=errors.get) == 0
  assert best.step == 0 and best.metrics == {"slope_error": errors[0]}
  np.testing.assert_array_equal(best.state.params["slopes"], 0)


def test_a_run_on_other_data_warns_and_one_of_another_origin_ends(tmp_path, monkeypatch):
  linear_run.run(tmp_path, optimizer={"total_steps": 2})
  identity = linear_run.Identity
  monkeypatch.setattr(linear_run, "Identity", lambda _: identity("a sphere", "points"))
  with pytest.warns(MedlsamWarning, match="resuming at step 2 with other points than before"):
    linear_run.run(tmp_path, optimizer={"total_steps": 4})
  monkeypatch.setattr(linear_run, "Identity", lambda _: identity("a sphere", differs=lambda *_: "is of another run"))
  with pytest.raises(ConfigError, match="checkpoints: is of another run"):
    linear_run.run(tmp_path)


def test_a_profile_traces_the_last_step_of_a_short_run(tmp_path):
  from medlsam_jax.train import loop

  settings = linear_run.from_mapping(linear_run.RunSettings, linear_run.SETTINGS)
  recipe = linear_run.linear_recipe(settings, loop.begin(settings))
  loop.train(recipe, tmp_path, profile=tmp_path / "profile")
  assert list(Path(tmp_path / "profile").rglob("*.xplane.pb"))


def test_records_say_what_share_of_a_known_peak_the_steps_use(tmp_path, monkeypatch):
  monkeypatch.setattr(platform, "peak_flop_s", lambda device: 1e6)
  lines = []
  linear_run.run(tmp_path, lambda step, figures: lines.append(figures))
  paces = [each for each in lines if "seconds_per_step" in each]
  # a product forward and one for the gradient
  flop = 2 * 2 * linear_run.PER_STEP * linear_run.WIDTH
  assert len(paces) == 6
  assert [each["mfu"] for each in paces] == pytest.approx([flop / 1e6 / each["seconds_per_step"] for each in paces])


def test_a_cpu_has_no_peak_to_use(tmp_path):
  lines = []
  linear_run.run(tmp_path, lambda step, figures: lines.append(figures))
  assert lines and not any("mfu" in each for each in lines)
