"""Settings of pre-training that cannot go together, refused by the names of their fields before a scan is read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from medlsam_jax.errors import ConfigError
from medlsam_jax.medlam.pretraining.augment import AugmentSettings
from medlsam_jax.medlam.pretraining.settings import DataSettings, NetworkSettings, PretrainSettings
from medlsam_jax.train.setting_checks import at_least, check_run, section, share

_STRIDES = (8, 4, 2, 1)
"""Of the decoder's stages."""
_METRICS = ("validation_error_mm", "probe_")


def check_pretraining(settings: PretrainSettings) -> None:
  """Refuses a pre-training run that could not work.

  Raises:
    ConfigError: naming the fields.
  """
  _check_network(settings.network)
  _check_data(settings.data)
  _check_augmentation(settings.augment)
  check_run(settings, _METRICS)
  at_least(0, probe_every_steps=settings.probe_every_steps)
  if settings.checkpoint.best_metric.startswith("probe_") and not settings.probe_every_steps:
    raise ConfigError(
      f"checkpoint.best_metric {settings.checkpoint.best_metric} is measured with probe_every_steps only"
    )
  if bool(settings.probe.templates) != bool(settings.probe.queries):
    raise ConfigError("probe.templates and probe.queries: give both folders, or neither for phantoms")
  at_least(0, **{"probe.count": settings.probe.count})
  for name, block in settings.objectives.items():
    weight = block.get("weight", 1.0)
    if isinstance(weight, int | float) and not (math.isfinite(weight) and weight >= 0):
      raise ConfigError(f"objectives.{name}.weight {weight}: weights are finite and 0 or more")


def _check_network(network: NetworkSettings) -> None:
  section("network", network, 1, "base_channels", "template_edge")
  share("network.dropout", network.dropout)
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
  section("data", data, 1, "scans_per_step", "patches_per_scan", "crops_per_scan", "points_per_patch")
  section("data", data, 0, "phantoms", "validation_phantoms", "threads", "workers")
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
  share("augment.scale", augment.scale)
  section("augment", augment, 0, "noise_sd", "rotation_degrees", "displacement_vox", "locked_layers")
  if augment.control_points < 4 or augment.control_points <= 2 * augment.locked_layers:
    raise ConfigError(
      f"augment.control_points {augment.control_points} with augment.locked_layers {augment.locked_layers}: give at "
      "least 4 points, and more than the locked layers of both sides"
    )
