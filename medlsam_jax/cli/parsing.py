"""An argument parser that answers a typo as a typo, whatever else is missing because of it."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from typing import Any, NoReturn

_LIKENESS = 0.75
"""Share of letters that two options must have in common for one to be offered in place of the other."""


class Parser(argparse.ArgumentParser):
  """`argparse.ArgumentParser` that looks for a mistyped option before it complains of what is missing."""

  _words: tuple[str, ...] = ()

  def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
    """As argparse's; the words are kept for `error`."""
    self._words = tuple(args or ())
    return super().parse_known_args(args, namespace)

  def error(self, message: str) -> NoReturn:
    """Ends the call; `--quer x` is told before `--query is required`."""
    super().error(self.typo(self._words) or message)

  def typo(self, words: Sequence[str]) -> str:
    """The first word that is no option of this command but nearly one, in a sentence; empty without one."""
    known = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
    for word in words:
      name = word.partition("=")[0]
      if not name.startswith("--") or name in known or "." in name:
        continue
      near = difflib.get_close_matches(name, known, 1, _LIKENESS)
      if near:
        return f"unknown argument {name}; did you mean {near[0]}?"
    return ""
