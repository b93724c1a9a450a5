"""`medlsam localize`: boxes and landmarks of organs in one scan or many."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from medlsam_jax.cli import cohort, options

if TYPE_CHECKING:
  from medlsam_jax.cli.many_scans import Summary
  from medlsam_jax.cli.results import Make, Read
  from medlsam_jax.cli.search import Search
  from medlsam_jax.cli.terminal import Terminal
  from medlsam_jax.io.scan_result import ScanResult
  from medlsam_jax.io.scans import ListedScan
  from medlsam_jax.pipeline import PipelineSettings


def add_to(commands: options.Commands) -> None:
  """Adds the parser."""
  parser = options.command(
    commands,
    "localize",
    "find boxes and extreme points of organs in one scan or many",
    "  medlsam localize --templates templates/ --query patient_ct.nii.gz --organs liver,spleen\n"
    "  writes out/patient_boxes.json, out/patient_boxes.mrk.json (3D Slicer) and out/patient_preview.png\n"
    + cohort.EXAMPLE.format(command="localize"),
  )
  options.add_query(parser, required=False)
  cohort.add_to(parser)
  options.add_organs(parser)
  options.add_search(parser)
  options.add_settings(parser, "search, confidence")
  options.add_quiet(parser)
  parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, terminal: Terminal) -> int:
  """Localizes in every scan; 1 if any failed."""
  from medlsam_jax.cli import networks_and_banks
  from medlsam_jax.cli.search import Search, settings_of
  from medlsam_jax.io.atomic import require_writable
  from medlsam_jax.io.scans import list_scans

  cohort.settle(arguments)
  settings = settings_of(arguments)
  networks_and_banks.check_search(arguments)
  if arguments.list is not None:
    return _run_list(arguments, settings, terminal)
  queries = list_scans(arguments.query)
  require_writable(arguments.out)
  return localize_all(arguments, queries, Search.prepare(arguments, settings, terminal), terminal).exit_code


def _run_list(arguments: argparse.Namespace, settings: PipelineSettings, terminal: Terminal) -> int:
  from medlsam_jax.cli.search import Search
  from medlsam_jax.cohort.run import opened
  from medlsam_jax.io.scans import list_scans

  scans = list_scans(arguments.list)
  with opened(arguments.out, cohort.options_of(arguments)) as folder:
    search = Search.prepare(arguments, settings, terminal)
    make = _maker(search, terminal)
    made_by = cohort.made_by(arguments, search)
    report = cohort.run_cohort(arguments, folder, scans, make, made_by, search.bank, (), terminal)
  search.finish(bool(report.failed))
  return report.exit_code


def localize_all(
  arguments: argparse.Namespace,
  queries: Sequence[ListedScan],
  search: Search,
  terminal: Terminal,
  then: Callable[[ScanResult], None] | None = None,
) -> Summary:
  """Localizes in scans with the options of the command; also what `evaluate --no-masks` runs."""
  from medlsam_jax.cli.results import make_all

  summary = make_all(arguments, queries, _maker(search, terminal), (), terminal, then)
  search.finish(bool(summary.failed))
  return summary


def _maker(search: Search, terminal: Terminal) -> Make:
  from medlsam_jax.io.scan_result import ScanResult

  def make(listed: ListedScan, title: str, read: Read) -> tuple[ScanResult, Mapping[str, object]]:
    scan, findings = search.run(listed, title, terminal, read)
    return ScanResult(listed.name, scan, findings), search.provenance()

  return make
