"""`medlsam convert`: a published checkpoint -> one of our weights files."""

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
    "convert",
    "turn a published checkpoint (.pth, .tar, .safetensors) into a .safetensors file for this program",
    "  medlsam convert medlam.pth medlam.safetensors",
  )
  parser.add_argument("input", metavar="INPUT", help="the checkpoint; read without PyTorch, nothing in it is run")
  parser.add_argument("output", metavar="OUTPUT.safetensors", help="the file to write")
  parser.add_argument("--kind", metavar="KIND", help="what it is, where that cannot be told: sam-vit-b or medsam")
  options.add_quiet(parser)
  parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, terminal: Terminal) -> int:
  """Converts one file."""
  from medlsam_jax import loading
  from medlsam_jax.io.atomic import folder_for

  terminal.warn_replaced(arguments.output)
  with terminal.bar(f"converting {arguments.input}"), folder_for(Path(arguments.output).parent):
    header = loading.convert(arguments.input, arguments.output, arguments.kind)
  terminal.say(f"{arguments.output}: {header['kind']}, from {header['source_name']} ({header['source_sha256'][:12]})")
  return 0
