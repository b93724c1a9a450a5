"""Find and segment any organ in a 3D CT from a few example scans. `docs/python_interface.md` is the public interface.

Names are looked up when they are first used, so that `import medlsam_jax` does no work and starts no JAX backend.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from medlsam_jax import moved

__version__ = "0.1.0"
"""The one place that says it: the distribution, `medlsam --version` and the provenance of results read it here."""

if TYPE_CHECKING:
  from medlsam_jax import errors as errors
  from medlsam_jax import metrics as metrics
  from medlsam_jax.finding import Finding as Finding
  from medlsam_jax.geometry import Box as Box
  from medlsam_jax.geometry import Grid as Grid
  from medlsam_jax.geometry import Volume as Volume
  from medlsam_jax.io.box_input import read_boxes as read_boxes
  from medlsam_jax.io.packaged_banks import packaged_templates as packaged_templates
  from medlsam_jax.io.refining_points import Point as Point
  from medlsam_jax.io.refining_points import read_refining_points as read_refining_points
  from medlsam_jax.io.scans import read_volume as read_volume
  from medlsam_jax.io.templates import read_templates as read_templates
  from medlsam_jax.loading import load as load
  from medlsam_jax.loading import load_adapters as load_adapters
  from medlsam_jax.medlam.bank.bank import Bank as Bank
  from medlsam_jax.medlam.bank.kept_outputs import KeptOutputs as KeptOutputs
  from medlsam_jax.medlam.search.confidence import Thresholds as Thresholds
  from medlsam_jax.medlam.search.search_settings import SearchSettings as SearchSettings
  from medlsam_jax.pipeline import localize as localize
  from medlsam_jax.pipeline import segment as segment
  from medlsam_jax.sam.everything import EverythingSettings as EverythingSettings
  from medlsam_jax.sam.everything import segment_everything as segment_everything
  from medlsam_jax.sam.predictor import Predictor as Predictor
  from medlsam_jax.sam.prompts import Prompt as Prompt
  from medlsam_jax.sam.propagation import PropagationSettings as PropagationSettings
  from medlsam_jax.sam.segmentation_settings import SegmentationSettings as SegmentationSettings
  from medlsam_jax.sam.slices import window_to_bytes as window_to_bytes
  from medlsam_jax.template_masks.masks import VoteSettings as VoteSettings

moved.find_them()

_HOMES = {
  "read_volume": "medlsam_jax.io.scans",
  "read_templates": "medlsam_jax.io.templates",
  "packaged_templates": "medlsam_jax.io.packaged_banks",
  "read_boxes": "medlsam_jax.io.box_input",
  "Point": "medlsam_jax.io.refining_points",
  "read_refining_points": "medlsam_jax.io.refining_points",
  "load": "medlsam_jax.loading",
  "load_adapters": "medlsam_jax.loading",
  "Bank": "medlsam_jax.medlam.bank.bank",
  "Box": "medlsam_jax.geometry",
  "Finding": "medlsam_jax.finding",
  "Grid": "medlsam_jax.geometry",
  "Volume": "medlsam_jax.geometry",
  "KeptOutputs": "medlsam_jax.medlam.bank.kept_outputs",
  "SearchSettings": "medlsam_jax.medlam.search.search_settings",
  "Thresholds": "medlsam_jax.medlam.search.confidence",
  "VoteSettings": "medlsam_jax.template_masks.masks",
  "SegmentationSettings": "medlsam_jax.sam.segmentation_settings",
  "PropagationSettings": "medlsam_jax.sam.propagation",
  "Predictor": "medlsam_jax.sam.predictor",
  "Prompt": "medlsam_jax.sam.prompts",
  "EverythingSettings": "medlsam_jax.sam.everything",
  "segment_everything": "medlsam_jax.sam.everything",
  "window_to_bytes": "medlsam_jax.sam.slices",
  "localize": "medlsam_jax.pipeline",
  "segment": "medlsam_jax.pipeline",
}
_MODULES = ("errors", "metrics")

__all__ = [
  "Bank",
  "Box",
  "EverythingSettings",
  "Finding",
  "Grid",
  "KeptOutputs",
  "Predictor",
  "Prompt",
  "PropagationSettings",
  "SearchSettings",
  "SegmentationSettings",
  "Thresholds",
  "Volume",
  "VoteSettings",
  "errors",
  "load",
  "load_adapters",
  "localize",
  "metrics",
  "packaged_templates",
  "read_boxes",
  "read_templates",
  "read_volume",
  "segment",
  "segment_everything",
  "window_to_bytes",
]


def __getattr__(name: str) -> Any:
  if name in _HOMES:
    return getattr(importlib.import_module(_HOMES[name]), name)
  if name in _MODULES:
    return importlib.import_module(f"{__name__}.{name}")
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}; its interface is {', '.join(__all__)}")


def __dir__() -> list[str]:
  return list(__all__)
