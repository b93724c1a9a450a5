"""Numbers that the papers report, as facts to stand beside ours, and the splits that they were measured with.

MedLSAM (Lei et al.): localization with five templates; IoU there counts edges as highest less lowest voxel
(`box_iou_published`). Its program lists which scans were templates; all others were queries, of WORD those of
`imagesTr` and `imagesVal`. Nothing of it was measured on TotalSegmentator, whose own split is in its `meta.csv`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

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
_NAMES = {"WORD": re.compile(r"word_\d{4}"), "StructSeg": re.compile(r"\d{1,2}")}


def data_set_of(names: Sequence[str]) -> str:
  """Which of the data sets with published numbers scans are of by their names; empty for any other.

  All scans have to be called so, the published templates among them.
  """
  for data_set, pattern in _NAMES.items():
    if names and all(pattern.fullmatch(name) for name in names) and set(TEMPLATES[data_set]) <= set(names):
      return data_set
  return ""


def is_left_out(labels: Path) -> bool:
  """Whether the published queries are without a scan, by where its label map lies: those of WORD's `labelsTs`."""
  return labels.parent.name == "labelsTs"


def beside(data_set: str, key: str) -> Mapping[str, float]:
  """Published numbers for a line, by metric; none where there are none."""
  return NUMBERS.get(data_set, {}).get(key, {})
