"""Multi-scale similarity: a plain-view feature finds its place in the augmented view (MedLSAM, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from medlsam_jax.geometry import WORKING_SPACING_MM
from medlsam_jax.objectives.contract import Views

TEMPERATURE = 15.0
POSITIVE_MM, NEGATIVE_MM = 3.0, 6.0
"""A voxel of stride t is a positive up to 3 t mm from the point, a negative from 6 t mm on."""

_LEAST = 1e-7
"""Keeps 1 - p away from 0 in float32, where its logarithm would be infinite."""


def _normalise(features: Array) -> Array:
  return features / jnp.maximum(jnp.linalg.norm(features, axis=-1, keepdims=True), 1e-12)


def _distances(
  places_mm: Float[Array, "g e e e 3"], points_mm: Float[Array, "g p 3"], stride: int
) -> Float[Array, "g p e/t e/t e/t"]:
  """Distance of every voxel from every point, resized by 1/stride (trilinear, half-pixel, no antialiasing).

  Such a resize by 2 or 4 is the mean over each cell's middle voxels, so only those are worked out.
  """
  middle = range(stride // 2 - 1, stride // 2 + 1) if stride > 1 else range(1)
  offsets = [(z, y, x) for z in middle for y in middle for x in middle]
  total = jnp.zeros(())
  for z, y, x in offsets:
    place = places_mm[:, None, z::stride, y::stride, x::stride]
    squares = [jnp.square(place[..., i] - points_mm[:, :, None, None, None, i]) for i in range(3)]
    total = total + jnp.sqrt(squares[0] + squares[1] + squares[2])
  return total / len(offsets)


def _term(
  plain: Float[Array, "g z y x c"],
  augmented: Float[Array, "g z y x c"],
  distance_mm: Float[Array, "g p z y x"],
  points: Int[Array, "p 3"],
  stride: int,
) -> Array:
  """One scale of one patch, pooled over the points and the scans of the batch."""
  z, y, x = (points // stride).T
  wanted = _normalise(plain[:, z, y, x])
  found = _normalise(augmented).reshape(augmented.shape[0], -1, augmented.shape[-1])
  log_p = jax.nn.log_softmax(TEMPERATURE * jnp.einsum("gpc,gvc->gpv", wanted, found), -1)
  distance = distance_mm.reshape(log_p.shape)
  positive, negative = distance <= POSITIVE_MM * stride, distance >= NEGATIVE_MM * stride
  log_rest = jnp.log(jnp.maximum(1.0 - jnp.exp(log_p), _LEAST))
  # A pool without positives (all points left the augmented view) contributes 0 instead of the published NaN.
  attract = -jnp.where(positive, log_p, 0.0).sum() / jnp.maximum(positive.sum(), 1)
  repel = -jnp.where(negative, log_rest, 0.0).sum() / jnp.maximum(negative.sum(), 1)
  return attract + repel


def loss(views: Views, settings: Mapping[str, float]) -> tuple[Array, dict[str, Array]]:
  """Sum of the terms of all patches and scales over the number of points and scales (the published 60)."""
  total = jnp.zeros(())
  for patch, points in enumerate(views.points):
    place_mm = views.plain_origin_mm[:, patch, None] + WORKING_SPACING_MM * points
    for stride in views.plain_features:
      plain, augmented = views.plain_features[stride][:, patch], views.augmented_features[stride][:, patch]
      distance_mm = _distances(views.augmented_mm[:, patch], place_mm, stride)
      total = total + _term(plain, augmented, distance_mm, points, stride)
  return total / (views.points.shape[1] * len(views.plain_features)), {}
