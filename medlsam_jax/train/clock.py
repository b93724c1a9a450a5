"""How much of a run is done where the clock ends it: `optimizer.total_seconds`."""

from __future__ import annotations

import time
from collections.abc import Callable

import jax
import numpy as np

from medlsam_jax.errors import ConfigError
from medlsam_jax.train.settings import OptimizerSettings

_LOOKS_EVERY_STEPS = 10
"""Several processes agree on the time this often; in between each counts on at the pace so far, alike."""


class Clock:
  """Share of a run that is done, by the time or by the steps, whichever is further.

  The time runs from the start of the program, so that compiling counts; the share rises from the end of the first step,
  which compiles, on. What an earlier program did of a resumed run stays done: the rest is spread over the new time.
  """

  def __init__(
    self, settings: OptimizerSettings, began: float, done: float = 0.0, now: Callable[[], float] = time.perf_counter
  ):
    """`began`: when the program did, by `now`; `done`: share of the run that is done already."""
    self._settings, self._began, self._done, self._now = settings, began, done, now
    self._first = self._last_look = (0, 0.0)
    self._pace = 0.0

  @property
  def runs(self) -> bool:
    """Whether time ends the run."""
    return self._settings.total_seconds > 0

  def compiled(self, step: int) -> None:
    """Starts the share's rise, after the program's first step.

    Raises:
      ConfigError: compiling has used up the time.
    """
    spent = self._agreed(self._now() - self._began)
    if self.runs and spent >= self._settings.total_seconds:
      raise ConfigError(
        f"optimizer.total_seconds {self._settings.total_seconds:g}: reading, compiling and the first step took "
        f"{spent:.0f} s alone; give more time"
      )
    self._first = self._last_look = (step, spent)

  def share(self, step: int) -> float:
    """What is done before a step, from 0 to 1; 1 ends the run."""
    by_steps = step / self._settings.total_steps
    if not self.runs:
      return min(by_steps, 1.0)
    first_step, first_seconds = self._first
    looked_at, seconds = self._last_look
    if first_step and step >= looked_at + _LOOKS_EVERY_STEPS:
      seconds = self._agreed(self._now() - self._began)
      self._pace = (seconds - first_seconds) / (step - first_step)
      looked_at = step
      self._last_look = (step, seconds)
    spent = seconds + self._pace * (step - looked_at) - first_seconds
    left = self._settings.total_seconds - first_seconds
    by_time = self._done + (1 - self._done) * spent / left if first_step else self._done
    return float(np.clip(max(by_steps, by_time), 0.0, 1.0))

  def _agreed(self, seconds: float) -> float:
    """The first process's time, in every process."""
    if not self.runs or jax.process_count() == 1:
      return seconds
    from jax.experimental import multihost_utils

    return float(multihost_utils.broadcast_one_to_all(np.float32(seconds)))
