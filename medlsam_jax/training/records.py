"""Metrics of a run as JSON lines and for TensorBoard, and how fast it goes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import jax
from tensorboardX import SummaryWriter

from medlsam_jax.errors import OutputError

METRICS, TENSORBOARD = "metrics.jsonl", "tensorboard"


class Records:
  """Writes each report into a run's folder; values a resumed run reports again stand after the earlier ones."""

  def __init__(self, directory: Path):
    self._path = directory / METRICS
    try:
      directory.mkdir(parents=True, exist_ok=True)
      self._board = SummaryWriter(str(directory / TENSORBOARD), write_to_disk=True)
    except OSError as error:
      raise OutputError(f"{directory}: cannot be written ({error.strerror})") from error

  def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
    """Records one report.

    Raises:
      OutputError: the files cannot be written.
    """
    try:
      with open(self._path, "a") as file:
        file.write(json.dumps({"step": step, **{name: round(value, 6) for name, value in metrics.items()}}) + "\n")
      for name, value in metrics.items():
        self._board.add_scalar(name, value, step)
    except OSError as error:
      raise OutputError(f"{self._path}: cannot be written ({error.strerror})") from error

  def close(self) -> None:
    """Writes what is buffered."""
    self._board.close()


class Pace:
  """Seconds a step, scans a second, share of the time spent waiting for the loader, and memory of the first device."""

  def __init__(self, scans_per_step: int):
    self._scans = scans_per_step
    self._began, self._waited, self._steps = time.perf_counter(), 0.0, 0

  def step(self, waited_seconds: float) -> None:
    """Counts a step and what it waited for its batch."""
    self._steps += 1
    self._waited += waited_seconds

  def report(self) -> dict[str, float]:
    """Figures since the last report."""
    now = time.perf_counter()
    seconds, steps = max(now - self._began, 1e-9), max(self._steps, 1)
    found = {
      "seconds_per_step": seconds / steps,
      "scans_per_second": self._scans * steps / seconds,
      "loader_wait_share": self._waited / seconds,
    }
    memory = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in memory:
      found["device_memory_peak_mb"] = memory["peak_bytes_in_use"] / 2**20
    self._began, self._waited, self._steps = now, 0.0, 0
    return found
