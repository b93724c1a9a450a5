"""Options that several commands share, said once."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
  from medlsam_jax.io.scans import ReadingOptions


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What `add_subparsers` gives."""
Options: TypeAlias = argparse._ActionsContainer
"""A parser, or a group of one."""


def command(commands: Commands, name: str, help_line: str, example: str) -> argparse.ArgumentParser:
  """A command's parser: one line for the list, and an example for `--help`."""
  parser = commands.add_parser(
    name,
    help=help_line,
    description=help_line[0].upper() + help_line[1:] + ".",
    epilog=f"example:\n{example}",
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.set_defaults(parser=parser)
  return parser


def add_quiet(parser: argparse.ArgumentParser) -> None:
  """`--quiet`."""
  parser.add_argument("--quiet", action="store_true", help="print warnings, errors and results only")


def names(text: str) -> list[str]:
  """`liver,spleen` -> its names."""
  result = [name.strip() for name in text.split(",") if name.strip()]
  if not result:
    raise argparse.ArgumentTypeError("give names separated by commas, such as liver,spleen")
  return list(dict.fromkeys(result))


def positive_int(text: str) -> int:
  """A whole number of at least 1."""
  if not text.isdecimal() or int(text) < 1:
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
  return int(text)


def whole_number(text: str) -> int:
  """A whole number of at least 0."""
  if not text.isdecimal():
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
  return int(text)


def add_organs(parser: Options) -> None:
  """`--organs`."""
  parser.add_argument("--organs", type=names, metavar="A,B", help="these organs only (default: all)")


def add_query(parser: argparse.ArgumentParser, required: bool = True) -> None:
  """`--query`, `--out`, `--skip-existing`."""
  parser.add_argument(
    "--query",
    required=required,
    metavar="PATH",
    help="the scan: a NIfTI file or a folder of DICOM slices; or many: a folder of NAME_ct.nii.gz, of DICOM exports or "
    "of folders of cases, or a .txt list of any of these",
  )
  add_reading(parser, "the scans of --query")
  parser.add_argument("--out", default="out", metavar="DIR", help="folder for the results (default: out)")
  parser.add_argument("--skip-existing", action="store_true", help="leave scans alone whose results are all there")


def add_reading(parser: Options, scans: str) -> None:
  """`--series`, `--hu-offset`: how `scans` are read."""
  parser.add_argument(
    "--series",
    metavar="UID",
    help=f"DICOM series to take where {scans} have several: its UID, the end of it, or its number",
  )
  parser.add_argument(
    "--hu-offset",
    type=float,
    metavar="HU",
    help=f"add this to the values of {scans} (-1024 where a warning says that they look like HU +1024)",
  )


def reading(arguments: argparse.Namespace) -> ReadingOptions:
  """What `add_reading` was given.

  Raises:
    ConfigError: an offset that is no number.
  """
  from medlsam_jax.errors import ConfigError
  from medlsam_jax.io.scans import ReadingOptions

  if arguments.hu_offset is not None and not math.isfinite(arguments.hu_offset):
    raise ConfigError(f"--hu-offset {arguments.hu_offset}: give a number of HU, such as -1024")
  return ReadingOptions(arguments.series, arguments.hu_offset)


def reading_settings(arguments: argparse.Namespace) -> list[str]:
  """What `add_reading` was given as words of the command line, for commands whose settings have it in `data`."""
  options = reading(arguments)
  given = {"series": options.series, "hu_offset": options.hu_offset}
  return [f"--data.{name}={value}" for name, value in given.items() if value is not None]


def add_network(parser: Options) -> None:
  """`--network`."""
  parser.add_argument(
    "--network",
    default="open",
    metavar="NAME_OR_FILE",
    help="localization network: `open` (in the package, learned from real scans), `tiny` (in the package, a quick one "
    "for trials), or a weights file (default: open)",
  )


def add_bank_building(parser: Options) -> None:
  """`--mode`, `--interval-mm`, `--template-edge`, `--labels`: how templates become a bank."""
  parser.add_argument(
    "--mode",
    choices=("SPL", "WPL"),
    help="SPL cuts an organ into parts along the body, each with a box of its own; WPL does not (default: SPL, and WPL "
    "for the banks of the package)",
  )
  parser.add_argument(
    "--interval-mm", type=float, metavar="MM", help="least height of a part in SPL, a multiple of 3 (default: 12)"
  )
  parser.add_argument(
    "--template-edge",
    type=positive_int,
    metavar="VOXELS",
    help="edge of the cube around a template point that is compared, in voxels of 3 mm (default: as the network asks "
    "for, 16 for open and tiny; else the published 8)",
  )
  parser.add_argument("--labels", metavar="FILE", help="labels.json for all templates (default: the one beside them)")


def add_search(parser: argparse.ArgumentParser) -> None:
  """Everything that a search needs."""
  group = parser.add_argument_group("where the organs are looked up")
  group.add_argument("--templates", metavar="PATH", help="folder or list of example scans with organs marked")
  group.add_argument(
    "--bank",
    metavar="FILE_OR_NAME",
    help="what `medlsam bank build` or --save-bank made of them; or `headneck` (seven organs) or `torso` (61), built "
    "once from scans in the package, also beside --templates",
  )
  group.add_argument("--save-bank", metavar="FILE", help="keep the bank built from --templates, to use it with --bank")
  add_network(group)
  add_bank_building(group)
  group.add_argument("--seed", type=whole_number, default=0, help="draws where the search starts (default: 0)")
  group.add_argument("--steps", type=positive_int, metavar="N", help="refinements of each point (default: 1)")
  group.add_argument(
    "--search",
    choices=("exact", "fast", "atlas", "vote", "vote-fast"),
    help="exact: as published; fast: no features at full resolution; atlas: besides, organs share patches, so that "
    "many organs cost little more than few; vote: as fast, but beyond the paper: each template is looked for on its "
    "own, without the bias of the published moves, and held against the templates' shapes; vote-fast: besides, one "
    "patch for an organ, half of the time (default: vote-fast; the README says what each costs in accuracy)",
  )


def add_settings(parser: argparse.ArgumentParser, sections: str) -> None:
  """`--config` and `--section.field VALUE`."""
  parser.add_argument(
    "--config",
    metavar="FILE.py[:MODE]",
    help=f"settings, as in configs/pipeline.py; single ones also as --section.field VALUE ({sections})",
  )
  parser.set_defaults(takes_settings=True)
