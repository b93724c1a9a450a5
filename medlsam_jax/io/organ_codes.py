"""What organs are called in DICOM: SNOMED CT codes by our names, and the side as a code of its own.

`organ_codes.csv` holds the codes. Those of TotalSegmentator's classes are the ones of its table
(resources/totalsegmentator_snomed_mapping.csv, Apache-2.0), with names by the rule below; the others (brainstem,
parotid gland, larynx, mandible and further organs at risk) are of DICOM's own context groups as pydicom lists them. An
organ on both sides has one line, and the side of `kidney_left` comes from its name.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import importlib.resources
import re
from collections.abc import Iterable

SCHEME = "SCT"


@dataclasses.dataclass(frozen=True)
class Code:
  """An entry of SNOMED CT."""

  value: str
  meaning: str


STRUCTURE = Code("123037004", "Anatomical Structure")
"""Category of organs (context group 7150)."""
ALTERED = Code("49755003", "Morphologically Altered Structure")
"""Category of what is no organ of its own, but something in one."""
ANY = Code("91723000", "Anatomical structure")
"""Type of an organ that the table does not have: the segment's label alone says what it is."""
LEFT, RIGHT = Code("7771000", "Left"), Code("24028007", "Right")

_SIDES = {"left": LEFT, "l": LEFT, "lt": LEFT, "right": RIGHT, "r": RIGHT, "rt": RIGHT}
_PARTS = re.compile(r"[^0-9a-z]+")


@dataclasses.dataclass(frozen=True)
class OrganCode:
  """How DICOM describes an organ."""

  category: Code
  type: Code
  side: Code | None = None
  """None where the organ has none, or where the type itself names it."""
  region: Code | None = None
  """Where it lies, and what the side is about, of what is in an organ: a cyst of the left kidney."""


def code_of(organ: str) -> OrganCode:
  """The codes of an organ by its name: in any letters and order of its words, `Left Kidney`, `kidney_l`.

  One that the table does not have is `ANY`, with the side that its name has.
  """
  words = [word for word in _PARTS.split(organ.lower()) if word]
  whole = _table().get(_key(words))
  if whole is not None:
    return whole
  sides = [word for word in words if word in _SIDES]
  side = _SIDES[sides[0]] if len(sides) == 1 else None
  bare = _table().get(_key(word for word in words if word not in _SIDES)) if side else None
  return dataclasses.replace(bare or OrganCode(STRUCTURE, ANY), side=side)


def _key(words: Iterable[str]) -> tuple[str, ...]:
  return tuple(sorted(words))


@functools.cache
def _table() -> dict[tuple[str, ...], OrganCode]:
  """By the words of the organ's name, sorted."""
  file = importlib.resources.files("medlsam_jax.io") / "organ_codes.csv"
  rows = csv.DictReader(file.read_text(encoding="utf-8").splitlines())
  table = {}
  for row in rows:
    region = Code(row["region_code"], row["region_meaning"]) if row["region_code"] else None
    code = OrganCode(ALTERED if region else STRUCTURE, Code(row["code"], row["meaning"]), None, region)
    table[_key(_PARTS.split(row["organ"].lower()))] = code
  return table
