"""What scans are called: by their file or folder, and by the folders above where that says nothing or not enough.

`case_003_ct.nii.gz` and a folder `case_003` are `case_003`; so is `case_003/imaging.nii.gz`, as in data sets that give
every scan the same file name. Of scans that would have one name, folders above tell them apart, as few as do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from medlsam_jax.errors import InputError

NIFTI_SUFFIXES = (".nii.gz", ".nii")
VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, ".nrrd", ".nhdr", ".mha", ".mhd")
"""Of scans and label maps that are one file."""
SCAN_ENDING = "_ct"
GENERIC = (
  "ct", "image", "images", "imaging", "img", "scan", "volume", "vol", "series", "study", "slices", "dicom", "dcm",
  "dicomdir", "data",
)  # fmt: skip
"""Names (in small letters) that say nothing of whose scan it is; so do UIDs, numbers with three dots or more."""

FIRST_CHANNEL = "_0000"
"""Behind the name of a scan in the folders of nnU-Net."""
IMAGES = re.compile(r"images(Tr|Ts|Val|Va)", re.IGNORECASE)
"""Folder of scans whose label maps lie in a folder beside it."""
_UID = re.compile(r"\d+(\.\d+){3,}")
_UNSAFE = re.compile(r'[\x00-\x1f/\\:*?"<>|]')


def stem(path: str | os.PathLike[str]) -> str:
  """The last part of a path without the ending of its format."""
  name = os.path.basename(os.fspath(path))
  suffix = next((s for s in (*VOLUME_SUFFIXES, ".dcm") if name.lower().endswith(s)), "")
  return name[: len(name) - len(suffix)]


def is_one_name(name: object) -> bool:
  """Whether files that are called after it lie in the folder that they are meant for; what a file says may not."""
  return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")


def is_generic(name: str) -> bool:
  """Whether a name says nothing of whose scan it is."""
  return name.lower() in GENERIC or _UID.fullmatch(name) is not None


def scan_name(path: str | os.PathLike[str]) -> str:
  """What the results of one scan are called, by its path as it is given."""
  return _Route(os.fspath(path)).base


def names_of(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
  """What scans that go together are called; no two alike, also where capitals do not count.

  Raises:
    InputError: two scans cannot be told apart: they lie in one folder and differ by the ending of their format alone.
  """
  routes = [_Route(os.path.abspath(path)) for path in paths]
  names = [route.base for route in routes]
  groups: dict[str, list[int]] = {}
  for index, name in enumerate(names):
    groups.setdefault(name.casefold(), []).append(index)
  for members in groups.values():
    if len(members) == 1:
      continue
    taken = {name.casefold() for index, name in enumerate(names) if index not in members}
    for chosen in _ways([routes[index] for index in members]):
      small = {name.casefold() for name in chosen}
      if len(small) == len(members) and not small & taken:
        break
    else:
      first, second = (paths[index] for index in members[:2])
      raise InputError(f"{first} and {second} would both be called {names[members[0]]}; rename one")
    for index, name in zip(members, chosen, strict=True):
      names[index] = name
  return names


class _Route:
  """A scan's own name and those of the folders above it, nearest first."""

  def __init__(self, path: str):
    *above, _ = [part for part in Path(path).parts if part not in (".", "..", os.sep)] or [""]
    self.stem = _safe(stem(path))
    self.own = self.stem.removesuffix(SCAN_ENDING) or self.stem
    self.above = [_safe(part) for part in reversed(above)]
    if self.above and IMAGES.fullmatch(self.above[0]):
      self.own = self.own.removesuffix(FIRST_CHANNEL) or self.own
    self.at = 0
    """How many folders up the base stands; 0 for the own name."""
    if is_generic(self.own):
      self.at = next((level for level, part in enumerate(self.above, 1) if not is_generic(part)), 0)

  @property
  def base(self) -> str:
    """The nearest name that says something."""
    return self.above[self.at - 1] if self.at else self.own

  def folder(self, levels: int) -> str:
    """The folder so many levels above the base, empty above the highest."""
    place = self.at + levels - 1
    return self.above[place] if place < len(self.above) else ""


def _ways(routes: list[_Route]) -> Iterator[list[str]]:
  """Longer and longer names for scans that have one base."""
  yield [route.base if route.own == route.base else f"{route.base}_{route.own}" for route in routes]
  deepest = max(len(route.above) for route in routes)
  for level in range(1, deepest + 1):
    yield ["_".join(filter(None, (route.folder(level), route.base))) for route in routes]
  whole = [[*reversed(route.above), route.own] for route in routes]
  levels = enumerate(zip(*whole, strict=False))
  shared = next((level for level, parts in levels if len(set(parts)) > 1), min(map(len, whole)))
  for more in range(3):
    yield ["_".join(parts[max(shared - more, 0) :]) or parts[-1] for parts in whole]
  yield ["_".join([*parts[shared:-1], route.stem]) for parts, route in zip(whole, routes, strict=True)]


def _safe(name: str) -> str:
  return _UNSAFE.sub("_", name).strip(" .") or "scan"


def safe_names(names: Iterable[str]) -> dict[str, str]:
  """Each name as a part of a file's name that no two have, also where capitals do not count."""
  result: dict[str, str] = {}
  taken = set[str]()
  for name in names:
    safe = plain = _safe(name).replace(" ", "_")
    number = 1
    while safe.casefold() in taken:
      number += 1
      safe = f"{plain}_{number}"
    taken.add(safe.casefold())
    result[name] = safe
  return result
