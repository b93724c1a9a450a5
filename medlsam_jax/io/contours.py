"""Masks of slices as closed polygons and back, exactly: a pixel is in the mask where its centre is in the polygons.

Polygons run half way between the centres of pixels in and out of a mask (contourpy). A hole is joined to the outer ring
by a channel of no width, which goes there and back (the keyhole of the DICOM standard, part 3, C.8.8.6.3): the even-odd
rule and the winding rule give the same, and a reader that knows no holes sees one too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import contourpy
import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import cKDTree

_ON_LINE = 1e-9
_ALONG = (0.11, 0.17, 0.24, 0.33)
"""Pixels from the beginning of an edge at which a channel may start, or half of the edge where that is less."""


def polygons_of(mask: Bool[np.ndarray, "row column"]) -> list[Float[np.ndarray, "point 2"]]:
  """The polygons of a mask, one for each of its pieces, points (x, y) in pixels; the last is joined to the first."""
  padded = np.pad(mask, 1).astype(np.float32)
  # pieces that touch at a corner stay apart or are one, by the middle of the four pixels: centres are right either way
  generator = contourpy.contour_generator(z=padded, name="serial", fill_type=contourpy.FillType.OuterOffset)
  pieces: Iterable[tuple[np.ndarray, np.ndarray]] = zip(*generator.filled(0.5, 1.5), strict=True)
  return [_joined([_ring(piece[a:b]) for a, b in itertools.pairwise(at)]) for piece, at in pieces]


def _ring(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "m 2"]:
  """A ring in pixels of the mask, without its repeated end and without points on a line between their neighbours."""
  ring = points[:-1].astype(float) - 1
  before, after = ring - np.roll(ring, 1, 0), np.roll(ring, -1, 0) - ring
  return ring[np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > _ON_LINE]


def _joined(rings: list[Float[np.ndarray, "_ 2"]]) -> Float[np.ndarray, "n 2"]:
  """An outer ring and its holes as one polygon, by channels between the points that lie nearest to each other."""
  outer, *holes = rings
  while holes:
    tree = cKDTree(outer)
    nearest = [tree.query(hole) for hole in holes]
    chosen = int(np.argmin([distances.min() for distances, _ in nearest]))
    distances, places = nearest[chosen]
    there = int(distances.argmin())
    here, hole = int(places[there]), np.roll(holes.pop(chosen), -there - 1, 0)
    channel = _channel(outer[here], outer[(here + 1) % len(outer)], hole[-1], hole[0])
    outer = np.concatenate([outer[: here + 1], channel, hole, channel[::-1], outer[here + 1 :]])
  return outer


def _channel(
  outer: Float[np.ndarray, "2"],
  after: Float[np.ndarray, "2"],
  hole: Float[np.ndarray, "2"],
  next: Float[np.ndarray, "2"],
) -> Float[np.ndarray, "2 2"]:
  """Ends of a channel between two edges, near the beginning of each, that keeps clear of the pixels' centres.

  Of a centre on the channel some readers say that it is outside, which by either rule it is not.
  """
  ways = [np.stack([_along(outer, after, out), _along(hole, next, into)]) for out in _ALONG for into in _ALONG]
  return max(ways, key=_clearance)


def _along(start: Float[np.ndarray, "2"], end: Float[np.ndarray, "2"], far: float) -> Float[np.ndarray, "2"]:
  length = float(np.linalg.norm(end - start))
  return start + (end - start) * min(0.5, far / max(length, _ON_LINE))


def _clearance(channel: Float[np.ndarray, "2 2"]) -> float:
  """How far from a centre it passes where it crosses rows and columns of centres; at most half a pixel."""
  clear = 0.5
  for axis in (0, 1):
    low, high = np.sort(channel[:, axis])
    lines = np.arange(np.ceil(low), np.floor(high) + 1)
    if len(lines) and high > low:
      share = (lines - channel[0, axis]) / (channel[1, axis] - channel[0, axis])
      at = channel[0, 1 - axis] + share * (channel[1, 1 - axis] - channel[0, 1 - axis])
      clear = min(clear, float(np.abs(at - np.rint(at)).min()))
  return clear


def mask_of(polygons: Iterable[Float[np.ndarray, "_ 2"]], shape: tuple[int, int]) -> Bool[np.ndarray, "row column"]:
  """Pixels whose centres are in an odd number of polygons: holes may be rings of their own, or keyholes.

  Args:
    polygons: points (x, y) in pixels; they may reach outside.
    shape: rows and columns.
  """
  rows, columns = shape
  turns = np.zeros((rows, columns + 1), np.int32)
  for polygon in polygons:
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, 0), strict=True):
      if y0 == y1:
        continue
      low, high = (y0, y1) if y0 < y1 else (y1, y0)
      crossed = np.arange(max(int(np.ceil(low)), 0), min(int(np.ceil(high)), rows))
      at = x0 + (crossed - y0) * ((x1 - x0) / (y1 - y0))
      # the first centre to the right of the edge, and all after it, change sides
      np.add.at(turns, (crossed, np.clip(np.ceil(at), 0, columns).astype(int)), 1)
  return np.cumsum(turns, axis=1)[:, :columns] % 2 == 1
