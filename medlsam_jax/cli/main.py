"""`medlsam COMMAND ...`: parses, runs one command, turns errors into one line and an exit code.

Exit codes: 0 all went well, 1 some scan failed, 2 the call or a file it needs is wrong, 3 a scan of a cohort hung, 130
stopped by Ctrl-C, 143 asked to end (128 and the number of the signal).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from medlsam_jax import platform
from medlsam_jax.cli import (
  bank,
  completion,
  convert,
  data,
  demo,
  doctor,
  evaluate,
  export,
  finetune,
  localize,
  pretrain,
  probe,
  report,
  segment,
  serve,
  study,
  view,
  weights,
)
from medlsam_jax.cli.parsing import Parser
from medlsam_jax.errors import HungError, MedlsamError

COMMANDS = (
  demo, doctor, weights, convert, bank, localize, segment, view, serve, evaluate, report, data, pretrain, finetune,
  probe, study, export, completion,
)  # fmt: skip
TRAINING = ("pretrain", "finetune")
OK, SOME_FAILED, BAD_INPUT, HUNG, INTERRUPTED, STOPPED_BY = 0, 1, 2, 3, 130, 128

_DESCRIPTION = """\
Find and segment organs in a CT scan from a few example scans ("templates").

  medlsam demo                                        a person from start to finish, no data needed
  medlsam segment --templates DIR --query CT.nii.gz   your own scans

Research use only; not a medical device."""
_EPILOG = """\
medlsam COMMAND --help explains a command with an example.
Exit codes: 0 all went well, 1 some scan failed, 2 wrong call or unusable file, 3 a scan of many hung (the same command
goes on), 130 stopped by Ctrl-C, 143 by a request to end.
Compiled programs are kept in the user's cache directory; MEDLSAM_COMPILED=FOLDER or =off in the environment changes
that, MEDLSAM_CACHE=FOLDER moves weights and all."""


def build_parser() -> argparse.ArgumentParser:
  """The parser of all commands."""
  parser = Parser(
    prog="medlsam", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--version", action="store_true", help="print the version and exit")
  parser.set_defaults(root=parser)  # for `completion`, which speaks of all commands
  commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
  for command in COMMANDS:
    command.add_to(commands)
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command; returns its exit code."""
  parser = build_parser()
  try:
    arguments, rest = parser.parse_known_args(argv)
  except SystemExit as stop:  # argparse has printed help or what is wrong
    return int(stop.code or 0)
  if arguments.version:
    print(_version())
    return OK
  if arguments.command is None:
    parser.print_help(sys.stderr)
    return BAD_INPUT
  wrong = arguments.parser.typo(rest)
  if rest and not wrong and not getattr(arguments, "takes_settings", False):
    wrong = f"unknown argument {rest[0]}; see {arguments.parser.prog} --help"
  if wrong:
    print(f"{arguments.parser.prog}: {wrong}", file=sys.stderr)
    return BAD_INPUT
  arguments.rest = rest
  return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
  from medlsam_jax.cli import startup
  from medlsam_jax.cli.terminal import Terminal

  terminal = Terminal(quiet=getattr(arguments, "quiet", False))
  startup.prepare(terminal.warn, training=arguments.command in TRAINING)
  try:
    with terminal.stops_on_signals(), terminal.warnings_as_lines():
      return arguments.run(arguments, terminal)
  except BrokenPipeError:
    # the reader of a pipe, such as `head`, has gone: nothing is wrong, and nothing can be said to it any more
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return OK
  except (KeyboardInterrupt, Exception) as error:
    if isinstance(error, KeyboardInterrupt) or terminal.stopped:
      terminal.error("stopped; nothing half-written was left behind")
      return STOPPED_BY + terminal.stopped if terminal.stopped else INTERRUPTED
    if isinstance(error, MedlsamError):
      terminal.error(str(error))
      return _leave(HUNG) if isinstance(error, HungError) else BAD_INPUT
    if refused := platform.explained(error):
      terminal.error(refused)
      return BAD_INPUT
    raise


def _leave(code: int) -> NoReturn:
  """Ends the process without waiting for its threads, one of which hangs."""
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def _version() -> str:
  from medlsam_jax.installation import version

  return f"medlsam_jax {version()}"


if __name__ == "__main__":
  sys.exit(main())
