"""The page's own frame, and what of a scan it shows there.

The page knows one frame: millimetres `(x, y, z)` along the patient's right, front and head, from the centre of the
voxel that lies lowest in all three. It needs no affine, holds a tilt of a hundredth of a radian as exactly as the scan
does, and goes to scan voxels and back by counting.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Integer, Num

from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Box, Grid, reorient

PAGE_AXIS_CODES = "RAS"
SHOWN_VOXELS = 48_000_000
"""A larger scan is shown thinned out: a graphics card holds each voxel as four bytes. Results are never thinned out."""
SHOWN_EDGE = 1024
"""Longest edge that is shown; every WebGL 2 takes a texture of 256, nearly every one of 2048."""
_AIR_HU, _METAL_HU = -1024, 3071
_DENSE = 1 << 16
"""Up to this label value a table by value is quicker than to look for each of them."""


@dataclasses.dataclass(frozen=True)
class Frame:
  """Ways between scan voxels (z, y, x) and the page's millimetres (x, y, z)."""

  grid: Grid
  factors: tuple[int, int, int]
  """Voxels of the scan that one shown voxel stands for, (z, y, x) of the page."""

  @classmethod
  def of(cls, grid: Grid, most: int = SHOWN_VOXELS, longest: int = SHOWN_EDGE) -> Frame:
    """The frame of a scan, shown with at most so many voxels: those are joined first that lie closest together."""
    shape, spacing = _turned(grid)
    factors = np.ones(3, int)
    while True:
      shown = -(-shape // factors)
      if np.prod(shown, dtype=float) <= most and shown.max() <= longest:
        return cls(grid, (int(factors[0]), int(factors[1]), int(factors[2])))
      long = shown > longest
      factors[np.where(long if long.any() else shown > 1, spacing * factors, np.inf).argmin()] += 1

  @property
  def shape(self) -> Integer[np.ndarray, "3"]:
    """Voxels of the scan, (z, y, x) of the page."""
    return _turned(self.grid)[0]

  @property
  def spacing_mm(self) -> Float[np.ndarray, "3"]:
    """Edges of the scan's voxels, (z, y, x) of the page."""
    return _turned(self.grid)[1]

  @property
  def shown_shape(self) -> tuple[int, ...]:
    """Voxels that are shown, (z, y, x) of the page."""
    return tuple((-(-self.shape // np.array(self.factors))).tolist())

  def scan(self, array: Num[np.ndarray, "z y x"]) -> Integer[np.ndarray, "z2 y2 x2"]:
    """HU as they are shown, whole numbers; where voxels are joined, their mean."""
    turned = reorient(array, self.grid, PAGE_AXIS_CODES)
    result = np.empty(self.shown_shape, np.int16)
    for row in range(result.shape[0]):  # slab by slab: a large scan is not copied in single precision
      slab = turned[row * self.factors[0] : (row + 1) * self.factors[0]].mean(0, dtype=np.float32)
      for axis in (0, 1):
        slab = _means(slab, axis, self.factors[1 + axis])
      result[row] = np.rint(np.clip(slab, _AIR_HU, _METAL_HU))
    return result

  def labels(self, array: Integer[np.ndarray, "z y x"], numbers: Sequence[int]) -> Integer[np.ndarray, "z2 y2 x2"]:
    """A label map as it is shown: `numbers[i]` becomes i + 1, all else 0; of joined voxels the middle one counts."""
    middle = [
      np.minimum(np.arange(shown) * factor + factor // 2, n - 1)
      for shown, factor, n in zip(self.shown_shape, self.factors, self.shape.tolist(), strict=True)
    ]
    picked = reorient(array, self.grid, PAGE_AXIS_CODES)[np.ix_(*middle)]
    dtype = np.uint8 if len(numbers) < 256 else np.uint16
    if max(numbers, default=0) < _DENSE:
      places = np.zeros(max(numbers, default=0) + 2, dtype)
      places[list(numbers)] = np.arange(1, len(numbers) + 1)
      return places[np.minimum(picked, len(places) - 1)]
    result = np.zeros(picked.shape, dtype)
    for place, number in enumerate(numbers, 1):
      result[picked == number] = place
    return result

  def to_page(self, voxels: Num[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    """Scan voxels (z, y, x), fractional, to the page's mm (x, y, z)."""
    order, flip = self.grid.axes_to(PAGE_AXIS_CODES)
    moved = np.asarray(voxels, float)[..., list(order)]
    return (np.where(flip, self.shape - 1 - moved, moved) * self.spacing_mm)[..., ::-1]

  def from_page(self, points_mm: Num[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    """The inverse of `to_page`."""
    order, flip = self.grid.axes_to(PAGE_AXIS_CODES)
    moved = np.asarray(points_mm, float)[..., ::-1] / self.spacing_mm
    result = np.empty_like(moved)
    result[..., list(order)] = np.where(flip, self.shape - 1 - moved, moved)
    return result

  def box_to_page(self, box: Box) -> list[list[float]]:
    """Low and high corner in the page's mm (x, y, z), outer faces."""
    ends = self.to_page(box.array())
    half = self.spacing_mm[::-1] / 2
    return _plain(np.stack([ends.min(0) - half, ends.max(0) + half]))

  def box_from_page(self, corners_mm: object) -> Box:
    """The inverse of `box_to_page`, as whole voxels: at least one along each axis, and inside the scan.

    Raises:
      InputError: not two corners of three numbers, or a box that lies outside the scan.
    """
    corners = np.sort(numbers_of(corners_mm, (2, 3), "a box"), axis=0)
    half = self.spacing_mm[::-1] / 2
    low, high = corners + np.stack([half, -half])
    middle = (low + high) / 2
    ends = self.from_page(np.stack([np.minimum(low, middle), np.maximum(high, middle)]))
    box = Box.from_corners(np.rint(ends.min(0) - 1e-6), np.rint(ends.max(0) + 1e-6)).clipped(self.grid.shape)
    if box is None:
      raise InputError("the box lies outside the scan")
    return box

  @property
  def shown_affine(self) -> Float[np.ndarray, "4 4"]:
    """Shown voxel (x, y, z) to the page's mm."""
    factors = np.array(self.factors[::-1])
    affine = np.diag([*self.spacing_mm[::-1] * factors, 1.0])
    affine[:3, 3] = self.spacing_mm[::-1] * (factors - 1) / 2
    return affine

  def about(self) -> dict[str, object]:
    """What the page has to know to lay voxels on millimetres."""
    affine = self.shown_affine
    return {
      "shape": self.shape[::-1].tolist(),
      "spacing_mm": _plain(self.spacing_mm[::-1]),
      "shown_shape": list(self.shown_shape[::-1]),
      "shown_spacing_mm": _plain(np.diag(affine)[:3]),
      "shown_origin_mm": _plain(affine[:3, 3]),
      "is_thinned": max(self.factors) > 1,
    }


def numbers_of(said: object, shape: tuple[int, ...], what: str) -> Float[np.ndarray, "..."]:
  """Numbers that a page sent.

  Raises:
    InputError: not finite numbers of that shape.
  """
  try:
    array = np.array(said, float)
  except (TypeError, ValueError, OverflowError):
    array = np.zeros(0)
  if array.shape != shape or not np.isfinite(array).all():
    raise InputError(f"{said!r:.100} is not {what}: {' x '.join(map(str, shape))} finite numbers are needed")
  return array


def _turned(grid: Grid) -> tuple[Integer[np.ndarray, "3"], Float[np.ndarray, "3"]]:
  """Shape and spacing of a grid whose array is turned to the page's axes, (z, y, x)."""
  order, _ = grid.axes_to(PAGE_AXIS_CODES)
  return np.array(grid.shape)[list(order)], np.ascontiguousarray(grid.spacing_mm[list(order)])


def _means(plane: Float[np.ndarray, "y x"], axis: int, factor: int) -> Float[np.ndarray, "y2 x2"]:
  if factor == 1:
    return plane
  starts = np.arange(0, plane.shape[axis], factor)
  counts = np.diff([*starts, plane.shape[axis]]).astype(np.float32)
  sums = np.add.reduceat(plane, starts, axis)
  return sums / (counts[:, None] if axis == 0 else counts)


def _plain(values: np.ndarray) -> list:
  return (np.round(values, 6) + 0.0).tolist()
