"""CT -> boxes -> label map, all in the scan's own voxels (z, y, x). No ground truth of the scan anywhere."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar, get_args

import numpy as np
from jaxtyping import Integer, Num

from medlsam_jax.errors import ConfigError, InputError, TemplateError, WeightsError
from medlsam_jax.finding import GIVEN, OUTSIDE, Finding
from medlsam_jax.geometry import Box, Volume
from medlsam_jax.io import scan_checks
from medlsam_jax.io.labels import LabelMap, check_values, warn_of_swapped
from medlsam_jax.io.refining_points import Point
from medlsam_jax.loading import holds_adapters, load, load_adapters
from medlsam_jax.medlam.bank.bank import Bank
from medlsam_jax.medlam.search import search
from medlsam_jax.medlam.search.confidence import Thresholds
from medlsam_jax.medlam.search.findings import Findings
from medlsam_jax.medlam.search.search_settings import DEFAULT as DEFAULT_SEARCH
from medlsam_jax.medlam.search.search_settings import PRESETS as SEARCH_PRESETS
from medlsam_jax.medlam.search.search_settings import SearchSettings
from medlsam_jax.medlam.search.starts import Key
from medlsam_jax.network import Network
from medlsam_jax.platform import device
from medlsam_jax.progress import Progress, within_limit
from medlsam_jax.sam.clean_up import clean_labels
from medlsam_jax.sam.predictor import Predictor, operands_of
from medlsam_jax.sam.prompted_volume import paint_from_votes
from medlsam_jax.sam.propagation import PropagationSettings
from medlsam_jax.sam.segmentation_settings import LITEMEDSAM, PRESETS, SegmentationSettings
from medlsam_jax.sam.volume import paint_volume
from medlsam_jax.sam3d.cube_predictor import CubePredictor
from medlsam_jax.sam3d.painting import paint_cubes
from medlsam_jax.template_masks.masks import VoteSettings, paint_by_templates, votes
from medlsam_jax.template_masks.organ_crops import OrganCrop

Settings = TypeVar("Settings")
_PREDICTOR = "predictor"
PAINTER = "litemedsam"
"""Network that paints where none is named and no template has a mask of the organ."""

PROMPTED = "litemedsam-prompted"
"""Network that templates' masks prompt where none is named."""

Masks = Literal["auto", "templates", "network", "prompted"]
"""Where masks come from: the templates' own, brought into the scan; a network prompted by boxes; a network that the
templates' masks prompt slice by slice (`prompted`: one fine-tuned to it, as released none is any good at it), both
having a say; or
`auto`: the templates' own for each organ that they have a mask of, unless a network is named."""


@dataclasses.dataclass(frozen=True)
class PipelineSettings:
  """Every setting between a scan and its label map; the command line changes them as `--section.field VALUE`."""

  search: SearchSettings = SEARCH_PRESETS[DEFAULT_SEARCH]
  confidence: Thresholds = dataclasses.field(default_factory=Thresholds)
  segmentation: SegmentationSettings = LITEMEDSAM
  propagation: PropagationSettings = dataclasses.field(default_factory=PropagationSettings)
  masks: VoteSettings = dataclasses.field(default_factory=VoteSettings)


def localize(
  network: Network,
  bank: Bank,
  scan: Volume,
  key: Key = 0,
  *,
  starts: Num[np.ndarray, "agents 3"] | Sequence[Sequence[int]] | None = None,
  organs: Sequence[str] | None = None,
  settings: str | SearchSettings = DEFAULT_SEARCH,
  thresholds: Thresholds | None = None,
  progress: Progress | None = None,
) -> Findings:
  """Finds the organs of a bank in a scan.

  Args:
    network: the one that the bank was built with.
    bank: of `Bank.build` or `Bank.load`.
    scan: of `read_volume`, or any `Volume` in HU.
    key: seed (a whole number of any kind) or `jax.random` key that draws where the agents start; the same key gives the
      same result.
    starts: their voxels (z, y, x) in the padded working grid, instead of a key.
    organs: names, a part of the bank's; None takes all.
    settings: of the search: `exact` (published arithmetic, every feature scale that the network has), `fast` (no
      features at full resolution, bfloat16 operands), `atlas` (besides, organs share patches), `vote` (as `fast`, but
      each template on its own, without the bias of the published moves, held against the templates' shapes),
      `vote-fast` (besides, one patch for an organ; the default), or one's own.
    thresholds: of the verdicts; None takes the measured ones.
    progress: called with points done and in all.

  Returns:
    A dict by organ name, in the bank's order. Points and boxes are in voxels of the scan and may lie outside it. In a
    scan with doubts of its own (`Volume.doubts`) no organ is `found`, and each finding repeats them.

  Raises:
    InputError: NaN voxels inside the scan, a scan over the size limit, or one of nothing but air.
    TemplateError: the bank belongs to another network, or lacks an organ.
    ConfigError: an unknown preset, a feature scale that the network lacks, or a key that is none.
    TimeLimitError: a `progress.time_limit` around the call passed; so does `segment`.
  """
  scan, progress = scan_checks.check_scan(scan), within_limit(progress)
  if isinstance(settings, str):
    settings = _preset(SEARCH_PRESETS, settings)
  if organs is not None:
    bank = bank.subset(organs)
  findings = search.find(
    network, bank, scan, key=key, starts=starts, settings=settings, thresholds=thresholds, progress=progress
  )
  return Findings({organ: each.in_doubtful_scan(scan.doubts) for organ, each in findings.items()}, bank.crops)


def segment(
  scan: Volume,
  found: Mapping[str, Finding],
  model: str | os.PathLike[str] | Network | Predictor | CubePredictor | None = None,
  *,
  masks: Masks = "auto",
  bank: Bank | None = None,
  settings: str | SegmentationSettings = "litemedsam",
  propagation: PropagationSettings | None = None,
  vote: VoteSettings | None = None,
  points: Mapping[str, Sequence[Point]] | None = None,
  clean_up: bool = False,
  progress: Progress | None = None,
) -> LabelMap:
  """Paints organs: by the masks of the templates, or slice by slice by a network that each box prompts.

  Args:
    scan: in HU; the one that `found` belongs to.
    found: of `localize`, or boxes of the user's own (`read_boxes`, `Finding.of_boxes`). An organ outside the field
      of view stays empty.
    model: a network of the SAM family: name or file as for `load`, or one that is loaded, or a `Predictor` of one's own
      settings; or an adapter file, or `load_adapters` of one, which paints volumes and not slices. Compiled programs
      are kept over many scans. None: LiteMedSAM, and only where no template has a mask; with `masks="prompted"` the
      one of the package that was fine-tuned to it.
    masks: `templates`, `network`, `prompted` (see `Masks`), or `auto`: templates for the organs that they have a mask
      of, if `model` is None.
    bank: whose templates have the masks; None: those of the bank that `found` was found with.
    settings: of the network: a preset, `litemedsam` or `medlsam`, or settings of one's own.
    propagation: whether the network's masks lead on to the next slice, and the planes to cut; None: boxes alone, axial
      slices.
    vote: how templates' masks become one, and what they count beside a network that they prompt; None takes what was
      measured best.
    points: of `read_refining_points`: places in organs of `found`, and places that are not, by which a network for
      volumes mends its masks; no other painter takes any.
    clean_up: besides, keep each organ's largest piece only and fill its holes.
    progress: called with what is done and in all: templates laid over organs, then slices (prompted, then boxed).

  Returns:
    Label map on the scan's grid, `labels["liver"]` being a mask; every organ of `found` is among its names.

  Raises:
    InputError: NaN voxels inside the scan, a scan over the size limit, two organs with one label value, or points in an
      organ that is not in `found`, or more of them in one cube than it takes.
    TemplateError: `masks="templates"` for an organ of which no template has a mask.
    WeightsError: the model's weights are missing or of another kind.
    ConfigError: an unknown preset or value of `masks`; or points, where slices or templates paint.
  """
  scan, progress = scan_checks.check_scan(scan), within_limit(progress)
  settings = _preset(PRESETS, settings) if isinstance(settings, str) else settings
  settings = dataclasses.replace(settings, largest_component=True, fill_holes=True) if clean_up else settings
  check_values(values := {organ: each.value for organ, each in found.items()})
  inside = {organ: each.parts for organ, each in found.items() if each.verdict != OUTSIDE}
  warn_of_swapped(scan, inside)
  crops = crops_of(found, model is None, masks, bank)
  by_vote = {organ: parts for organ, parts in inside.items() if organ in crops}
  by_network = {organ: parts for organ, parts in inside.items() if organ not in crops}
  if points:
    _check_points(points, found, crops, model)
  painted, by_hand = [], [organ for organ, each in found.items() if each.verdict == GIVEN]
  if by_vote and masks == "prompted":
    vote, predictor = vote or VoteSettings(), predictor_of(model or PROMPTED)
    voted = dict(votes(scan, by_vote, crops, vote, progress, by_hand))
    painted.append(paint_from_votes(scan, voted, values, predictor, vote.vote_share, settings, progress))
  elif by_vote:
    painted.append(paint_by_templates(scan, by_vote, crops, values, vote, progress, by_hand))
  if by_vote and (settings.largest_component or settings.fill_holes):
    clean_labels(painted[0], settings.largest_component, settings.fill_holes)
  if by_network or not by_vote:
    painter = painter_of(model or PAINTER)
    painted.append(_paint(scan, by_network, values, painter, settings, propagation, points, progress))
  # the network fills what the templates left
  array = painted[0] if len(painted) == 1 else np.where(painted[0] > 0, *painted)
  return LabelMap(array, scan.grid, values, scan.file_grid, scan.source_images)


def _paint(
  scan: Volume,
  boxes: Mapping[str, Sequence[Box]],
  values: Mapping[str, int],
  painter: Predictor | CubePredictor,
  settings: SegmentationSettings,
  propagation: PropagationSettings | None,
  points: Mapping[str, Sequence[Point]] | None,
  progress: Progress | None,
) -> Integer[np.ndarray, "z y x"]:
  """By slices or by cubes."""
  if isinstance(painter, Predictor):
    return paint_volume(scan, boxes, values, painter, settings, propagation, progress)
  array = paint_cubes(scan, boxes, values, painter, points, progress)
  if settings.largest_component or settings.fill_holes:
    clean_labels(array, settings.largest_component, settings.fill_holes)
  return array


def _check_points(
  points: Mapping[str, Sequence[Point]],
  found: Mapping[str, Finding],
  crops: Mapping[str, object],
  model: str | os.PathLike[str] | Network | Predictor | CubePredictor | None,
) -> None:
  if strange := [organ for organ in points if organ not in found]:
    raise InputError(f"points in {', '.join(strange)}, but no box; there is: {', '.join(found)}")
  if model is None or any(organ in crops for organ in points) or not isinstance(painter_of(model), CubePredictor):
    raise ConfigError("points mend masks of a network for volumes; give its adapter file as the model")


def crops_of(
  found: Mapping[str, Finding], is_default: bool, masks: Masks = "auto", bank: Bank | None = None
) -> dict[str, Sequence[OrganCrop]]:
  """The templates' masks that `segment` would use, by organ; for the other organs it needs a network.

  Args:
    found: as for `segment`, and so are `masks` and `bank`.
    is_default: whether the user named no network.

  Raises:
    TemplateError: `masks="templates"` for an organ of which no template has a mask.
    ConfigError: an unknown value of `masks`.
  """
  if masks not in get_args(Masks):
    raise ConfigError(f"masks {masks!r} is unknown; choose {', '.join(get_args(Masks))}")
  if masks == "network" or (masks == "auto" and not is_default):
    return {}
  known = getattr(found, "crops", {}) if bank is None else bank.crops
  crops = {organ: known[organ] for organ in found if organ in known}
  missing = [organ for organ in found if organ not in crops]
  if masks == "templates" and missing:
    raise TemplateError(
      f"no template has a mask of {', '.join(missing)} (points alone, or a bank of an older version: build it again); "
      "let a network paint"
    )
  return crops


def painter_of(
  model: str | os.PathLike[str] | Network | Predictor | CubePredictor, dtype: str | None = None
) -> Predictor | CubePredictor:
  """`predictor_of`, or of an adapter file what paints cubes, made ready once as long as the file does not change.

  Raises:
    WeightsError: as `predictor_of`, or the adapters' base is not at hand.
  """
  if isinstance(model, CubePredictor):
    return model
  if isinstance(model, str | os.PathLike) and holds_adapters(model):
    path = os.fspath(model)
    return _adapted(path, Path(path).stat().st_mtime_ns, dtype or "float32", str(device()))
  return predictor_of(model, dtype)


@functools.lru_cache(maxsize=2)
def _adapted(path: str, changed_ns: int, dtype: str, on: str) -> CubePredictor:
  return load_adapters(path, dtype=dtype)


def predictor_of(
  model: str | os.PathLike[str] | Network | Predictor | CubePredictor, dtype: str | None = None
) -> Predictor:
  """A network of the SAM family made ready on this thread's device: the same one for a network every time, and for a
  name or a file as long as the file does not change, so that nothing is compiled twice.

  Args:
    model: name or file as for `load`, a network, or a predictor, which stays as it is.
    dtype: of operands; None takes what the platform is fastest with, where it changes no mask to speak of
      (`predictor.operands_of`).

  Raises:
    WeightsError: the weights are missing, damaged or not of the SAM family.
  """
  if isinstance(model, Predictor):
    return model
  if isinstance(model, CubePredictor):
    raise WeightsError(f"{model.source}: adapters paint volumes; here a network that sees slices is needed")
  if isinstance(model, Network):
    operands = dtype or operands_of(model)
    name = f"{_PREDICTOR} of {operands} on {device()}"
    if name not in model.ready:
      model.ready[name] = Predictor(model, operands)
    return model.ready[name]
  path = Path(model)
  return predictor_of(_loaded(os.fspath(model), path.stat().st_mtime_ns if path.is_file() else 0), dtype)


@functools.lru_cache(maxsize=2)
def _loaded(name: str, changed_ns: int) -> Network:
  return load(name)


def _preset(presets: Mapping[str, Settings], name: str) -> Settings:
  if name not in presets:
    raise ConfigError(f"preset {name!r} is unknown; choose {' or '.join(presets)}")
  return presets[name]
