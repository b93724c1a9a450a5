"""What a command sets before JAX loads: kept compiled programs and the allocator."""

import json
import os
import subprocess
import sys
import warnings
from unittest import mock

import pytest

from medlsam_jax.cli import startup
from medlsam_jax.cli.terminal import Terminal


@pytest.fixture
def quiet_environment(monkeypatch, tmp_path):
  for name in (startup.COMPILED_VARIABLE, "JAX_COMPILATION_CACHE_DIR", *startup._JAX_SETTINGS, *startup._READ_ONLY):
    # set first, so that what the code under test writes is taken back as well
    monkeypatch.setenv(name, "")
    monkeypatch.delenv(name)
  monkeypatch.setenv("MEDLSAM_CACHE", str(tmp_path))
  return tmp_path


def test_programs_are_kept_in_the_users_cache_by_kind_of_processor(quiet_environment):
  told = []
  startup.keep_compiled_programs(told.append)
  folder = os.environ["JAX_COMPILATION_CACHE_DIR"]
  assert folder.startswith(str(quiet_environment / "compiled") + os.sep) and os.path.isdir(folder)
  assert os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] == str(startup.COMPILED_LIMIT_BYTES) and told == []


@pytest.mark.parametrize(("name", "value"), [("MEDLSAM_COMPILED", "off"), ("JAX_COMPILATION_CACHE_DIR", "/elsewhere")])
def test_off_and_the_users_own_jax_settings_are_left_alone(quiet_environment, monkeypatch, name, value):
  monkeypatch.setenv(name, value)
  startup.keep_compiled_programs(pytest.fail)
  assert os.environ.get("JAX_COMPILATION_CACHE_DIR") == (value if name.startswith("JAX") else None)
  assert "JAX_COMPILATION_CACHE_MAX_SIZE" not in os.environ and not (quiet_environment / "compiled").exists()


def test_folder_that_cannot_be_written_is_said_and_done_without(quiet_environment, monkeypatch):
  (quiet_environment / "file").write_text("")
  monkeypatch.setenv("MEDLSAM_COMPILED", str(quiet_environment / "file"))
  told = []
  startup.keep_compiled_programs(told.append)
  assert len(told) == 1 and "MEDLSAM_COMPILED" in told[0] and "JAX_COMPILATION_CACHE_DIR" not in os.environ


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_of_jaxs_own_setting_that_cannot_be_written_is_said_and_only_read(
  quiet_environment, monkeypatch, there
):
  (quiet_environment / "file").write_text("")
  folder = quiet_environment / ("kept" if there else "file/kept")
  if there:
    folder.mkdir()
    monkeypatch.setattr(startup.tempfile, "TemporaryFile", mock.Mock(side_effect=PermissionError(13, "Denied")))
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder))
  told = []
  startup.keep_compiled_programs(told.append)
  assert len(told) == 1 and str(folder) in told[0] and "compiled programs cannot be kept" in told[0]
  assert float(os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"]) > 1e6
  assert ("JAX_COMPILATION_CACHE_DIR" in os.environ) == there


def test_a_disk_that_fills_up_is_one_line_and_not_one_for_each_program(capsys):
  with Terminal().warnings_as_lines():
    for name in ("jit_run", "jit_cut"):
      warnings.warn(f"Error writing persistent compilation cache entry for '{name}': OSError: no space", stacklevel=1)
  assert capsys.readouterr().err.count("no space") == 1


def test_a_process_with_jax_keeps_its_settings(quiet_environment):
  import jax  # noqa: F401

  startup.prepare(pytest.fail)
  assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_the_second_start_finds_the_program_of_the_first(tmp_path):
  code = (
    "import sys, json\nfrom medlsam_jax.cli import startup\nstartup.prepare(print)\nassert 'jax' not in sys.modules\n"
    "import jax\nhits = []\njax.monitoring.register_event_listener(lambda name, **_: hits.append(name))\n"
    "jax.jit(lambda x: x * 3 + 1)(2.0).block_until_ready()\n"
    "print(json.dumps([sum(h.endswith('cache_hits') for h in hits), sum(h.endswith('cache_misses') for h in hits)]))"
  )
  environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
  environment |= {"MEDLSAM_CACHE": str(tmp_path), "JAX_PLATFORMS": "cpu"}
  environment.pop("MEDLSAM_COMPILED", None)
  counts = []
  for _ in range(2):
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    counts.append(json.loads(done.stdout.splitlines()[-1]))
  assert counts[0][0] == 0 and counts[0][1] > 0
  assert counts[1][0] == counts[0][1] and counts[1][1] == 0


@pytest.mark.parametrize(("command", "kept"), [("localize", True), ("pretrain", False), ("finetune", False)])
def test_the_allocator_is_thrifty_for_inference_and_left_alone_for_training(tmp_path, command, kept):
  """A command that fails at once, in a process that notes whether the allocator was set."""
  call = {
    "localize": ["localize", "--query", "missing", "--bank", "missing"],
    "pretrain": ["pretrain", "--config", "missing", "--workdir", str(tmp_path / "run")],
    "finetune": ["finetune", "--config", "missing", "--workdir", str(tmp_path / "run")],
  }[command]
  code = (
    "import sys\nfrom medlsam_jax.cli import startup\nfrom medlsam_jax.cli.main import main\n"
    "startup.keep_freed_memory = lambda: print('kept')\n"
    f"code = main({call!r})\nassert code == 2, code"
  )
  environment = os.environ | {"MEDLSAM_CACHE": str(tmp_path)}
  done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
  assert ("kept" in done.stdout.split()) == kept


def test_notes_of_the_libraries_beneath_do_not_reach_the_user(tmp_path):
  code = (
    "from medlsam_jax.cli import startup\nstartup.prepare(print)\nimport os\nfrom absl import logging\n"
    "logging.warning('a note')\nlogging.error('a fault')\nprint(os.environ['TF_CPP_MIN_LOG_LEVEL'])"
  )
  environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"} | {"MEDLSAM_CACHE": str(tmp_path)}
  done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
  assert "a note" not in done.stderr and "a fault" in done.stderr and done.stdout.strip() == "3"
