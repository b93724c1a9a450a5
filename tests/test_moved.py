"""What users imported from the earlier tree is still found, and said to have moved."""

import importlib
import subprocess
import sys

import pytest

from medlsam_jax import moved

FOUND_BY_NAME = {
  "preview": "io.preview",
  "data.nifti": "io.nifti",
  "data.labels": "io.labels",
  "data.scans": "io.scans",
  "data.slices": "sam.slices",
  "data.points": "medlam.bank.points",
  "data.organ_crops": "template_masks.organ_crops",
  "localization.search": "medlam.search.search",
  "localization.template_points": "medlam.bank.template_points",
  "models.network": "network",
  "models.medlam": "medlam.network.medlam",
  "models.sam.sam": "sam.network.sam",
  "objectives.contract": "medlam.objectives.contract",
  "porting.fetch": "io.weights.fetch",
  "results.box_input": "io.box_input",
  "results.provenance": "cli.provenance",
  "segmentation.predictor": "sam.predictor",
  "segmentation.evidence": "template_masks.evidence",
  "training.settings": "medlam.pretraining.settings",
  "training.optimizer": "train.optimizer",
}


@pytest.mark.parametrize(("old", "new"), [*moved.RENAMED.items(), *FOUND_BY_NAME.items()])
def test_a_module_is_found_under_the_name_it_had(old, new):
  now = importlib.import_module(f"medlsam_jax.{new}")  # first: what its libraries warn of is not the point
  with pytest.warns(DeprecationWarning, match=rf"medlsam_jax\.{old} is now medlsam_jax\.{new}$"):
    module = importlib.import_module(f"medlsam_jax.{old}")
  assert module is now
  del sys.modules[f"medlsam_jax.{old}"]


def test_names_and_modules_can_be_imported_as_they_were():
  code = (
    "from medlsam_jax.objectives.contract import Views\n"
    "from medlsam_jax.data import ct, scans\n"
    "import medlsam_jax.models.sam.sam\n"
    "print(ct.PATCH_MARGIN, medlsam_jax.models.sam.sam.LITEMEDSAM.image_size)"
  )
  run = subprocess.run([sys.executable, "-W", "default", "-c", code], capture_output=True, text=True)
  assert run.stdout == "32 256\n" and run.stderr.count("<string>:") == 4, run.stderr


def test_what_never_was_is_not_found():
  for name in ("data.anything", "anything", "training.preview"):
    with pytest.raises(ModuleNotFoundError, match=rf"medlsam_jax\.{name}"):
      importlib.import_module(f"medlsam_jax.{name}")
