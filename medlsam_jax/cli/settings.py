"""Config files and `--section.field VALUE` -> a checked dataclass of settings, each value of its field's type."""

from __future__ import annotations

import ast
import dataclasses
import importlib.resources
import importlib.util
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from medlsam_jax.errors import ConfigError

Settings = TypeVar("Settings")
PACKAGED_FOLDER = "configs"
_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0")


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
  from medlsam_jax.train.settings import from_mapping

  values = dataclasses.asdict(typing.cast(Any, start))
  if config is not None:
    _merge(type(start), values, read_config(config), config)
  for name, text in _pairs(rest):
    _override(type(start), values, name, text)
  try:
    return from_mapping(type(start), values, "settings")
  except ValueError as error:
    raise ConfigError(str(error)) from error


def read_config(config: str) -> dict[str, Any]:
  """The mapping that a config file gives.

  Raises:
    ConfigError: no such file, no `get_config`, an unknown mode, or an error in it.
  """
  name, _, mode = config.partition(":")
  path = _config_path(name)
  spec = importlib.util.spec_from_file_location("medlsam_config", path)
  if spec is None or spec.loader is None:
    raise ConfigError(f"{path}: not a Python file; a config ends in .py")
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    given = module.get_config(mode) if mode else module.get_config()
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


def _pairs(rest: Sequence[str]) -> list[tuple[str, str]]:
  pairs, queue = [], list(rest)
  while queue:
    word = queue.pop(0)
    if not word.startswith("--") or len(word) == 2:
      raise ConfigError(f"unknown argument {word!r}")
    name, equals, value = word[2:].partition("=")
    if not equals:
      if not queue:
        raise ConfigError(f"--{name} needs a value")
      value = queue.pop(0)
    pairs.append((name, value))
  return pairs


def _fields(hint: Any) -> dict[str, Any]:
  return typing.get_type_hints(hint)


def _merge(hint: Any, values: dict[str, Any], given: Mapping[str, Any], place: str) -> None:
  """Writes `given` over `values`, section by section."""
  known = _fields(hint)
  for name, value in given.items():
    if name not in known:
      raise ConfigError(f"{place}: unknown field {name!r}; known are {', '.join(sorted(known))}")
    if dataclasses.is_dataclass(known[name]) and isinstance(value, Mapping):
      _merge(known[name], values[name], value, f"{place}: {name}")
    else:
      values[name] = value


def _override(hint: Any, values: dict[str, Any], name: str, text: str) -> None:
  """One value from the command line, read as what its field is."""
  *sections, last = name.split(".")
  for section in sections:
    # a mapping, such as the objectives, may get an entry that the config does not have
    hint, values = _step(hint, section, name), values.setdefault(section, {})
  values[last] = parse(_step(hint, last, name), text, f"--{name}")


def _step(hint: Any, part: str, name: str) -> Any:
  if dataclasses.is_dataclass(hint):
    known = _fields(hint)
    if part not in known:
      raise ConfigError(f"--{name}: unknown setting; here are {', '.join(sorted(known))}")
    return known[part]
  if typing.get_origin(hint) is not None and issubclass(typing.get_origin(hint), Mapping):
    return typing.get_args(hint)[1]
  raise ConfigError(f"--{name}: unknown setting")


def parse(hint: Any, text: str, place: str) -> Any:
  """Text as a value of a type: numbers, words, true or false, lists separated by commas.

  Raises:
    ConfigError: it is none.
  """
  origin, inner = typing.get_origin(hint), typing.get_args(hint)
  if origin in (typing.Union, types.UnionType):
    if text.lower() == "none" and type(None) in inner:
      return None
    return parse(next(one for one in inner if one is not type(None)), text, place)
  if origin is tuple:
    return tuple(parse(inner[0], part.strip(), place) for part in text.strip("()[]").split(",") if part.strip())
  if origin is Literal:
    if text not in [str(one) for one in inner]:
      raise ConfigError(f"{place}: {text!r} is not one of {', '.join(map(str, inner))}")
    return next(one for one in inner if str(one) == text)
  if hint is Any:  # settings of an objective, which checks them itself
    try:
      return ast.literal_eval({"true": "True", "false": "False"}.get(text.lower(), text))
    except (ValueError, SyntaxError):
      return text
  if hint is bool:
    if text.lower() not in _TRUE + _FALSE:
      raise ConfigError(f"{place}: {text!r} is not true or false")
    return text.lower() in _TRUE
  if hint in (int, float):
    try:
      return hint(text)
    except ValueError as error:
      kind = "whole number" if hint is int else "number"
      raise ConfigError(f"{place}: {text!r} is not a {kind}") from error
  if hint is str:
    return text
  raise ConfigError(f"{place}: a whole section; set its fields one by one")
