"""The search of a command: its settings, its network and bank, and the organs that it finds in a scan."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable

from medlsam_jax import pipeline
from medlsam_jax.cli import networks_and_banks, provenance
from medlsam_jax.cli import settings as config
from medlsam_jax.cli.terminal import Terminal
from medlsam_jax.errors import ConfigError
from medlsam_jax.geometry import Volume
from medlsam_jax.io.scans import ListedScan
from medlsam_jax.loading import load
from medlsam_jax.medlam.bank.bank import Bank
from medlsam_jax.medlam.bank.kept_outputs import KeptOutputs
from medlsam_jax.medlam.search.findings import Findings
from medlsam_jax.medlam.search.rehearsal import of_search
from medlsam_jax.medlam.search.search_settings import DEFAULT as DEFAULT_SEARCH
from medlsam_jax.medlam.search.search_settings import PRESETS as SEARCH_PRESETS
from medlsam_jax.network import Network
from medlsam_jax.pipeline import PipelineSettings
from medlsam_jax.platform import backend, widened
from medlsam_jax.rehearsal import Rehearsal
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
  along = result.propagation
  if getattr(arguments, "propagate", False):
    along = dataclasses.replace(along, mode="middle-out")
  if getattr(arguments, "axes", None):
    along = dataclasses.replace(along, axes=arguments.axes)
  result = dataclasses.replace(result, propagation=along)
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
  begun: tuple[Rehearsal, ...] = ()
  """Programs that are being compiled; the first scan waits for them, and none compiles them a second time."""

  @classmethod
  def prepare(cls, arguments: argparse.Namespace, settings: PipelineSettings, terminal: Terminal) -> Search:
    """Loads the network, and loads or builds the bank.

    Raises:
      WeightsError: the network cannot be used.
      TemplateError: the templates or the bank cannot be used.
    """
    networks_and_banks.fetch(arguments.network, terminal)
    network = load(arguments.network)
    if text := widened(settings.search.operands):
      terminal.say(text)
    begun: list[Rehearsal] = []
    bank, source, kept = networks_and_banks.bank_of(
      arguments, network, terminal, lambda *known: begun.append(of_search(network, settings.search, *known))
    )
    if text := bank.mixed_with(settings.search.operands, backend()):
      terminal.say(text)
    return cls(network, bank, source, settings, arguments.seed, kept, tuple(begun))

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
      self.wait()
      findings = pipeline.localize(
        self.network,
        self.bank,
        scan,
        self.seed,
        settings=self.settings.search,
        thresholds=self.settings.confidence,
        progress=report,
      )
    return scan, findings

  def wait(self) -> None:
    """Until the programs that are being compiled are there."""
    for rehearsal in self.begun:
      rehearsal.wait()

  def provenance(self) -> dict[str, object]:
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
