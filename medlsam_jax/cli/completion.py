"""`medlsam completion`: a script that makes a shell complete commands, options and file names."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from medlsam_jax.cli import options

if TYPE_CHECKING:
  from medlsam_jax.cli.terminal import Terminal

SHELLS = ("bash", "zsh", "fish")
_NAMES_FILES = ("FILE", "PATH", "DIR", "FOLDER")
"""An option whose placeholder has one of these takes the name of a file or folder."""


def add_to(commands: options.Commands) -> None:
  """Adds the parser."""
  parser = options.command(
    commands,
    "completion",
    "print a script that makes a shell complete medlsam's commands and options",
    "  medlsam completion bash > ~/.local/share/bash-completion/completions/medlsam\n"
    "  medlsam completion zsh > ~/.zfunc/_medlsam\n"
    "  medlsam completion fish > ~/.config/fish/completions/medlsam.fish",
  )
  parser.add_argument("shell", choices=SHELLS, help="the shell that is to read it")
  parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, terminal: Terminal) -> int:
  """Prints it.

  Raises:
    ConfigError: the extra `completion` is not installed.
  """
  try:
    import shtab
  except ImportError as error:
    from medlsam_jax.errors import ConfigError
    from medlsam_jax.installation import install_hint

    raise ConfigError(f"completion needs the package shtab: {install_hint('completion')}") from error
  parser = arguments.root
  for action in _actions(parser):
    if any(word in str(action.metavar) for word in _NAMES_FILES):
      action.complete = shtab.FILE
  terminal.result(shtab.complete(parser, arguments.shell))
  return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[Any]:
  """Options and arguments of a parser and of those of its commands."""
  for action in parser._actions:
    yield action
    if isinstance(action, argparse._SubParsersAction):
      for inner in action.choices.values():
        yield from _actions(inner)
