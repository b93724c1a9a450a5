"""Masks <-> run lengths, as pycocotools has them: down the columns, beginning with the length of the outside."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool

from medlsam_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class RunLengths:
  """A mask in little space: `size` (rows, columns), and the lengths of its runs, outside and inside by turns."""

  size: tuple[int, int]
  counts: tuple[int, ...]

  @property
  def area(self) -> int:
    """Pixels inside."""
    return sum(self.counts[1::2])

  def decode(self) -> Bool[np.ndarray, "row column"]:
    """The mask."""
    inside = np.arange(len(self.counts)) % 2 == 1
    return np.repeat(inside, self.counts).reshape(self.size[::-1]).T

  def as_dict(self) -> dict[str, list[int]]:
    """COCO's uncompressed form."""
    return {"size": list(self.size), "counts": list(self.counts)}

  def compressed(self) -> dict[str, list[int] | str]:
    """COCO's compressed form, text in JSON.

    Raises:
      ConfigError: pycocotools is not installed.
    """
    try:
      from pycocotools import mask as coco
    except ImportError as error:
      raise ConfigError("compressed run lengths need pycocotools: pip install pycocotools") from error
    made = coco.frPyObjects(self.as_dict(), *self.size)
    return {"size": list(self.size), "counts": made["counts"].decode()}


def encode(mask: Bool[np.ndarray, "row column"]) -> RunLengths:
  """Run lengths of a mask."""
  flat = np.asarray(mask, bool).T.ravel()
  edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
  counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
  return RunLengths((mask.shape[0], mask.shape[1]), tuple([0, *counts] if flat.size and flat[0] else counts))
