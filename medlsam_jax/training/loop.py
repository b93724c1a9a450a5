"""A pre-training run on one device: scans, steps, validation, checkpoints that a later start resumes from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from medlsam_jax.data import pairs
from medlsam_jax.errors import ConfigError, MedlsamError
from medlsam_jax.training.scans import phantom_scans, training_scans
from medlsam_jax.training.settings import PretrainSettings
from medlsam_jax.training.step import TrainState, init_state, make_step, make_validation

_VALIDATION_PATCHES = 8

Report = Callable[[int, Mapping[str, float]], None]


class NotFinite(MedlsamError):
  """The loss stopped being a number."""


def weights_header(settings: PretrainSettings) -> dict[str, str]:
  """Header of the weights file that such a run produces."""
  return {
    "kind": "medlam",
    "base_channels": str(settings.network.base_channels),
    "patch_edge": "64",
    "feature_scales": ",".join(map(str, settings.network.feature_scales)),
    "working_grid": "consistent",
    "trained_as": settings.name,
  }


def run(
  settings: PretrainSettings,
  directory: Path,
  report: Report = lambda step, metrics: None,
  progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
  """Train to `total_steps`, resuming from the newest checkpoint in `directory`, and return the parameters.

  Every step's batch follows from the seed and the step alone, so a resumed run draws what an unbroken one would.

  Args:
    settings: the run.
    directory: for checkpoints; made if missing.
    report: called with a step and its metrics each `log_every_steps`, and with `validation_error_mm` when measured.
    progress: called with a word on what is being done before the first step.

  Raises:
    NotFinite: the loss is NaN or infinite; the last checkpoint stays.
    ConfigError: the checkpoint in `directory` belongs to another network.
  """
  scans = training_scans(settings.data, progress)
  held_out = phantom_scans(10**6, settings.data.validation_phantoms, progress)
  step_function, validate = make_step(settings), make_validation(settings)
  with ocp.CheckpointManager(
    directory.resolve(), options=ocp.CheckpointManagerOptions(max_to_keep=2, create=True)
  ) as manager:
    state = _restore(manager, settings)
    first = int(state.step)
    last = settings.optimizer.total_steps
    began = time.perf_counter()
    for step in range(first, last):
      rng = np.random.default_rng([settings.seed, step])
      batch = pairs.draw(rng, scans, settings.data.scans_per_step, settings.data.patches_per_scan)
      state, metrics = step_function(state, batch)
      done = step + 1
      if done % settings.log_every_steps == 0 or done == last:
        report(done, _finite(metrics, done) | {"seconds_per_step": (time.perf_counter() - began) / (done - first)})
      if held_out and (done % settings.validate_every_steps == 0 or done == last):
        rng = np.random.default_rng(settings.seed)
        check = pairs.draw(rng, held_out, len(held_out), _VALIDATION_PATCHES)
        report(done, {"validation_error_mm": float(validate(state.params, check))})
      if done % settings.checkpoint_every_steps == 0 or done == last:
        manager.save(done, args=ocp.args.StandardSave(state._asdict()))
    manager.wait_until_finished()
  return jax.device_get(state.params)


def _finite(metrics: Mapping[str, Any], step: int) -> dict[str, float]:
  values = {name: float(value) for name, value in metrics.items()}
  if not all(map(math.isfinite, values.values())):
    raise NotFinite(f"step {step}: a metric is no longer a number ({values}); lower the learning rate and resume")
  return values


def _restore(manager: ocp.CheckpointManager, settings: PretrainSettings) -> TrainState:
  state, newest = init_state(settings), manager.latest_step()
  if newest is None:
    return state
  try:
    return TrainState(**manager.restore(newest, args=ocp.args.StandardRestore(state._asdict())))
  except ValueError as error:
    raise ConfigError(f"{manager.directory}: its checkpoint does not fit this config ({error})") from error
