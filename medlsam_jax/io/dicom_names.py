"""Organs' names as DICOM holds them: 64 letters at the most, a backslash being what stands between several values."""

from __future__ import annotations

import re
from collections.abc import Iterable

from medlsam_jax import display, notices

LONGEST = 64
"""Letters of a segment's label, of a region's name and of a series' description."""
_NOT_HELD = re.compile(r"[\\\x00-\x1f\x7f]")
_SHOWN = 3


def dicom_names(organs: Iterable[str]) -> dict[str, str]:
  """A name for each organ, no two alike; warns of those that are not the organ's own."""
  given = list(organs)
  names = {organ: organ for organ in given if organ == organ.strip() and len(organ) <= LONGEST}
  names = {organ: name for organ, name in names.items() if organ and not _NOT_HELD.search(organ)}
  taken = set(names.values())
  for organ in given:
    if organ in names:
      continue
    plain = _NOT_HELD.sub("_", organ).strip() or "organ"
    name, number = plain[:LONGEST].strip(), 1
    while name in taken:
      number += 1
      ending = f"_{number}"
      name = plain[: LONGEST - len(ending)].strip() + ending
    names[organ] = name
    taken.add(name)
  changed = [f"{organ!r} is {name!r}" for organ, name in names.items() if organ != name]
  if changed:
    notices.warn(
      f"names that DICOM cannot hold ({LONGEST} letters, no backslash) are changed: {display.some(changed, _SHOWN)}"
    )
  return names


def text_of(value: object) -> str:
  """The text of a field; one that somebody wrote with a backslash, which is read as several, as it was."""
  if value is None:
    return ""
  if isinstance(value, Iterable) and not isinstance(value, str):
    value = "\\".join(map(str, value))
  return str(value).strip()
