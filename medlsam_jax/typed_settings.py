"""Mappings and words of the command line -> a dataclass of settings, each value checked against its field's type."""

from __future__ import annotations

import ast
import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

from medlsam_jax.errors import ConfigError

Settings = TypeVar("Settings")


class Word(str):
  """A value as it stands on the command line, to be read as what its field is."""


class Words(dict[str, object]):
  """Words by field, section in section. In a mapping such as the objectives they change entries and leave the rest."""


def from_mapping(cls: type[Settings], values: Mapping[str, object], place: str = "config") -> Settings:
  """Settings with their defaults where nothing is said.

  Raises:
    ConfigError: an unknown field, or a value of another type.
  """
  return changed(cls(), values, f"{place}.")


def changed(start: Settings, values: Mapping[str, object], source: str) -> Settings:
  """Settings with what is said in place of their own values, section by section; built once, when all is known.

  Args:
    source: put before the name of a field in errors about what is no `Word`.

  Raises:
    ConfigError: an unknown field, or a value of another type.
  """
  return typing.cast(Settings, _section(start, values, _Place(source)))


def merged(values: Mapping[str, object], words: Mapping[str, object]) -> dict[str, object]:
  """Values with words in their place; a section of both is merged."""
  both: dict[str, object] = Words(values) if isinstance(values, Words) else dict(values)
  for name, word in words.items():
    before = both.get(name)
    both[name] = merged(before, word) if isinstance(before, Mapping) and isinstance(word, Words) else word
  return both


class _Place(NamedTuple):
  source: str
  path: str = ""

  def of(self, name: str) -> _Place:
    return _Place(self.source, f"{self.path}.{name}" if self.path else name)

  def refused(self, given: object, reason: str) -> ConfigError:
    return ConfigError(f"{'--' if isinstance(given, Word | Words) else self.source}{self.path}: {reason}")


def _section(start: Any, values: Mapping[str, object], place: _Place) -> object:
  hints = typing.get_type_hints(type(start))
  for name in sorted(values.keys() - hints.keys()):
    raise place.of(name).refused(values[name], f"unknown setting; here are {', '.join(sorted(hints))}")
  read = {name: _value(hints[name], getattr(start, name), each, place.of(name)) for name, each in values.items()}
  return dataclasses.replace(start, **read)


def _value(hint: Any, before: object, given: object, place: _Place) -> object:
  origin, inner = typing.get_origin(hint), typing.get_args(hint)
  if dataclasses.is_dataclass(hint) or (isinstance(origin, type) and issubclass(origin, Mapping)):
    if not isinstance(given, Mapping):
      raise place.refused(given, "a whole section; set its fields one by one")
    if not inner:
      return _section(before, given, place)
    kept = dict(before) if isinstance(before, Mapping) and isinstance(given, Words) else {}
    return kept | {k: _value(inner[1], kept.get(k, {}), each, place.of(k)) for k, each in given.items()}
  if isinstance(given, Words):
    raise place.of(next(iter(given))).refused(given, "unknown setting")
  if origin in (typing.Union, types.UnionType):
    if types.NoneType in inner and (given is None or (isinstance(given, Word) and given.lower() == "none")):
      return None
    return _value(next(one for one in inner if one is not types.NoneType), before, given, place)
  if origin is tuple:
    parts = _list(given) if isinstance(given, Word) else given
    if not isinstance(parts, list | tuple):
      raise place.refused(given, f"{given!r} is not a list")
    return tuple(_value(inner[0], None, each, place) for each in parts)
  if origin is Literal:
    for one in inner:
      if given == (str(one) if isinstance(given, Word) else one):
        return one
    raise place.refused(given, f"{given!r} is not one of {', '.join(map(str, inner))}")
  return _single(hint, given, place)


def _single(hint: Any, given: object, place: _Place) -> object:
  kind, read = _SINGLE.get(hint, (str(hint), str))
  if isinstance(given, Word):
    try:
      return read(given)
    except (ValueError, KeyError) as error:
      raise place.refused(given, f"{given!r} is not {kind}") from error
  if hint is float and type(given) is int:
    return float(given)
  if hint is Any or (isinstance(hint, type) and isinstance(given, hint) and isinstance(given, bool) <= (hint is bool)):
    return given
  raise place.refused(given, f"{given!r} is not {kind}")


def _list(word: Word) -> list[Word]:
  return [Word(part.strip()) for part in word.strip("()[]").split(",") if part.strip()]


def _anything(word: str) -> object:
  """Settings of an objective, which checks them itself."""
  try:
    return ast.literal_eval({"true": "True", "false": "False"}.get(word.lower(), word))
  except (ValueError, SyntaxError):
    return str(word)


_TRUTH = dict.fromkeys(("true", "yes", "1"), True) | dict.fromkeys(("false", "no", "0"), False)
_SINGLE: dict[Any, tuple[str, Callable[[str], object]]] = {
  int: ("a whole number", int), float: ("a number", float), str: ("a word", str),
  bool: ("true or false", lambda word: _TRUTH[word.lower()]), Any: ("anything", _anything),
}  # fmt: skip
