"""Points that single templates found, held against the templates' own shapes: a box in which all of them have a say.

Along an axis, a face of the box is found by one point, but each of the organ's other five points was found too, and in
every template it is known how far between the two faces it lies. The box is the one that these fit best, together with
the templates' extents (least squares with Cauchy's weights, so that a point that went astray counts little). The
weights were chosen on the tuning scans of the head and neck, where organs that the scan's border cuts gain by it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

OTHERS = 0.1
"""Weight along an axis of each point that lies on neither face, where the points of the faces have 1."""
EXTENT = 0.2
"""Weight of the templates' mean extent against the found one."""
ASTRAY_VOX = 6.0
"""Distance from the box that fits, working voxels, from which a point counts less than half."""
_ROUNDS = 6


def fit(
  voxels: Float[np.ndarray, "points templates 3"],
  weights: Float[np.ndarray, "points templates"],
  places: Int[np.ndarray, "templates points 3"],
  faces: Int[np.ndarray, "parts 6"],
) -> Float[np.ndarray, "parts 6 3"]:
  """The six points of each part, their coordinates across their faces being those of the box that fits.

  Args:
    voxels: where each template finds each point of one organ, working voxels (z, y, x).
    weights: of the templates, 1 together for each point.
    places: where the points lie in the templates, working voxels.
    faces: which point lies on each face of each part.
  """
  placed, share = voxels[faces], weights[faces]
  own = np.moveaxis(places, 0, 1)[faces].astype(float)
  points = np.einsum("pftc,pft->pfc", placed, share)
  for axis in range(3):
    pair = [axis, 3 + axis]
    low, high = own[:, axis, :, axis], own[:, 3 + axis, :, axis]
    along = (own[..., axis] - low[:, None]) / np.maximum(high - low, 1)[:, None]
    weight = share * np.where(np.isin(np.arange(6), pair), 1, OTHERS)[:, None]
    extent = ((high - low) * share[:, pair].mean(1)).sum(-1)
    points[:, pair, axis] = _line(along, placed[..., axis], weight, extent)
  return points


def _line(
  along: Float[np.ndarray, "parts 6 templates"],
  placed: Float[np.ndarray, "parts 6 templates"],
  weight: Float[np.ndarray, "parts 6 templates"],
  extent: Float[np.ndarray, " parts"],
) -> Float[np.ndarray, "parts 2"]:
  """Both ends of the straight line `found = low + along * (high - low)` of each part, by reweighted least squares."""
  now = weight
  for _ in range(_ROUNDS):
    ends = _solve(along, placed, now, extent)
    away = placed - (1 - along) * ends[:, 0, None, None] - along * ends[:, 1, None, None]
    now = weight / (1 + np.square(away / ASTRAY_VOX))
  return ends


def _solve(along: np.ndarray, placed: np.ndarray, weight: np.ndarray, extent: np.ndarray) -> np.ndarray:
  """Least squares of `_line` with the extent as one more observation: two unknowns, solved as they stand."""
  low, high = weight * (1 - along), weight * along
  total = (1, 2)
  a, b, c = (
    (low * (1 - along)).sum(total) + EXTENT,
    (low * along).sum(total) - EXTENT,
    (high * along).sum(total) + EXTENT,
  )
  left, right = (low * placed).sum(total) - EXTENT * extent, (high * placed).sum(total) + EXTENT * extent
  return np.stack([c * left - b * right, a * right - b * left], -1) / (a * c - b * b)[:, None]
