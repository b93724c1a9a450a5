"""`medlsam export`: a checkpoint of a pre-training run -> weights."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from medlsam_jax.cli import options
from medlsam_jax.errors import ConfigError
from medlsam_jax.installation import install_hint

if TYPE_CHECKING:
  from medlsam_jax.cli.terminal import Terminal


def add_to(commands: options.Commands) -> None:
  """Adds the parser."""
  parser = options.command(
    commands,
    "export",
    "turn a checkpoint of a pre-training run into a weights file",
    "  medlsam export runs/mine mine.safetensors\n"
    "  medlsam export runs/mine mine_pytorch.safetensors --published   # for the published PyTorch program",
  )
  parser.add_argument("run_folder", metavar="WORKDIR", help="folder of the run, or its checkpoints/")
  parser.add_argument("output", metavar="OUTPUT.safetensors", help="the file to write")
  parser.add_argument("--step", type=options.positive_int, metavar="N", help="checkpoint to take (default: the newest)")
  parser.add_argument("--published", action="store_true", help="names and layouts of the published PyTorch program")
  parser.add_argument("--float16", action="store_true", help="store numbers in half the space (about three digits)")
  options.add_quiet(parser)
  parser.set_defaults(run=run)


def export_module() -> ModuleType:
  """The module that reads checkpoints.

  Raises:
    ConfigError: what it needs is not installed.
  """
  try:
    from medlsam_jax.medlam.pretraining import export
  except ImportError as error:
    raise ConfigError(
      f"reading checkpoints needs packages that are not here ({error.name}); run: {install_hint('train')}"
    ) from error
  return export


def run(arguments: argparse.Namespace, terminal: Terminal) -> int:
  """Exports one checkpoint."""
  export = export_module()
  output = Path(arguments.output)
  if output.suffix != ".safetensors":
    raise ConfigError(f"{output}: weights are written as .safetensors; give the output that ending")
  from medlsam_jax.io.atomic import folder_for

  terminal.warn_replaced(output)
  with folder_for(output.parent):
    step, _ = export.export(arguments.run_folder, output, arguments.step, arguments.published, arguments.float16)
  terminal.say(f"{output}: weights after step {step}")
  return 0
