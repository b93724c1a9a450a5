"""`medlsam data prepare | check`: scans -> a prepared set for pre-training."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from medlsam_jax.cli import options
from medlsam_jax.errors import ConfigError, InputError
from medlsam_jax.installation import install_hint

if TYPE_CHECKING:
  from medlsam_jax.cli.terminal import Terminal


def add_to(commands: options.Commands) -> None:
  """Adds the parsers."""
  parser = options.command(
    commands,
    "data",
    "prepare scans for pre-training, and check what was prepared",
    "  medlsam data prepare scans.txt --out prepared --workers 16\n  medlsam data check prepared",
  )
  actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
  prepare = options.command(
    actions,
    "prepare",
    "put scans on the working grid, into shards with an index",
    "  medlsam data prepare scans.txt --out gs://bucket/ct --workers 16\n"
    "  The same call goes on where it stopped. Bad scans are left out and listed in OUT/report.json.",
  )
  prepare.add_argument("scans", metavar="LIST", help="a .txt list (one path a line), a folder of scans, or one scan")
  options.add_reading(prepare, "the scans")
  prepare.add_argument("--out", required=True, metavar="DIR_OR_ADDRESS", help="the set: a folder, gs://..., s3://...")
  prepare.add_argument("--workers", type=options.positive_int, default=1, metavar="N", help="processes (default: 1)")
  prepare.add_argument(
    "--shard-scans",
    type=options.positive_int,
    default=64,
    metavar="N",
    help="scans a shard, about 3 MB each (default: 64)",
  )
  prepare.add_argument(
    "--bits",
    type=int,
    choices=(16, 8),
    default=16,
    help="of a stored intensity; 8 takes a third of the space (default: 16)",
  )
  options.add_quiet(prepare)
  prepare.set_defaults(run=run_prepare)
  check = options.command(
    actions, "check", "verify every shard of a prepared set", "  medlsam data check gs://bucket/ct"
  )
  check.add_argument("set", metavar="DIR_OR_ADDRESS")
  options.add_quiet(check)
  check.set_defaults(run=run_check)


def _packages() -> Any:
  try:
    from medlsam_jax.medlam.pretraining import prepare, shards
  except ImportError as error:
    raise ConfigError(
      f"prepared sets need packages that are not here ({error.name}); run: {install_hint('train')}"
    ) from error
  return prepare, shards


def run_prepare(arguments: argparse.Namespace, terminal: Terminal) -> int:
  """Prepares a list; 1 when some scan was bad."""
  from medlsam_jax.display import count
  from medlsam_jax.io.scans import list_scans

  prepare, _ = _packages()
  sources = list_scans(arguments.scans)
  with terminal.bar("preparing") as bar:
    report = prepare.prepare(
      sources, arguments.out, arguments.workers, arguments.shard_scans, bar, options.reading(arguments), arguments.bits
    )
  for doubtful in report.doubtful:
    terminal.warn(doubtful["doubt"])
  for bad in report.bad:
    terminal.warn(f"{bad['source']}: left out ({bad['error']})")
  terminal.result(
    f"{arguments.out}: {count(report.scans, 'scan')}, {report.kept} of them from before; {len(report.bad)} left out"
  )
  return 1 if report.bad else 0


def run_check(arguments: argparse.Namespace, terminal: Terminal) -> int:
  """Checks a set."""
  from medlsam_jax.display import count

  _, shards = _packages()
  with terminal.bar("checking"):
    problems = shards.check(arguments.set)
  for problem in problems:
    terminal.warn(problem)
  if problems:
    said = count(len(problems), "problem")
    raise InputError(f"{arguments.set}: {said}; delete the shard and its .json, and prepare again")
  terminal.result(f"{arguments.set}: all shards are whole")
  return 0
