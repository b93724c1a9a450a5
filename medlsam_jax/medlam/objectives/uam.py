"""Unified anatomical mapping: the offset between two patches of a scan, from two head outputs (MedLSAM, 3.1)."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from medlsam_jax.geometry import OFFSET_RANGE_MM
from medlsam_jax.medlam.objectives.contract import NoSettings, Views


def predicted_offset_mm(first: Float[Array, "*n 3"], second: Float[Array, "*m 3"]) -> Float[Array, "*nm 3"]:
  """Vector in mm (z, y, x) from the second patch's centre to the first's; axes of 1 are spread over the other's."""
  return jnp.asarray(OFFSET_RANGE_MM) * jnp.tanh(first - second)


def loss(views: Views, settings: NoSettings) -> tuple[Array, dict[str, Array]]:
  """Mean squared error in mm^2 over all pairs of patches within each scan; with two patches, the published loss.

  A run with one patch a scan has no pair, and a loss of 0.
  """
  first, second = jnp.triu_indices(views.positions.shape[1], 1)
  predicted = predicted_offset_mm(views.positions[:, first], views.positions[:, second])
  error = predicted - (views.centres_mm[:, first] - views.centres_mm[:, second])
  pairs = max(error.shape[0] * error.shape[1], 1)
  return jnp.square(error).sum() / (3 * pairs), {"uam_error_mm": jnp.linalg.norm(error, axis=-1).sum() / pairs}
