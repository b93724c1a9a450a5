"""What `localize`, `segment`, `evaluate` and `demo` do alike: settings, the search of one scan, provenance."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medlsam_jax import pipeline
from medlsam_jax.cli import provenance, sources
from medlsam_jax.cli import settings as config
from medlsam_jax.cli.terminal import Terminal
from medlsam_jax.errors import ConfigError, InputError
from medlsam_jax.finding import Finding
from medlsam_jax.geometry import Volume
from medlsam_jax.io import box_input, writing
from medlsam_jax.io.labels import LabelMap
from medlsam_jax.io.scans import ListedScan
from medlsam_jax.loading import load
from medlsam_jax.medlam.bank.bank import Bank
from medlsam_jax.medlam.bank.kept import KeptOutputs
from medlsam_jax.medlam.search import findings as results
from medlsam_jax.medlam.search.findings import Findings
from medlsam_jax.medlam.search.search_settings import DEFAULT as DEFAULT_SEARCH
from medlsam_jax.medlam.search.search_settings import PRESETS as SEARCH_PRESETS
from medlsam_jax.network import Network
from medlsam_jax.pipeline import PipelineSettings
from medlsam_jax.platform import backend
from medlsam_jax.sam.segmentation_settings import PRESETS


def settings_of(arguments: argparse.Namespace) -> PipelineSettings:
  """Preset, config file, single settings and flags, in that order.

  Raises:
    ConfigError: as `settings.resolve`.
  """
  preset = getattr(arguments, "preset", None)
  start = PipelineSettings(
    search=SEARCH_PRESETS[arguments.search or DEFAULT_SEARCH], segmentation=PRESETS[preset or "litemedsam"]
  )
  result = config.resolve(start, arguments.config, arguments.rest)
  for option, chosen, section in (("preset", preset, "segmentation"), ("search", arguments.search, "search")):
    if chosen and arguments.config and section in config.read_config(arguments.config):
      raise ConfigError(f"{arguments.config} has {section} settings of its own; leave --{option} {chosen} away")
  if arguments.steps is not None:
    result = dataclasses.replace(result, search=dataclasses.replace(result.search, steps=arguments.steps))
  along: dict[str, Any] = {"mode": "middle-out"} if getattr(arguments, "propagate", False) else {}
  along |= {"axes": arguments.axes} if getattr(arguments, "axes", None) else {}
  result = dataclasses.replace(result, propagation=dataclasses.replace(result.propagation, **along))
  if getattr(arguments, "clean_up", False):
    painting = dataclasses.replace(result.segmentation, largest_component=True, fill_holes=True)
    result = dataclasses.replace(result, segmentation=painting)
  return result


@dataclasses.dataclass(frozen=True)
class Search:
  """A network and a bank, ready for scans."""

  network: Network
  bank: Bank
  bank_source: str
  settings: PipelineSettings
  seed: int
  kept: KeptOutputs | None = None
  """What a bank that was built for this search left while it grew."""

  @classmethod
  def prepare(cls, arguments: argparse.Namespace, settings: PipelineSettings, terminal: Terminal) -> Search:
    """Loads the network, and loads or builds the bank.

    Raises:
      WeightsError: the network cannot be used.
      TemplateError: the templates or the bank cannot be used.
    """
    sources.fetch(arguments.network, terminal)
    network = load(arguments.network)
    bank, source, kept = sources.bank_of(arguments, network, terminal)
    if text := bank.mixed_with(settings.search.operands, backend()):
      terminal.say(text)
    return cls(network, bank, source, settings, arguments.seed, kept)

  def finish(self, failed: bool) -> None:
    """The bank has served; after a failure the same command may come again and need it."""
    if self.kept is not None and not failed:
      self.kept.clear()

  def run(
    self, listed: ListedScan, title: str, terminal: Terminal, read: Callable[[ListedScan], Volume]
  ) -> tuple[Volume, Findings]:
    """Reads a scan and finds the organs in it."""
    with terminal.bar(f"{title}: reading"):
      scan = read(listed)
    with terminal.bar(f"{title}: localizing") as report:
      found = pipeline.localize(
        self.network,
        self.bank,
        scan,
        self.seed,
        settings=self.settings.search,
        thresholds=self.settings.confidence,
        progress=report,
      )
    return scan, found

  def provenance(self) -> dict[str, Any]:
    """Where a result of this search comes from; what painted it is added by `painting.merged`."""
    return {
      "networks": {"localization": provenance.of_network(self.network)},
      "bank": provenance.of_bank(self.bank, self.bank_source),
      "settings": {
        "search": provenance.of_settings(self.settings.search) | {"operands": self.settings.search.operands},
        "confidence": provenance.of_settings(self.settings.confidence),
      },
      "seed": self.seed,
      "versions": provenance.of_machine(),
    }


def check_boxes(arguments: argparse.Namespace) -> None:
  """Refuses options of a search together with `--boxes`; a bank may come along for its masks.

  Raises:
    ConfigError: there is one.
  """
  for option in ("templates", "save_bank", "mode", "interval_mm", "template_edge", "labels", "steps", "search"):
    if getattr(arguments, option) is not None:
      name = option.replace("_", "-")
      raise ConfigError(f"--{name} is about finding organs; with --boxes nothing is searched: leave one of them away")


def check_boxes_queries(arguments: argparse.Namespace, queries: Sequence[ListedScan]) -> None:
  """Boxes belong to one scan.

  Raises:
    ConfigError: `--boxes` with several.
  """
  if arguments.boxes is not None and len(queries) != 1:
    raise ConfigError(f"--boxes is for one scan; {arguments.query} names {len(queries)}")


def given_boxes(
  arguments: argparse.Namespace,
  listed: ListedScan,
  title: str,
  terminal: Terminal,
  read: Callable[[ListedScan], Volume],
) -> tuple[Volume, dict[str, Finding]]:
  """Reads a scan and the user's boxes for it.

  Raises:
    InputError: as `box_input.read_boxes`, or `--organs` names one that has no box.
  """
  with terminal.bar(f"{title}: reading"):
    scan = read(listed)
  found = box_input.read_boxes(arguments.boxes, scan)
  for organ in arguments.organs or ():
    if organ not in found:
      raise InputError(f"{arguments.boxes}: no box for organ {organ!r}; it has: {', '.join(found)}")
  return scan, {organ: each for organ, each in found.items() if organ in (arguments.organs or found)}


def provenance_of_boxes(arguments: argparse.Namespace) -> dict[str, Any]:
  """Where a result from given boxes comes from; what painted it is added by `painting.merged`."""
  return {"boxes": provenance.of_file(arguments.boxes), "versions": provenance.of_machine()}


def warn_replaced(terminal: Terminal, arguments: argparse.Namespace, names: Sequence[str], segmented: bool) -> None:
  """Says before the work which results of an earlier run it will replace."""
  text = "" if arguments.skip_existing else writing.replaced(arguments.out, names, segmented)
  if text:
    terminal.warn(text)


def tell(
  terminal: Terminal,
  title: str,
  scan: Volume,
  found: Mapping[str, Finding],
  labels: LabelMap | None,
  files: Sequence[Path],
) -> None:
  """One scan's findings as a table, what speaks against them, and where its files are."""
  if terminal.quiet:
    return
  rows = results.table(found)
  if labels is not None:
    volumes_ml = labels.volumes_ml()
    rows = [[*rows[0], "ml"], *([*row, f"{volumes_ml[row[0]]:.1f}"] for row in rows[1:])]
  terminal.say(f"{title}:")
  terminal.table(rows)
  if any(each.confidence is not None for each in found.values()):
    terminal.say_once(f"({results.COLUMNS})")
  for doubt in scan.doubts:
    terminal.say(f"doubtful: {doubt}")
  for organ, each in found.items():
    own = [doubt for doubt in each.doubts if doubt not in scan.doubts]
    if own:
      terminal.say(f"{organ}: {'; '.join(own)}")
  terminal.say("wrote " + ", ".join(str(path) for path in files))
