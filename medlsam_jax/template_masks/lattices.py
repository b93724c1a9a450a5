"""Regular nodes around a box of a scan, whatever its voxels: sampled from an array and brought back to it.

Arrays are turned so that their axes run along the working grid's (`WORKING_AXIS_CODES`), which is a view. Places along
an axis are **edges**: voxel `i` spans `[i, i + 1]`, so that a box of inclusive voxels `low..high` is `[low, high + 1]`.
Everything is linear and separable: one small matrix an axis, whose kernel widens where the target is coarser.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Float32, Shaped

from medlsam_jax.geometry import WORKING_AXIS_CODES, Box, Grid, reorient, reorient_corners


@dataclasses.dataclass(frozen=True, eq=False)
class Lattice:
  """Node `k` of an axis spans `[low + k * step, low + (k + 1) * step]`, edges of turned voxels (z, y, x)."""

  low: Float[np.ndarray, "3"]
  step: Float[np.ndarray, "3"]
  count: tuple[int, int, int]

  @classmethod
  def around(
    cls, edges: Float[np.ndarray, "2 3"], margin: Float[np.ndarray, "3"], count: tuple[int, int, int]
  ) -> Lattice:
    """So many nodes over a box widened by `margin` on each side, both in turned voxels."""
    low, high = edges[0] - margin, edges[1] + margin
    return cls(low, (high - low) / np.array(count), count)

  def carried(self, source: Float[np.ndarray, "2 3"], target: Float[np.ndarray, "2 3"]) -> Lattice:
    """The same nodes in another frame, where the box `source` is `target`."""
    scale = (target[1] - target[0]) / (source[1] - source[0])
    return Lattice(target[0] + (self.low - source[0]) * scale, self.step * scale, self.count)


def turned(array: np.ndarray, grid: Grid) -> np.ndarray:
  """View of an array of `grid` along the working grid's axes."""
  return reorient(array, grid, WORKING_AXIS_CODES)


def turned_spacing_mm(grid: Grid) -> Float[np.ndarray, "3"]:
  """Edges of a voxel of the turned array."""
  return grid.spacing_mm[list(grid.axes_to(WORKING_AXIS_CODES)[0])]


def turned_edges(box: Box, grid: Grid) -> Float[np.ndarray, "2 3"]:
  """Outer faces of a box of scan voxels, in edges of the turned array. Crossed corners are sorted.

  Raises:
    InputError: a corner is NaN or infinite.
  """
  return reorient_corners(box, grid, WORKING_AXIS_CODES) + np.array([[0.0], [1.0]])


def sample(
  array: Shaped[np.ndarray, "z y x"], lattice: Lattice
) -> tuple[Float32[np.ndarray, "a b c"], Bool[np.ndarray, "a b c"]]:
  """A turned array at the nodes, and which nodes lie inside it; those outside hold 0."""
  parts = [_weights(lattice.low[a], lattice.step[a], lattice.count[a], array.shape[a]) for a in range(3)]
  region = tuple(window for window, _, _ in parts)
  values = _along(array[region].astype(np.float32), [weights for _, weights, _ in parts])
  z, y, x = (inside for _, _, inside in parts)
  return values, z[:, None, None] & y[:, None] & x


def spread(
  values: Float[np.ndarray, "a b c"], lattice: Lattice, shape: tuple[int, ...]
) -> tuple[tuple[slice, ...], Float32[np.ndarray, "z y x"]]:
  """Values at nodes as voxels of a turned array of `shape`: the window that they cover, and its voxels."""
  windows, matrices = [], []
  for axis in range(3):
    low, step, count = lattice.low[axis], lattice.step[axis], lattice.count[axis]
    start = int(np.clip(np.floor(low), 0, shape[axis]))
    stop = int(np.clip(np.ceil(low + count * step), start, shape[axis]))
    _, weights, inside = _weights((start - low) / step, 1 / step, stop - start, count, whole=True)
    windows.append(slice(start, stop))
    matrices.append(weights * inside[:, None])
  return tuple(windows), _along(np.asarray(values, np.float32), matrices)


def _weights(
  low: float, step: float, count: int, size: int, whole: bool = False
) -> tuple[slice, Float32[np.ndarray, "count read"], Bool[np.ndarray, " count"]]:
  """Cells that are read, weights of each for each target, and which targets' centres lie inside the `size` cells.

  A triangle as wide as the larger of the two steps; where it reaches past the end the weights that are left count.
  """
  centres = low + (np.arange(count) + 0.5) * step - 0.5
  inside = (centres >= -0.5) & (centres <= size - 0.5)
  reach = max(step, 1.0)
  window = slice(0, size)
  if not whole:
    start = int(np.clip(np.floor(centres.min(initial=0) - reach), 0, size - 1))
    window = slice(start, int(np.clip(np.ceil(centres.max(initial=0) + reach) + 1, start + 1, size)))
  cells = np.arange(window.start, window.stop)
  weights = np.maximum(0, 1 - np.abs(cells - np.clip(centres, 0, size - 1)[:, None]) / reach)
  weights *= inside[:, None]
  return window, (weights / np.maximum(weights.sum(1, keepdims=True), 1e-9)).astype(np.float32), inside


def _along(
  array: Float32[np.ndarray, "z y x"], matrices: list[Float32[np.ndarray, "_ _"]]
) -> Float32[np.ndarray, "a b c"]:
  z, y, x = matrices
  array = np.tensordot(z, array, (1, 0))
  array = np.tensordot(array, y, (1, 1))  # (a, x, b)
  return np.ascontiguousarray(np.tensordot(array, x, (1, 1)))
