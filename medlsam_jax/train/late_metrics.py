"""Metrics that are looked at some steps late, so that the device does not wait for the host, and must be numbers."""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from medlsam_jax.errors import MedlsamError
from medlsam_jax.train.run_folder import whole_file

BEHIND = 2
"""Steps whose metrics are not looked at yet."""


class NotFinite(MedlsamError):
  """The loss stopped being a number."""


class LateMetrics:
  """Metrics that have not been looked at yet, with their batches."""

  def __init__(self, directory: epath.Path):
    self._directory = directory
    self._entries = collections.deque[tuple[int, NamedTuple, Mapping[str, jax.Array]]]()
    self._newest: dict[str, float] = {}

  def push(self, step: int, batch: NamedTuple, metrics: Mapping[str, jax.Array]) -> None:
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
    with whole_file(path) as part, part.open("wb") as file:
      np.savez_compressed(file, step=step, **shards)
    raise NotFinite(
      f"step {step}: a metric is no longer a number ({self._newest}); its batch is in {path}. "
      "Lower the learning rate and start the same command again"
    )
