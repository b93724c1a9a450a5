"""Modules of the earlier tree, which was laid out by layers, under the names that they had: `import` finds them.

The pages named some of them, and programs of users name others. Each is given itself, in the room where it is now.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

ROOMS = {
  "": ("io",),
  "data": ("", "io", "sam", "medlam/bank", "medlam/pretraining", "template_masks"),
  "localization": ("medlam/search", "medlam/bank"),
  "models": ("", "medlam/network", "volume_layers"),
  "models.sam": ("sam/network",),
  "objectives": ("medlam/objectives",),
  "porting": ("io/weights",),
  "results": ("io", "cli"),
  "segmentation": ("sam", "template_masks"),
  "training": ("medlam/pretraining", "sam/finetuning", "train"),
}
"""Folder of the earlier tree -> where its modules of the same name are now; the first that has it counts."""
RENAMED = {
  "data.beside": "io.label_files",
  "data.checks": "io.scan_checks",
  "data.ct": "working_grid",
  "data.packaged": "io.packaged_banks",
  "data.pairs": "medlam.pretraining.crops",
  "data.phantom": "phantom.people",
  "localization.check": "medlam.bank.leave_one_out",
  "localization.finding": "medlam.search.findings",
  "localization.fine": "medlam.search.fine_step",
  "localization.kept": "medlam.bank.kept_outputs",
  "models.precision": "platform",
  "objectives.places": "medlam.objectives.view_points",
  "porting.medlam": "medlam.network.published",
  "porting.sam": "sam.network.published",
  "results.given": "finding",
  "results.staging": "io.atomic",
  "results.writing": "io.scan_result",
  "segmentation.clean": "sam.clean_up",
  "segmentation.template_masks": "template_masks.masks",
  "training.finetune": "sam.finetuning.recipe",
  "training.finetune_settings": "sam.finetuning.settings",
  "training.loop": "medlam.pretraining.recipe",
  "training.scans": "medlam.pretraining.data_sets",
  "training.start": "medlam.pretraining.starting_parameters",
  "training.tuned": "sam.finetuning.trained_parts",
}
"""Modules with another name now."""
_PACKAGE = "medlsam_jax."


def place_of(name: str) -> str | None:
  """Where a module of the earlier tree is now, both without the package's name; None where it never was."""
  folder, _, module = name.rpartition(".")
  if name in RENAMED:
    return RENAMED[name]
  for room in ROOMS.get(folder, ()):
    if (Path(__file__).parent / room / f"{module}.py").is_file():
      return ".".join([*filter(None, room.split("/")), module])
  return None


class Moved(importlib.abc.MetaPathFinder, importlib.abc.Loader):
  """Gives the module itself, with a warning, and an empty package for the folder that it was in."""

  def find_spec(
    self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
  ) -> importlib.machinery.ModuleSpec | None:
    """As importlib asks for it."""
    name = fullname.removeprefix(_PACKAGE)
    is_folder = bool(name) and name in ROOMS
    if name == fullname or not (is_folder or place_of(name)):
      return None
    return importlib.machinery.ModuleSpec(fullname, self, is_package=is_folder)

  def exec_module(self, module: ModuleType) -> None:
    """Puts the module of the new name in the place of the one that was asked for."""
    old = module.__name__
    if old.removeprefix(_PACKAGE) not in ROOMS:
      new = f"{_PACKAGE}{place_of(old.removeprefix(_PACKAGE))}"
      warnings.warn(f"{old} is now {new}", DeprecationWarning, stacklevel=2)
      sys.modules[old] = importlib.import_module(new)


def find_them() -> None:
  """Lets `import` find them, once."""
  if not any(isinstance(finder, Moved) for finder in sys.meta_path):
    sys.meta_path.append(Moved())
