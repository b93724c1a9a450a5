"""`medlsam localize`: boxes and landmarks of organs in one scan or many."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from medlsam_jax.cli import options

if TYPE_CHECKING:
  from medlsam_jax.cli.terminal import Terminal
  from medlsam_jax.io.scans import ListedScan


def add_to(commands: options.Commands) -> None:
  """Adds the parser."""
  parser = options.command(
    commands,
    "localize",
    "find boxes and extreme points of organs in one scan or many",
    "  medlsam localize --templates templates/ --query patient_ct.nii.gz --organs liver,spleen\n"
    "  writes out/patient_boxes.json, out/patient_boxes.mrk.json (3D Slicer) and out/patient_preview.png",
  )
  options.add_query(parser)
  options.add_organs(parser)
  options.add_search(parser)
  options.add_settings(parser, "search, confidence")
  options.add_quiet(parser)
  parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, terminal: Terminal) -> int:
  """Localizes in every scan; 1 if any failed."""
  from medlsam_jax.cli import job, sources
  from medlsam_jax.io.atomic import require_writable
  from medlsam_jax.io.scans import list_scans

  settings = job.settings_of(arguments)
  sources.check_search(arguments)
  queries = list_scans(arguments.query)
  require_writable(arguments.out)
  return localize_all(arguments, settings, queries, terminal)[0].exit_code


def localize_all(arguments: argparse.Namespace, settings: Any, queries: list[ListedScan], terminal: Terminal) -> Any:
  """Localizes in scans with the options of the command; also what `evaluate --no-masks` runs.

  Returns:
    The summary, and the search that was prepared.
  """
  from medlsam_jax.cli import job, scans
  from medlsam_jax.io import writing

  search = job.Search.prepare(arguments, settings, terminal)

  def work(listed: ListedScan, name: str, title: str) -> tuple[str, ...]:
    scan, found = search.run(listed, title, terminal, read)
    with terminal.bar(f"{title}: writing"):
      files = writing.write_result(arguments.out, name, scan, found, None, search.provenance())
    job.tell(terminal, title, scan, found, None, files)
    return scan.doubts

  def is_done(name: str) -> bool:
    return arguments.skip_existing and all(
      path.exists() for path in writing.result_paths(arguments.out, name, segmented=False)
    )

  job.warn_replaced(terminal, arguments, [query.name for query in queries], segmented=False)
  with scans.ReadAhead(queries, is_done, options.reading(arguments)) as read:
    summary = scans.run_over(terminal, queries, work, is_done)
  search.finish(bool(summary.failed))
  return summary, search
