"""Requests to stop: a run ends after the step that it is in, with its state kept."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

import jax

from medlsam_jax.errors import MedlsamError


class Stopped(MedlsamError):
  """The run was asked to stop (SIGTERM) and has kept its state."""


@contextlib.contextmanager
def stops_on_sigterm() -> Iterator[Callable[[int], bool]]:
  """Gives a function that tells, after a step, whether this or another process was asked to stop."""
  asked = threading.Event()
  main = threading.current_thread() is threading.main_thread()
  if jax.process_count() > 1:
    # JAX's own handler tells the other processes, so that all stop after the same step
    from jax.experimental import multihost_utils

    yield multihost_utils.reached_preemption_sync_point
    return
  before = signal.signal(signal.SIGTERM, lambda *_: asked.set()) if main else None
  try:
    yield lambda step: asked.is_set()
  finally:
    if main:
      signal.signal(signal.SIGTERM, before)
