"""`medlsam doctor`: what is here, what is wrong with it, and what to do. Nothing is downloaded or changed."""

from __future__ import annotations

import argparse
import platform
from typing import TYPE_CHECKING

from medlsam_jax.cli import options

if TYPE_CHECKING:
  from medlsam_jax.cli.terminal import Terminal


def add_to(commands: options.Commands) -> None:
  """Adds the parser."""
  parser = options.command(
    commands,
    "doctor",
    "look at this installation: versions, devices, weights, extras, caches, disk and memory, and say what is wrong",
    "  medlsam doctor",
  )
  parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, terminal: Terminal) -> int:
  """Prints a line for each thing looked at, then what to do; 1 where something is wrong."""
  from medlsam_jax.cli import health
  from medlsam_jax.installation import PACKAGE, version

  terminal.result(f"{PACKAGE} {version()}, Python {platform.python_version()}, {platform.platform()}")
  checks = []
  for check in health.checks():
    terminal.result(f"{check.state:<6} {check.subject:<9} {check.text}")
    checks.append(check)
  wrong = [check for check in checks if check.state == health.WRONG]
  for title, some in (
    ("could be better", [check for check in checks if check.state == health.NOTE and check.advice]),
    ("wrong", wrong),
  ):
    if some:
      terminal.result(f"\n{title}:")
    for check in some:
      terminal.result(f"- {check.subject}: {check.advice or check.text}")
  terminal.result(f"\n{len(wrong)} wrong" if wrong else "\nnothing is wrong")
  return 1 if wrong else 0
