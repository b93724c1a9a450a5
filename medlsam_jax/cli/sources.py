"""What commands begin with: networks, banks and predictors, loaded or made, each with its progress."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from medlsam_jax.cli import growing_bank
from medlsam_jax.cli.terminal import Terminal
from medlsam_jax.display import count
from medlsam_jax.errors import ConfigError

if TYPE_CHECKING:
  from medlsam_jax.data.scans import ReadingOptions
  from medlsam_jax.localization.bank import Bank
  from medlsam_jax.localization.kept import KeptOutputs
  from medlsam_jax.models.network import Network
  from medlsam_jax.segmentation.predictor import Predictor


def check_search(arguments: argparse.Namespace) -> None:
  """Refuses options that contradict each other, before anything is loaded.

  Raises:
    ConfigError: neither or both of `--templates` and `--bank`, or options of building with a finished bank.
    OutputError: `--save-bank` cannot be written.
  """
  from medlsam_jax.results.staging import require_writable

  if (arguments.templates is None) == (arguments.bank is None):
    raise ConfigError("give --templates PATH (example scans with organs marked) or --bank FILE, one of them")
  for option in ("mode", "interval_mm", "template_edge", "labels", "save_bank"):
    if arguments.bank is not None and getattr(arguments, option) is not None:
      name = option.replace("_", "-")
      raise ConfigError(f"--{name} is about building a bank from --templates; {arguments.bank} is built already")
  if arguments.save_bank is not None:
    require_writable(Path(arguments.save_bank).parent)


def bank_of(
  arguments: argparse.Namespace, network: Network, terminal: Terminal
) -> tuple[Bank, str, KeptOutputs | None]:
  """The bank that a command asks for, of its organs alone, where it comes from, and what to clear once it was used.

  Raises:
    TemplateError: templates or bank cannot be used, or do not have an organ.
    OutputError: `--save-bank` cannot be written.
  """
  from medlsam_jax.localization.bank import Bank
  from medlsam_jax.results.staging import folder_for

  if arguments.bank is not None:
    bank, source = Bank.load(arguments.bank), arguments.bank
    if arguments.organs is not None:
      bank = bank.subset(arguments.organs)
    bank.check_network(network)
    for note in bank.notes:  # of a bank that is built now they are warned then
      terminal.warn(f"{source}: {note}")
    return bank, source, None
  bank, kept = build_bank(arguments, arguments.templates, network, terminal)
  if arguments.save_bank is not None:
    terminal.warn_replaced(arguments.save_bank)
    with folder_for(Path(arguments.save_bank).parent):
      bank.save(arguments.save_bank)
    terminal.say(f"bank: {arguments.save_bank}")
    kept.clear()
  return bank, arguments.templates, kept


def build_bank(
  arguments: argparse.Namespace,
  templates: str,
  network: Network,
  terminal: Terminal,
  reading: ReadingOptions | None = None,
) -> tuple[Bank, KeptOutputs]:
  """A bank from a folder or list of templates, with `--organs` and what `options.add_bank_building` adds.

  `reading` is how the templates are read; where `--series` and `--hu-offset` speak of queries, they are not meant.

  Returns:
    The bank, and what was kept while it grew: the caller clears it when the bank is saved or was used.
  """
  from medlsam_jax.data.templates import read_templates
  from medlsam_jax.localization.bank import Bank
  from medlsam_jax.localization.kept import KeptOutputs

  with terminal.bar("reading templates"):
    read = read_templates(templates, arguments.organs, arguments.labels, **({} if reading is None else vars(reading)))
  organs = arguments.organs or list(dict.fromkeys(organ for template in read for organ in template.organs))
  kept = KeptOutputs(growing_bank.folder())
  with terminal.bar(f"building the bank from {count(len(read), 'template')}") as bar:
    bank = Bank.build(
      network,
      read,
      arguments.mode or "SPL",
      12.0 if arguments.interval_mm is None else arguments.interval_mm,
      organs=arguments.organs,
      template_edge=arguments.template_edge,
      progress=growing_bank.Growth(bar, kept, len(organs), len(read), arguments.organs is None),
      kept=kept,
    )
  names = ", ".join(template.name for template in read)
  terminal.say(f"bank: {count(len(bank.organs), 'organ')} from {count(len(read), 'template')} ({names})")
  for sentence in read.left_out:
    terminal.say(f"  {sentence}")
  return bank, kept


def predictor_of(model: str, terminal: Terminal) -> Predictor:
  """A network of the SAM family; published weights that are not on this machine yet are fetched.

  Raises:
    WeightsError: they cannot be fetched, are damaged, or of another kind.
  """
  from medlsam_jax import pipeline

  fetch(model, terminal)
  with terminal.bar(f"loading {model}"):
    return pipeline.predictor_of(model)


def fetch(name: str, terminal: Terminal) -> None:
  """Brings published weights of that name into the user's cache, once; does nothing for files."""
  from medlsam_jax import loading
  from medlsam_jax.porting.fetch import PUBLISHED, cached_weights

  if name not in PUBLISHED or cached_weights(name).is_file():
    return
  terminal.say(f"fetching the published weights {name} ({PUBLISHED[name].licence}), once")
  with terminal.bar(f"fetching {name}") as report:
    path = loading.get(name, progress=report)
  terminal.say(f"weights: {path}")
