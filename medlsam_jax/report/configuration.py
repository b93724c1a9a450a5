"""Where results come from, on the page: networks, bank, settings, versions and hashes."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from medlsam_jax import display
from medlsam_jax.pages.table import table

_MOST_ORIGINS = 10
_PLACES = ("source", "base_source")
"""What a file, or the name of a network, is called by."""
_FOLDERS = re.compile(r"^(?:[A-Za-z]:[\\/]|/|~|\.{1,2}/).*")
"""A text that is a path with folders before its name."""


def configuration_part(
  origins: Sequence[tuple[Mapping[str, Any], Sequence[str]]], scored_with: Mapping[str, Any]
) -> str:
  """HTML of the section: the settings of most scans first, of others only what differs from them."""
  scored = f"<h3>Scored with</h3>{told(scored_with)}" if scored_with else ""
  return (_made(origins) if origins else "<p>The results do not say what they were made with.</p>") + scored


def _made(origins: Sequence[tuple[Mapping[str, Any], Sequence[str]]]) -> str:
  in_order = sorted(origins, key=lambda each: -len(each[1]))
  first, scans = in_order[0]
  parts = [
    f"<p>{display.count(len(scans), 'scan')}. Of files the names are given, without their folders.</p>",
    told(first),
  ]
  usual = dict(_flat(first))
  for said, others in in_order[1:_MOST_ORIGINS]:
    own = dict(_flat(said))
    differs = {name: own.get(name, "not said") for name in {**usual, **own} if own.get(name) != usual.get(name)}
    parts += [
      f"<h3>Otherwise in {display.count(len(others), 'scan')}: {html.escape(display.some(others))}</h3>",
      _rows(differs),
    ]
  if len(in_order) > _MOST_ORIGINS:
    parts.append(f"<p>And {len(in_order) - _MOST_ORIGINS} more configurations; each NAME_boxes.json says its own.</p>")
  return "\n".join(parts)


def told(said: Mapping[str, Any]) -> str:
  """Nested values as a table of two columns."""
  return _rows(dict(_flat(said)))


def _rows(said: Mapping[str, str]) -> str:
  return table(["what", "value"], list(said.items()))


def _flat(said: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
  for name, value in said.items():
    where = f"{above}{name}"
    if isinstance(value, Mapping):
      yield from _flat(value, f"{where}: ")
    else:
      yield where, _text(value, is_place=name in _PLACES)


def _text(value: object, is_place: bool = False) -> str:
  if isinstance(value, list | tuple):
    return ", ".join(map(_text, value)) or "none"
  if isinstance(value, str):
    # whoever gets the page need not know where its maker keeps files
    return PurePath(value.replace("\\", "/")).name if is_place or _FOLDERS.match(value) else value
  if isinstance(value, bool):
    return "yes" if value else "no"
  return "none" if value is None else str(value)
