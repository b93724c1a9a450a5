"""Which organ a point list or box of 3D Slicer means: by its points' labels, its own name, or its file's.

Slicer gives a new list a default name (`F`, `F_1`, `MarkupsFiducial`, `R`) and labels each point `NAME-NUMBER` by the
name that the list has at that moment; renaming the list does not relabel its points, and older versions save no name.
So

- a label that is no default names the organ, without its number: `liver-1`; several organs may share a list;
- for default labels the list's name counts, where that is no default or someone has changed it;
- else the file's name, with a warning: Slicer calls a list without a name by it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medlsam_jax import notices
from medlsam_jax.errors import InputError

FILE_ENDINGS = (".mrk.json", ".mkp.json", ".json", ".fcsv", ".csv", ".tsv")

_DEFAULT = re.compile(
  r"|[A-Z]|OC|CC|(?i:roi|(vtkMRML)?markups?\w*|fid(ucial)?s?|(point|fiducial|markups?|landmark)?[ _]?lists?|points?"
  r"|landmarks?|control[ _]?points?|punkte?|punktliste|liste|lista|puntos?|lista de puntos|liste de points"
  r"|点|点列表|标记点|ポイント|ポイントリスト)"
)
_RARE = re.compile(r"[A-EG-OQ-Z]|OC|CC")
"""Defaults of lines, curves, angles: of points, such a letter may also be a name that someone gave."""
_COPY = re.compile(r"([ _](\d+|[Cc]opy))+$")
_NUMBER = re.compile(r"(^|\s*-\s*)\d+$")
_AN_ORGANS_POINTS = 6


def is_default(name: str) -> bool:
  """Whether Slicer gives such a name by itself (or its users, without naming an organ); so it is for no name."""
  return bool(_DEFAULT.fullmatch(_family(name)))


def file_name(path: Path, scan: str) -> str:
  """A file's name where that can be an organ's; empty for the name of the scan that it marks, and what begins so."""
  ending = next((e for e in FILE_ENDINGS if path.name.lower().endswith(e)), "")
  stem = path.name[: len(path.name) - len(ending)].strip()
  if scan and re.fullmatch(re.escape(scan) + r"([^A-Za-z0-9].*)?", stem):
    return ""
  return "" if is_default(stem) else stem


def organs_of(labels: Sequence[str], list_name: str, file: str, place: str) -> list[str]:
  """Organ of each point of a list.

  Args:
    labels: of its points.
    list_name: empty where the file states none.
    file: of `file_name`.
    place: for messages.

  Raises:
    InputError: nothing names an organ.
  """
  counts = Counter(labels)
  stems = [_stem(label, counts[label]) for label in labels]
  first = dict(zip(reversed(stems), reversed(labels), strict=True))
  if len(first) == len(labels) == _AN_ORGANS_POINTS and not is_default(list_name):
    # six names of one point each are no organs: top, bottom, left; liver 1, liver 2
    notices.warn(
      f"{place}: the six points of the list {list_name} are called {', '.join(labels)}; taken as {list_name}"
    )
    return [list_name] * len(labels)
  whole = {
    stem: _list_organ(list_name, stem, file, place, label=first[stem])
    for stem in dict.fromkeys(stems)
    if is_default(stem)
  }
  named = {stem for stem in stems if stem not in whole}
  if len(named) == 1 and not whole and not is_default(list_name):
    (organ,) = named
    if organ.casefold() != list_name.casefold():
      notices.warn(
        f"{place}: the list is called {list_name}, its points {labels[0]} and so on; taken as {organ}, as these say"
      )
  return [whole.get(stem, stem) for stem in stems]


def _stem(label: str, count: int) -> str:
  """What a point's label says of its organ: all but the number, unless six points of one label show it to be a name."""
  stem = _NUMBER.sub("", label)
  typed = count >= _AN_ORGANS_POINTS and (not is_default(stem) or bool(_RARE.fullmatch(_family(stem))))
  return label if typed else stem


def roi_organ(roi_name: str, label: str, file: str, place: str) -> str:
  """Organ of a box: its name, else its first point's label, else its file's name.

  Raises:
    InputError: nothing names an organ.
  """
  stem = _NUMBER.sub("", label)
  if roi_name and (not is_default(roi_name) or label == roi_name):
    return roi_name
  return _list_organ(roi_name, stem, file, place, label=label) if is_default(stem) else stem


def _list_organ(name: str, stem: str, file: str, place: str, label: str) -> str:
  """Organ of points with a default label."""
  if name and not is_default(name):
    if _RARE.fullmatch(_family(stem)):
      notices.warn(f"{place}: the list is called {name}, its points {label} and so on; taken as {name}")
    return name
  # a name that no numbered label goes back to was typed: Slicer labels by the name that the list has
  if name and (label == name or (stem and _family(stem) != _family(name))):
    notices.warn(f"{place}: the organ is taken to be called {name}, though Slicer itself gives such names")
    return name
  if file:
    called = f"is called {name}, as Slicer calls new ones" if name else "has no name"
    notices.warn(f"{place}: {called}, and its points name no organ: taken as {file}, as its file is called")
    return file
  raise InputError(
    f"{place}: point {label!r} names no organ, and neither does {name!r}; call the point list or ROI liver, or the "
    "points liver-1 .. liver-6"
  )


def _family(name: str) -> str:
  """Without the number that tells a second list from the first."""
  return _COPY.sub("", name)
