"""Settings that cannot go together, refused by the names of their fields before a scan is read.

Types and words are checked where settings are made (`settings.from_mapping`); what depends on the data is checked where
the data is read.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from medlsam_jax.errors import ConfigError
from medlsam_jax.medlam.pretraining.augment import AugmentSettings
from medlsam_jax.sam.finetuning.finetune_settings import FinetuneSettings
from medlsam_jax.sam.labelled_slices import WINDOWS_HU
from medlsam_jax.train.settings import (
  CheckpointSettings,
  DataSettings,
  NetworkSettings,
  OptimizerSettings,
  PretrainSettings,
)

_STRIDES = (8, 4, 2, 1)
"""Of the decoder's stages."""
_PRETRAINING_METRICS = ("validation_error_mm", "probe_")
_FINETUNING_METRICS = ("validation_dice", "organ_")


def check_pretraining(settings: PretrainSettings) -> None:
  """Refuses a pre-training run that could not work.

  Raises:
    ConfigError: naming the fields.
  """
  _check_network(settings.network)
  _check_data(settings.data)
  _check_augmentation(settings.augment)
  _check_optimizer(settings.optimizer)
  _check_checkpoints(settings.checkpoint, _PRETRAINING_METRICS)
  _at_least(1, log_every_steps=settings.log_every_steps, validate_every_steps=settings.validate_every_steps)
  _at_least(0, probe_every_steps=settings.probe_every_steps, seed=settings.seed)
  if settings.checkpoint.best_metric.startswith("probe_") and not settings.probe_every_steps:
    raise ConfigError(
      f"checkpoint.best_metric {settings.checkpoint.best_metric} is measured with probe_every_steps only"
    )
  if bool(settings.probe.templates) != bool(settings.probe.queries):
    raise ConfigError("probe.templates and probe.queries: give both folders, or neither for phantoms")
  _at_least(0, **{"probe.count": settings.probe.count})
  for name, block in settings.objectives.items():
    weight = block.get("weight", 1.0)
    if isinstance(weight, int | float) and not (math.isfinite(weight) and weight >= 0):
      raise ConfigError(f"objectives.{name}.weight {weight}: weights are finite and 0 or more")


def check_finetuning(settings: FinetuneSettings) -> None:
  """Refuses a fine-tuning run that could not work, as far as settings alone can tell.

  Raises:
    ConfigError: naming the fields.
  """
  data, loss = settings.data, settings.loss
  _check_optimizer(settings.optimizer)
  _check_checkpoints(settings.checkpoint, _FINETUNING_METRICS)
  _at_least(1, log_every_steps=settings.log_every_steps, validate_every_steps=settings.validate_every_steps)
  _at_least(0, seed=settings.seed)
  _section("data", data, 1, "images_per_step", "slice_step", "validation_slice_step")
  _section("data", data, 0, "phantoms", "validation_phantoms", "least_pixels", "jitter_px", "threads")
  _section("loss", loss, 0, "dice", "bce", "iou")
  if settings.train != "distill" and not loss.dice + loss.bce:
    raise ConfigError("loss.dice and loss.bce are both 0: no mask would be learned")
  if settings.train == "lora":
    _at_least(1, lora_rank=settings.lora_rank)
  if settings.train == "decoder" and settings.batch_norm == "updated":
    raise ConfigError("batch_norm updated: with train decoder the encoder stays as it is; leave it frozen")
  unknown = [name for name in data.windows if name not in WINDOWS_HU]
  if unknown or not data.windows:
    raise ConfigError(f"data.windows {list(data.windows)}: known windows are {list(WINDOWS_HU)}")
  if settings.optimizer.accumulate != 1 or settings.optimizer.ema_decay or settings.optimizer.total_seconds:
    raise ConfigError(
      "optimizer.accumulate, optimizer.ema_decay and optimizer.total_seconds are for pre-training; leave them as they "
      "are"
    )


def check_start(first: int, last: int, checkpoints: Path) -> None:
  """Refuses to go on from beyond the end of a run.

  Raises:
    ConfigError: the checkpoint is of a later step than the last one asked for.
  """
  if first > last:
    raise ConfigError(
      f"optimizer.total_steps {last}: the checkpoint in {checkpoints} is of step {first} already; ask for more steps, "
      "choose another --workdir, or delete the later checkpoints"
    )


def _check_network(network: NetworkSettings) -> None:
  _section("network", network, 1, "base_channels", "template_edge")
  _share("network.dropout", network.dropout)
  if network.patch_edge < 16 or network.patch_edge % 16:
    raise ConfigError(f"network.patch_edge {network.patch_edge} is no multiple of 16")
  scales = network.feature_scales
  if not set(scales) <= set(_STRIDES) or len(set(scales)) < len(scales):
    raise ConfigError(f"network.feature_scales {list(scales)}: choose among the strides {list(_STRIDES)}, each once")
  coarsest = max(network.search_scales or scales, default=1)
  if network.template_edge % (2 * coarsest) or network.template_edge > network.patch_edge:
    raise ConfigError(
      f"network.template_edge {network.template_edge}: with features of stride {coarsest} it is a multiple of "
      f"{2 * coarsest}, and at most network.patch_edge {network.patch_edge}"
    )


def _check_data(data: DataSettings) -> None:
  _section("data", data, 1, "scans_per_step", "patches_per_scan", "crops_per_scan", "points_per_patch")
  _section("data", data, 0, "phantoms", "validation_phantoms", "threads", "workers")
  if not 1 <= data.dense_patches <= data.patches_per_scan:
    raise ConfigError(
      f"data.dense_patches {data.dense_patches} is not within 1 and data.patches_per_scan {data.patches_per_scan}"
    )
  _check_weights("scan", data.scan_weights, bool(data.scans))
  _check_weights("index", data.index_weights, bool(data.index))


def _check_weights(what: str, weights: Sequence[float], given: bool) -> None:
  name = f"data.{what}_weights"
  if not weights:
    return
  if not given:
    raise ConfigError(f"{name} is given without data.{'scans' if what == 'scan' else what}")
  if any(not math.isfinite(weight) or weight < 0 for weight in weights):
    raise ConfigError(f"{name} {list(weights)}: weights are finite and 0 or more")
  if not any(weights):
    raise ConfigError(f"{name} {list(weights)}: with weights of 0 none would ever be drawn; give one of them more")


def _check_augmentation(augment: AugmentSettings) -> None:
  names = [field.name for field in dataclasses.fields(augment) if field.name.endswith("_probability")]
  for name in names:
    if not 0 <= getattr(augment, name) <= 1:
      raise ConfigError(f"augment.{name} {getattr(augment, name)} is not within 0 and 1")
  _share("augment.scale", augment.scale)
  _section("augment", augment, 0, "noise_sd", "rotation_degrees", "displacement_vox", "locked_layers")
  if augment.control_points < 4 or augment.control_points <= 2 * augment.locked_layers:
    raise ConfigError(
      f"augment.control_points {augment.control_points} with augment.locked_layers {augment.locked_layers}: give at "
      "least 4 points, and more than the locked layers of both sides"
    )


def _check_optimizer(optimizer: OptimizerSettings) -> None:
  _section("optimizer", optimizer, 1, "total_steps", "accumulate", "stair_steps")
  _section("optimizer", optimizer, 0, "warmup_steps", "l2", "clip_norm", "total_seconds")
  if optimizer.warmup_steps >= optimizer.total_steps:
    raise ConfigError(
      f"optimizer.warmup_steps {optimizer.warmup_steps} is not shorter than the run of optimizer.total_steps "
      f"{optimizer.total_steps}"
    )
  for name in ("learning_rate", "stair_factor"):
    value = getattr(optimizer, name)
    if not (math.isfinite(value) and value > 0):
      raise ConfigError(f"optimizer.{name} {value} is not above 0")
  _share("optimizer.ema_decay", optimizer.ema_decay)


def _check_checkpoints(checkpoint: CheckpointSettings, metrics: Sequence[str]) -> None:
  _section("checkpoint", checkpoint, 1, "every_steps", "keep_last")
  _section("checkpoint", checkpoint, 0, "keep_best")
  if not checkpoint.best_metric.startswith(tuple(metrics)):
    known = ", ".join(f"{name}..." if name.endswith("_") else name for name in metrics)
    raise ConfigError(f"checkpoint.best_metric {checkpoint.best_metric!r} is not measured here; there are {known}")


def _section(section: str, settings: object, least: int, *names: str) -> None:
  _at_least(least, **{f"{section}.{name}": getattr(settings, name) for name in names})


def _at_least(least: int, **values: float) -> None:
  for name, value in values.items():
    if not (math.isfinite(value) and value >= least):
      raise ConfigError(f"{name} {value} is not a number of at least {least}")


def _share(name: str, value: float) -> None:
  if not 0 <= value < 1:
    raise ConfigError(f"{name} {value} is not at least 0 and below 1")
