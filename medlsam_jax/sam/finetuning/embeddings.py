"""Image embeddings of a set of slices, computed once and kept in a file that steps read from."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float, Float16, PyTree

from medlsam_jax import platform
from medlsam_jax.progress import Progress
from medlsam_jax.sam.labelled_slices import LabelledSlices
from medlsam_jax.sam.network.layers import fold_batch_norm
from medlsam_jax.sam.network.sam import Sam
from medlsam_jax.train.run_folder import folder_of_a_run, local_copy, whole_file

FOLDER = "embeddings"
Encode = Callable[[PyTree, Array], Float[Array, "n g g c"]]


@functools.lru_cache(maxsize=2)
def make_encoder(module: Sam) -> Encode:
  """Jitted encoder: variables of the module, images -> embeddings."""

  def encode(variables: PyTree, images: Array) -> Array:
    with platform.asked(module.dtype):
      return cast(Array, module.apply(variables, images, method="encode"))

  return jax.jit(encode)


def embeddings_of(
  module: Sam, variables: PyTree, network_sha256: str, slices: LabelledSlices, directory: epath.Path, progress: Progress
) -> Float16[np.ndarray, "n g g c"]:
  """Embeddings of all images as half-precision numbers in a file, read as they are needed.

  A file that is there already is used if it was made with the same weights, precision and images.

  Raises:
    OutputError: the file cannot be written.
  """
  path = directory / FOLDER / f"{_fingerprint(module, network_sha256, slices)}.npy"
  if not path.is_file():
    with folder_of_a_run(path.parent), whole_file(path) as part:
      _write(module, variables, slices, part, progress)
  return np.load(local_copy(str(path)), mmap_mode="r")


def _write(module: Sam, variables: PyTree, slices: LabelledSlices, path: Path, progress: Progress) -> None:
  folded = module.clone(folded=True)
  variables = jax.jit(fold_batch_norm)(variables) if not module.folded else variables
  encode, size, total = make_encoder(folded), platform.images_at_once(), len(slices)
  grid, width = module.variant.grid, module.variant.encoder.neck
  kept = np.lib.format.open_memmap(path, "w+", np.float16, (total, grid, grid, width))
  for start in range(0, total, size):
    items = slices.items[start : start + size]
    images = np.stack([slices.image(item) for item in items])
    images = np.pad(images, ((0, size - len(items)), (0, 0), (0, 0), (0, 0)))
    kept[start : start + len(items)] = np.asarray(encode(variables, jnp.asarray(images)))[: len(items)]
    progress(start + len(items), total)
  kept.flush()


def _fingerprint(module: Sam, network_sha256: str, slices: LabelledSlices) -> str:
  digest = hashlib.sha256(f"{network_sha256}|{np.dtype(module.dtype).name}|{slices.pixels}".encode())
  for item in slices.items:
    digest.update(f"{item.window_hu}|{slices.fit_of(item)}".encode())
    digest.update(np.ascontiguousarray(slices.scans[item.scan].hu[item.index]).tobytes())
  return digest.hexdigest()[:24]
