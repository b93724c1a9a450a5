"""Multi-scale similarity: a plain-view feature finds its place in the augmented view (MedLSAM, section 3.2)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from medlsam_jax.errors import ConfigError
from medlsam_jax.medlam.objectives.contract import Views
from medlsam_jax.medlam.objectives.view_points import at_points, distances_mm, normalise, points_mm

_LEAST = 1e-7
"""Keeps 1 - p away from 0 in float32, where its logarithm would be infinite."""


@dataclasses.dataclass(frozen=True)
class Settings:
  """The published values."""

  temperature: float = 15.0
  """What the cosine similarity is multiplied by."""
  positive_mm: float = 3.0
  """A voxel of stride t is a positive up to this times t from the point."""
  negative_mm: float = 6.0
  """And a negative from this times t on."""


def _term(
  plain: Float[Array, "g z y x c"],
  augmented: Float[Array, "g z y x c"],
  distance_mm: Float[Array, "g p z y x"],
  points: Int[Array, "p 3"],
  stride: int,
  settings: Settings,
) -> Array:
  """One scale of one patch, pooled over the points and the scans of the batch."""
  wanted = normalise(at_points(plain, points, stride))
  voxels = normalise(augmented).reshape(augmented.shape[0], -1, augmented.shape[-1])
  log_p = jax.nn.log_softmax(settings.temperature * jnp.einsum("gpc,gvc->gpv", wanted, voxels), -1)
  distance = distance_mm.reshape(log_p.shape)
  positive, negative = distance <= settings.positive_mm * stride, distance >= settings.negative_mm * stride
  log_rest = jnp.log(jnp.maximum(1.0 - jnp.exp(log_p), _LEAST))
  # A pool without positives (all points left the augmented view) contributes 0 instead of the published NaN.
  attract = -jnp.where(positive, log_p, 0.0).sum() / jnp.maximum(positive.sum(), 1)
  repel = -jnp.where(negative, log_rest, 0.0).sum() / jnp.maximum(negative.sum(), 1)
  return attract + repel


def loss(views: Views, settings: Settings) -> tuple[Array, dict[str, Array]]:
  """Sum of the terms of all patches and scales over the number of points and scales (the published 60)."""
  if not views.plain_features:
    raise ConfigError("objectives.mss compares features: network.feature_scales is empty")
  total = jnp.zeros(())
  for patch, points in enumerate(views.points):
    places = points_mm(views, patch)
    for stride in views.plain_features:
      plain, augmented = views.plain_features[stride][:, patch], views.augmented_features[stride][:, patch]
      distance = distances_mm(views.augmented_mm[:, patch], places, stride)
      total = total + _term(plain, augmented, distance, points, stride, settings)
  return total / (views.points.shape[1] * len(views.plain_features)), {}
