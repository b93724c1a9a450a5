"""Organs in a scan: agents read where they are, jump to each template point, and settle where it looks most alike.

MedLSAM, section 3.2: the coarse step is the unified anatomical mapping (UAM), the fine one multi-scale similarity
(MSS). Voxels are (z, y, x) of the padded working grid unless a name says otherwise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float, Int, Num

from medlsam_jax import notices, working_grid
from medlsam_jax.errors import ConfigError
from medlsam_jax.finding import Agreement, Confidence, Finding
from medlsam_jax.geometry import OFFSET_RANGE_MM, WORKING_SPACING_MM, Volume
from medlsam_jax.medlam.bank.bank import Bank, OrganBank
from medlsam_jax.medlam.search import boxes, confidence, doubt, fine_step, programs, shapes, voting
from medlsam_jax.medlam.search.patches import Patches
from medlsam_jax.medlam.search.search_settings import SearchSettings
from medlsam_jax.medlam.search.starts import Key, draw_starts, given_starts, moved
from medlsam_jax.medlam.search.voting import Votes
from medlsam_jax.network import Network
from medlsam_jax.progress import Progress
from medlsam_jax.working_grid import WorkingGrid


@dataclasses.dataclass(frozen=True, eq=False)
class _Targets:
  """What the coarse step says of a number of points, in mm from the first voxel of the padded working grid."""

  together_mm: Float[np.ndarray, "points 3"]
  by_agent_mm: Float[np.ndarray, "agents points 3"]
  start_mm: Float[np.ndarray, "3"]
  query_position: Float[np.ndarray, "3"]

  @property
  def voxels(self) -> Int[np.ndarray, "points 3"]:
    """The targets as voxels of the padded working grid; they may lie outside it."""
    return np.rint(self.together_mm / WORKING_SPACING_MM).astype(int)


def find(
  network: Network,
  bank: Bank,
  scan: Volume | working_grid.WorkingScan,
  *,
  key: Key = 0,
  starts: Num[np.ndarray, "agents 3"] | Sequence[Sequence[int]] | None = None,
  settings: SearchSettings | None = None,
  thresholds: confidence.Thresholds | None = None,
  progress: Progress | None = None,
) -> dict[str, Finding]:
  """Locate every organ of a bank in a scan.

  Args:
    network: the one that the bank was built with.
    bank: `bank.subset` chooses organs.
    scan: in HU, or already on the working grid **in the bank's convention**.
    key: draws the agents' starts: a seed or a `jax.random` key.
    starts: their voxels in the padded working grid (z, y, x), instead of a key.
    settings: None takes the published ones.
    thresholds: of the verdicts.
    progress: called with points done and in all.

  Returns:
    By organ, in the bank's order.

  Raises:
    TemplateError: the bank belongs to another network.
    InputError: the scan is nothing but air, or starts are not voxels of the padded grid.
    WeightsError: the network cannot localize.
    ConfigError: the network lacks a feature scale, the scan came in another convention, or the key is none.
  """
  settings, thresholds = settings or SearchSettings(), thresholds or confidence.Thresholds()
  bank.check_network(network)
  name = "the scan"
  if isinstance(scan, Volume):
    name, scan = scan.source, working_grid.to_working_grid(scan, bank.convention)
  elif scan.grid.convention != bank.convention:
    raise ConfigError(f"the scan is on a {scan.grid.convention} working grid, the bank on a {bank.convention} one")
  programs.prepare(network)  # refuses a network that cannot localize before anything is worked out
  padded = working_grid.pad_for_patches(scan.intensity)
  places = draw_starts(padded, key, settings.agents, name) if starts is None else given_starts(starts, padded, name)
  besides = moved(places, padded.shape) if starts is None else ()
  organs = list(bank.organs.values())
  if not organs:
    return {}
  if settings.shapes and any(organ.places is None for organ in organs):
    notices.warn("the bank does not say where its points lie, so that shapes cannot be held against it: build it again")
  look = _Search(network, organs, scan.grid, settings, thresholds)
  findings = look(padded, places, progress=progress)
  calibration = doubt.calibration_of(network)
  if calibration is not None:
    findings = doubt.judged(findings, scan.grid.scan, calibration, thresholds)
    if doubt.is_doubtful(findings):
      turned = {name: look(*_turned(padded, places, axis)) for name, axis in doubt.TURNED.items()}
      findings = doubt.named(findings, turned, calibration)
  return {organ: dataclasses.replace(each, doubts=(*each.doubts, *besides)) for organ, each in findings.items()}


def _turned(
  padded: Float[np.ndarray, "z y x"], places: Int[np.ndarray, "agents 3"], axis: int
) -> tuple[Float[np.ndarray, "z y x"], Int[np.ndarray, "agents 3"]]:
  """The scan the other way round along an axis, and its starts at the same tissue."""
  moved_places = places.copy()
  moved_places[:, axis] = padded.shape[axis] - 1 - places[:, axis]
  return np.ascontiguousarray(np.flip(padded, axis)), moved_places


@dataclasses.dataclass(frozen=True, eq=False)
class _Search:
  """Organs looked for in one scan; called with the scan as it is, and turned."""

  network: Network
  organs: Sequence[OrganBank]
  grid: WorkingGrid
  settings: SearchSettings
  thresholds: confidence.Thresholds

  def __call__(
    self, padded: Float[np.ndarray, "z y x"], starts: Int[np.ndarray, "agents 3"], progress: Progress | None = None
  ) -> dict[str, Finding]:
    """Coarse and fine step for all organs, judged by thresholds; with fewer patches at once while memory is short."""
    while True:
      try:
        targets, (voxels, scores, votes) = self._places(padded, starts, progress)
        break
      except jax.errors.JaxRuntimeError as error:
        programs.less_at_once(self.network, error)
    findings, start = {}, 0
    for organ in self.organs:
      rows = slice(start, start := start + len(organ.mean_positions))
      own_scores = None if scores is None else scores[rows]
      own_votes = None if votes is None else votes.rows(rows, len(organ.templates))
      trust = self._trust(organ, own_scores, own_votes, targets, rows)
      points = voxels[rows][organ.faces]
      if self.settings.shapes and own_votes is not None and organ.places is not None:
        points = shapes.fit(own_votes.voxels, own_votes.weights, organ.places, organ.faces)
      findings[organ.organ] = Finding(
        organ=organ.organ,
        value=organ.value,
        points=boxes.points_to_scan(points - working_grid.PATCH_MARGIN, self.grid),
        verdict=confidence.judge(trust, self.thresholds),
        confidence=trust,
        doubts=confidence.doubts(trust, self.thresholds),
      )
    return findings

  def _places(
    self, padded: Float[np.ndarray, "z y x"], starts: Int[np.ndarray, "agents 3"], progress: Progress | None
  ) -> tuple[_Targets, tuple[Num[np.ndarray, "points 3"], Float[np.ndarray, " points"] | None, Votes | None]]:
    """Where the coarse step sends the points, and what the fine step says of them (`settle`)."""
    network = programs.prepare(self.network, self.settings.operands)
    patches = Patches.of(network, padded)
    targets = self._coarse(network, patches, starts)
    return targets, settle(network, patches, targets.voxels, self.organs, self.settings, progress)

  def _coarse(self, network: programs.Prepared, patches: Patches, starts: Int[np.ndarray, "agents 3"]) -> _Targets:
    """Unified anatomical mapping: `start + range * tanh(template - query)`, by the mean of the agents and by each."""
    template_positions = np.concatenate([organ.mean_positions for organ in self.organs])
    queries = jax.device_get(programs.positions(network, patches.at(starts)))
    starts_mm = starts * WORKING_SPACING_MM
    mean_start_mm, mean_query = starts_mm.mean(0), queries.mean(0)
    together = mean_start_mm + offset_mm(template_positions, mean_query)
    by_agent = starts_mm[:, None] + offset_mm(template_positions, queries[:, None])
    return _Targets(together, by_agent, mean_start_mm, mean_query)

  def _trust(
    self,
    organ: OrganBank,
    scores: Float[np.ndarray, " points"] | None,
    votes: Votes | None,
    targets: _Targets,
    rows: slice,
  ) -> Confidence:
    """What one organ's rows of the search are worth."""
    grid = self.grid
    sent_to = boxes.points_to_scan((targets.voxels[rows] - working_grid.PATCH_MARGIN)[organ.faces], grid)
    by_template_mm = targets.start_mm + offset_mm(organ.positions, targets.query_position)
    return Confidence(
      targets=sent_to,
      outside=confidence.outside_scan(sent_to, grid.scan),
      visible=confidence.visible_share(confidence.target_box(sent_to), grid.scan, self.thresholds.margin_mm),
      similarity=None if scores is None else float(scores.mean()),
      agent_spread_mm=confidence.spread_mm(targets.by_agent_mm[:, rows]),
      template_spread_mm=confidence.spread_mm(by_template_mm) if len(organ.templates) > 1 else None,
      agreement=None if votes is None else _agreement(organ, votes, grid),
    )


def settle(
  network: programs.Prepared,
  patches: Patches,
  targets: Int[np.ndarray, "points 3"],
  organs: Sequence[OrganBank],
  settings: SearchSettings,
  progress: Progress | None = None,
) -> tuple[Num[np.ndarray, "points 3"], Float[np.ndarray, " points"] | None, Votes | None]:
  """The fine step: where points end, how similar they are there, and what single templates say if asked.

  Args:
    network: of `programs.prepare`, with products of the settings' dtype.
    patches: of the scan.
    targets: of the coarse step, organ after organ.
    organs: of the bank.
    settings: which step, and how.
    progress: called with points done and in all.

  Raises:
    ConfigError: a feature scale that the network lacks.
  """
  if not settings.centred or not settings.scales(network.module.feature_scales):
    taps = [organ.taps for organ in organs]
    return (*fine_step.settle(network, patches, targets, taps, settings, progress), None)
  votes = voting.settle(network, patches, targets, organs, settings, progress)
  return votes.agreed, votes.best, votes if settings.templates == "each" else None


def offset_mm(to: Float[np.ndarray, "*n 3"], at: Float[np.ndarray, "*m 3"]) -> Float[np.ndarray, "*nm 3"]:
  """Offset between two anatomical coordinates (MedLSAM, equation of UAM), mm."""
  return np.array(OFFSET_RANGE_MM) * np.tanh(np.asarray(to, np.float32) - np.asarray(at, np.float32))


def _agreement(organ: OrganBank, votes: Votes, grid: WorkingGrid) -> Agreement:
  """What the templates of an organ say, each on its own, in scan voxels."""
  places = np.moveaxis(votes.voxels, 1, 0) - working_grid.PATCH_MARGIN
  return Agreement(
    templates=organ.templates,
    points=boxes.points_to_scan(places[:, organ.faces], grid),
    similarity=votes.similarity.T[:, organ.faces],
    weights=votes.weights.T[:, organ.faces],
    spacing_mm=grid.scan.spacing_mm,
  )
