"""`medlsam bank build | info | check`: templates -> one file for fast searches, what is in it, how good it is."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from medlsam_jax.cli import options

if TYPE_CHECKING:
  from medlsam_jax.cli.terminal import Terminal


def add_to(commands: options.Commands) -> None:
  """Adds the parser."""
  parser = options.command(
    commands,
    "bank",
    "prepare templates once, look into a prepared bank, or check it",
    "  medlsam bank build templates/ --out organs.safetensors",
  )
  actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
  _add_build(actions)
  info = options.command(
    actions, "info", "list the organs and templates of a bank", "  medlsam bank info organs.safetensors"
  )
  info.add_argument("bank", metavar="FILE")
  info.set_defaults(run=run_info)
  check = options.command(
    actions,
    "check",
    "localize each template by the others and show the errors",
    "  medlsam bank check organs.safetensors --templates templates/",
  )
  check.add_argument("bank", metavar="FILE")
  check.add_argument("--templates", required=True, metavar="PATH", help="what the bank was built from")
  check.add_argument("--labels", metavar="FILE", help="labels.json for all templates")
  options.add_reading(check, "the templates")
  options.add_network(check)
  check.add_argument("--seed", type=options.whole_number, default=0, help="draws where the search starts (default: 0)")
  options.add_quiet(check)
  check.set_defaults(run=run_check)


def _add_build(actions: options.Commands) -> None:
  build = options.command(
    actions,
    "build",
    "run the network over templates and keep what a search needs in one file",
    "  medlsam bank build templates/ --out organs.safetensors --organs liver,spleen\n"
    "  templates/ holds NAME_ct.nii.gz and beside each NAME_seg.nii.gz (with labels.json), NAME_points.json,\n"
    "  NAME.mrk.json or NAME.fcsv; docs/file_formats.md describes them",
  )
  build.add_argument("templates", metavar="PATH", help="folder or .txt list of templates")
  build.add_argument("--out", required=True, metavar="FILE.safetensors", help="the bank to write")
  options.add_organs(build)
  options.add_network(build)
  options.add_bank_building(build)
  options.add_reading(build, "the templates")
  options.add_quiet(build)
  build.set_defaults(run=run_build)


def run_build(arguments: argparse.Namespace, terminal: Terminal) -> int:
  """Builds and writes a bank."""
  from pathlib import Path

  from medlsam_jax.cli import networks_and_banks
  from medlsam_jax.io.atomic import folder_for, require_writable
  from medlsam_jax.loading import load

  require_writable(Path(arguments.out).parent)
  networks_and_banks.fetch(arguments.network, terminal)
  bank, kept = networks_and_banks.build_bank(
    arguments, arguments.templates, load(arguments.network), terminal, options.reading(arguments)
  )
  terminal.warn_replaced(arguments.out)
  with folder_for(Path(arguments.out).parent):
    bank.save(arguments.out)
  kept.clear()
  terminal.say(f"wrote {arguments.out}")
  return 0


def run_info(arguments: argparse.Namespace, terminal: Terminal) -> int:
  """Lists a bank."""
  from medlsam_jax.cli.provenance import bank_sha256
  from medlsam_jax.medlam.bank.bank import Bank

  bank = Bank.load(arguments.bank)
  cube = "no features" if bank.template_edge is None else f"cubes of {bank.template_edge} voxels"
  grid = f"{bank.convention} working grid"
  terminal.result(f"{arguments.bank}: {bank.mode}, interval {bank.interval_mm:g} mm, {cube}, {grid}")
  terminal.result(f"network {bank.network_sha256}")
  terminal.result(f"bank    {bank_sha256(bank)}")
  terminal.result("built with " + ", ".join(f"{name} {version}" for name, version in bank.versions.items()))
  terminal.result(f"products of {bank.operands or 'a precision that it does not say'}")
  terminal.table(bank.table())
  for note in bank.notes:
    terminal.result(f"note: {note}")
  return 0


def run_check(arguments: argparse.Namespace, terminal: Terminal) -> int:
  """Localizes each template by the others."""
  from medlsam_jax.cli import networks_and_banks
  from medlsam_jax.evaluation.bank_check import score_template
  from medlsam_jax.evaluation.report import Report
  from medlsam_jax.io.templates import read_templates
  from medlsam_jax.loading import load
  from medlsam_jax.medlam.bank.bank import Bank
  from medlsam_jax.medlam.bank.leave_one_out import leave_one_out

  bank = Bank.load(arguments.bank)
  networks_and_banks.fetch(arguments.network, terminal)
  network = load(arguments.network)
  bank.check_network(network)
  with terminal.bar("reading templates"):
    templates = read_templates(
      arguments.templates, list(bank.organs), arguments.labels, **vars(options.reading(arguments))
    )
  rows = []
  with terminal.bar("localizing templates by the others") as report:
    for template, findings in leave_one_out(network, bank, templates, key=arguments.seed, progress=report):
      report.title(f"localized {template.name}")
      rows += score_template(template, findings)
  result = Report(rows)
  terminal.table(result.table(), footer=True)
  for line in result.notes():
    terminal.say(line)
  return 0
