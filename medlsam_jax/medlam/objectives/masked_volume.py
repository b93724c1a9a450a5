"""Masked-volume reconstruction: cells of the plain view are hidden, and their voxels read off the finest features.

As masked autoencoders (He et al., 2022) and SimMIM (Xie et al., 2022) do, with a convolutional network, which sees the
hidden cells as a constant. The error counts hidden voxels only.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Num

from medlsam_jax.errors import ConfigError
from medlsam_jax.medlam.objectives.contract import Views


@dataclasses.dataclass(frozen=True)
class Settings:
  """How much is hidden."""

  stride: int = 4
  """Of the features that the voxels are read from."""
  cell: int = 8
  """Edge in voxels of the cubes that are hidden; divides the patch edge."""
  share: float = 0.6
  """Probability of a cell to be hidden."""
  fill: float = 0.0
  """Intensity shown instead."""


def heads(settings: Settings) -> dict[str, nn.Module]:
  """One linear layer from a feature to the voxels of its cell."""
  return {"voxels": nn.Dense(settings.stride**3)}


def unfold(cells: Num[Array, "*n z y x {stride**3}"], stride: int) -> Num[Array, "*n z*{stride} y*{stride} x*{stride}"]:
  """Voxels that were laid out as channels, in the order (z, y, x), back in their places."""
  *lead, z, y, x, _ = cells.shape
  split = cells.reshape(-1, z, y, x, stride, stride, stride)
  return split.transpose(0, 1, 4, 2, 5, 3, 6).reshape(*lead, z * stride, y * stride, x * stride)


def loss(views: Views, settings: Settings) -> tuple[Array, dict[str, Array]]:
  """Mean squared intensity error over the hidden voxels; 0 when none is hidden."""
  views.features_at(settings.stride, "masked_volume")
  if settings.cell < 1 or views.plain.shape[2] % settings.cell:
    raise ConfigError(
      f"objectives.masked_volume.cell {settings.cell} does not divide network.patch_edge {views.plain.shape[2]}"
    )
  grid = tuple(edge // settings.cell for edge in views.plain.shape[2:])
  hidden = jax.random.bernoulli(views.key, settings.share, (*views.plain.shape[:2], *grid))
  for axis in (2, 3, 4):
    hidden = hidden.repeat(settings.cell, axis)
  shown = jnp.where(hidden, settings.fill, views.plain)
  _, features = views.network(shown, (settings.stride,))
  restored = unfold(views.heads["voxels"](features[settings.stride].astype(jnp.float32)), settings.stride)
  squares = jnp.where(hidden, jnp.square(restored - views.plain), 0.0)
  return squares.sum() / jnp.maximum(hidden.sum(), 1), {}
