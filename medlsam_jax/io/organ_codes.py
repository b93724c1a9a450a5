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
from collections.abc import Iterable, Sequence

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
_WORDS = {
  "a": "artery", "cav": "cavity", "chiasma": "chiasm", "fem": "femur", "glnd": "gland", "gln": "gland",
  "glands": "gland", "lobes": "lobe", "mid": "middle", "nrv": "nerve", "oesophagus": "esophagus", "optical": "optic",
  "parotis": "parotid", "submand": "submandibular", "submandibularis": "submandibular",
  "tmj": "temporomandibular joint", "v": "vein", "vertebra": "vertebrae", "venacava": "vena cava",
}  # fmt: skip
"""Words that radiotherapy writes otherwise (AAPM TG-263, OpenKBP)."""
_ALIASES = {
  "parotid": "parotid_gland", "submandibular": "submandibular_gland", "thyroid": "thyroid_gland",
  "adrenal": "adrenal_gland", "bladder": "urinary_bladder", "bone mandible": "mandible", "chiasm": "optic_chiasm",
  "cord": "spinal_cord", "bowel small": "small_bowel", "femur head": "head_of_femur", "femoral head": "head_of_femur",
  "seminal ves": "seminal_vesicle", "seminal vesicles": "seminal_vesicle", "lobe temporal": "temporal_lobe",
  "joint tm": "temporomandibular_joint", "ear internal": "inner_ear", "ear middle": "middle_ear",
  "artery pulmonary": "pulmonary_artery", "vena cava inferior": "inferior_vena_cava", "artery aorta": "aorta",
  "vena cava superior": "superior_vena_cava", "vein vena cava i": "inferior_vena_cava",
  "vein vena cava s": "superior_vena_cava", "atrium left": "heart_atrium_left", "atrium right": "heart_atrium_right",
  "ventricle left": "heart_ventricle_left", "ventricle right": "heart_ventricle_right", "kidneys": "kidney",
  "lungs": "lung", "eyes": "eye", "bone sacrum": "sacrum", "bone sternum": "sternum",
}  # fmt: skip
"""Names of radiotherapy, in words of ours, for organs of the table."""
_PARTS = re.compile(r"[^0-9a-z]+", re.IGNORECASE)
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


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
  """The codes of an organ by its name, in any letters and order of its words: `Left Kidney`, `kidney_l`, `KidneyL`.

  Usual names of radiotherapy are known too: `Glnd_Submand_L`, `SpinalCord`. An L or R that is no word of its own is a
  side only where what is left of the name is an organ (`lparotid`). One that the table does not have is `ANY`, with the
  side that its name has.
  """
  words = [word for part in _PARTS.split(organ) for word in _CAMEL.split(part) if word]
  words = [part for word in words for part in _WORDS.get(word.lower(), word.lower()).split()]
  if (whole := _found(words)) is not None:
    return whole
  sides = {_SIDES[word] for word in words if word in _SIDES}
  if not sides:
    return _glued("".join(words)) or OrganCode(STRUCTURE, ANY)
  side = next(iter(sides)) if len(sides) == 1 else None
  bare = _found([word for word in words if word not in _SIDES]) if side else None
  return dataclasses.replace(bare or OrganCode(STRUCTURE, ANY), side=side)


def _found(words: Sequence[str]) -> OrganCode | None:
  """Of words, in any order or run together."""
  full = [_SIDES[word].meaning.lower() if word in _SIDES else word for word in words]
  return _table().get(_key(full)) or _run_together().get("".join(full))


def _glued(word: str) -> OrganCode | None:
  """Of a word with a side at one of its ends, if the rest is an organ."""
  for side, code in _SIDES.items():
    for rest in (word.removeprefix(side), word.removesuffix(side)):
      if rest != word and (bare := _run_together().get(rest)) is not None:
        return dataclasses.replace(bare, side=code)
  return None


def _key(words: Iterable[str]) -> tuple[str, ...]:
  return tuple(sorted(words))


@functools.cache
def _by_name() -> dict[str, OrganCode]:
  """By the organ's name in our words, with blanks between them."""
  file = importlib.resources.files("medlsam_jax.io") / "organ_codes.csv"
  rows = csv.DictReader(file.read_text(encoding="utf-8").splitlines())
  names = {}
  for row in rows:
    region = Code(row["region_code"], row["region_meaning"]) if row["region_code"] else None
    code = OrganCode(ALTERED if region else STRUCTURE, Code(row["code"], row["meaning"]), None, region)
    names[row["organ"].lower().replace("_", " ")] = code
  return names | {alias: names[organ.replace("_", " ")] for alias, organ in _ALIASES.items()}


@functools.cache
def _table() -> dict[tuple[str, ...], OrganCode]:
  """By the words of the organ's name, sorted."""
  return {_key(name.split()): code for name, code in _by_name().items()}


@functools.cache
def _run_together() -> dict[str, OrganCode]:
  """By the words of the organ's name as one."""
  return {name.replace(" ", ""): code for name, code in _by_name().items()}
