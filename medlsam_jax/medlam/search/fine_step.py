"""The fine step: each point moves to the place near its target that looks most like its template point.

Multi-scale similarity of MedLSAM, section 3.2. Voxels are (z, y, x) of the padded working grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from medlsam_jax.medlam.search import programs
from medlsam_jax.medlam.search.calls import calls, patch_centres
from medlsam_jax.medlam.search.search_settings import SearchSettings
from medlsam_jax.progress import Progress


def settle(
  network: programs.Prepared,
  padded: Float[np.ndarray, "z y x"],
  targets: Int[np.ndarray, "points 3"],
  organ_taps: Sequence[dict[int, Float[np.ndarray, "_own _k _k _k _c"]]],
  settings: SearchSettings,
  progress: Progress | None = None,
) -> tuple[Int[np.ndarray, "points 3"], Float[np.ndarray, " points"] | None]:
  """Where each point settles, and how similar it is there (None without feature scales).

  Args:
    network: of `programs.prepare`, with products of the settings' dtype.
    padded: the scan.
    targets: of the coarse step; brought inside first.
    organ_taps: features around the template points by stride, organ after organ in the order of `targets`.
    settings: scales, steps, sharing and dtype.
    progress: called with points done and in all.

  Raises:
    ConfigError: a feature scale that the network lacks.
  """
  scales = settings.scales(network.module.feature_scales)
  if not scales:
    return targets, None
  taps = {stride: np.concatenate([own[stride] for own in organ_taps]) for stride in scales}
  voxels, scores = targets, np.zeros(len(targets), np.float32)
  for step in range(settings.steps):
    centres = patch_centres(voxels, padded.shape, settings, [len(next(iter(own.values()))) for own in organ_taps])
    moved, done = np.zeros_like(voxels), step * len(voxels)
    for call in calls(centres, settings):
      moves, similarity = programs.best_moves(
        network,
        call.patches(padded),
        call.used,
        {stride: call.seated(volume) for stride, volume in taps.items()},
      )
      moved[call.rows] = centres[call.rows] + call.of(moves)
      scores[call.rows] = call.of(similarity)
      done += len(call.rows)
      if progress is not None:
        progress(done, settings.steps * len(voxels))
    voxels = moved
  return voxels, scores
