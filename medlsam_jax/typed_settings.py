"""Mappings and words of the command line -> a dataclass of settings, each value checked against its field's type."""

from __future__ import annotations

import ast
import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from medlsam_jax.errors import ConfigError

Settings = TypeVar("Settings")
_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0")


class Word(str):
  """A value as it stands on the command line, to be read as what its field is."""


class Words(dict[str, object]):
  """Words by field, section in section. In a mapping such as the objectives they change entries and leave the rest."""


def from_mapping(cls: type[Settings], values: Mapping[str, object], place: str = "config") -> Settings:
  """Settings with their defaults where nothing is said.

  Raises:
    ConfigError: an unknown field, or a value of another type.
  """
  sections = {field.name: field.default_factory() for field in _fields(cls) if callable(field.default_factory)}
  return cls(**_Reader(f"{place}.").section(cls, sections, values, ""))


def changed(start: Settings, values: Mapping[str, object], source: str) -> Settings:
  """Settings with what is said in place of their own values, section by section.

  Args:
    source: put before the name of a field in errors about what is no `Word`.

  Raises:
    ConfigError: an unknown field, or a value of another type.
  """
  return dataclasses.replace(typing.cast(Any, start), **_Reader(source).section(type(start), vars(start), values, ""))


def merged(values: Mapping[str, object], words: Mapping[str, object]) -> dict[str, object]:
  """Values with words in their place; a section of both is merged."""
  both: dict[str, object] = Words(values) if isinstance(values, Words) else dict(values)
  for name, word in words.items():
    before = both.get(name)
    both[name] = merged(before, word) if isinstance(before, Mapping) and isinstance(word, Words) else word
  return both


def _fields(cls: type) -> tuple[dataclasses.Field[object], ...]:
  return dataclasses.fields(typing.cast(Any, cls))


class _Reader:
  """Reads values of one source, and names it in errors."""

  def __init__(self, source: str):
    self._source = source

  def _refused(self, path: str, given: object, reason: str) -> ConfigError:
    return ConfigError(f"{'--' if isinstance(given, Word | Words) else self._source}{path}: {reason}")

  def section(
    self, cls: type, before: Mapping[str, object], values: Mapping[str, object], path: str
  ) -> dict[str, object]:
    """Fields that are given, each of its type; sections among them start from those `before`."""
    hints, read = typing.get_type_hints(cls), dict[str, object]()
    for name, given in values.items():
      if name not in hints:
        raise self._refused(path + name, given, f"unknown setting; here are {', '.join(sorted(hints))}")
      read[name] = self._value(hints[name], before.get(name), given, path + name)
    return read

  def _value(self, hint: Any, before: object, given: object, path: str) -> object:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) or (isinstance(origin, type) and issubclass(origin, Mapping)):
      return self._nested(hint, before, given, path)
    if isinstance(given, Words):
      raise self._refused(f"{path}.{next(iter(given))}", given, "unknown setting")
    if origin in (typing.Union, types.UnionType):
      if types.NoneType in inner and (given is None or (isinstance(given, Word) and given.lower() == "none")):
        return None
      return self._value(next(one for one in inner if one is not types.NoneType), before, given, path)
    if origin is tuple:
      if isinstance(given, Word):
        given = [Word(part.strip()) for part in given.strip("()[]").split(",") if part.strip()]
      if not isinstance(given, list | tuple):
        raise self._refused(path, given, f"{given!r} is not a list")
      return tuple(self._value(inner[0], None, each, path) for each in given)
    if origin is Literal:
      for one in inner:
        if given == (str(one) if isinstance(given, Word) else one):
          return one
      raise self._refused(path, given, f"{given!r} is not one of {', '.join(map(str, inner))}")
    return self._word(hint, given, path) if isinstance(given, Word) else self._plain(hint, given, path)

  def _nested(self, hint: Any, before: object, given: object, path: str) -> object:
    """A section, or a mapping whose values are of one type."""
    if not isinstance(given, Mapping):
      raise self._refused(path, given, "a whole section; set its fields one by one")
    if dataclasses.is_dataclass(hint):
      cls = typing.cast(type, hint)
      return dataclasses.replace(typing.cast(Any, before), **self.section(cls, vars(before), given, f"{path}."))
    kept = dict(before) if isinstance(before, Mapping) and isinstance(given, Words) else {}
    of = typing.get_args(hint)[1]
    return kept | {str(k): self._value(of, kept.get(k, {}), v, f"{path}.{k}") for k, v in given.items()}

  def _word(self, hint: object, given: Word, path: str) -> object:
    if hint is Any:  # settings of an objective, which checks them itself
      try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(given.lower(), given))
      except (ValueError, SyntaxError):
        return str(given)
    if hint is bool:
      if given.lower() not in _TRUE + _FALSE:
        raise self._refused(path, given, f"{given!r} is not true or false")
      return given.lower() in _TRUE
    if hint is int or hint is float:
      try:
        return int(given) if hint is int else float(given)
      except ValueError as error:
        kind = "whole number" if hint is int else "number"
        raise self._refused(path, given, f"{given!r} is not a {kind}") from error
    return str(given)

  def _plain(self, hint: object, given: object, path: str) -> object:
    if hint is float and isinstance(given, int) and not isinstance(given, bool):
      return float(given)
    right = hint is Any or (isinstance(hint, type) and isinstance(given, hint))
    if not right or (hint is int and isinstance(given, bool)):
      raise self._refused(path, given, f"{given!r} is not {getattr(hint, '__name__', hint)}")
    return given
