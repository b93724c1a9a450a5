"""What a newcomer sees: help with an example, quick, and clear words for a wrong call."""

import os
import re
import signal
import subprocess
import sys

import pytest

from medlsam_jax.cli import main as command_line

CALLS = (
  ["demo"], ["weights"], ["weights", "get"], ["weights", "list"], ["convert"], ["bank"], ["bank", "build"],
  ["bank", "info"], ["bank", "check"], ["localize"], ["segment"], ["evaluate"], ["pretrain"], ["data"],
  ["data", "prepare"], ["data", "check"], ["probe"], ["export"], ["finetune"], ["study"], ["study", "prompts"],
  ["doctor"], ["completion"],
)  # fmt: skip


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_help_of_every_command_has_an_example(medlsam, call):
  result = medlsam(*call, "--help")
  assert result.code == 0
  assert "example:\n  medlsam " + call[0] in result.out


def test_help_names_every_command(medlsam):
  result = medlsam("--help")
  assert result.code == 0
  for module in command_line.COMMANDS:
    assert re.search(rf"\n    {module.__name__.rpartition('.')[2]}\s", result.out)


def test_help_loads_no_heavy_library():
  code = (
    "import sys\nfrom medlsam_jax.cli.main import main\n"
    "assert main(['localize', '--help']) == 0 and main(['--help']) == 0\n"
    "heavy = {'jax', 'flax', 'nibabel', 'matplotlib', 'scipy', 'numpy', 'rich', 'ml_collections'} & set(sys.modules)\n"
    "assert not heavy, heavy"
  )
  subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_version(medlsam):
  result = medlsam("--version")
  assert result.code == 0 and result.out.startswith("medlsam_jax ")


@pytest.mark.parametrize(
  ("call", "words"),
  [
    ([], "usage"),
    (["paint"], "invalid choice"),
    (["localize"], "--query"),
    (["localize", "--query", "x.nii.gz"], "--templates PATH"),
    (["localize", "--query", "x", "--templates", "t", "--bank", "b"], "one of them"),
    (["localize", "--query", "x", "--bank", "b", "--mode", "WPL"], "--mode is about building"),
    (["segment", "--query", "x", "--boxes", "b", "--templates", "t"], "--templates is about finding"),
    (["segment", "--query", "x", "--templates", "t", "--wrong", "1"], "--wrong"),
    (["bank", "info", "b", "--wrong"], "unknown argument --wrong"),
    (["localize", "--query", "x", "--templates", "t", "--steps", "0"], "at least 1"),
    (["localize", "--query", "x", "--templates", "t", "--organs", ","], "separated by commas"),
    (["segment", "--template", "t", "--query", "x"], "unknown argument --template; did you mean --templates?"),
    (["segment", "--templates", "t", "--quer", "x"], "unknown argument --quer; did you mean --query?"),
    (["localize", "--templats=t", "--query", "x"], "did you mean --templates?"),
    (["bank", "build", "t", "--outt", "x"], "did you mean --out?"),
    (["segment", "--query", "x", "--colour", "red"], "--colour: unknown setting"),
    (["evaluate", "--predictions", "p"], "--truth"),
    (["evaluate", "--query", "q", "--compare", "slices", "--boxes-from", "guessed"], "invalid choice"),
    (["evaluate", "--query", "q", "--bank", "b", "--seconds", "5"], "--seconds is about --compare"),
    (["evaluate", "--query", "q", "--compare", "slices"], "give --templates PATH"),
    (["evaluate", "--query", "q", "--compare", "slices", "--bank", "b", "--boxes-from", "labels"], "leave --templates"),
    (["evaluate", "--query", "q", "--compare", "slices", "--axes", "all"], "--axes and --compare do not go together"),
    (["evaluate", "--query", "q", "--compare", "a=x,a=y", "--bank", "b"], "two ways called a"),
    (["evaluate", "--query", "q", "--compare", "tight", "--bank", "b"], "--boxes-from labels"),
    (["evaluate", "--query", "q", "--compare", "a.st", "--bank", "b", "--model", "m"], "--model is what slices"),
    (["evaluate", "--compare", "slices", "--boxes-from", "labels"], "--query PATH"),
  ],
  ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_wrong_call_says_what_is_wrong(medlsam, call, words):
  result = medlsam(*call)
  assert result.code == 2 and words in result.err and "Traceback" not in result.err


def test_interrupt_is_130(medlsam, monkeypatch):
  from medlsam_jax.cli import weights

  def interrupt(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(weights, "run_list", interrupt)
  assert medlsam("weights", "list").code == 130


def test_errors_stand_in_one_line(medlsam, tmp_path):
  result = medlsam("bank", "info", tmp_path / "none.safetensors")
  assert result.code == 2 and result.err.count("\n") == 1 and result.err.startswith("medlsam: ")


@pytest.fixture
def heeded_interrupt():
  """Ctrl-C as a terminal's program has it: a shell starts what runs in the background, as CI does, with it ignored."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded_interrupt")
def test_interrupt_that_a_library_swallows_still_stops_the_command(medlsam, monkeypatch):
  """JAX drops an interrupt that meets it in a callback of the garbage collector."""
  from medlsam_jax.cli import weights

  steps = []

  def run(arguments, terminal):
    try:
      os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
      steps.append("swallowed")
    with terminal.bar("going on") as report:
      steps.append("not reached")
      report(1, 2)
    return 0

  monkeypatch.setattr(weights, "run_list", run)
  assert medlsam("weights", "list").code == 130
  assert steps == ["swallowed"]


def test_interrupt_that_was_set_to_be_ignored_stays_ignored(medlsam, monkeypatch):
  from medlsam_jax.cli import weights

  def run(arguments, terminal):
    os.kill(os.getpid(), signal.SIGINT)
    return 0

  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    monkeypatch.setattr(weights, "run_list", run)
    assert medlsam("weights", "list").code == 0
  finally:
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded_interrupt")
def test_interrupt_that_becomes_another_error_is_still_130(medlsam, monkeypatch):
  from medlsam_jax.cli import weights

  def run(arguments, terminal):
    try:
      os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt as error:
      raise ImportError("Encountered an error while initializing the extension") from error

  before = signal.getsignal(signal.SIGINT)
  monkeypatch.setattr(weights, "run_list", run)
  result = medlsam("weights", "list")
  assert result.code == 130 and "Traceback" not in result.err
  assert signal.getsignal(signal.SIGINT) is before
