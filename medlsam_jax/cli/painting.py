"""What `segment`, `evaluate` and `demo` paint with: the templates' masks, a network, or one for some organs each."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from typing import TypeAlias

from medlsam_jax import pipeline
from medlsam_jax.cli import networks_and_banks, provenance
from medlsam_jax.cli.terminal import Terminal
from medlsam_jax.errors import ConfigError
from medlsam_jax.finding import Finding
from medlsam_jax.geometry import Volume
from medlsam_jax.io.labels import LabelMap
from medlsam_jax.io.packaged_banks import NAMES
from medlsam_jax.io.refining_points import Point, read_refining_points
from medlsam_jax.loading import load
from medlsam_jax.medlam.bank.bank import Bank
from medlsam_jax.pipeline import PAINTER, PROMPTED, PipelineSettings
from medlsam_jax.rehearsal import Rehearsal
from medlsam_jax.sam import device_painting
from medlsam_jax.sam.predictor import Predictor
from medlsam_jax.sam.propagation import PropagationSettings
from medlsam_jax.sam.segmentation_settings import LITEMEDSAM
from medlsam_jax.sam3d.cube_predictor import CubePredictor

Sections: TypeAlias = dict[str, dict[str, object]]
"""Where masks come from, as the entries of a boxes file."""


@dataclasses.dataclass
class Painter:
  """Paints scan after scan; a network that nobody named is loaded when the first organ needs it."""

  arguments: argparse.Namespace
  settings: PipelineSettings
  terminal: Terminal
  masks: pipeline.Masks
  network: Predictor | CubePredictor | None = None
  bank: Bank | None = None
  begun: Rehearsal = dataclasses.field(default_factory=Rehearsal)
  """Programs that are being compiled; painting waits for them, and compiles none of them a second time."""

  @classmethod
  def prepare(cls, arguments: argparse.Namespace, settings: PipelineSettings, terminal: Terminal) -> Painter:
    """Loads the network, where one is named or it alone is to paint.

    Raises:
      ConfigError: an option of the network with `--masks templates`, or no templates with it or with `prompted`; an
        option of boxes with `prompted`.
      WeightsError: the network cannot be used.
      TemplateError: with `--boxes`, the bank cannot be used.
    """
    named = network_option(arguments, settings)
    if named and arguments.masks == "templates":
      raise ConfigError(f"{named} is about the network that paints; with --masks templates none does: leave one away")
    if arguments.masks in ("templates", "prompted") and arguments.boxes is not None and arguments.bank is None:
      raise ConfigError(f"--masks {arguments.masks} needs the templates: give --bank FILE beside --boxes")
    if arguments.masks == "prompted" and (arguments.propagate or arguments.axes):
      raise ConfigError("--masks prompted asks in every axial slice; leave --propagate and --axes away")
    masks: pipeline.Masks = "network" if named and arguments.masks != "prompted" else arguments.masks or "auto"
    painter = cls(arguments, settings, terminal, masks)
    if masks in ("network", "prompted"):
      painter.network = painter._predictor()
      check_cubes(painter.network, arguments, settings)
    if arguments.points is not None and not isinstance(painter.network, CubePredictor):
      raise ConfigError("--points mends masks of a network for volumes: give its adapter file by --model")
    if isinstance(painter.network, Predictor) and masks == "network" and settings.propagation.mode == "boxes":
      painter.begun = device_painting.rehearse(painter.network)
    if arguments.boxes is not None and arguments.bank is not None:
      painter.bank = _bank(arguments, terminal)
    return painter

  def run(self, scan: Volume, findings: Mapping[str, Finding], title: str) -> tuple[LabelMap, Sections]:
    """The label map of a scan, and where its masks come from."""
    crops = pipeline.crops_of(findings, True, self.masks, self.bank)
    rest = [organ for organ in findings if organ not in crops]
    if rest and self.network is None:
      self.network = self._predictor()
    # else `segment` takes those that it would take itself, of which `prompted` may need two
    named = self.arguments.model or self.arguments.dtype
    is_named = self.masks == "network" or (self.masks == "prompted" and named)
    with self.terminal.bar(f"{title}: segmenting") as report:
      self.begun.wait()
      labels = pipeline.segment(
        scan,
        findings,
        self.network if is_named else None,
        masks=self.masks,
        bank=self.bank,
        settings=self.settings.segmentation,
        propagation=self.settings.propagation,
        vote=self.settings.masks,
        points=self._points(scan),
        progress=report,
      )
    return labels, self._provenance(list(crops), rest)

  def _points(self, scan: Volume) -> dict[str, list[Point]]:
    return {} if self.arguments.points is None else read_refining_points(self.arguments.points, scan)

  def _predictor(self) -> Predictor | CubePredictor:
    arguments = self.arguments
    if self.masks == "prompted":
      return networks_and_banks.predictor_of(arguments.model or PROMPTED, self.terminal, arguments.dtype)
    return networks_and_banks.painter_of(arguments.model or PAINTER, self.terminal, arguments.dtype)

  def _provenance(self, by_templates: list[str], by_network: list[str]) -> Sections:
    how: Sections = {"settings": {}, "networks": {}, "painted": {}}
    if by_templates:
      how["painted"]["prompted" if self.masks == "prompted" else "templates"] = by_templates
      how["settings"]["masks"] = provenance.of_settings(self.settings.masks)
      if self.bank is not None:
        how["bank"] = provenance.of_bank(self.bank, str(self.arguments.bank or self.arguments.templates))
    if by_network and isinstance(self.network, CubePredictor):
      how["painted"]["cubes"] = by_network
      how["networks"]["segmentation"] = provenance.of_painter(self.network)
      how["settings"]["cubes"] = provenance.of_settings(self.network.settings)
      if self.arguments.points is not None:
        how["points"] = {**provenance.of_file(self.arguments.points)}
      return how
    if by_network:
      how["painted"]["network"] = by_network
      how["settings"]["propagation"] = provenance.of_settings(self.settings.propagation)
    if (by_network or self.masks == "prompted") and isinstance(self.network, Predictor):
      how["networks"]["segmentation"] = provenance.of_painter(self.network)
      how["settings"]["segmentation"] = provenance.of_settings(self.settings.segmentation)
    return how


def check_cubes(network: Predictor | CubePredictor, arguments: argparse.Namespace, settings: PipelineSettings) -> None:
  """Refuses options that are about slices with a network that paints volumes.

  Raises:
    ConfigError: naming the option.
  """
  if not isinstance(network, CubePredictor):
    return
  slices = dataclasses.replace(settings.segmentation, largest_component=False, fill_holes=False)
  given = next((f"--{name}" for name in ("preset", "propagate", "axes") if getattr(arguments, name)), "")
  if not given and (slices != LITEMEDSAM or settings.propagation != PropagationSettings()):
    given = "a setting of segmentation or propagation"
  if given:
    raise ConfigError(f"{given} is about slices, and {arguments.model} paints volumes: leave it away")


def _bank(arguments: argparse.Namespace, terminal: Terminal) -> Bank:
  """Of a file, for its masks alone; of a region in the package, built where it was not kept."""
  if arguments.bank not in NAMES:
    return Bank.load(arguments.bank)
  return networks_and_banks.bank_of(arguments, load(arguments.network), terminal)[0]


def network_option(arguments: argparse.Namespace, settings: PipelineSettings) -> str:
  """The first option given that is about the network that paints; empty where there is none."""
  for option in ("model", "dtype", "preset", "propagate", "axes"):
    if getattr(arguments, option):
      return f"--{option}"
  plain = dataclasses.replace(settings.segmentation, largest_component=False, fill_holes=False)
  if plain != LITEMEDSAM:
    return "a segmentation setting"
  return "" if settings.propagation == PropagationSettings() else "a propagation setting"


def merged(first: Mapping[str, object], second: Sections) -> dict[str, object]:
  """Provenance of a search or of boxes with that of the painting."""
  result = dict(first)
  for name, entry in second.items():
    held = result.get(name)
    result[name] = {**held, **entry} if isinstance(held, dict) else entry
  return result
