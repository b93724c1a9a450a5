"""A command whose program does not fit into the device's memory ends in a line that says what to do."""

import jax
import pytest

from medlsam_jax.cli import weights
from medlsam_jax.cli.main import BAD_INPUT, main


def failing(message):
  def run(arguments, terminal):
    raise jax.errors.JaxRuntimeError(message)

  return run


def test_full_memory_is_a_line_and_no_traceback(monkeypatch, capsys):
  monkeypatch.setattr(weights, "run_list", failing("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmuch more"))
  assert main(["weights", "list"]) == BAD_INPUT
  said = capsys.readouterr().err
  assert "memory is full" in said and "JAX_PLATFORMS=cpu" in said and "9 bytes" in said and "much more" not in said


def test_other_failures_of_a_program_are_shown_whole(monkeypatch):
  monkeypatch.setattr(weights, "run_list", failing("INTERNAL: a kernel failed"))
  with pytest.raises(jax.errors.JaxRuntimeError, match="a kernel failed"):
    main(["weights", "list"])
