"""What a run watches while its steps go: metrics that are no numbers, and requests to stop."""

from __future__ import annotations

import collections
import contextlib
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from medlsam_jax.errors import MedlsamError

BEHIND = 2
"""Steps whose metrics are not looked at yet, so that the device does not wait for the host."""


class NotFinite(MedlsamError):
  """The loss stopped being a number."""


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


class Waiting:
  """Metrics that have not been looked at yet, with their batches."""

  def __init__(self, directory: Path):
    self._directory = directory
    self._entries = collections.deque[tuple[int, NamedTuple, Mapping[str, Any]]]()
    self._newest: dict[str, float] = {}

  def push(self, step: int, batch: NamedTuple, metrics: Mapping[str, Any]) -> None:
    """Adds a step and looks at those before the last one."""
    self._entries.append((step, batch, metrics))
    while len(self._entries) > BEHIND:
      self._look()

  def all(self) -> dict[str, float]:
    """Looks at every step so far; the newest one's metrics."""
    while self._entries:
      self._look()
    return dict(self._newest)

  def _look(self) -> None:
    step, batch, metrics = self._entries.popleft()
    self._newest = {name: float(value) for name, value in jax.device_get(metrics).items()}
    if all(map(math.isfinite, self._newest.values())):
      return
    path = self._directory / f"not_finite_step_{step}_process_{jax.process_index()}.npz"
    shards: dict[str, Any] = {
      name: np.concatenate([np.asarray(s.data) for s in sorted(a.addressable_shards, key=lambda s: s.device.id)])
      for name, a in batch._asdict().items()
    }
    np.savez_compressed(path, step=step, **shards)
    raise NotFinite(
      f"step {step}: a metric is no longer a number ({self._newest}); its batch is in {path}. "
      "Lower the learning rate and start the same command again"
    )
