"""`medlsam report`: one page of a folder of results, which can be sent and printed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from medlsam_jax.cli import options

if TYPE_CHECKING:
  from medlsam_jax.cli.terminal import Terminal


def add_to(commands: options.Commands) -> None:
  """Adds the parser."""
  parser = options.command(
    commands,
    "report",
    "one page of results: tables, plots, pictures of the worst cases, volumes, configuration",
    "  medlsam report results/ --out report.html\n"
    "  results/ is what segment, localize or evaluate wrote. Scores of results that lie elsewhere, with pictures:\n"
    "  medlsam report scores/ results/ --out report.html",
  )
  parser.add_argument(
    "results", nargs="+", metavar="RESULTS", help="folder of results, of an evaluation or of a comparison; or several "
    "folders that belong together: scores, and the results that were scored",
  )  # fmt: skip
  parser.add_argument(
    "--out", default="report.html", metavar="FILE", help="the page, a file that needs no other (default: report.html)"
  )
  options.add_quiet(parser)
  parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, terminal: Terminal) -> int:
  """Reads the folders and writes the page."""
  import datetime

  from medlsam_jax.io.atomic import folder_for, write_text
  from medlsam_jax.report.report import to_html
  from medlsam_jax.report.results import read_results

  out = Path(arguments.out)
  with terminal.bar("reading results"):
    results = read_results([Path(each) for each in arguments.results])
  for line in results.unread:
    terminal.warn(line)
  with folder_for(out.parent):
    with terminal.bar("making the page") as bar:
      text = to_html(results, datetime.datetime.now(datetime.UTC), bar)
    terminal.warn_replaced(out)
    write_text(out, text)
  terminal.result(f"wrote {out} ({len(text.encode()) / 1e6:.1f} MB)")
  return 0
