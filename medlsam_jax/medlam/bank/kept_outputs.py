"""What takes a bank so long, kept as it comes: the network's outputs at template points. A stopped build goes on.

In a folder of the caller's lies one folder per template as one network sees it, and in it files that are each written
once, whole or not at all, under names of their own: processes may share them, and none overwrites another's. Whatever
cannot be read, or belongs to other shapes, is computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from medlsam_jax import notices, platform
from medlsam_jax.errors import OutputError
from medlsam_jax.installation import version
from medlsam_jax.io.atomic import atomically
from medlsam_jax.network import Network

WRITE_EVERY_S = 20.0
"""At most so much work is lost when a build is killed."""
UNUSED_DAYS = 30
"""Outputs of builds that nobody went on with are dropped after so long."""

Point = tuple[int, int, int]
Row = tuple[Float32[np.ndarray, "3"], dict[int, Float32[np.ndarray, "k k k c"]]]
"""Anatomical coordinate of a point, and the features around it by stride."""


class TemplateOutputs:
  """Outputs at points of one template: what was kept before, and what is added now."""

  def __init__(self, folder: Path | None = None, strides: Sequence[int] = (), edge: int = 0) -> None:
    self.rows: dict[Point, Row] = {}
    """By voxel (z, y, x) of the padded working grid."""
    self._folder, self._strides, self._edge = folder, tuple(strides), edge
    self._fresh: list[Point] = []
    self._written = time.monotonic()
    if folder is not None and folder.is_dir():
      for path in sorted(folder.glob("*.safetensors")):
        self._read(path)

  def add(
    self,
    points: Int[np.ndarray, "n 3"],
    positions: Float32[np.ndarray, "n 3"],
    taps: dict[int, Float32[np.ndarray, "n k k k c"]],
  ) -> None:
    """Remembers outputs, and writes what is new if the last time is long ago."""
    for index, point in enumerate(map(tuple, points.tolist())):
      self.rows[point] = positions[index], {stride: volume[index] for stride, volume in taps.items()}
      self._fresh.append(point)
    if time.monotonic() - self._written > WRITE_EVERY_S:
      self.write()

  def write(self) -> None:
    """Writes what is new. Where that cannot be, it warns, and nothing is kept any more."""
    folder, fresh, self._fresh, self._written = self._folder, self._fresh, [], time.monotonic()
    if folder is None or not fresh:
      return
    rows = [self.rows[point] for point in fresh]
    tensors = {"points": np.array(fresh, np.int32), "positions": np.stack([row[0] for row in rows])}
    tensors |= {f"taps.{stride}": np.stack([row[1][stride] for row in rows]) for stride in self._strides}
    try:
      folder.mkdir(parents=True, exist_ok=True)
      with atomically(folder / f"{secrets.token_hex(8)}.safetensors") as part:
        save_file(tensors, part)
    except (OSError, OutputError, SafetensorError) as error:
      self._folder = None
      why = error.strerror if isinstance(error, OSError) and error.strerror else error
      notices.warn(f"{folder}: the growing bank cannot be kept there ({why}); if this is stopped, it begins anew")

  def _read(self, path: Path) -> None:
    try:
      tensors = load_file(path)
      points, positions = tensors["points"], tensors["positions"]
      taps = {stride: tensors[f"taps.{stride}"] for stride in self._strides}
    except (OSError, SafetensorError, KeyError):
      return
    count = len(points)
    cubes = all(v.shape[:4] == (count, *(self._edge // s,) * 3) and v.dtype == np.float32 for s, v in taps.items())
    if points.shape == positions.shape == (count, 3) and positions.dtype == np.float32 and cubes:
      for index, point in enumerate(map(tuple, points.tolist())):
        self.rows[point] = positions[index], {stride: volume[index] for stride, volume in taps.items()}


class KeptOutputs:
  """A folder of outputs, of which a build uses those of its templates."""

  def __init__(self, folder: str | os.PathLike[str]) -> None:
    self.folder = Path(folder)
    self.known = 0
    """Points of the templates asked for that were there before."""
    self._used: list[Path] = []

  def of(
    self, network: Network, padded: Float32[np.ndarray, "z y x"], strides: Sequence[int], edge: int
  ) -> TemplateOutputs:
    """Those of one template: for these weights, this padded scan, features of these strides, this cube around points.

    Points do not count among them, so that other organs or parts of the same template use what is there.
    """
    libraries = [version(name) for name in ("medlsam_jax", "jax")]
    computed = (network.sha256, *libraries, platform.backend(), "float32 products")
    said = [*computed, padded.shape, padded.dtype.name, tuple(strides), edge]
    digest = hashlib.sha256("|".join(map(str, said)).encode())
    digest.update(np.ascontiguousarray(padded).tobytes())
    place = self.folder / digest.hexdigest()[:32]
    self._used.append(place)
    outputs = TemplateOutputs(place, strides, edge)
    self.known += len(outputs.rows)
    return outputs

  def clear(self) -> None:
    """Removes what this build used, now that its result is kept or no longer needed, and what nobody went on with."""
    for place in self._used:
      shutil.rmtree(place, ignore_errors=True)
    with contextlib.suppress(OSError):
      for place in self.folder.iterdir():
        if place.stat().st_mtime < time.time() - UNUSED_DAYS * 86400:
          shutil.rmtree(place, ignore_errors=True)
      self.folder.rmdir()  # only where nothing is left
