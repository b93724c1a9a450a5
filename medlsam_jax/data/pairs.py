"""Scans on the working grid to pre-training batches: cubes around random centres of one scan, and where they lie.

The host only cuts; views, warps and losses are made on the device inside the training step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from medlsam_jax.data.ct import AIR_INTENSITY
from medlsam_jax.errors import InputError
from medlsam_jax.geometry import WORKING_SPACING_MM

CUBE_EDGE = 80


@dataclasses.dataclass(frozen=True)
class TrainingScan:
  """One unlabelled scan: working-grid intensity padded for cubes, its non-air voxels, and how often to draw it."""

  name: str
  padded: Float32[np.ndarray, "z y x"]
  inside: np.ndarray
  """Flat indices, in the unpadded grid, of voxels that may be a centre."""
  shape: tuple[int, ...]
  weight: float

  @classmethod
  def of(cls, name: str, intensity: Float[np.ndarray, "z y x"], weight: float = 1.0) -> TrainingScan:
    """Prepare a scan.

    Args:
      intensity: working grid, [0, 1].

    Raises:
      InputError: the scan holds nothing but air.
    """
    inside = np.flatnonzero(intensity >= AIR_INTENSITY).astype(np.int32)
    if inside.size == 0:
      raise InputError(f"{name}: holds nothing but air; leave it out of the training set")
    padded = np.pad(intensity.astype(np.float32), CUBE_EDGE // 2)
    return cls(name, padded, inside, intensity.shape, weight)


class Batch(NamedTuple):
  """`g` scans with `m` cubes each, edge 80, and the place in mm (z, y, x) of each cube's voxel (0, 0, 0)."""

  cubes: Float32[np.ndarray, "g m e e e"]
  origins_mm: Float32[np.ndarray, "g m 3"]


def draw(rng: np.random.Generator, scans: Sequence[TrainingScan], groups: int, patches: int) -> Batch:
  """Draw `groups` scans by weight and `patches` centres in each, anywhere in it but in air."""
  weights = np.array([s.weight for s in scans], float)
  chosen = rng.choice(len(scans), size=groups, p=weights / weights.sum())
  cubes = np.empty((groups, patches) + (CUBE_EDGE,) * 3, np.float32)
  origins = np.empty((groups, patches, 3), np.float32)
  for group, scan in enumerate(scans[i] for i in chosen):
    centres = np.stack(np.unravel_index(rng.choice(scan.inside, size=patches), scan.shape), -1)
    for patch, (z, y, x) in enumerate(centres):
      cubes[group, patch] = scan.padded[z : z + CUBE_EDGE, y : y + CUBE_EDGE, x : x + CUBE_EDGE]
    origins[group] = (centres - CUBE_EDGE // 2) * WORKING_SPACING_MM
  return Batch(cubes, origins)
