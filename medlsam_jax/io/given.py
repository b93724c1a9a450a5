"""Boxes of the user's own in place of a search: scan voxels (z, y, x)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Float

from medlsam_jax import display
from medlsam_jax.geometry import FACES, Box
from medlsam_jax.medlam.search import boxes
from medlsam_jax.medlam.search.confidence import Confidence, doubted


class Shown(Protocol):
  """What results are written from: a `Finding`, or `GivenBoxes`."""

  @property
  def value(self) -> int:
    """Label value."""
    ...

  @property
  def verdict(self) -> str:
    """Of the search, or `given`."""
    ...

  @property
  def points(self) -> Float[np.ndarray, "parts 6 3"]:
    """Extreme points of each part."""
    ...

  @property
  def whole_points(self) -> Float[np.ndarray, "6 3"]:
    """Extreme points of the whole organ."""
    ...

  @property
  def parts(self) -> list[Box]:
    """Box of each part."""
    ...

  @property
  def box(self) -> Box:
    """Box of the whole organ."""
    ...

  @property
  def confidence(self) -> Confidence | None:
    """What the verdict rests on; None where nothing was searched."""
    ...

  @property
  def doubts(self) -> tuple[str, ...]:
    """What speaks against it, a sentence each."""
    ...


@dataclasses.dataclass(frozen=True, eq=False)
class GivenBoxes:
  """One organ whose box was not searched for."""

  organ: str
  value: int
  boxes: tuple[Box, ...]
  verdict: str = "given"
  given_points: Float[np.ndarray, "6 3"] | None = None
  """Extreme points of the scan's `FACES`, where the box came from points."""
  confidence: Confidence | None = None
  doubts: tuple[str, ...] = ()
  """What speaks against it: of the scan, and of the search that it was read back from."""

  def __repr__(self) -> str:
    return f"GivenBoxes {self.organ}: {self.verdict}, box {display.extent(self.box.low, self.box.high)}"

  def in_doubtful_scan(self, scan_doubts: Sequence[str]) -> GivenBoxes:
    """The same with the doubts of the scan, under which it is not `found`; a box of the user's own stays `given`."""
    doubts = tuple(dict.fromkeys((*scan_doubts, *self.doubts)))
    return dataclasses.replace(self, verdict=doubted(self.verdict, scan_doubts), doubts=doubts)

  @property
  def parts(self) -> list[Box]:
    """Box of each part."""
    return list(self.boxes)

  @property
  def box(self) -> Box:
    """Smallest box around all parts."""
    return Box.around(self.parts)

  @property
  def points(self) -> Float[np.ndarray, "parts 6 3"]:
    """The given points; else the middle of each face of each box."""
    if self.given_points is not None:
      return self.given_points[None]
    return np.stack([_face_middles(box) for box in self.boxes])

  @property
  def whole_points(self) -> Float[np.ndarray, "6 3"]:
    """Six points of the organ as a whole."""
    return boxes.whole_points(self.points)


def _face_middles(box: Box) -> Float[np.ndarray, "6 3"]:
  points = np.repeat(box.array().mean(0)[None], len(FACES), 0)
  for axis in range(3):
    points[axis, axis], points[axis + 3, axis] = box.low[axis], box.high[axis]
  return points
