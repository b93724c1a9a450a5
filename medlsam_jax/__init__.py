"""Find and segment any organ in a 3D CT from a few example scans. `docs/python_interface.md` is the public interface.

Names are looked up when they are first used, so that `import medlsam_jax` does no work and starts no JAX backend.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from medlsam_jax import errors as errors
  from medlsam_jax import metrics as metrics
  from medlsam_jax.io.box_input import read_boxes as read_boxes
  from medlsam_jax.io.packaged import packaged_templates as packaged_templates
  from medlsam_jax.io.scans import read_volume as read_volume
  from medlsam_jax.io.templates import read_templates as read_templates
  from medlsam_jax.loading import load as load
  from medlsam_jax.medlam.bank.bank import Bank as Bank
  from medlsam_jax.pipeline import localize as localize
  from medlsam_jax.pipeline import segment as segment

_HOMES = {
  "read_volume": "medlsam_jax.io.scans",
  "read_templates": "medlsam_jax.io.templates",
  "packaged_templates": "medlsam_jax.io.packaged",
  "read_boxes": "medlsam_jax.io.box_input",
  "load": "medlsam_jax.loading",
  "Bank": "medlsam_jax.medlam.bank.bank",
  "localize": "medlsam_jax.pipeline",
  "segment": "medlsam_jax.pipeline",
}
_MODULES = ("errors", "metrics")

__all__ = [
  "Bank",
  "errors",
  "load",
  "localize",
  "metrics",
  "packaged_templates",
  "read_boxes",
  "read_templates",
  "read_volume",
  "segment",
]


def __getattr__(name: str) -> Any:
  if name in _HOMES:
    return getattr(importlib.import_module(_HOMES[name]), name)
  if name in _MODULES:
    return importlib.import_module(f"{__name__}.{name}")
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}; its interface is {', '.join(__all__)}")


def __dir__() -> list[str]:
  return list(__all__)
