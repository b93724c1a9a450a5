"""Cubes of pre-training: the surroundings of a few voxels of one scan, and where they lie.

The host only cuts; views, warps and losses are made on the device inside the training step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int, Num

from medlsam_jax.errors import InputError
from medlsam_jax.geometry import WORKING_SPACING_MM
from medlsam_jax.working_grid import AIR_INTENSITY

CUBE_EDGE = 80
STORED_MAX = 65535
"""Intensity 1 in scans stored as uint16."""
_TRIES = 20
"""Rounds in which centres that fell into air are drawn again (as published), before air is left out exactly."""


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingScan:
  """One unlabelled scan on the working grid: intensity as float32 in [0, 1], uint16 or uint8, and its body's box."""

  name: str
  intensity: Num[np.ndarray, "z y x"]
  body_box: Int[np.ndarray, "2 3"]
  """First and last voxel (z, y, x) of the tight box around all that is not air."""
  air_share: float
  """Of all voxels of the scan."""

  @classmethod
  def of(cls, name: str, intensity: Float[np.ndarray, "z y x"]) -> TrainingScan:
    """Prepare a scan.

    Args:
      intensity: working grid, [0, 1].

    Raises:
      InputError: the scan holds nothing but air.
    """
    solid = intensity >= AIR_INTENSITY
    if not solid.any():
      raise InputError(f"{name}: holds nothing but air; leave it out of the training set")
    sides = [np.flatnonzero(solid.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    box = np.array([[s[0] for s in sides], [s[-1] for s in sides]])
    return cls(name, intensity.astype(np.float32), box, float(1 - solid.mean()))

  @property
  def scale(self) -> float:
    """What a stored value is divided by to be an intensity."""
    stored = self.intensity.dtype
    return float(np.iinfo(stored).max) if np.issubdtype(stored, np.unsignedinteger) else 1.0


class Batch(NamedTuple):
  """`g` scans with `m` cubes each and the place in mm (z, y, x) of each cube's voxel (0, 0, 0)."""

  cubes: Num[np.ndarray, "g m e e e"]
  """Intensity as float32, or as it is stored: unsigned integers, the largest being 1 (`views.as_intensity`)."""
  origins_mm: Float32[np.ndarray, "g m 3"]


def draw_centres(rng: np.random.Generator, scan: TrainingScan, count: int) -> Int[np.ndarray, "count 3"]:
  """Voxels drawn alike from all that are not air."""
  low, high = scan.body_box
  least = AIR_INTENSITY * scan.scale
  centres = rng.integers(low, high + 1, (count, 3))
  for _ in range(_TRIES):
    air = scan.intensity[tuple(centres.T)] < least
    if not air.any():
      return centres
    centres[air] = rng.integers(low, high + 1, (int(air.sum()), 3))
  air = np.flatnonzero(scan.intensity[tuple(centres.T)] < least)
  if air.size:
    solid = np.flatnonzero(scan.intensity >= least)
    centres[air] = np.stack(np.unravel_index(rng.choice(solid, air.size), scan.intensity.shape), -1)
  return centres


FLOAT32 = np.dtype(np.float32)


def cut_cube(
  scan: TrainingScan, centre: Int[np.ndarray, "3"], edge: int, kind: np.dtype = FLOAT32
) -> Num[np.ndarray, "e e e"]:
  """The cube [centre - edge/2, centre + edge/2), air beyond the scan.

  `kind`: float32, or unsigned integers at least as wide as the scan's, the largest being 1.
  """
  cube = np.zeros((edge,) * 3, kind)
  first = centre - edge // 2
  low, high = np.maximum(first, 0), np.minimum(first + edge, scan.intensity.shape)
  inside = tuple(slice(a, b) for a, b in zip(low - first, high - first, strict=True))
  cube[inside] = scan.intensity[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
  if kind == FLOAT32:
    cube[inside] /= scan.scale
  elif kind != scan.intensity.dtype:
    cube[inside] *= STORED_MAX // 255
  return cube


def cut_group(
  rng: np.random.Generator, scan: TrainingScan, patches: int, edge: int = CUBE_EDGE, kind: np.dtype = FLOAT32
) -> Batch:
  """`patches` cubes of one scan, anywhere in it but in air: a batch of one. `kind` as of `cut_cube`."""
  centres = draw_centres(rng, scan, patches)
  cubes = np.stack([cut_cube(scan, centre, edge, kind) for centre in centres])
  return Batch(cubes[None], ((centres - edge // 2) * WORKING_SPACING_MM).astype(np.float32)[None])


def joined(batches: Sequence[Batch]) -> Batch:
  """Batches one after the other."""
  return Batch(np.concatenate([b.cubes for b in batches]), np.concatenate([b.origins_mm for b in batches]))
