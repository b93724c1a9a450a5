"""Where points of a plain view lie in the augmented view, for objectives that compare features voxel by voxel."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from medlsam_jax.geometry import WORKING_SPACING_MM
from medlsam_jax.medlam.objectives.contract import Views


def normalise(features: Float[Array, "*n c"]) -> Float[Array, "*n c"]:
  """Features to length 1 over channels; zeros stay zeros, with a gradient that is finite there."""
  squares = jnp.square(features).sum(-1, keepdims=True)
  return features / jnp.sqrt(jnp.maximum(squares, 1e-24))


def points_mm(views: Views, patch: int) -> Float[Array, "g p 3"]:
  """True places of a patch's chosen points in each scan."""
  return views.plain_origin_mm[:, patch, None] + WORKING_SPACING_MM * views.points[patch]


def at_points(features: Float[Array, "g z y x c"], points: Int[Array, "p 3"], stride: int) -> Float[Array, "g p c"]:
  """Features of the plain view at the voxels floor(point / stride)."""
  z, y, x = (points // stride).T
  return features[:, z, y, x]


def distances_mm(
  places_mm: Float[Array, "g e e e 3"], wanted_mm: Float[Array, "g p 3"], stride: int
) -> Float[Array, "g p e/{stride} e/{stride} e/{stride}"]:
  """Distance of every voxel from every point, resized by 1/stride (trilinear, half-pixel, no antialiasing).

  Such a resize by 2 or 4 is the mean over each cell's middle voxels, so only those are worked out.
  """
  middle = range(stride // 2 - 1, stride // 2 + 1) if stride > 1 else range(1)
  offsets = [(z, y, x) for z in middle for y in middle for x in middle]
  total = jnp.zeros(())
  for z, y, x in offsets:
    place = places_mm[:, None, z::stride, y::stride, x::stride]
    squares = [jnp.square(place[..., i] - wanted_mm[:, :, None, None, None, i]) for i in range(3)]
    total = total + jnp.sqrt(squares[0] + squares[1] + squares[2])
  return total / len(offsets)
