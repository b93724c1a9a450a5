"""A trace of a few steps for the profiler of TensorBoard."""

from __future__ import annotations

from pathlib import Path

import jax

_FROM, _TO = 10, 13
"""Steps after the start that are traced: compiled and warm by then. A shorter run has its last step traced."""


class Trace:
  """Starts and ends the trace between steps; without a folder nothing is traced."""

  def __init__(self, folder: Path | None):
    self._folder, self._running = folder, False

  @property
  def wanted(self) -> bool:
    """Whether there is a folder for it."""
    return self._folder is not None

  def before(self, steps_done: int, steps: int) -> None:
    """Says that a step begins, the program's number `steps_done` of `steps`."""
    if self._folder is not None and steps_done == min(_FROM, steps - 1):
      jax.profiler.start_trace(str(self._folder))
      self._running = True
    elif steps_done == _TO:
      self.end()

  def end(self) -> None:
    """Writes what was traced."""
    if self._running:
      jax.profiler.stop_trace()
      self._running = False
