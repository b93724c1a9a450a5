"""What commands begin with: networks, banks and predictors, loaded or made, each with its progress."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from medlsam_jax.cli import growing_bank
from medlsam_jax.cli.terminal import Terminal
from medlsam_jax.display import count
from medlsam_jax.errors import ConfigError, OutputError, TemplateError

if TYPE_CHECKING:
  from collections.abc import Sequence

  from medlsam_jax.io.scans import ReadingOptions
  from medlsam_jax.io.templates import Templates
  from medlsam_jax.medlam.bank.bank import Bank
  from medlsam_jax.medlam.bank.kept_outputs import KeptOutputs
  from medlsam_jax.network import Network
  from medlsam_jax.sam.predictor import Predictor
  from medlsam_jax.sam3d.cube_predictor import CubePredictor

Known = Callable[[int, int], None]
"""Told of a bank: templates of the organ with most of them, and the edge of the cube around a point, working voxels."""


def check_search(arguments: argparse.Namespace) -> None:
  """Refuses options that contradict each other, before anything is loaded.

  Raises:
    ConfigError: neither of `--templates` and `--bank`, both of them unless the bank is one of the package, or options
      of building with a finished bank.
    OutputError: `--save-bank` cannot be written.
  """
  from medlsam_jax.io.atomic import require_writable
  from medlsam_jax.io.packaged_banks import NAMES

  nothing = arguments.templates is None and arguments.bank is None
  built = arguments.bank is not None and arguments.bank not in NAMES
  if nothing or (built and arguments.templates is not None):
    raise ConfigError(
      "give --templates PATH (example scans with organs marked) or --bank FILE, one of them; or --bank "
      f"{' or '.join(NAMES)} (in the package), alone or beside --templates"
    )
  for option in ("mode", "interval_mm", "template_edge", "labels", "save_bank"):
    if built and getattr(arguments, option) is not None:
      name = option.replace("_", "-")
      raise ConfigError(f"--{name} is about building a bank from --templates; {arguments.bank} is built already")
  if arguments.bank is not None and arguments.labels is not None:
    raise ConfigError(f"--labels would name the organs of {arguments.bank} too; put labels.json beside your templates")
  if arguments.save_bank is not None:
    require_writable(Path(arguments.save_bank).parent)


def bank_of(
  arguments: argparse.Namespace, network: Network, terminal: Terminal, known: Known | None = None
) -> tuple[Bank, str, KeptOutputs | None]:
  """The bank that a command asks for, of its organs alone, where it comes from, and what to clear once it was used.

  `known` is told what it will be as soon as that is certain, which is before it is built.

  Raises:
    TemplateError: templates or bank cannot be used, or do not have an organ.
    OutputError: `--save-bank` cannot be written.
  """
  from medlsam_jax.io.atomic import folder_for
  from medlsam_jax.io.packaged_banks import NAMES
  from medlsam_jax.medlam.bank.bank import Bank

  if arguments.bank is not None and arguments.bank not in NAMES:
    return _finished(Bank.load(arguments.bank), arguments, network, terminal, known), arguments.bank, None
  region: str | None = arguments.bank
  place = None if region is None or arguments.templates is not None else place_of(region, arguments, network)
  if place is not None and place.is_file():
    with contextlib.suppress(TemplateError):  # one that is damaged is built again
      return _finished(Bank.load(place), arguments, network, terminal, known), str(region), None
  bank, kept = build_bank(arguments, arguments.templates, network, terminal, region=region, known=known)
  source = " and ".join(each for each in (region, arguments.templates) if each is not None)
  if place is not None and arguments.organs is None:
    _keep(bank, place, terminal)
    kept.clear()
  if arguments.save_bank is not None:
    terminal.warn_replaced(arguments.save_bank)
    with folder_for(Path(arguments.save_bank).parent):
      bank.save(arguments.save_bank)
    terminal.say(f"bank: {arguments.save_bank}")
    kept.clear()
  return bank, source, kept


def _finished(
  bank: Bank, arguments: argparse.Namespace, network: Network, terminal: Terminal, known: Known | None
) -> Bank:
  """A bank that was built before, of the organs asked for."""
  if arguments.organs is not None:
    bank = bank.subset(arguments.organs)
  bank.check_network(network)
  for note in bank.notes:  # of a bank that is built now they are warned then
    terminal.warn(f"{arguments.bank}: {note}")
  if known is not None and bank.organs and bank.template_edge is not None:
    known(max(len(organ.templates) for organ in bank.organs.values()), bank.template_edge)
  return bank


def place_of(region: str, arguments: argparse.Namespace, network: Network) -> Path:
  """Where the bank of a region in the package is kept in the user's cache: by all that makes it what it is."""
  from medlsam_jax.installation import version
  from medlsam_jax.io.weights.fetch import cache_folder

  building = (arguments.mode, arguments.interval_mm, arguments.template_edge, version("medlsam_jax"))
  said = "|".join(map(str, (network.sha256, *building, "masks")))  # those kept before banks had masks are left alone
  return cache_folder() / "banks" / f"{region}-{hashlib.sha256(said.encode()).hexdigest()[:16]}.safetensors"


def _keep(bank: Bank, place: Path, terminal: Terminal) -> None:
  """Keeps a bank of the package for the next command; where that cannot be, the next one builds it again."""
  try:
    place.parent.mkdir(parents=True, exist_ok=True)
    bank.save(place)
  except (OSError, OutputError) as error:
    terminal.warn(f"the bank cannot be kept for the next time ({error})")
  else:
    terminal.say(f"bank: kept for the next time in {place}")


def build_bank(
  arguments: argparse.Namespace,
  templates: str | None,
  network: Network,
  terminal: Terminal,
  reading: ReadingOptions | None = None,
  region: str | None = None,
  known: Known | None = None,
) -> tuple[Bank, KeptOutputs]:
  """A bank from a folder or list of templates, with `--organs` and what `options.add_bank_building` adds.

  `reading` is how the templates are read; where `--series` and `--hu-offset` speak of queries, they are not meant.
  `region` names templates in the package, which come before those of the folder. `known` as of `bank_of`.

  Returns:
    The bank, and what was kept while it grew: the caller clears it when the bank is saved or was used.
  """
  from medlsam_jax.medlam.bank.bank import Bank, edge_of
  from medlsam_jax.medlam.bank.kept_outputs import KeptOutputs

  with terminal.bar("reading templates"):
    read = templates_of(templates, region, arguments.organs, arguments.labels, reading)
  organs = arguments.organs or list(dict.fromkeys(organ for template in read for organ in template.organs))
  if known is not None:
    known(len(read), edge_of(network, arguments.template_edge))
  kept = KeptOutputs(growing_bank.folder())
  with terminal.bar(f"building the bank from {count(len(read), 'template')}") as bar:
    bank = Bank.build(
      network,
      read,
      arguments.mode or ("SPL" if region is None else "WPL"),
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


def templates_of(
  path: str | None,
  region: str | None,
  organs: Sequence[str] | None,
  labels_file: str | None,
  reading: ReadingOptions | None = None,
) -> Templates:
  """Those of a folder or list, those of a region in the package, or both, which may have other organs.

  Raises:
    TemplateError: they cannot be used, or no template has an organ.
  """
  from medlsam_jax.io.packaged_banks import folder_of
  from medlsam_jax.io.templates import read_templates

  places = [Path(each) for each in (region and folder_of(region), path) if each is not None]
  return read_templates(places, organs, labels_file, **({} if reading is None else vars(reading)))


def predictor_of(model: str, terminal: Terminal, dtype: str | None = None) -> Predictor:
  """A network of the SAM family; published weights that are not on this machine yet are fetched.

  Args:
    model: name or file.
    terminal: says what happens.
    dtype: of operands; None leaves the choice to `pipeline.predictor_of`.

  Raises:
    WeightsError: they cannot be fetched, are damaged, or of another kind.
  """
  from medlsam_jax import pipeline

  fetch(model, terminal)
  with terminal.bar(f"loading {model}"):
    return pipeline.predictor_of(model, dtype)


def painter_of(model: str, terminal: Terminal, dtype: str | None = None) -> Predictor | CubePredictor:
  """`predictor_of`, or of an adapter file what paints volumes; its base is fetched like any published weights.

  Raises:
    WeightsError: as `predictor_of`, or the adapters' base is not at hand.
  """
  from medlsam_jax import loading, pipeline
  from medlsam_jax.sam3d.adapter_file import base_of

  if not loading.holds_adapters(model):
    return predictor_of(model, terminal, dtype)
  if (base := base_of(model)) is not None:
    fetch(base, terminal)
  with terminal.bar(f"loading {model}"):
    return pipeline.painter_of(model, dtype)


def fetch(name: str, terminal: Terminal) -> None:
  """Brings published weights of that name, or those that it belongs to, into the user's cache, once; no files."""
  from medlsam_jax import loading
  from medlsam_jax.io.weights.fetch import PUBLISHED, cached_weights

  name = loading.BELONGS_TO.get(name, name)
  if name not in PUBLISHED or cached_weights(name).is_file():
    return
  terminal.say(f"fetching the published weights {name} ({PUBLISHED[name].licence}), once")
  with terminal.bar(f"fetching {name}") as report:
    path = loading.get(name, progress=report)
  terminal.say(f"weights: {path}")
