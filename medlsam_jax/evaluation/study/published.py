"""Numbers that the papers report, as facts to stand beside ours, and the splits that they were measured with.

MedLSAM (Lei et al.): localization with five templates; IoU there counts edges as highest less lowest voxel
(`box_iou_published`). Its program lists which scans were templates; all others were queries, of WORD those of
`imagesTr` and `imagesVal`. Nothing of it was measured on TotalSegmentator, whose own split is in its `meta.csv`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from medlsam_jax.display import count, some
from medlsam_jax.io.organ_codes import ANY, OrganCode, code_of

NUMBERS: dict[str, dict[str, dict[str, float]]] = {
  "WORD": {
    "five": {"box_iou_published": 0.566, "wall_distance_mm": 9.9, "point_error_mm": 17.5},
    "templates 1": {"box_iou_published": 0.368},
    "templates 3": {"box_iou_published": 0.493},
    "templates 5": {"box_iou_published": 0.566},
    "templates 7": {"box_iou_published": 0.581},
    "head": {"box_iou_published": 0.392},
    "features": {"box_iou_published": 0.342},
    "scales 4": {"box_iou_published": 0.528},
    "scales 4,2": {"box_iou_published": 0.559},
    "scales 4,2,1": {"box_iou_published": 0.566},
    "SAM found": {"dice": 0.495},
    "MedSAM found": {"dice": 0.405},
    "SAM labels": {"dice": 0.718},
    "MedSAM labels": {"dice": 0.651},
  },
  "StructSeg": {
    "five": {"box_iou_published": 0.480, "wall_distance_mm": 2.6, "point_error_mm": 4.3},
    "SPL 6": {"dice": 0.391},
    "SPL 15": {"dice": 0.374},
    "SPL 30": {"dice": 0.358},
    "WPL": {"dice": 0.331},
    "SAM found": {"dice": 0.391},
    "MedSAM found": {"dice": 0.473},
    "SAM labels": {"dice": 0.503},
    "MedSAM labels": {"dice": 0.572},
  },
}
"""Data set -> key of a line -> metric -> value. Dice of SPL and WPL is with SAM."""
TEMPLATES: dict[str, tuple[str, ...]] = {
  "WORD": ("word_0010", "word_0036", "word_0053", "word_0064", "word_0113"),
  "StructSeg": ("1", "10", "11", "12", "13"),
}
"""The scans that were templates, by what they are called here."""
COUNT = 5
"""Of them."""
ORGANS: dict[str, tuple[str, ...]] = {
  "WORD": (
    "liver", "spleen", "kidney left", "kidney right", "stomach", "gallbladder", "esophagus", "pancreas", "duodenum",
    "colon", "intestine", "adrenal", "rectum", "bladder", "head femur left", "head femur right",
  ),
  "StructSeg": (
    "eye left", "eye right", "lens left", "lens right", "optic nerve left", "optic nerve right", "optic chiasm",
    "pituitary", "brainstem", "temporal lobe left", "temporal lobe right", "spinal cord", "parotid left",
    "parotid right", "inner ear left", "inner ear right", "middle ear left", "middle ear right",
    "temporomandibular joint left", "temporomandibular joint right", "mandible left", "mandible right",
  ),
}  # fmt: skip
"""The organs that the means are over."""
_NAMES = {"WORD": re.compile(r"word_\d{4}"), "StructSeg": re.compile(r"\d{1,2}")}
_SAME = {"intestine": "small bowel", "pituitary gland": "pituitary"}
"""What the data sets call organs beside the names of `organ_codes`."""


@dataclasses.dataclass(frozen=True)
class Beside:
  """Whether published numbers stand beside ours."""

  data_set: str = ""
  """That the scans are of; empty for any without published numbers."""
  differs: str = ""
  """Why ours are not measured as they were; empty where they are."""
  queries: int = 0
  """How many ours are measured on."""

  def numbers(self, key: str) -> Mapping[str, float]:
    """For a line, by metric; none where there are none, or ours are measured in another way."""
    return {} if self.differs else NUMBERS.get(self.data_set, {}).get(key, {})

  def note(self, keys: Iterable[str]) -> str:
    """A sentence to stand under a table whose lines have these keys; empty where nothing is published for them."""
    if not NUMBERS.get(self.data_set, {}).keys() & set(keys):
      return ""
    if self.differs:
      return f"The numbers published for {self.data_set} do not stand beside ours: {self.differs}."
    return (
      f"Published: MedLSAM's of {self.data_set}, same templates and organs, all queries of the split; ours are of "
      f"{count(self.queries, 'query', 'queries')}."
    )


NOTHING = Beside()
"""Of data sets that nothing is published of."""


def data_set_of(names: Sequence[str], organs: Callable[[], Iterable[str]]) -> str:
  """Which of the data sets with published numbers scans are of, by names and organs; empty for any other.

  All scans have to be called so, and at least half of the data set's organs have to be labelled: numbers are names that
  anybody gives.

  Args:
    organs: that the labels have; asked for where the names fit.
  """
  for data_set, pattern in _NAMES.items():
    if names and all(pattern.fullmatch(name) for name in names):
      there, _ = _held_against(data_set, organs())
      if 2 * len(there) >= len(ORGANS[data_set]):
        return data_set
  return ""


def beside(data_set: str, templates: Collection[str], queries: Mapping[str, Path], organs: Iterable[str]) -> Beside:
  """Whether published numbers stand beside ours: with the same templates, queries that were such, and the same organs.

  Args:
    data_set: of `data_set_of`.
    templates: the scans of it that are the first templates, as many as were published.
    queries: label map of each.
    organs: that are scored.
  """
  if not data_set:
    return NOTHING
  chosen = TEMPLATES[data_set]
  there, strangers = _held_against(data_set, organs)
  reasons = []
  if set(templates) != set(chosen) or any(name in chosen or is_left_out(path) for name, path in queries.items()):
    reasons.append(f"the split differs, published are the templates {', '.join(chosen)}")
  if lacking := [organ for organ in ORGANS[data_set] if organ not in there]:
    reasons.append(f"the organs differ, published means have {some(lacking)} too")
  if strangers:
    reasons.append(f"the organs differ, published means are without {some(strangers)}")
  return Beside(data_set, "; ".join(reasons), len(queries))


def _held_against(data_set: str, organs: Iterable[str]) -> tuple[set[str], list[str]]:
  """Which of a data set's organs are among some, and which of these it does not have."""
  known = {_organ(organ): organ for organ in ORGANS[data_set]}
  named = {organ: known.get(_organ(organ)) for organ in organs}
  return {organ for organ in named.values() if organ}, [organ for organ, own in named.items() if not own]


def _organ(name: str) -> OrganCode | str:
  """The same for all spellings of an organ: its code, or a plain name where it has none."""
  plain = name.lower().replace("_", " ")
  plain = _SAME.get(plain, plain)
  code = code_of(plain if plain in _SAME.values() else name)
  return plain if code.type == ANY else code


def is_left_out(labels: Path) -> bool:
  """Whether the published queries are without a scan, by where its label map lies: those of WORD's `labelsTs`."""
  return labels.parent.name == "labelsTs"
