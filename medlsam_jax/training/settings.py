"""Every setting of a pre-training run, with the published values as defaults."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from medlsam_jax.errors import ConfigError
from medlsam_jax.training.augment import AugmentSettings


@dataclasses.dataclass(frozen=True)
class NetworkSettings:
  """The network to train; `feature_scales` are the strides it will have features for."""

  base_channels: int = 24
  feature_scales: tuple[int, ...] = (4, 2, 1)
  dropout: float = 0.2


@dataclasses.dataclass(frozen=True)
class DataSettings:
  """What is learned from: unlabelled scans, and synthetic ones made on the spot."""

  scans: tuple[str, ...] = ()
  scan_weights: tuple[float, ...] = ()
  """How often each scan is drawn beside the phantoms' common weight of 1; empty draws all scans alike."""
  phantoms: int = 0
  first_phantom_seed: int = 1000
  validation_phantoms: int = 0
  scans_per_step: int = 4
  patches_per_scan: int = 2
  dense_patches: int = 2
  """Of a scan's patches, how many also have features in both views (for MSS)."""
  points_per_patch: int = 20
  position_views: Literal["plain", "both"] = "plain"
  """Views whose head outputs UAM compares: the published plain ones, or plain and augmented."""


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
  """Adam with L2 added to the gradient; the rate falls in stairs (published) or by a cosine to zero."""

  total_steps: int = 300_000
  warmup_steps: int = 0
  learning_rate: float = 1e-4
  l2: float = 1e-4
  decay: Literal["stairs", "cosine"] = "stairs"
  stair_steps: int = 10_000
  stair_factor: float = 0.8
  clip_norm: float = 0.0
  """Largest gradient norm; 0 does not clip."""


@dataclasses.dataclass(frozen=True)
class PretrainSettings:
  """One pre-training run."""

  name: str = "medlam"
  seed: int = 0
  network: NetworkSettings = dataclasses.field(default_factory=NetworkSettings)
  data: DataSettings = dataclasses.field(default_factory=DataSettings)
  augment: AugmentSettings = dataclasses.field(default_factory=AugmentSettings)
  optimizer: OptimizerSettings = dataclasses.field(default_factory=OptimizerSettings)
  objectives: Mapping[str, float] = dataclasses.field(default_factory=lambda: {"uam": 1.0, "mss": 1.0})
  """Objective by name, and its weight in the sum."""
  log_every_steps: int = 50
  checkpoint_every_steps: int = 1000
  validate_every_steps: int = 1000


def from_mapping(cls: type, values: Mapping[str, Any], place: str = "config") -> Any:
  """Build a settings dataclass from nested mappings.

  Raises:
    ConfigError: an unknown field, or a value of another type.
  """
  hints = typing.get_type_hints(cls)
  unknown = set(values) - set(hints)
  if unknown:
    raise ConfigError(f"{place}: unknown field {sorted(unknown)}; known are {sorted(hints)}")
  return cls(**{name: _checked(hints[name], value, f"{place}.{name}") for name, value in values.items()})


def _checked(hint: Any, value: Any, place: str) -> Any:
  if dataclasses.is_dataclass(hint):
    return from_mapping(typing.cast(type, hint), value, place)
  origin = typing.get_origin(hint)
  if origin in (typing.Union, types.UnionType):
    inner = [one for one in typing.get_args(hint) if one is not type(None)]
    return None if value is None and len(inner) < len(typing.get_args(hint)) else _checked(inner[0], value, place)
  if origin is Literal:
    if value not in typing.get_args(hint):
      raise ConfigError(f"{place}: {value!r} is not one of {list(typing.get_args(hint))}")
    return value
  if origin is tuple:
    if not isinstance(value, list | tuple):
      raise ConfigError(f"{place}: {value!r} is not a list")
    return tuple(_checked(typing.get_args(hint)[0], v, place) for v in value)
  if origin is not None and isinstance(value, Mapping):
    return {str(k): _checked(float, v, f"{place}.{k}") for k, v in value.items()}
  if hint is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if not isinstance(hint, type) or not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
    raise ConfigError(f"{place}: {value!r} is not {getattr(hint, '__name__', hint)}")
  return value
