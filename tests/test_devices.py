"""What is said where a GPU or TPU was meant and cannot be used: once, with the reason, and without a traceback."""

import logging
import os
import subprocess
import sys

import jax
import pytest

from medlsam_jax import platform
from medlsam_jax.errors import DeviceError
from medlsam_jax.notices import MedlsamWarning

find = platform.require_devices.__wrapped__


def complaining(then):
  """As JAX where the plugin's libraries do not load, or the driver is too old for them."""

  def devices():
    try:
      raise RuntimeError("Unable to load CUDA. Is it installed?") from OSError("the driver is too old\nfor it")
    except RuntimeError:
      logging.getLogger("jax._src.xla_bridge").exception("Jax plugin configuration error")
    return then()

  return devices


def no_device():
  raise AssertionError  # what JAX 0.10 gives for JAX_PLATFORMS=cuda without a GPU


def test_a_plugin_without_a_device_is_told_of_once(monkeypatch):
  monkeypatch.setattr(platform, "may_have_accelerator", lambda: True)
  platform.require_devices.cache_clear()
  with pytest.warns(MedlsamWarning, match="all runs on the CPU.*finds no device.*JAX_PLATFORMS=cpu") as said:
    platform.backend()
    platform.device()
  assert len(said) == 1


def test_why_it_cannot_be_used_is_said_in_a_line(monkeypatch, capsys, caplog):
  monkeypatch.setattr(jax, "devices", complaining(jax.devices))
  with pytest.warns(MedlsamWarning, match="Unable to load CUDA.*because of the driver is too old for it"):
    find()
  assert not caplog.records and "Traceback" not in capsys.readouterr().err


def test_where_nothing_is_amiss_nothing_is_said(monkeypatch):
  monkeypatch.setattr(platform, "may_have_accelerator", lambda: False)
  find()  # a warning would fail the test


def test_what_jax_says_beside_a_device_that_works_is_passed_on(monkeypatch, caplog):
  gpu = type("Gpu", (), {"platform": "gpu"})
  monkeypatch.setattr(jax, "devices", complaining(lambda: [gpu]))
  find()
  assert ["plugin configuration error" in each.getMessage() for each in caplog.records] == [True]


def test_a_device_that_is_asked_for_and_not_there_is_a_named_error(monkeypatch):
  monkeypatch.setenv("JAX_PLATFORMS", "cuda")
  monkeypatch.setattr(jax, "devices", complaining(no_device))
  with pytest.raises(DeviceError, match=r"JAX_PLATFORMS=cuda: no such device.*the driver is too old"):
    find()


def test_a_gpu_that_jax_does_not_start_with_is_a_named_error(monkeypatch):
  def refused():
    raise RuntimeError("Unable to initialize backend 'cuda': FAILED_PRECONDITION: No visible GPU devices.\nmuch more")

  monkeypatch.delenv("JAX_PLATFORMS", raising=False)
  monkeypatch.setattr(jax, "devices", refused)
  with pytest.raises(
    DeviceError, match=r"the GPU or TPU here cannot be used .*No visible GPU devices\.\); with"
  ) as said:
    find()
  assert "much more" not in str(said.value)


def test_a_command_ends_in_a_line_where_the_device_that_is_asked_for_is_not_there(tmp_path):
  words = ["localize", "--network", "tiny", "--bank", "demo", "--query", str(tmp_path), "--out", str(tmp_path / "out")]
  (tmp_path / "a_ct.nii.gz").write_bytes(b"")
  done = subprocess.run(
    [sys.executable, "-m", "medlsam_jax.cli.main", *words],
    env=os.environ | {"JAX_PLATFORMS": "cuda"},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2 and done.stderr.count("medlsam: JAX_PLATFORMS=cuda: no such device") == 1
  assert "Traceback" not in done.stderr
