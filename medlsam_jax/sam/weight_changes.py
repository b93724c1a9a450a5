"""What fine-tuning changed, small enough to go beside the weights that it was done to: kernels by their best
approximation of a low rank, all else whole.

A change of `mask_decoder/.../kernel` is `kernel/down` and `kernel/up`, whose product is added to it as a matrix (its
last axis apart from the others), or `kernel/whole`.
"""

from __future__ import annotations

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree

from medlsam_jax.errors import WeightsError

_DOWN, _UP, _WHOLE = "down", "up", "whole"


def changes(before: PyTree, after: PyTree, rank: int) -> dict[str, PyTree]:
  """From one set of variables to another of the same shapes, in half precision.

  Args:
    before, after: collections by name, as `Network.variables`.
    rank: of what is kept of a kernel's change, by its largest singular values; a kernel that this would not make
      smaller is kept whole.
  """
  old, new = (flatten_dict(tree, sep="/") for tree in (before, after))
  kept: dict[str, np.ndarray] = {}
  for name, leaf in new.items():
    change = np.asarray(leaf, np.float32) - np.asarray(old[name], np.float32)
    if not change.any():
      continue
    columns = change.shape[-1]
    matrix = change.reshape(-1, columns)
    if rank * sum(matrix.shape) >= matrix.size:
      kept[f"{name}/{_WHOLE}"] = change
      continue
    left, strength, right = np.linalg.svd(matrix, full_matrices=False)
    share = np.sqrt(strength[:rank])  # half to each side, so that neither leaves half precision
    kept[f"{name}/{_DOWN}"], kept[f"{name}/{_UP}"] = left[:, :rank] * share, share[:, None] * right[:rank]
  return unflatten_dict({name: array.astype(np.float16) for name, array in kept.items()}, sep="/")


def changed(before: PyTree, kept: PyTree, source: str) -> dict[str, PyTree]:
  """Variables with their changes.

  Args:
    before: what the changes were made to.
    kept: of `changes`.
    source: for messages.

  Raises:
    WeightsError: changes of tensors that are not there, or of other shapes.
  """
  new = dict(flatten_dict(before, sep="/"))
  flat = flatten_dict(kept, sep="/")
  for name in {path.rpartition("/")[0] for path in flat}:
    try:
      old = new[name]
      if f"{name}/{_WHOLE}" in flat:
        change = np.asarray(flat[f"{name}/{_WHOLE}"], np.float32)
      else:
        down, up = (np.asarray(flat[f"{name}/{part}"], np.float32) for part in (_DOWN, _UP))
        change = (down @ up).reshape(old.shape)
      if change.shape != old.shape:
        raise ValueError(f"shape {change.shape}, not {old.shape}")
    except (KeyError, ValueError) as error:
      raise WeightsError(f"{source}: its change of {name} does not fit the weights that it is made to") from error
    new[name] = np.asarray(old, np.float32) + change
  return unflatten_dict(new, sep="/")
