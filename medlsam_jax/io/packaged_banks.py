"""Template scans that come with the package: banks by name, for users without templates of their own."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from pathlib import Path

from medlsam_jax.errors import TemplateError
from medlsam_jax.io.templates import Templates, read_templates

NAMES = ("headneck", "torso")
"""Regions of the body; `banks/README.md` says what each holds, where it is from and its licence."""
DEMO_QUERY = "demo"
"""The scan that the demo searches, with its labels for the scores."""


def folder_of(name: str) -> Path:
  """The folder of a region's scans, or of the demo's query.

  Raises:
    TemplateError: an unknown name, or an installation without the files.
  """
  if name not in (*NAMES, DEMO_QUERY):
    raise TemplateError(f"{name!r} is no bank in the package; there are {', '.join(NAMES)}")
  folder = Path(str(importlib.resources.files("medlsam_jax") / "banks" / name))
  if not any(folder.glob("*_ct.nii.gz")):
    raise TemplateError(f"{folder}: this installation lacks the template scans of {name}; install the package again")
  return folder


def packaged_templates(name: str, organs: Sequence[str] | None = None) -> Templates:
  """The packaged templates of a region, `headneck` or `torso`; with `organs`, those that have one of them.

  Raises:
    TemplateError: an unknown name, an organ that no template has, or an installation without the files.
  """
  return read_templates(folder_of(name), organs)
