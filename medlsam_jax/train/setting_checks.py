"""Settings that cannot go together, refused by the names of their fields before anything is read.

Types and words are checked where settings are made (`typed_settings`); what depends on the data is checked where the
data is read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from medlsam_jax.errors import ConfigError
from medlsam_jax.train.settings import CheckpointSettings, OptimizerSettings, RunSettings


def check_run(settings: RunSettings, metrics: Sequence[str]) -> None:
  """Refuses what no run could work with.

  Args:
    metrics: names that `checkpoint.best_metric` may have; those that end in `_` stand for all that begin so.

  Raises:
    ConfigError: naming the fields.
  """
  _check_optimizer(settings.optimizer)
  _check_checkpoints(settings.checkpoint, metrics)
  at_least(1, log_every_steps=settings.log_every_steps, validate_every_steps=settings.validate_every_steps)
  at_least(0, seed=settings.seed)


def check_start(first: int, last: int, checkpoints: os.PathLike[str]) -> None:
  """Refuses to go on from beyond the end of a run.

  Raises:
    ConfigError: the checkpoint is of a later step than the last one asked for.
  """
  if first > last:
    raise ConfigError(
      f"optimizer.total_steps {last}: the checkpoint in {checkpoints} is of step {first} already; ask for more steps, "
      "choose another --workdir, or delete the later checkpoints"
    )


def _check_optimizer(optimizer: OptimizerSettings) -> None:
  section("optimizer", optimizer, 1, "total_steps", "accumulate", "stair_steps")
  section("optimizer", optimizer, 0, "warmup_steps", "l2", "clip_norm", "total_seconds")
  if optimizer.warmup_steps >= optimizer.total_steps:
    raise ConfigError(
      f"optimizer.warmup_steps {optimizer.warmup_steps} is not shorter than the run of optimizer.total_steps "
      f"{optimizer.total_steps}"
    )
  for name in ("learning_rate", "stair_factor"):
    value = getattr(optimizer, name)
    if not (math.isfinite(value) and value > 0):
      raise ConfigError(f"optimizer.{name} {value} is not above 0")
  share("optimizer.ema_decay", optimizer.ema_decay)


def _check_checkpoints(checkpoint: CheckpointSettings, metrics: Sequence[str]) -> None:
  section("checkpoint", checkpoint, 1, "every_steps", "keep_last")
  section("checkpoint", checkpoint, 0, "keep_best")
  if not checkpoint.best_metric.startswith(tuple(metrics)):
    known = ", ".join(f"{name}..." if name.endswith("_") else name for name in metrics)
    raise ConfigError(f"checkpoint.best_metric {checkpoint.best_metric!r} is not measured here; there are {known}")


def section(name: str, settings: object, least: int, *fields: str) -> None:
  """Refuses fields of a section that are below the least value."""
  at_least(least, **{f"{name}.{field}": getattr(settings, field) for field in fields})


def at_least(least: int, **values: float) -> None:
  """Refuses values, by the names of their fields, that are below the least one or no numbers."""
  for name, value in values.items():
    if not (math.isfinite(value) and value >= least):
      raise ConfigError(f"{name} {value} is not a number of at least {least}")


def share(name: str, value: float) -> None:
  """Refuses what is no share of a whole, or the whole itself."""
  if not 0 <= value < 1:
    raise ConfigError(f"{name} {value} is not at least 0 and below 1")
