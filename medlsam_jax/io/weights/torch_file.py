"""Published checkpoints (.pth, .pt, .tar of `torch.save`, .safetensors) -> arrays by name, without PyTorch."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path

import numpy as np

from medlsam_jax import notices
from medlsam_jax.errors import WeightsError
from medlsam_jax.io.weights.torch_pickle import RefusedError, Storage, Tensor, read_pickle
from medlsam_jax.io.weights.unwrapping import network_of
from medlsam_jax.io.weights.weights_file import read_safetensors

_MAX_PICKLE_BYTES = 64 << 20
_LEGACY_START = re.compile(rb"\x80[\x02-\x05]\x8a\n\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\.")
"""The pickled magic number that PyTorch wrote before its zip format."""


def read_tensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  """The network's tensors of a published checkpoint, by published name.

  Dictionaries around it (`state_dict`, `model`), prefixes of its names (`module.`, `_orig_mod.`, `model.`) and whatever
  else the file holds (epoch, losses, settings, optimizer) are left out, by the rule of `unwrapping`; a choice between a
  network and its averaged weights is said in a warning.

  Args:
    path: a zip-format file of `torch.save`, whatever its ending, or a .safetensors file.

  Returns:
    Read-only arrays in the stored dtype; tensors that share a storage share memory.

  Raises:
    WeightsError: the file is missing, truncated, in PyTorch's older format, asks for anything but tensors and plain
      values, or has no network in it, or several. Nothing from the file is run in any case.
  """
  path = Path(path)
  if not path.is_file():
    raise WeightsError(f"{path}: no such file")
  try:
    with open(path, "rb") as file:
      start = file.read(512)
  except OSError as error:
    raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
  if start.startswith(b"PK\x03\x04"):
    tensors, notes = _read_zip(path)
  else:
    # a .safetensors file opens with a length, whose bytes can look like any other format's, and then its JSON header
    if start[8:9] != b"{":
      _refuse_known_strangers(path, start)
    tensors, notes = _of_safetensors(path)
  for note in notes:
    notices.warn(f"{path}: {note}")
  return tensors


def _refuse_known_strangers(path: Path, start: bytes) -> None:
  """Names the formats that a user is likely to try and that are not read."""
  if _LEGACY_START.match(start):
    raise WeightsError(
      f"{path}: PyTorch's older checkpoint format (before 1.6), which is not read here. Save it again with a newer "
      f"PyTorch: torch.save(torch.load({path.name!r}, map_location='cpu', weights_only=True), 'new.pth')"
    )
  for applies, what in (
    (start[257:262] == b"ustar", "a tar archive; unpack it and give the checkpoint that is inside"),
    (start.startswith(b"\x1f\x8b"), "compressed with gzip; unpack it first"),
    (start.startswith(b"\x80"), "a bare pickle, not a checkpoint of torch.save"),
    (start.lstrip().startswith(b"<"), "a web page, not a checkpoint: the download went wrong"),
  ):
    if applies:
      raise WeightsError(f"{path}: {what}")


def _of_safetensors(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
  arrays, _ = read_safetensors(path)
  if not arrays:
    raise WeightsError(f"{path}: holds no tensors")
  try:
    network, notes = network_of(arrays, np.ndarray, lambda one, other: one is other)
  except RefusedError as error:
    raise WeightsError(f"{path}: {error}") from error
  return network.tensors, notes


def _read_zip(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
  try:
    with zipfile.ZipFile(path) as archive:
      records = _Records(archive, path.stat().st_size)
      saved = read_pickle(records.program(), records.storage_size)
      network, notes = network_of(saved, Tensor, Tensor.is_same)
      return {name: tensor.view(records.storage(tensor.storage)) for name, tensor in network.tensors.items()}, notes
  except RefusedError as error:
    raise WeightsError(f"{path}: refused, and nothing from it was run: {error}") from error
  # A damaged or hostile file fails in whatever way its author or the damage chose; each is the file's fault.
  except Exception as error:
    raise WeightsError(f"{path}: truncated or damaged checkpoint ({type(error).__name__}: {error})") from error


class _Records:
  """The records of one archive, stored uncompressed as `torch.save` does; a storage is read once."""

  def __init__(self, archive: zipfile.ZipFile, file_size: int) -> None:
    names = archive.namelist()
    if any(name.split("/")[-1] == "constants.pkl" for name in names):
      raise RefusedError("it is a TorchScript program, not a checkpoint; save the model's state_dict() instead")
    programs = [name for name in names if re.fullmatch(r"([^/]+/)?data\.pkl", name)]
    if len(programs) != 1:
      raise RefusedError("it is a zip file without a data.pkl of torch.save")
    self._archive, self._file_size = archive, file_size
    self._root = programs[0].removesuffix("data.pkl")
    self._swapped = f"{self._root}byteorder" in names and self._bytes("byteorder", 16) == b"big"
    self._storages: dict[str, np.ndarray] = {}

  def program(self) -> bytes:
    """The pickle."""
    return self._bytes("data.pkl", _MAX_PICKLE_BYTES)

  def storage_size(self, key: str) -> int:
    """Bytes of a storage."""
    return self._size(f"data/{key}")

  def storage(self, storage: Storage) -> np.ndarray:
    """All elements of a storage, read-only."""
    if storage.key not in self._storages:
      data = self._bytes(f"data/{storage.key}", self._file_size)
      raw = np.frombuffer(data, f"u{storage.dtype.itemsize}", count=storage.length)
      self._storages[storage.key] = (raw.byteswap() if self._swapped else raw).view(storage.dtype)
    return self._storages[storage.key]

  def _bytes(self, name: str, limit: int) -> bytes:
    if self._size(name) > limit:
      raise RefusedError(f"its record {name[:40]!r} has more than {limit} bytes")
    return self._archive.read(self._root + name)

  def _size(self, name: str) -> int:
    try:
      info = self._archive.getinfo(self._root + name)
    except KeyError:
      raise RefusedError(f"it lacks the record {name[:40]!r} (truncated?)") from None
    if info.compress_type != zipfile.ZIP_STORED:
      raise RefusedError("its records are compressed, which torch.save does not do; save it again")
    return info.file_size
