"""The fine step: each point moves to the place near its target that looks most like its template point.

Multi-scale similarity of MedLSAM, section 3.2. Voxels are (z, y, x) of the padded working grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from medlsam_jax.medlam.search import programs
from medlsam_jax.medlam.search.calls import Call, calls, fetched, patch_centres
from medlsam_jax.medlam.search.patches import Patches
from medlsam_jax.medlam.search.search_settings import SearchSettings
from medlsam_jax.progress import Progress


def settle(
  network: programs.Prepared,
  patches: Patches,
  targets: Int[np.ndarray, "points 3"],
  organ_taps: Sequence[dict[int, Float[np.ndarray, "_own _k _k _k _c"]]],
  settings: SearchSettings,
  progress: Progress | None = None,
) -> tuple[Int[np.ndarray, "points 3"], Float[np.ndarray, " points"] | None]:
  """Where each point settles, and how similar it is there (None without feature scales).

  Args:
    network: of `programs.prepare`, with products of the settings' dtype.
    patches: of the scan.
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
  counts = [len(next(iter(own.values()))) for own in organ_taps]

  def run(call: Call) -> tuple[Array, Array]:
    given = jax.device_put((call.used, {stride: call.seated(volume) for stride, volume in taps.items()}))
    return programs.best_moves(network, patches.at(call.centres, network.patches_per_call), *given)

  for step in range(settings.steps):
    centres = patch_centres(voxels, patches.padded.shape, settings, counts)
    moved, done = np.zeros_like(voxels), step * len(voxels)
    for call, (moves, similarity) in fetched(network, calls(centres, settings, size=network.patches_per_call), run):
      moved[call.rows] = centres[call.rows] + call.of(moves)
      scores[call.rows] = call.of(similarity)
      done += len(call.rows)
      if progress is not None:
        progress(done, settings.steps * len(voxels))
    voxels = moved
  return voxels, scores
