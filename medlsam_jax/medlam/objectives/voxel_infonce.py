"""Dense contrastive voxel embeddings with hard negatives (Self-supervised Anatomical eMbedding: Yan et al., 2022).

Each chosen voxel of the plain view has one positive, the voxel of the augmented view that shows the same place, and two
kinds of negatives: the most similar voxels of that view among those far enough away (hard), and voxels drawn at random
from all scans of the batch (diverse). The features themselves are compared, without a projection, because they are what
localization compares later. The paper trains one coarse and one fine embedding: here, each stride of the network.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from medlsam_jax.errors import ConfigError
from medlsam_jax.medlam.objectives.contract import Views
from medlsam_jax.medlam.objectives.view_points import at_points, distances_mm, normalise, points_mm


@dataclasses.dataclass(frozen=True)
class Settings:
  """Temperature and kinds of negatives."""

  temperature: float = 0.5
  """What the cosine similarity is divided by."""
  hard_negatives: int = 100
  random_negatives: int = 50
  """Drawn in each scan of the batch, and shared by all points."""
  positive_mm: float = 3.0
  """A point whose nearest voxel of stride t is further than this times t has left the view, and does not count."""
  negative_mm: float = 6.0
  """Voxels of the same scan nearer than this times t are no negatives."""


def term(
  wanted: Float[Array, "g p c"],
  voxels: Float[Array, "g v c"],
  distance_mm: Float[Array, "g p v"],
  drawn: Int[Array, " r"],
  reach_mm: tuple[float, float],
  settings: Settings,
) -> tuple[Array, Array]:
  """Summed InfoNCE of the points that have a positive, and their number.

  Args:
    wanted, voxels: unit features of the points and of all voxels of the augmented view.
    drawn: voxels that are the random negatives.
    reach_mm: largest distance of a positive, least of a negative.
  """
  similarity = jnp.einsum("gpc,gvc->gpv", wanted, voxels) / settings.temperature
  nearest = distance_mm.argmin(-1)[..., None]
  valid = jnp.take_along_axis(distance_mm, nearest, -1)[..., 0] <= reach_mm[0]
  positive = jnp.take_along_axis(similarity, nearest, -1)
  far = distance_mm >= reach_mm[1]
  count = min(settings.hard_negatives, voxels.shape[1])
  hard = jax.lax.top_k(jnp.where(far, similarity, -jnp.inf), count)[0]
  everywhere = jnp.einsum("gpc,hrc->gphr", wanted, voxels[:, drawn]) / settings.temperature
  scans = voxels.shape[0]
  own = jnp.eye(scans, dtype=bool)[:, None, :, None]
  near = jnp.broadcast_to(~far[:, :, None, drawn], everywhere.shape) & own
  diverse = jnp.where(near, -jnp.inf, everywhere).reshape(scans, wanted.shape[1], -1)
  # the positive is always finite, so that the sum of exponentials never is empty
  logits = jnp.concatenate([positive, hard, diverse], -1)
  each = jax.nn.logsumexp(logits, -1) - positive[..., 0]
  return jnp.where(valid, each, 0.0).sum(), valid.sum()


def loss(views: Views, settings: Settings) -> tuple[Array, dict[str, Array]]:
  """Mean over the points that have a positive, then over strides and patches; 0 where none has one."""
  if not views.plain_features:
    raise ConfigError("objectives.voxel_infonce compares features: network.feature_scales is empty")
  total, share, terms = jnp.zeros(()), jnp.zeros(()), 0
  for patch, points in enumerate(views.points):
    places = points_mm(views, patch)
    for stride in views.plain_features:
      plain, augmented = views.plain_features[stride][:, patch], views.augmented_features[stride][:, patch]
      voxels = normalise(augmented).reshape(augmented.shape[0], -1, augmented.shape[-1])
      distance = distances_mm(views.augmented_mm[:, patch], places, stride).reshape(*places.shape[:2], -1)
      drawn = jax.random.randint(jax.random.fold_in(views.key, terms), (settings.random_negatives,), 0, voxels.shape[1])
      reach = (settings.positive_mm * stride, settings.negative_mm * stride)
      wanted = normalise(at_points(plain, points, stride))
      value, count = term(wanted, voxels, distance, drawn, reach, settings)
      total, terms = total + value / jnp.maximum(count, 1), terms + 1
      share = share + count / (places.shape[0] * places.shape[1])
  return total / terms, {"voxel_infonce_share": share / terms}
