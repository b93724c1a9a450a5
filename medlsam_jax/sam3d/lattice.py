"""Regular lattices of points in a scan, and arrays brought onto them: cubes of a working spacing around organs.

Everything here is in display order (`geometry.DISPLAY_AXIS_CODES`), the order in which the base has seen slices. A
lattice runs along the axes of the scan; a tilted scan was resampled when it was read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Num, Shaped

Slices = tuple[slice, slice, slice]


@dataclasses.dataclass(frozen=True)
class Lattice:
  """Points `start + index * step` along each axis, in voxels of a scan in display order, (z, y, x)."""

  start: tuple[float, float, float]
  step: tuple[float, float, float]
  shape: tuple[int, int, int]

  @classmethod
  def around(
    cls, centre: Num[np.ndarray, "3"], spacing_mm: Num[np.ndarray, "3"], step_mm: float, shape: Sequence[int]
  ) -> Lattice:
    """The lattice of `step_mm` with its middle at a place.

    Args:
      centre: display voxels (z, y, x).
      spacing_mm: of the scan in display order.
      step_mm: between points of the lattice.
      shape: points along each axis.
    """
    step = step_mm / np.asarray(spacing_mm, float)
    start = np.asarray(centre, float) - (np.asarray(shape) - 1) / 2 * step
    (z, y, x), (dz, dy, dx), (n, m, k) = start.tolist(), step.tolist(), shape
    return cls((z, y, x), (dz, dy, dx), (int(n), int(m), int(k)))

  def from_scan(self, points: Num[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    """Display voxels to places in the lattice, which points at whole numbers."""
    return (np.asarray(points, float) - self.start) / self.step

  def sampled(self, array: Shaped[np.ndarray, "z y x"], outside: float) -> Float32[np.ndarray, "a b c"]:
    """Values at the points: linear between voxels, averaged over a step where steps are longer than voxels.

    Args:
      array: in display order.
      outside: value of what lies beyond the array.
    """
    weights = [_near(n, *along) for n, along in zip(array.shape, self._along(), strict=True)]
    reached = [_reached(each) for each in weights]
    part = np.asarray(array[tuple(reached)], np.float32) - np.float32(outside)
    for axis, (each, where) in enumerate(zip(weights, reached, strict=True)):
      part = np.moveaxis(np.tensordot(each[:, where], part, (1, axis)), 0, axis)
    return np.ascontiguousarray(part + np.float32(outside))

  def mask(self, inside: Bool[np.ndarray, "z y x"]) -> Bool[np.ndarray, "a b c"]:
    """Points of which a mask holds at least half."""
    return self.sampled(inside, 0.0) >= 0.5

  def reach(self, shape: Sequence[int]) -> Slices:
    """The voxels of an array of `shape` that lie between the first and the last point; may be empty."""
    low = np.ceil(np.asarray(self.start) - 1e-6)
    high = np.floor(np.asarray(self.start) + (np.asarray(self.shape) - 1) * np.asarray(self.step) + 1e-6) + 1
    low, high = (np.clip(each, 0, shape).astype(int) for each in (low, high))
    z, y, x = map(slice, low.tolist(), np.maximum(low, high).tolist())
    return z, y, x

  def at_voxels(self, values: Float[np.ndarray, "a b c"], where: Slices) -> Float32[np.ndarray, "z y x"]:
    """Values of the lattice, linear between its points, at voxels within `reach`."""
    part = np.asarray(values, np.float32)
    for axis, (along, n) in enumerate(zip(where, self.shape, strict=True)):
      place = (np.arange(along.start, along.stop) - self.start[axis]) / self.step[axis]
      weights = np.maximum(0, 1 - np.abs(np.clip(place, 0, n - 1)[:, None] - np.arange(n))).astype(np.float32)
      part = np.moveaxis(np.tensordot(weights, part, (1, axis)), 0, axis)
    return np.ascontiguousarray(part)

  def _along(self) -> list[tuple[float, float, int]]:
    return list(zip(self.start, self.step, self.shape, strict=True))


def _near(voxels: int, start: float, step: float, points: int) -> Float32[np.ndarray, "points voxels"]:
  """Weights of voxels in each point: a triangle as wide as a step or a voxel, the larger; what lies beyond is lost."""
  place = start + np.arange(points) * step
  wide = max(step, 1.0)
  first = int(np.floor(place[0] - wide)) - 1
  every = np.arange(first, int(np.ceil(place[-1] + wide)) + 2)
  weights = np.maximum(0, 1 - np.abs(place[:, None] - every) / wide)
  weights /= weights.sum(1, keepdims=True)
  inside = (every >= 0) & (every < voxels)
  full = np.zeros((points, voxels), np.float32)
  full[:, every[inside]] = weights[:, inside]
  return full


def _reached(weights: Float32[np.ndarray, "points voxels"]) -> slice:
  used = np.flatnonzero(weights.any(0))
  return slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 0)
