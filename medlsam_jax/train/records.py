"""Metrics of a run as JSON lines and for TensorBoard, and how fast it goes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Mapping

import jax
from etils import epath
from tensorboardX import SummaryWriter

from medlsam_jax.errors import OutputError
from medlsam_jax.train.run_folder import append_text, local_folder, whole_file
from medlsam_jax.train.settings import RunSettings

CONFIG, METRICS, TENSORBOARD = "config.json", "metrics.jsonl", "tensorboard"


class Records:
  """Writes each report into a run's folder and, with the first, the run's settings: nothing of a run that never began.

  A run that is resumed reports some steps again: what the folder has of the first step that is reported, and of those
  after it, is replaced. So each step stands there once, and nothing of a part that was lost.
  """

  def __init__(self, directory: epath.PathLike, settings: RunSettings):
    self._directory, self._settings = epath.Path(directory), settings
    self._path = self._directory / METRICS
    self._board: SummaryWriter | None = None
    self._after = contextlib.ExitStack()
    self.lost_steps, self.lost_seconds = 0, 0.0
    """What an earlier program reported after the checkpoint that this one goes on from; known from the first report."""

  def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
    """Records one report.

    Raises:
      OutputError: the files cannot be written.
    """
    try:
      if self._board is None:
        self._board = self._begin(step)
      line = {"step": step, **{name: round(value, 6) for name, value in metrics.items()}}
      append_text(self._path, json.dumps(line) + "\n")
      for name, value in metrics.items():
        self._board.add_scalar(name, value, step)
    except OSError as error:
      raise OutputError(f"{self._path}: cannot be written ({error.strerror})") from error

  def _begin(self, step: int) -> SummaryWriter:
    self._directory.mkdir(parents=True, exist_ok=True)
    with whole_file(self._directory / CONFIG) as part:
      part.write_text(json.dumps(dataclasses.asdict(self._settings), indent=1) + "\n")
    self.lost_steps, self.lost_seconds = _forget_from(self._path, step)
    folder = self._after.enter_context(local_folder(self._directory / TENSORBOARD))
    return SummaryWriter(str(folder), purge_step=step, write_to_disk=True)

  def close(self) -> None:
    """Writes what is buffered."""
    if self._board is not None:
      self._board.close()
    self._after.close()


def _forget_from(path: epath.Path, step: int) -> tuple[int, float]:
  """Leaves out the lines of a step and of later ones, and what a full disk has cut off.

  Returns:
    How many steps that loses, and their seconds.
  """
  if not path.is_file():
    return 0, 0.0
  lines = path.read_bytes().decode(errors="replace").splitlines(keepends=True)
  kept = [line for line in lines if _step_of(line) < step]
  if kept == lines:
    return 0, 0.0
  with whole_file(path) as part:
    part.write_text("".join(kept))
  before, seconds = max(map(_step_of, kept), default=0.0), 0.0
  last = before
  for each in (json.loads(line) for line in lines if step <= _step_of(line) < float("inf")):
    seconds += max(each["step"] - last, 0) * each.get("seconds_per_step", 0.0)
    last = max(last, each["step"])
  return int(last - before), seconds


def _step_of(line: str) -> float:
  """Step of a line; later than all where it is no whole line of ours."""
  try:
    return float(json.loads(line)["step"]) if line.endswith("\n") else float("inf")
  except (ValueError, KeyError, TypeError):
    return float("inf")


class Pace:
  """Seconds a step, items a second, share of the time spent waiting for the loader, and memory of the first device.

  And, where it is told them, how much of the devices' speed the steps use: `mfu`, the work of a step in products and
  convolutions over what the devices could do in its time with bfloat16 operands.
  """

  def __init__(self, items_per_step: int, items: str = "scans"):
    self._items_per_step, self._items = items_per_step, items
    self._least_seconds: float | None = None
    self._began, self._waited, self._steps = time.perf_counter(), 0.0, 0

  def works(self, flop: float, peak_flop_s: float) -> None:
    """Tells the work of a step over all devices, and the most that they do together in a second."""
    self._least_seconds = flop / peak_flop_s

  def step(self, waited_seconds: float) -> None:
    """Counts a step and what it waited for its batch."""
    self._steps += 1
    self._waited += waited_seconds

  def report(self) -> dict[str, float]:
    """Figures since the last report."""
    now = time.perf_counter()
    seconds, steps = max(now - self._began, 1e-9), max(self._steps, 1)
    figures = {
      "seconds_per_step": seconds / steps,
      f"{self._items}_per_second": self._items_per_step * steps / seconds,
      "loader_wait_share": self._waited / seconds,
    }
    if self._least_seconds is not None:
      figures["mfu"] = self._least_seconds * steps / seconds
    memory = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in memory:
      figures["device_memory_peak_mb"] = memory["peak_bytes_in_use"] / 2**20
    self._began, self._waited, self._steps = now, 0.0, 0
    return figures
