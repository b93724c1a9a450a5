"""`medlsam view`: a page on this computer to look at results, mark templates, correct boxes, let the bank grow."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from medlsam_jax.cli import options
from medlsam_jax.errors import ConfigError, TemplateError
from medlsam_jax.installation import install_hint

if TYPE_CHECKING:
  from collections.abc import Callable, Mapping

  from medlsam_jax.cli.terminal import Terminal
  from medlsam_jax.io.scans import ListedScan
  from medlsam_jax.medlam.bank.bank import Bank
  from medlsam_jax.network import Network
  from medlsam_jax.view.desk import Desk
  from medlsam_jax.view.engine import Choice


def add_to(commands: options.Commands) -> None:
  """Adds the parser."""
  parser = options.command(
    commands,
    "view",
    "look at scans and results in a browser, mark templates, correct boxes and let the bank grow",
    "  medlsam view patient.nii.gz --bank headneck          # find organs, correct them\n"
    "  medlsam view patient.nii.gz --templates my_templates/   # mark six points of an organ, save them\n"
    "  medlsam view --results results/                      # a cohort, the worst scan first",
  )
  parser.add_argument(
    "scan", nargs="?", metavar="SCAN", help="a scan, a folder of scans or a list (default: those of --results)"
  )
  parser.add_argument("--results", metavar="DIR", help="results of `medlsam segment` or of a cohort to look through")
  parser.add_argument("--compare", metavar="DIR", help="other results, or label maps, to show beside them")
  parser.add_argument("--bank", metavar="FILE_OR_NAME", help="what organs are looked for with; headneck and torso grow")
  parser.add_argument(
    "--templates", metavar="DIR", help="folder that marked and corrected scans are kept in (default: templates)"
  )
  parser.add_argument(
    "--out", metavar="DIR", help="folder for what is made here (default: corrected in --results, else out)"
  )
  options.add_reading(parser, "the scans")
  options.add_network(parser)
  parser.add_argument("--seed", type=options.whole_number, default=0, help="draws where the search starts (default: 0)")
  parser.add_argument(
    "--port", type=options.whole_number, default=8742, metavar="N", help="of this computer; 0: any (default: 8742)"
  )
  parser.add_argument("--no-browser", action="store_true", help="print the address and open no browser")
  options.add_quiet(parser)
  # of building a bank, as where nothing is said
  parser.set_defaults(run=run, mode=None, interval_mm=None, template_edge=None)


def run(arguments: argparse.Namespace, terminal: Terminal) -> int:
  """Serves the page until Ctrl-C."""
  try:
    from medlsam_jax.serve import guard, listening, opening
  except ImportError as error:
    raise ConfigError(f"medlsam view needs {error.name}: {install_hint('serve')}") from error
  # the port comes first: that it is taken is told before anything is loaded
  with listening.listen(arguments.port) as taken:
    from medlsam_jax.view import routes

    desk = make_desk(arguments, terminal)
    if len(desk.entries) == 1:  # else the page tells of a scan that cannot be read, and shows the others
      desk.read_ahead(0)
    token = guard.new_token()
    app = guard.guarded_app(routes.routes(desk), token, terminal.warn, max_upload_bytes=routes.MAX_REQUEST_BYTES)
    address = f"{listening.address(taken)}/?token={token}"
    terminal.result(f"open {address}")
    terminal.say("Only this computer can, and only by this address. Ctrl-C ends it; what was saved is kept.")
    with contextlib.nullcontext() if arguments.no_browser else opening.opened(address):
      listening.run(app, taken)
  return 0


def make_desk(arguments: argparse.Namespace, terminal: Terminal) -> Desk:
  """All that the page works on.

  Raises:
    ConfigError: nothing to look at, or a folder that is none.
    InputError: scans or templates cannot be listed, or decisions are of another version.
    TemplateError: a bank file cannot be used.
  """
  from medlsam_jax.io.scan_result import CORRECTED
  from medlsam_jax.serve.guard import place
  from medlsam_jax.view.desk import Desk, Folders
  from medlsam_jax.view.engine import Engine
  from medlsam_jax.view.jobs import Jobs
  from medlsam_jax.view.template_folder import TemplateFolder
  from medlsam_jax.view.worklist import worklist

  for option in ("results", "compare"):
    given = getattr(arguments, option)
    if given is not None and not Path(given).is_dir():
      raise ConfigError(f"--{option} {given}: no such folder")
  results = None if arguments.results is None else Path(arguments.results)
  other = None if arguments.compare is None else Path(arguments.compare)
  out = Path(arguments.out or ("out" if results is None else results / CORRECTED))
  choice = _choice(arguments)
  folder = TemplateFolder(Path(arguments.templates or "templates"), choice.reading)
  folder.scans()  # a folder that no bank can be built from is told before the page opens
  engine = Engine(choice, folder, _kept_bank(arguments, choice))
  entries = worklist(_scans(arguments, results), results)
  jobs = Jobs(lambda error: terminal.warn(place(error)))
  return Desk(entries, Folders(out, results, other), engine, jobs, _provenance(engine))


def _scans(arguments: argparse.Namespace, results: Path | None) -> list[ListedScan]:
  from medlsam_jax.io.scans import list_scans
  from medlsam_jax.view.worklist import scans_of

  if arguments.scan is not None:
    return list_scans(arguments.scan)
  if results is None:
    raise ConfigError("give a SCAN to look at, or --results DIR")
  scans = scans_of(results)
  if not scans:
    raise ConfigError(f"--results {results}: no results here whose scans are still where they were; give SCAN too")
  return scans


def _choice(arguments: argparse.Namespace) -> Choice:
  from medlsam_jax.io.packaged_banks import NAMES
  from medlsam_jax.medlam.bank.bank import Bank
  from medlsam_jax.view.engine import Choice

  named = arguments.bank if arguments.bank in NAMES else None
  file = None if named else arguments.bank
  if file is not None:
    Bank.load(file)  # one that cannot be used, of an older version say, is told before the page opens
    if arguments.templates is not None:
      raise ConfigError(f"{file} is built already and grows by no template: leave --bank or --templates away")
  return Choice(arguments.network, named, file, arguments.seed, options.reading(arguments))


def _kept_bank(arguments: argparse.Namespace, choice: Choice) -> Callable[[Network], Bank | None]:
  """The bank of the package, where another command has built and kept it."""

  def kept(network: Network) -> Bank | None:
    from medlsam_jax.cli.networks_and_banks import place_of
    from medlsam_jax.medlam.bank.bank import Bank

    path = place_of(choice.bank or "", arguments, network)
    with contextlib.suppress(TemplateError):  # a damaged one is built again
      return Bank.load(path) if path.is_file() else None
    return None

  return kept


def _provenance(engine: object) -> Callable[[], Mapping[str, object]]:
  from medlsam_jax.cli import provenance
  from medlsam_jax.view.engine import Engine

  assert isinstance(engine, Engine)

  def made() -> Mapping[str, object]:
    entry: dict[str, object] = {"made_in": "medlsam view", "versions": provenance.of_machine()}
    if engine.latest_bank is not None:
      entry["bank"] = provenance.of_bank(engine.latest_bank, engine.choice.file or engine.choice.bank or "templates")
      entry["networks"] = {"localization": provenance.of_network(engine.network)}
      entry["seed"] = engine.choice.seed
    return entry

  return made
