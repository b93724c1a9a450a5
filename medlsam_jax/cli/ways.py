"""Ways to paint that `medlsam evaluate --compare` sets beside each other, each with its network loaded."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

from medlsam_jax import pipeline
from medlsam_jax.cli import compare, networks_and_banks, provenance
from medlsam_jax.cli.terminal import Terminal
from medlsam_jax.errors import ConfigError
from medlsam_jax.finding import Finding
from medlsam_jax.geometry import Volume
from medlsam_jax.io.labels import LabelMap
from medlsam_jax.medlam.bank.bank import Bank
from medlsam_jax.progress import Progress
from medlsam_jax.sam.clean_up import clean_labels
from medlsam_jax.sam.predictor import Predictor
from medlsam_jax.sam3d.cube_predictor import CubePredictor


@dataclasses.dataclass(frozen=True)
class Way:
  """One way to paint."""

  title: str
  masks: pipeline.Masks
  painter: Predictor | CubePredictor | None
  settings: pipeline.PipelineSettings
  origin: dict[str, object]
  """What paints, and all settings that its masks depend on."""
  boxes_by_slice: bool = False
  """Whether it asks for a box in each slice."""
  word: str = ""
  """What paints, as `--compare` names it; ways with one word paint alike before clean-up."""
  cleaned: bool = False
  """Whether its masks are cleaned up."""

  @property
  def identity(self) -> dict[str, object]:
    """All that its masks depend on beside the scan, the boxes and the bank; where a file lies is not among it."""
    return {name: entry for name, entry in self.origin.items() if name != "source"}

  def paint(self, scan: Volume, boxes: Mapping[str, Finding], bank: Bank | None, progress: Progress) -> LabelMap:
    """The label map of a scan, before clean-up."""
    return pipeline.segment(
      scan,
      boxes,
      self.painter,
      masks=self.masks,
      bank=bank,
      settings=self.settings.segmentation,
      propagation=self.settings.propagation,
      vote=self.settings.masks,
      progress=progress,
    )

  def finish(self, painted: LabelMap) -> LabelMap:
    """What `paint` gave, cleaned up if that is asked for, as a reader of its file has it."""
    if not self.cleaned:
      return painted.as_saved()
    array = painted.array.copy()
    clean_labels(array, largest_component=True, fill_holes=True)
    return dataclasses.replace(painted, array=array).as_saved()


def load_ways(arguments: argparse.Namespace, settings: pipeline.PipelineSettings, terminal: Terminal) -> Sequence[Way]:
  """What paints, on this thread's device.

  Raises:
    ConfigError: `slices` and their like of a network that paints volumes.
    WeightsError: a network cannot be used.
  """
  titled = compare.titled(arguments.compare)
  words = dict.fromkeys(compare.plain(word) for _, word in titled)
  painters = {word: _way(word, arguments, settings, terminal) for word in words}
  return [_named(painters[compare.plain(word)], title, word.endswith(compare.CLEANED)) for title, word in titled]


def _named(way: Way, title: str, cleaned: bool) -> Way:
  origin = way.origin | {"clean_up": True} if cleaned else way.origin
  return dataclasses.replace(way, title=title, origin=origin, cleaned=cleaned)


def _way(word: str, arguments: argparse.Namespace, settings: pipeline.PipelineSettings, terminal: Terminal) -> Way:
  mode: Literal["boxes", "middle-out"] = "middle-out" if word == "propagate" else "boxes"
  axes: Literal["axial", "all"] = "all" if word == "axes" else "axial"
  settings = dataclasses.replace(settings, propagation=dataclasses.replace(settings.propagation, mode=mode, axes=axes))
  of = provenance.of_settings
  if word == "templates":
    return Way(word, "templates", None, settings, {"vote": of(settings.masks)}, word=word)
  named = {"prompted": pipeline.PROMPTED} | dict.fromkeys(compare.BY_SLICES, arguments.model or pipeline.PAINTER)
  painter = networks_and_banks.painter_of(named.get(word, word), terminal, arguments.dtype)
  origin: dict[str, object] = {**provenance.of_painter(painter), "segmentation": of(settings.segmentation)}
  if isinstance(painter, CubePredictor):
    if word in named:
      raise ConfigError(f"--model {named[word]} paints volumes; name it in --compare, and for {word} one of slices")
    return Way(word, "network", painter, settings, origin | {"cubes": of(painter.settings)}, word=word)
  if word == "prompted":
    return Way(word, "prompted", painter, settings, origin | {"vote": of(settings.masks)}, word=word)
  origin |= {"propagation": of(settings.propagation), "boxes_by_slice": word == "tight"}
  return Way(word, "network", painter, settings, origin, word == "tight", word)
