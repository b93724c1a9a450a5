"""Relative position regressed directly, in units of a range (RPR-Loc: Lei et al., 2021).

UAM grew out of this loss. Here the range is a setting, the error is counted in it, so that the loss is about 1 at the
start whatever the range, and the bound of the tanh can be left out.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array

from medlsam_jax.geometry import OFFSET_RANGE_MM
from medlsam_jax.medlam.objectives.contract import Views


@dataclasses.dataclass(frozen=True)
class Settings:
  """Range of offsets, and whether predictions are bounded by it."""

  range_mm: tuple[float, ...] = OFFSET_RANGE_MM
  """Along z, y, x. Localization assumes the default; another range trains a head for other uses."""
  bounded: bool = True
  """range * tanh(difference of head outputs), as published; else range * difference."""


def loss(views: Views, settings: Settings) -> tuple[Array, dict[str, Array]]:
  """Mean squared error over all pairs of patches within each scan, divided by the range; 0 without a pair."""
  first, second = jnp.triu_indices(views.positions.shape[1], 1)
  difference = views.positions[:, first] - views.positions[:, second]
  predicted = jnp.tanh(difference) if settings.bounded else difference
  scale = jnp.asarray(settings.range_mm)
  error = predicted - (views.centres_mm[:, first] - views.centres_mm[:, second]) / scale
  pairs = max(error.shape[0] * error.shape[1], 1)
  metric = jnp.linalg.norm(error * scale, axis=-1).sum() / pairs
  return jnp.square(error).sum() / (3 * pairs), {"relative_position_error_mm": metric}
