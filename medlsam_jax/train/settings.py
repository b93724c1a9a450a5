"""Every setting of a pre-training run, with the published values as defaults."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from medlsam_jax.errors import ConfigError
from medlsam_jax.medlam.pretraining.augment import AugmentSettings
from medlsam_jax.platform import Precision

CUBE_MARGIN = 16
"""Voxels by which the cube that the host cuts is wider than a patch: room for offsets and warps (80 for 64)."""


@dataclasses.dataclass(frozen=True)
class NetworkSettings:
  """The network to train; `feature_scales` are the strides it will have features for."""

  base_channels: int = 24
  feature_scales: tuple[int, ...] = (4, 2, 1)
  search_scales: tuple[int, ...] | None = None
  """Those of the strides that a search compares, written into the exported network; None: all of them."""
  template_edge: int = 8
  """Voxels along an edge of the cube of features that a search compares, written into the exported network."""
  dropout: float = 0.2
  patch_edge: int = 64
  """A multiple of 16; localization needs 64."""
  dtype: Literal["float32", "bfloat16"] = "float32"
  """Of the operands; parameters, sums and losses are float32 whatever it is."""
  precision: Precision = "highest"
  """Of products of float32 operands: `highest` is float32 on every platform, `default` what the platform is fastest at
  (TF32 on GPU, bfloat16 on TPU). On a CPU they are the same."""
  remat: bool = False
  """Work stages out again in the backward pass, view by view, instead of keeping their values: less memory, more
  work (docs/scaling.md)."""

  def __post_init__(self) -> None:
    """Refuse search scales that another network would be needed for."""
    chosen = self.search_scales
    if chosen is not None and not (
      chosen and set(chosen) <= set(self.feature_scales) and min(chosen) == min(self.feature_scales)
    ):
      raise ConfigError(f"search_scales {chosen}: choose among {self.feature_scales}, the finest of them included")

  @property
  def cube_edge(self) -> int:
    """Edge of the cubes that views are made from."""
    return self.patch_edge + CUBE_MARGIN


@dataclasses.dataclass(frozen=True)
class DataSettings:
  """What is learned from: prepared sets, unlabelled scans, and synthetic ones made on the spot."""

  index: tuple[str, ...] = ()
  """Folders or addresses of sets made by `medlsam data prepare`."""
  index_weights: tuple[float, ...] = ()
  """How often each set is drawn; empty: by its number of scans."""
  scans: tuple[str, ...] = ()
  """Scans, folders or lists read as they are and kept in memory; for small sets."""
  series: str = ""
  """DICOM series to take where a scan has several: its UID, the end of it, or its number."""
  hu_offset: float = 0.0
  """Added to the values of every scan that is read here, for files that do not hold HU."""
  scan_weights: tuple[float, ...] = ()
  """How often each of these scans is drawn beside the phantoms' common weight of 1; empty draws all alike."""
  phantoms: int = 0
  first_phantom_seed: int = 1000
  validation_phantoms: int = 0
  scans_per_step: int = 4
  """Over all devices and processes; a multiple of the mesh's `data` axis."""
  patches_per_scan: int = 2
  crops_per_scan: int = 1
  """Groups of patches cut from a scan once it is open. More cost less reading, and show fewer people in a step: losses
  that compare scans of a batch then see the same person several times."""
  dense_patches: int = 2
  """Of a scan's patches, how many also have features in both views (for MSS)."""
  points_per_patch: int = 20
  position_views: Literal["plain", "both"] = "plain"
  """Views whose head outputs UAM compares: the published plain ones, or plain and augmented."""
  threads: int = 4
  """That read and cut ahead of the step, in each worker."""
  workers: int = 0
  """Processes that do so; 0 uses threads of the main one."""
  cache: str = ""
  """Folder for copies of shards that lie behind an address such as gs://; empty: a temporary one."""


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
  """Adam with L2 added to the gradient (published), or AdamW, whose decay acts on kernels only."""

  kind: Literal["adam", "adamw"] = "adam"
  total_steps: int = 300_000
  total_seconds: float = 0.0
  """A run ends after this long too, compiling included, and a cosine comes down over the time that is left after it
  in place of the steps; 0 counts steps alone. Such a run does not repeat to the bit: its rates follow the clock."""
  warmup_steps: int = 0
  learning_rate: float = 1e-4
  l2: float = 1e-4
  """Adam: times the parameter, added to its gradient. AdamW: times the parameter, taken off at the rate's pace."""
  decay: Literal["stairs", "cosine", "constant"] = "stairs"
  stair_steps: int = 10_000
  stair_factor: float = 0.8
  clip_norm: float = 0.0
  """Largest gradient norm; 0 does not clip."""
  ema_decay: float = 0.0
  """Share of the averaged weights kept each step; 0 keeps none. The average is what is validated and exported."""
  accumulate: int = 1
  """Parts that a step's scans are split into, their gradients averaged: a larger batch in the same memory."""


@dataclasses.dataclass(frozen=True)
class MeshSettings:
  """How devices are laid out; see docs/scaling.md."""

  data: int = 0
  """Devices along which scans are split; 0 takes all that `model` leaves."""
  model: int = 1
  """Devices along which the largest parameters are split, by `train.sharding.RULES`."""


@dataclasses.dataclass(frozen=True)
class ClusterSettings:
  """How processes find each other."""

  kind: Literal["none", "auto", "flags"] = "none"
  """`auto` asks Cloud TPU, SLURM or Open MPI; `flags` uses the fields below."""
  coordinator: str = ""
  """HOST:PORT of process 0."""
  processes: int = 1
  process: int = 0
  timeout_seconds: int = 50
  """After this long without a sign of life of one process the others end with an error."""


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
  """When states are kept, and which."""

  every_steps: int = 1000
  keep_last: int = 2
  keep_best: int = 1
  """By `best_metric` where it was measured at the checkpoint's step; lower is better unless its name ends in `_iou` or
  `_dice`."""
  best_metric: str = "validation_error_mm"


@dataclasses.dataclass(frozen=True)
class ProbeSettings:
  """What `probe_every_steps` searches: held-out phantoms, or labelled scans of one's own. It is never trained on."""

  templates: str = ""
  """Folder of scans with organs marked; empty: phantoms."""
  queries: str = ""
  """Folder of other scans with label maps (`evaluation.labelled`)."""
  template_names: tuple[str, ...] = ()
  """Of the templates to use; empty: all."""
  organs: tuple[str, ...] = ()
  """Empty: all that the templates have."""
  count: int = 0
  """Queries that are searched, the first in order of their names; 0: all."""


@dataclasses.dataclass(frozen=True)
class PretrainSettings:
  """One pre-training run."""

  name: str = "medlam"
  seed: int = 0
  network: NetworkSettings = dataclasses.field(default_factory=NetworkSettings)
  data: DataSettings = dataclasses.field(default_factory=DataSettings)
  augment: AugmentSettings = dataclasses.field(default_factory=AugmentSettings)
  optimizer: OptimizerSettings = dataclasses.field(default_factory=OptimizerSettings)
  objectives: Mapping[str, Mapping[str, Any]] = dataclasses.field(
    default_factory=lambda: {"uam": {"weight": 1.0}, "mss": {"weight": 1.0}}
  )
  """By name: its `weight` in the sum (0 leaves it out) and any of its own settings."""
  mesh: MeshSettings = dataclasses.field(default_factory=MeshSettings)
  cluster: ClusterSettings = dataclasses.field(default_factory=ClusterSettings)
  checkpoint: CheckpointSettings = dataclasses.field(default_factory=CheckpointSettings)
  log_every_steps: int = 50
  validate_every_steps: int = 1000
  probe_every_steps: int = 0
  """Few-shot localization of people who are not trained on; 0 never."""
  probe: ProbeSettings = dataclasses.field(default_factory=ProbeSettings)


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
  if hint is Any:
    return value
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
    return {str(k): _checked(typing.get_args(hint)[1], v, f"{place}.{k}") for k, v in value.items()}
  if hint is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if not isinstance(hint, type) or not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
    raise ConfigError(f"{place}: {value!r} is not {getattr(hint, '__name__', hint)}")
  return value
