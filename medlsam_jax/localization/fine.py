"""The fine step: each point moves to the place near its target that looks most like its template point.

Multi-scale similarity of MedLSAM, section 3.2. Voxels are (z, y, x) of the padded working grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from medlsam_jax.geometry import PATCH_EDGE
from medlsam_jax.localization import programs
from medlsam_jax.localization.search_settings import SearchSettings
from medlsam_jax.localization.sharing import shared_centres
from medlsam_jax.models.medlam import MedLAM

MARGIN = PATCH_EDGE // 2
"""Voxels by which the padded working grid exceeds the scan on each side."""

POINTS_PER_SHARED_PATCH = 64
"""Template points that a shared patch is compared with at once; with more it is run again."""


def settle(
  module: MedLAM,
  variables: Any,
  padded: Float[np.ndarray, "z y x"],
  targets: Int[np.ndarray, "points 3"],
  organ_taps: Sequence[dict[int, Float[np.ndarray, "_own _k _k _k _c"]]],
  settings: SearchSettings,
  progress: Callable[[int, int], None] | None = None,
) -> tuple[Int[np.ndarray, "points 3"], Float[np.ndarray, " points"] | None]:
  """Where each point settles, and how similar it is there (None without feature scales).

  Args:
    module, variables: the network.
    padded: the scan.
    targets: of the coarse step; brought inside first.
    organ_taps: features around the template points by stride, organ after organ in the order of `targets`.
    settings: scales, steps, sharing and dtype.
    progress: called with points done and in all.

  Raises:
    ConfigError: a feature scale that the network lacks.
  """
  scales = settings.scales(module.feature_scales)
  if not scales:
    return targets, None
  taps = {stride: np.concatenate([own[stride] for own in organ_taps]) for stride in scales}
  voxels, scores = targets, np.zeros(len(targets), np.float32)
  size, shared = programs.POINTS_PER_CALL, POINTS_PER_SHARED_PATCH if settings.shared_patches else 1
  for step in range(settings.steps):
    centres = patch_centres(voxels, padded.shape, settings.shared_patches)
    groups, moved = _groups(centres, shared), np.zeros_like(voxels)
    done = step * len(voxels)
    for first in range(0, len(groups), size):
      chosen = groups[first : first + size]
      rows = np.concatenate(chosen)
      # where each row sits among the patches of the call, and among the points of its patch
      patch, seat = (np.concatenate(part) for part in zip(*map(_seats, range(len(chosen)), chosen), strict=True))
      used = np.zeros((size, shared), bool)
      used[patch, seat] = True
      moves, similarity = programs.best_moves(
        module,
        variables,
        programs.pad_batch(programs.crop_patches(padded, centres[[group[0] for group in chosen]])),
        used,
        {stride: _seated(volume[rows], patch, seat, used.shape) for stride, volume in taps.items()},
        settings.operands,
      )
      moved[rows] = centres[rows] + np.asarray(moves)[patch, seat]
      scores[rows] = np.asarray(similarity)[patch, seat]
      done += len(rows)
      if progress is not None:
        progress(done, settings.steps * len(voxels))
    voxels = moved
  return voxels, scores


def patch_centres(
  voxels: Int[np.ndarray, "points 3"], shape: tuple[int, ...], shared: bool
) -> Int[np.ndarray, "points 3"]:
  """Centre of the patch that each point uses: the point itself, or one that others use too, inside the scan."""
  # one less than fits at the far end, as published
  inside = np.clip(voxels, MARGIN, np.array(shape) - MARGIN - 1)
  return shared_centres(inside, shape, MARGIN) if shared else inside


def _groups(centres: Int[np.ndarray, "points 3"], most: int) -> list[Int[np.ndarray, " rows"]]:
  """Rows that share a patch, at most so many together; in order of appearance."""
  if most == 1:
    return list(np.arange(len(centres))[:, None])
  _, patch = np.unique(centres, axis=0, return_inverse=True)
  groups: list[np.ndarray] = []
  for index in range(patch.max() + 1):
    rows = np.flatnonzero(patch.reshape(-1) == index)
    groups.extend(rows[first : first + most] for first in range(0, len(rows), most))
  return groups


def _seats(patch: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  return np.full(len(rows), patch), np.arange(len(rows))


def _seated(values: np.ndarray, patch: np.ndarray, seat: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  result = np.zeros((*shape, *values.shape[1:]), values.dtype)
  result[patch, seat] = values
  return result
