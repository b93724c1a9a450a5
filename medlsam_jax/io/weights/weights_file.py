"""Our weights files: one .safetensors with a metadata header, tensors named by dot-joined path: `params.fc1.kernel`."""

from __future__ import annotations

import os
from pathlib import Path

import ml_dtypes  # noqa: F401  registers bfloat16 with NumPy, which safetensors needs to hand such tensors out
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from medlsam_jax.errors import OutputError, WeightsError
from medlsam_jax.io.atomic import atomically
from medlsam_jax.io.weights.rules import as_weights
from medlsam_jax.network import Variables

FORMAT = "medlsam_jax 1"
COLLECTIONS = ("params", "batch_stats", "constants")
"""What a file may hold: trained parameters, running statistics of batch norm, and numbers drawn once, never trained."""
STORED_DTYPES = ("float32", "float16", "bfloat16")
_TORCH_STARTS = (b"PK\x03\x04", b"\x80\x02\x8a\n", b"\x80\x03\x8a\n", b"\x80\x04\x8a\n")
"""First bytes of what `torch.save` writes: a zip archive, or in the older format a pickled magic number."""


def write_weights(path: str | os.PathLike[str], variables: Variables, header: dict[str, str]) -> None:
  """Writes nested variables of float32, float16 or bfloat16 with their header; the file appears whole or not at all.

  Args:
    path: the file to write; an existing one is replaced.
    variables: collections by name, as `Network.variables`; each tensor is stored in the dtype it has.
    header: `kind`, `source_sha256` and the module's settings as strings; `format` is added.

  Raises:
    OutputError: the file cannot be written.
    ValueError: a tensor of another dtype, an unknown collection, or a header without `kind`: a defect of the caller.
  """
  if not header.get("kind"):
    raise ValueError("the header of a weights file must say its kind")
  tensors = {}
  for name, leaf in sorted(flatten_dict(variables, sep=".").items()):
    array = np.asarray(leaf)
    if array.dtype.name not in STORED_DTYPES or name.split(".")[0] not in COLLECTIONS:
      raise ValueError(f"{name} of dtype {array.dtype} cannot be stored in a weights file")
    # safetensors writes the buffer as it lies in memory, so that a transposed view would be written wrongly
    tensors[name] = np.ascontiguousarray(array).reshape(array.shape)
  path = Path(path)
  try:
    with atomically(path) as temporary:
      save_file(tensors, temporary, metadata={"format": FORMAT, **header})
  except (OSError, SafetensorError) as error:
    raise OutputError(f"{path}: cannot be written ({error})") from error


def read_weights(path: str | os.PathLike[str], as_float32: bool = True) -> tuple[Variables, dict[str, str]]:
  """Reads one of our files: nested variables (host arrays) and the header.

  Args:
    path: a file that `write_weights` made.
    as_float32: give parameters stored as float16 or bfloat16 back as float32, the dtype that all modules keep
      parameters in; False leaves them as stored.

  Raises:
    WeightsError: the file is missing, truncated, a PyTorch file, or not one of ours, or holds NaN or infinite values.
  """
  tensors, header = read_safetensors(path)
  if header.get("format") != FORMAT or not header.get("kind"):
    reason = f"its format is {header['format']!r}" if "format" in header else "it has no header of ours"
    raise WeightsError(
      f"{path}: not a weights file of this version ({FORMAT}): {reason}. "
      f"If it is a published checkpoint, run: medlsam convert {path} OUTPUT.safetensors"
    )
  strangers = [
    name for name, a in tensors.items() if a.dtype.name not in STORED_DTYPES or name.split(".")[0] not in COLLECTIONS
  ]
  if strangers:
    raise WeightsError(f"{path}: holds tensors that no weights file of ours has: {', '.join(sorted(strangers)[:6])}")
  checked = as_weights(tensors, str(path))
  if as_float32:
    tensors = checked
  return unflatten_dict(tensors, sep="."), header


def read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Tensors by flat name and metadata of any .safetensors file.

  Raises:
    WeightsError: the file is missing, truncated, or of another format; a PyTorch file is named as such.
  """
  path = Path(path)
  if not path.exists():
    raise WeightsError(f"{path}: no such file")
  if looks_like_torch(path):
    raise WeightsError(f"{path}: a PyTorch checkpoint; convert it first: medlsam convert {path} OUTPUT.safetensors")
  try:
    with safe_open(path, framework="numpy") as file:
      return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118  not a dict
  except (SafetensorError, OSError, TypeError, ValueError, KeyError) as error:
    raise WeightsError(f"{path}: truncated, damaged or not a .safetensors file ({error})") from error


def is_ours(path: str | os.PathLike[str]) -> bool:
  """Whether the header of a .safetensors file says that `write_weights` made it; False for anything else."""
  return read_header(path).get("format", "").startswith(FORMAT.split()[0])


def read_header(path: str | os.PathLike[str]) -> dict[str, str]:
  """What a .safetensors file says of itself, no tensor read; empty where it is none or says nothing."""
  try:
    with safe_open(path, framework="numpy") as file:
      return dict(file.metadata() or {})
  except (SafetensorError, OSError):
    return {}


def looks_like_torch(path: str | os.PathLike[str]) -> bool:
  """Whether the first bytes are those of a file of `torch.save`, zip or older; False for what cannot be read."""
  try:
    with open(path, "rb") as file:
      return file.read(4) in _TORCH_STARTS
  except OSError:
    return False
