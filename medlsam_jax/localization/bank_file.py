"""A template bank on disk: one .safetensors file of arrays, with a header of strings that says what they are."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from medlsam_jax.atomic import replacing
from medlsam_jax.errors import OutputError, TemplateError

FORMAT = "medlsam_jax bank 1"


def write(path: str | os.PathLike[str], tensors: dict[str, np.ndarray], header: dict[str, str]) -> None:
  """Write a bank; the file appears whole or not at all.

  Raises:
    OutputError: it cannot be written.
  """
  path = Path(path)
  # safetensors writes the buffer as it lies in memory, so that a transposed view would be written wrongly
  whole = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
  try:
    with replacing(path) as temporary:
      save_file(whole, temporary, metadata={"format": FORMAT, **header})
  except (OSError, SafetensorError) as error:
    raise OutputError(f"{path}: the bank cannot be written ({error})") from error


def read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Arrays by name and the header of a bank.

  Raises:
    TemplateError: the file is missing, truncated, or not a bank of this version.
  """
  path = Path(path)
  if not path.is_file():
    raise TemplateError(f"{path}: no such bank; build one with `medlsam bank build`")
  try:
    with safe_open(path, framework="numpy") as file:
      header = dict(file.metadata() or {})
      tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
  except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
    raise TemplateError(f"{path}: truncated, damaged or not a template bank ({error}); build it again") from error
  if header.get("format") != FORMAT:
    raise TemplateError(f"{path}: not a template bank of this version ({FORMAT}); build one with `medlsam bank build`")
  return tensors, header
