"""What a person marks in a viewer, in voxels (z, y, x) of the image: points, boxes, and what is not the organ."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Integer

from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Box

SCRIBBLE_POINTS = 6
"""Points that stand for a scribble on one slice."""


@dataclasses.dataclass(frozen=True)
class Point:
  """A voxel that is in the organ, or is not."""

  place: tuple[int, int, int]
  inside: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Erased:
  """Voxels that are not the organ, whatever a network says."""

  low: tuple[int, int, int]
  mask: Bool[np.ndarray, "z y x"]

  def take_from(self, array: Bool[np.ndarray, "z y x"]) -> None:
    """Clears them in a mask of the image."""
    array[tuple(slice(l, l + n) for l, n in zip(self.low, self.mask.shape, strict=True))] &= ~self.mask


@dataclasses.dataclass(frozen=True, eq=False)
class Marks:
  """All that was marked since the last reset, in order."""

  boxes: tuple[Box, ...] = ()
  points: tuple[Point, ...] = ()
  erased: tuple[Erased, ...] = ()
  start: Bool[np.ndarray, "z y x"] | None = None
  """A mask that was there before the first mark."""
  refine: bool = False
  """Whether the boxes of that mask are to prompt the network, slice by slice."""
  first: tuple[int, int, int] | None = None
  """Middle voxel of the first mark that is the organ."""

  @property
  def is_empty(self) -> bool:
    """Whether there is nothing to paint."""
    return not self.boxes and self.start is None and not any(point.inside for point in self.points)

  def with_box(self, box: Box) -> Marks:
    """And a box around the organ, or around its part in one slice."""
    middle = np.floor(box.array().mean(0)).astype(int).tolist()
    return self._after(tuple(middle), boxes=(*self.boxes, box))

  def with_points(self, places: Sequence[Sequence[int]], inside: bool) -> Marks:
    """And points."""
    points = tuple(Point((int(z), int(y), int(x)), inside) for z, y, x in places)
    after = self._after(points[0].place if inside else None, points=(*self.points, *points))
    return after

  def with_erased(self, low: Sequence[int], mask: np.ndarray) -> Marks:
    """And a place that is not the organ."""
    z, y, x = map(int, low)
    return dataclasses.replace(self, erased=(*self.erased, Erased((z, y, x), np.array(mask, bool))))

  def _after(self, first: tuple[int, int, int] | None, **parts: Any) -> Marks:
    return dataclasses.replace(self, first=self.first or first, **parts)


def box_of(intervals: object, shape: tuple[int, ...]) -> Box:
  """A box that a viewer sends, `[[z0, z1], [y0, y1], [x0, x1]]` half open, cut to the image.

  Raises:
    InputError: it is none, or lies outside the image.
  """
  array = _numbers(intervals, (3, 2), "a box is [[z0, z1], [y0, y1], [x0, x1]]")
  low, high = np.rint(array.min(1)), np.rint(array.max(1))
  high = np.maximum(high, low + 1)
  box = Box.from_corners(low, high - 1).clipped(shape)
  if box is None:
    raise InputError(f"a box outside the image of {'x'.join(map(str, shape))} voxels")
  return box


def place_of(coordinates: object, shape: tuple[int, ...]) -> tuple[int, int, int]:
  """A point that a viewer sends.

  Raises:
    InputError: it is none, or lies outside the image.
  """
  place = np.rint(_numbers(coordinates, (3,), "a point is [z, y, x]")).astype(int)
  if (place < 0).any() or (place >= shape).any():
    raise InputError(f"a point outside the image of {'x'.join(map(str, shape))} voxels")
  z, y, x = place.tolist()
  return z, y, x


def region_of(mask: np.ndarray, bounds: object, shape: tuple[int, ...]) -> tuple[tuple[int, int, int], np.ndarray]:
  """A mask that a viewer sends, of the whole image or of `bounds`: its lowest voxel, and the part that is not empty.

  Raises:
    InputError: it does not fit its bounds or the image, or is empty.
  """
  whole = [[0, n] for n in shape] if bounds is None else bounds
  limits = _numbers(whole, (3, 2), "interaction_bbox is [[z0, z1], [y0, y1], [x0, x1]]").astype(int)
  sizes = tuple((limits[:, 1] - limits[:, 0]).tolist())
  if mask.shape != sizes or (limits[:, 0] < 0).any() or (limits[:, 1] > shape).any():
    raise InputError(f"a drawing of {mask.shape} voxels does not fit {limits.tolist()} in an image of {shape}")
  tight = Box.of_mask(mask > 0)
  if tight is None:
    raise InputError("a drawing without a voxel")
  low, high = tight.array().astype(int)
  part = mask[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))] > 0
  z, y, x = (limits[:, 0] + low).tolist()
  return (z, y, x), part


def boxes_around(low: Sequence[int], mask: Bool[np.ndarray, "z y x"]) -> list[Box]:
  """A lasso as boxes: around what is drawn on each slice, along the axis in which it is thinnest."""
  axis = int(np.argmin(mask.shape))
  boxes = []
  for index in np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))):
    tight = Box.of_mask(np.take(mask, [index], axis))
    if tight is not None:
      corners = tight.array() + low
      corners[:, axis] += index
      boxes.append(Box.from_corners(*corners))
  return boxes


def points_along(low: Sequence[int], mask: Bool[np.ndarray, "z y x"]) -> list[tuple[int, int, int]]:
  """A scribble as points, on each slice as far from each other as may be (at most `SCRIBBLE_POINTS`)."""
  axis = int(np.argmin(mask.shape))
  voxels = np.argwhere(mask)
  result = []
  for index in np.unique(voxels[:, axis]):
    result += [tuple((voxel + low).tolist()) for voxel in _spread(voxels[voxels[:, axis] == index])]
  return result


def _spread(voxels: Integer[np.ndarray, "n 3"]) -> list[Integer[np.ndarray, "3"]]:
  """Some of them: the middlemost, and again and again the one that lies furthest from those taken."""
  away = np.linalg.norm(voxels - voxels.mean(0), axis=1)
  chosen = [int(away.argmin())]
  distance = np.linalg.norm(voxels - voxels[chosen[0]], axis=1)
  while len(chosen) < SCRIBBLE_POINTS and distance.max() > 2:
    chosen.append(int(distance.argmax()))
    distance = np.minimum(distance, np.linalg.norm(voxels - voxels[chosen[-1]], axis=1))
  return [voxels[index] for index in chosen]


def _numbers(given: object, shape: tuple[int, ...], what: str) -> np.ndarray:
  try:
    array = np.asarray(given, float)
  except (TypeError, ValueError) as error:
    raise InputError(f"{what}, of numbers") from error
  if array.shape != shape or not np.isfinite(array).all() or np.abs(array).max() > 1e6:
    raise InputError(f"{what}, of numbers")
  return array
