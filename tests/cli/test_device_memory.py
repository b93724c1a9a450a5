"""A command whose program does not fit into the device's memory ends in a line that says what to do."""

from pathlib import Path

import jax
import pytest

from medlsam_jax.cli import weights
from medlsam_jax.cli.main import BAD_INPUT, main
from medlsam_jax.cli.many_scans import run_over
from medlsam_jax.cli.terminal import Terminal
from medlsam_jax.io.scans import ListedScan


def failing(message):
  def run(arguments, terminal):
    raise jax.errors.JaxRuntimeError(message)

  return run


def test_full_memory_is_a_line_and_no_traceback(monkeypatch, capsys):
  monkeypatch.setattr(weights, "run_list", failing("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmuch more"))
  assert main(["weights", "list"]) == BAD_INPUT
  said = capsys.readouterr().err
  assert "memory is full" in said and "JAX_PLATFORMS=cpu" in said and "9 bytes" in said and "much more" not in said


@pytest.mark.parametrize(
  "message",
  [
    "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.",
    "INTERNAL: cuMemAlloc failed: CUDA_ERROR_OUT_OF_MEMORY: out of memory",
    "FAILED_PRECONDITION: DNN library initialization failed. Look at the errors above for more details.",
  ],
)
def test_a_scan_for_which_a_shared_card_does_not_suffice_is_no_defect_of_the_program(message, capsys):
  """Two programs on one card: the second gets no memory, or not even its libraries to start."""
  terminal, scans = Terminal(), [ListedScan(Path(name), name) for name in ("a", "b")]

  def make(scan, title):
    if scan.name == "a":
      raise jax.errors.JaxRuntimeError(message + "\nmuch more")
    return scan.name

  summary = run_over(terminal, scans, make, lambda title, made: (), lambda name: False)
  assert summary.done == ["b"] and message in summary.failed["a"]
  assert "XLA_PYTHON_CLIENT_PREALLOCATE" in summary.failed["a"] and "defect" not in summary.failed["a"]
  assert "Traceback" not in capsys.readouterr().err


def test_other_failures_of_a_program_are_shown_whole(monkeypatch):
  monkeypatch.setattr(weights, "run_list", failing("INTERNAL: a kernel failed"))
  with pytest.raises(jax.errors.JaxRuntimeError, match="a kernel failed"):
    main(["weights", "list"])
