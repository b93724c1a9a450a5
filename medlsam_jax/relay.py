"""How an array is laid onto another grid over the same voxels; `geometry.Grid.relay_to` decides whether it can be."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Integer, Num


@dataclasses.dataclass(frozen=True)
class Relay:
  """How an array is laid onto another grid over the same voxels, without interpolation; all triples are (z, y, x)."""

  order: tuple[int, int, int]
  """For each axis of the result, the axis of the array it comes from."""
  flip: tuple[bool, bool, bool]
  """Whether it runs the other way."""
  start: tuple[int, int, int]
  """Voxel of the result where the turned array begins; may be negative."""
  shape: tuple[int, int, int]
  """Of the array."""
  target: tuple[int, int, int]
  """Shape of the result."""

  @property
  def is_identity(self) -> bool:
    """Whether nothing is changed."""
    return self.is_turn and self.order == (0, 1, 2) and not any(self.flip)

  @property
  def is_turn(self) -> bool:
    """Whether the two are the same voxels, if in another order."""
    return self.start == (0, 0, 0) and tuple(self.shape[axis] for axis in self.order) == self.target

  @property
  def covered(self) -> tuple[Integer[np.ndarray, "3"], Integer[np.ndarray, "3"]]:
    """First and last voxel of the result that the array reaches; a last below the first where it reaches none."""
    start, extent = np.array(self.start), np.array(self.shape)[list(self.order)]
    return np.maximum(start, 0), np.minimum(start + extent, self.target) - 1

  def apply(self, array: Num[np.ndarray, "z y x"]) -> Num[np.ndarray, "z2 y2 x2"]:
    """`array` on the other grid, in its own type: 0 where it does not reach, and without what lies beyond.

    A view where the array only has to be turned.
    """
    turned = array.transpose(self.order)[tuple(slice(None, None, -1) if f else slice(None) for f in self.flip)]
    if self.is_turn:
      return turned
    result = np.zeros(self.target, array.dtype)
    low, high = self.covered
    if (low <= high).all():
      inside = tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))
      result[inside] = turned[tuple(slice(a, b + 1) for a, b in zip(low - self.start, high - self.start, strict=True))]
    return result
