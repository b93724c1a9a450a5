"""The fine step with each template on its own: every one finds a point for itself, and the likelier ones weigh more.

Beside the published step, which looks for the mean of the templates' features (`fine`). Voxels are (z, y, x) of the
padded working grid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from medlsam_jax.geometry import WORKING_SPACING_MM
from medlsam_jax.medlam.bank.bank import OrganBank
from medlsam_jax.medlam.search import programs
from medlsam_jax.medlam.search.calls import Call, calls, fetched, patch_centres
from medlsam_jax.medlam.search.patches import Patches
from medlsam_jax.medlam.search.search_settings import SearchSettings
from medlsam_jax.progress import Progress


@dataclasses.dataclass(frozen=True, eq=False)
class Votes:
  """Where the templates find points; rows of templates that lack a point are NaN and weigh nothing."""

  voxels: Float[np.ndarray, "points templates 3"]
  similarity: Float[np.ndarray, "points templates"]
  """Of the features there to that template's own, [-1, 1]."""
  weights: Float[np.ndarray, "points templates"]
  """Sum to 1 over templates."""
  best: Float[np.ndarray, " points"]
  """Greatest similarity to the mean of the templates: what the published search gives."""

  @property
  def agreed(self) -> Float[np.ndarray, "points 3"]:
    """The weighted mean over templates."""
    return np.nansum(self.voxels * self.weights[..., None], axis=1)

  def rows(self, chosen: slice, templates: int) -> Votes:
    """Those of some points and of the first templates."""
    voxels, similarity, weighed = (each[chosen, :templates] for each in (self.voxels, self.similarity, self.weights))
    return Votes(voxels, similarity, weighed, self.best[chosen])


def settle(
  network: programs.Prepared,
  patches: Patches,
  targets: Int[np.ndarray, "points 3"],
  organs: Sequence[OrganBank],
  settings: SearchSettings,
  progress: Progress | None = None,
) -> Votes:
  """Where each template finds each point.

  Args:
    network: of `programs.prepare`, with products of the settings' dtype.
    patches: of the scan.
    targets: of the coarse step; brought inside first.
    organs: in the order of `targets`.
    settings: at least one scale; `templates` of `mean` compares with their mean alone, as with a single template.
    progress: called with points done and in all.

  Raises:
    ConfigError: a feature scale that the network lacks.
  """
  shown, taps = _gathered(organs, settings.scales(network.module.feature_scales), settings.templates == "mean")
  count, templates = shown.shape
  counts = [len(organ.mean_positions) for organ in organs]
  places = np.full((count, templates, 3), np.nan)
  scores, best, voxels = np.full((count, templates), np.nan), np.zeros(count), targets

  def run(call: Call) -> tuple[Array, Array, Array]:
    given = jax.device_put((call.seated(shown), {stride: call.seated(volume) for stride, volume in taps.items()}))
    cubes = patches.at(call.centres, network.patches_per_call)
    return programs.template_moves(network, cubes, *given, round(settings.reach_mm / WORKING_SPACING_MM))

  for step in range(settings.steps):
    centres, done = patch_centres(voxels, patches.padded.shape, settings, counts), step * count
    all_calls = calls(centres, settings, templates, network.patches_per_call)
    for call, (moves, similarity, whole) in fetched(network, all_calls, run):
      own = shown[call.rows]
      places[call.rows] = np.where(own[..., None], centres[call.rows][:, None] + call.of(moves), np.nan)
      scores[call.rows], best[call.rows] = np.where(own, call.of(similarity), np.nan), call.of(whole)
      done += len(call.rows)
      if progress is not None:
        progress(done, settings.steps * count)
    votes = Votes(places, scores, weights(scores, settings.softness), best)
    voxels = np.rint(votes.agreed).astype(int)
  return votes


def weights(
  similarity: Float[np.ndarray, "points templates"], softness: float
) -> Float[np.ndarray, "points templates"]:
  """`softmax(similarity / softness)` over templates; NaN weighs nothing."""
  likely = np.exp((similarity - np.nanmax(similarity, 1, keepdims=True)) / softness)
  return np.nan_to_num(likely / np.nansum(likely, 1, keepdims=True))


def _gathered(
  organs: Sequence[OrganBank], scales: Sequence[int], as_mean: bool
) -> tuple[Bool[np.ndarray, "points templates"], dict[int, Float[np.ndarray, "points templates k k k c"]]]:
  """Taps of all points by template, those of organs that fewer templates have filled up with zeros, and which are."""
  if as_mean:
    taps = {stride: np.concatenate([organ.taps[stride] for organ in organs])[:, None] for stride in scales}
    return np.ones(next(iter(taps.values())).shape[:2], bool), taps
  most = max(len(organ.templates) for organ in organs)
  shown = np.concatenate([np.arange(most) < np.full((len(o.mean_positions), 1), len(o.templates)) for o in organs])
  taps = {}
  for stride in scales:
    own = [np.moveaxis(organ.features[stride], 0, 1) for organ in organs]
    taps[stride] = np.concatenate([np.pad(v, [(0, 0), (0, most - v.shape[1]), *[(0, 0)] * 4]) for v in own])
  return shown, taps
