"""What earlier pages told users to import is still found, and said to have moved."""

import importlib
import subprocess
import sys

import pytest

from medlsam_jax import moved


@pytest.mark.parametrize("old", moved.ROOMS)
def test_a_module_is_found_under_the_name_it_had(old):
  with pytest.warns(DeprecationWarning, match=f"is now medlsam_jax.{moved.ROOMS[old]}"):
    module = importlib.import_module(f"medlsam_jax.{old}")
  assert module is importlib.import_module(f"medlsam_jax.{moved.ROOMS[old]}")
  del sys.modules[f"medlsam_jax.{old}"]


def test_names_of_it_can_be_imported_as_the_page_said():
  code = "from medlsam_jax.objectives.contract import Views; from medlsam_jax.preview import write_preview"
  run = subprocess.run([sys.executable, "-W", "default", "-c", code], capture_output=True, text=True)
  assert run.returncode == 0 and run.stderr.count("<string>:1: DeprecationWarning") == 2, run.stderr


def test_what_never_was_is_not_found():
  with pytest.raises(ModuleNotFoundError, match=r"medlsam_jax\.data\.anything"):
    importlib.import_module("medlsam_jax.data.anything")


def test_boxes_are_still_made_by_the_name_that_an_earlier_notebook_used():
  code = (
    "from medlsam_jax.results.given import GivenBoxes; import medlsam_jax as ml\n"
    "each = GivenBoxes('liver', 3, (ml.Box((0, 5, 5), (3, 9, 8)),))\n"
    "assert isinstance(each, ml.Finding) and each.verdict == 'given'"
  )
  subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
