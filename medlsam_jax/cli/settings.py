"""Config files and `--section.field VALUE` -> a checked dataclass of settings."""

from __future__ import annotations

import importlib.resources
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from medlsam_jax.errors import ConfigError
from medlsam_jax.typed_settings import Word, Words, changed, merged

Settings = TypeVar("Settings")
PACKAGED_FOLDER = "configs"


def resolve(start: Settings, config: str | None, rest: Sequence[str]) -> Settings:
  """Settings with what a config file and the command line say instead.

  Args:
    start: the defaults, a nested frozen dataclass.
    config: `FILE.py` or `FILE.py:MODE`, whose `get_config(mode)` gives an `ml_collections.ConfigDict`; it may name a
      part of the fields only.
    rest: `--section.field VALUE` or `--section.field=VALUE`.

  Raises:
    ConfigError: a missing or faulty file, an unknown field, a value of another type or out of range.
  """
  values = merged({} if config is None else read_config(config), _words(rest))
  try:
    return changed(start, values, f"{config}: ")
  except ValueError as error:
    raise ConfigError(str(error)) from error


def read_config(config: str) -> dict[str, object]:
  """The mapping that a config file gives.

  Raises:
    ConfigError: no such file, no `get_config`, an unknown mode, or an error in it.
  """
  name, _, mode = config.partition(":")
  path = _config_path(name)
  try:
    get_config = runpy.run_path(str(path))["get_config"]
    given = get_config(mode) if mode else get_config()
  except ConfigError:
    raise
  except Exception as error:  # a config is a program of the user's: whatever it raises is about the file
    raise ConfigError(f"{path}: {type(error).__name__}: {error}") from error
  values = given.to_dict() if hasattr(given, "to_dict") else given
  if not isinstance(values, Mapping):
    raise ConfigError(f"{path}: get_config gave {type(given).__name__}, not a ConfigDict")
  return dict(values)


def _config_path(name: str) -> Path:
  """The file as given, else the copy in the installed package: `configs/medlam.py` works anywhere."""
  path = Path(name)
  if path.is_file():
    return path
  if path.parts[:-1] == (PACKAGED_FOLDER,):
    root = Path(str(importlib.resources.files("medlsam_jax")))
    for packaged in (root / PACKAGED_FOLDER / path.name, root.parent / PACKAGED_FOLDER / path.name):
      if packaged.is_file():
        return packaged
  raise ConfigError(f"{name}: no such config file")


def _words(rest: Sequence[str]) -> Mapping[str, object]:
  """Words by section and field."""
  words: dict[str, object] = Words()
  queue = list(rest)
  while queue:
    word = queue.pop(0)
    if not word.startswith("--") or len(word) == 2:
      raise ConfigError(f"unknown argument {word!r}")
    name, equals, value = word[2:].partition("=")
    if not equals:
      if not queue:
        raise ConfigError(f"--{name} needs a value")
      value = queue.pop(0)
    *sections, field = name.split(".")
    given = Words({field: Word(value)})
    for section in reversed(sections):
      given = Words({section: given})
    words = merged(words, given)
  return words
