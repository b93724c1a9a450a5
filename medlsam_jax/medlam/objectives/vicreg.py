"""Variance, invariance, covariance of matched voxels (VICReg: Bardes et al., 2022; matched by place as in VICRegL).

The embeddings of a point in the plain view and of the voxel that shows its place in the augmented view shall agree,
each of their dimensions shall vary over the points, and no two shall say the same. No negatives.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from medlsam_jax.medlam.objectives.contract import Views
from medlsam_jax.medlam.objectives.view_points import at_points, distances_mm, points_mm

_EPSILON = 1e-4


@dataclasses.dataclass(frozen=True)
class Settings:
  """Weights as published; the expander is smaller, as volumes leave room for few points."""

  stride: int = 4
  """Of the features compared."""
  width: int = 256
  """Of the expander's layers."""
  invariance: float = 25.0
  variance: float = 25.0
  covariance: float = 1.0
  positive_mm: float = 3.0
  """A point whose nearest voxel of stride t is further than this times t has left the view, and does not count."""


class Expander(nn.Module):
  """Two layers from features to the embedding that the loss looks at."""

  width: int

  @nn.compact
  def __call__(self, x: Float[Array, "*n c"]) -> Float[Array, "*n width"]:
    x = nn.relu(nn.LayerNorm()(nn.Dense(self.width)(x)))
    return nn.Dense(self.width)(x)


def heads(settings: Settings) -> dict[str, nn.Module]:
  """The expander."""
  return {"expander": Expander(settings.width)}


def terms(
  first: Float[Array, "n d"], second: Float[Array, "n d"], valid: Bool[Array, " n"]
) -> tuple[Array, Array, Array]:
  """Invariance, variance and covariance over the valid rows; all 0 with fewer than two of them."""
  weight = valid.astype(first.dtype)
  count = weight.sum()
  enough = count >= 2
  rest, width = jnp.maximum(count - 1, 1), first.shape[1]
  invariance = (jnp.square(first - second).mean(-1) * weight).sum() / jnp.maximum(count, 1)
  variance = covariance = jnp.zeros(())
  for rows in (first, second):
    mean = (rows * weight[:, None]).sum(0) / jnp.maximum(count, 1)
    centred = (rows - mean) * weight[:, None]
    matrix = centred.T @ centred / rest
    spread = jnp.sqrt(jnp.diagonal(matrix) + _EPSILON)
    variance = variance + jnp.maximum(1.0 - spread, 0.0).mean() / 2
    covariance = covariance + (jnp.square(matrix).sum() - jnp.square(jnp.diagonal(matrix)).sum()) / width
  return jnp.where(enough, invariance, 0.0), jnp.where(enough, variance, 0.0), jnp.where(enough, covariance, 0.0)


def loss(views: Views, settings: Settings) -> tuple[Array, dict[str, Array]]:
  """Weighted sum of the three terms over all points of the batch that lie in both views."""
  plain, augmented = views.features_at(settings.stride, "vicreg")
  first, second, valid = [], [], []
  for patch, points in enumerate(views.points):
    places = points_mm(views, patch)
    distance = distances_mm(views.augmented_mm[:, patch], places, settings.stride).reshape(*places.shape[:2], -1)
    nearest = distance.argmin(-1)[..., None]
    cells = augmented[:, patch].reshape(augmented.shape[0], -1, augmented.shape[-1])
    first.append(at_points(plain[:, patch], points, settings.stride))
    second.append(jnp.take_along_axis(cells, nearest, 1))
    valid.append(distance.min(-1) <= settings.positive_mm * settings.stride)
  expand = views.heads["expander"]
  rows = [jnp.concatenate(each, 1).reshape(-1, plain.shape[-1]).astype(jnp.float32) for each in (first, second)]
  values = terms(expand(rows[0]), expand(rows[1]), jnp.concatenate(valid, 1).reshape(-1))
  weights = (settings.invariance, settings.variance, settings.covariance)
  total = sum((w * value for w, value in zip(weights, values, strict=True)), jnp.zeros(()))
  return total, dict(zip(("vicreg_invariance", "vicreg_variance", "vicreg_covariance"), values, strict=True))
