"""Whole runs with a stand-in network: resuming, stopping, many devices, many processes, broken numbers."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_run

from medlsam_jax.errors import ConfigError
from medlsam_jax.medlam.pretraining import export, recipe
from medlsam_jax.notices import MedlsamWarning
from medlsam_jax.train import checkpoint
from medlsam_jax.train.late_metrics import NotFinite
from medlsam_jax.train.records import Records
from medlsam_jax.train.sigterm import Stopped

# the processes that tests start have the same compiler: the same losses need it
pytestmark = pytest.mark.usefixtures("quick_compiler")
RTOL = 1e-5


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
  small_run.replace_network_and_scans(monkeypatch.setattr)


def losses_of(settings, directory, **more):
  found = {}

  def report(step, metrics):
    if "loss" in metrics:
      found[step] = metrics["loss"]

  recipe.run(settings, directory, report, **more)
  return found


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, quick_compiler):
  """Losses of six steps, and the folder with a checkpoint after the third and the sixth."""
  with pytest.MonkeyPatch.context() as patch:
    small_run.replace_network_and_scans(patch.setattr)
    folder = tmp_path_factory.mktemp("unbroken")
    return losses_of(small_run.settings(checkpoint={"every_steps": 3}), folder), folder


def assert_same(found, wanted):
  assert sorted(found) == sorted(wanted)
  np.testing.assert_allclose([found[s] for s in sorted(found)], [wanted[s] for s in sorted(wanted)], rtol=RTOL)


def test_a_run_stopped_by_sigterm_goes_on_as_if_it_never_had(unbroken, tmp_path):
  found = {}

  def report(step, metrics):
    found[step] = metrics["loss"]
    if step == 2:
      os.kill(os.getpid(), signal.SIGTERM)

  settings = small_run.settings()
  with pytest.raises(Stopped, match="after step 3"):
    recipe.run(settings, tmp_path, report)
  assert checkpoint.steps_in(tmp_path / "checkpoints") == [3]
  assert_same(found | losses_of(settings, tmp_path), unbroken[0])
  assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_every_option_of_the_optimizer_at_once_trains_and_exports_the_average(tmp_path):
  optimizer = {"kind": "adamw", "ema_decay": 0.5, "accumulate": 2, "clip_norm": 1.0, "warmup_steps": 2, "l2": 0.1}
  masked = {"masked_volume": {"cell": 4}, "uam": {"weight": 1e-3}, "mss": {"weight": 0.0}}
  settings = small_run.settings(optimizer={"total_steps": 3, **optimizer}, objectives=masked)
  found = []
  params = recipe.run(settings, tmp_path, lambda _, metrics: found.append(metrics))
  assert np.isfinite([m["loss"] for m in found]).all() and "mss" not in found[0]
  assert {"loader_wait_share", "scans_per_second", "masked_volume", "uam_error_mm"} <= set(found[0])
  network, saved, step = export.read_network(tmp_path / "checkpoints")
  assert step == 3 and saved == settings
  np.testing.assert_array_equal(network["fc1"]["kernel"], params["fc1"]["kernel"])


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_batch(tmp_path, monkeypatch):
  small_run.replace_network_and_scans(monkeypatch.setattr, spoilt=True)
  with pytest.raises(NotFinite, match="step 1"):
    recipe.run(small_run.settings(), tmp_path)
  (saved,) = tmp_path.glob("not_finite_step_1_*.npz")
  assert np.isnan(np.load(saved)["cubes"]).any()
  assert checkpoint.steps_in(tmp_path / "checkpoints") == []


def test_a_checkpoint_of_another_network_is_refused(unbroken):
  with pytest.raises(ConfigError, match="does not fit"):
    recipe.run(small_run.settings(network={"base_channels": 3}), unbroken[1])


def test_a_run_that_lost_its_newest_checkpoint_goes_on_from_the_one_before_and_reports_each_step_once(
  unbroken, tmp_path
):
  shutil.copytree(unbroken[1], tmp_path, dirs_exist_ok=True)
  (tmp_path / "checkpoints" / "6" / "state" / "_METADATA").unlink()
  earlier = [{"step": k, "loss": 0.0, "seconds_per_step": 2.0} for k in range(1, 7)]
  (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in earlier))
  settings = small_run.settings(checkpoint={"every_steps": 3})
  records = Records(tmp_path, settings)
  with pytest.warns(MedlsamWarning, match=r"step 6: .*going on from step 3"):
    recipe.run(settings, tmp_path, records)
  records.close()
  assert (records.lost_steps, records.lost_seconds) == (3, 6.0)
  lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
  assert_same({line["step"]: line["loss"] for line in lines[3:]}, {k: unbroken[0][k] for k in (4, 5, 6)})
  assert checkpoint.steps_in(tmp_path / "checkpoints") == [3, 6]
  assert json.loads((tmp_path / "config.json").read_text())["checkpoint"]["every_steps"] == 3


def test_a_run_is_not_cut_back_to_fewer_steps_than_it_has_done(unbroken):
  with pytest.raises(ConfigError, match=r"optimizer.total_steps 5: .* is of step 6 already"):
    recipe.run(small_run.settings(optimizer={"total_steps": 5}), unbroken[1])


def started(directory, overrides, devices):
  environment = {
    **os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
  }  # fmt: skip
  words = [sys.executable, str(Path(small_run.__file__)), str(directory), json.dumps(overrides)]
  return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def losses_from(process, seconds=600):
  out, err = process.communicate(timeout=seconds)
  assert process.returncode == 0, err[-3000:]
  rows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
  return {row["step"]: row["loss"] for row in rows}


@pytest.mark.slow
def test_eight_devices_go_on_where_one_stopped_and_give_the_same_losses(unbroken, tmp_path):
  shutil.copytree(unbroken[1] / "checkpoints" / "3", tmp_path / "checkpoints" / "3")
  found = losses_from(started(tmp_path, {"mesh": {"data": 4, "model": 2}}, devices=8))
  assert_same(found, {step: loss for step, loss in unbroken[0].items() if step > 3})


def of_a_cluster(directory, devices, **sections):
  """Two processes of one run."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    coordinator = f"127.0.0.1:{free.getsockname()[1]}"
  cluster = {"kind": "flags", "coordinator": coordinator, "processes": 2, "timeout_seconds": 10}
  return [
    started(directory, {**sections, "cluster": {**cluster, "process": number}}, devices=devices) for number in range(2)
  ]


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(unbroken, tmp_path):
  for process in of_a_cluster(tmp_path, devices=4):
    assert_same(losses_from(process), unbroken[0])


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_when_a_host_dies_the_other_ends_with_an_error(tmp_path, lost):
  both = of_a_cluster(tmp_path, devices=1, optimizer={"total_steps": 1_000_000})
  for process in both:
    assert process.stdout.readline()  # it trains
  both[lost].kill()
  both[lost].communicate(timeout=60)
  out_and_error = both[1 - lost].communicate(timeout=60)
  assert both[1 - lost].returncode not in (0, None), out_and_error[1][-1000:]
