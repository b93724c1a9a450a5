"""Every setting of a pre-training run, with the published values as defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from medlsam_jax.errors import ConfigError
from medlsam_jax.medlam.pretraining.augment import AugmentSettings
from medlsam_jax.platform import Precision
from medlsam_jax.train.settings import CheckpointSettings, RunSettings
from medlsam_jax.typed_settings import from_mapping as from_mapping

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
class PretrainSettings(RunSettings):
  """One pre-training run."""

  name: str = "medlam"
  network: NetworkSettings = dataclasses.field(default_factory=NetworkSettings)
  data: DataSettings = dataclasses.field(default_factory=DataSettings)
  augment: AugmentSettings = dataclasses.field(default_factory=AugmentSettings)
  objectives: Mapping[str, Mapping[str, Any]] = dataclasses.field(
    default_factory=lambda: {"uam": {"weight": 1.0}, "mss": {"weight": 1.0}}
  )
  """By name: its `weight` in the sum (0 leaves it out) and any of its own settings."""
  checkpoint: CheckpointSettings = dataclasses.field(
    default_factory=lambda: CheckpointSettings(best_metric="validation_error_mm")
  )
  probe_every_steps: int = 0
  """Few-shot localization of people who are not trained on; 0 never."""
  probe: ProbeSettings = dataclasses.field(default_factory=ProbeSettings)
