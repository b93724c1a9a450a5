"""Modules that earlier pages named, under the names that they had there: `import` finds them in their rooms."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType

ROOMS = {
  "data.nifti": "io.nifti",
  "data.pairs": "medlam.pretraining.crops",
  "data.phantom": "phantom.people",
  "data.slices": "sam.slices",
  "localization.confidence": "medlam.search.confidence",
  "localization.kept": "medlam.bank.kept_outputs",
  "localization.search_settings": "medlam.search.search_settings",
  "objectives.contract": "medlam.objectives.contract",
  "objectives.uam": "medlam.objectives.uam",
  "preview": "io.preview",
  "results.given": "finding",
  "segmentation.everything": "sam.everything",
  "segmentation.predictor": "sam.predictor",
  "segmentation.prompts": "sam.prompts",
  "segmentation.propagation": "sam.propagation",
  "segmentation.template_masks": "template_masks.masks",
  "segmentation.volume": "sam.volume",
  "training.augment": "medlam.pretraining.augment",
  "training.loop": "medlam.pretraining.recipe",
  "training.scans": "medlam.pretraining.data_sets",
  "training.settings": "medlam.pretraining.settings",
}
"""Name on the page -> where the module is now."""
_PACKAGE = "medlsam_jax."
_FOLDERS = {name.partition(".")[0] for name in ROOMS if "." in name}


class Moved(importlib.abc.MetaPathFinder, importlib.abc.Loader):
  """Gives the module itself, with a warning, and an empty package for the folder that it was in."""

  def find_spec(
    self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
  ) -> importlib.machinery.ModuleSpec | None:
    """As importlib asks for it."""
    name = fullname.removeprefix(_PACKAGE)
    if name == fullname or name not in _FOLDERS | ROOMS.keys():
      return None
    return importlib.machinery.ModuleSpec(fullname, self, is_package=name in _FOLDERS)

  def exec_module(self, module: ModuleType) -> None:
    """Puts the module of the new name in the place of the one that was asked for."""
    old = module.__name__
    if new := ROOMS.get(old.removeprefix(_PACKAGE)):
      warnings.warn(f"{old} is now {_PACKAGE}{new}", DeprecationWarning, stacklevel=2)
      sys.modules[old] = importlib.import_module(_PACKAGE + new)


def find_them() -> None:
  """Lets `import` find them, once."""
  if not any(isinstance(finder, Moved) for finder in sys.meta_path):
    sys.meta_path.append(Moved())
