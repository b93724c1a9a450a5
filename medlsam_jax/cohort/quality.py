"""Quality of a cohort without labels: which scans to look at first, and why.

Every measure is taken against the cohort itself by medians, so that a few odd scans show and do not count; where few
scans have an organ, against the templates. Nothing here knows the truth: what is named is odd, not wrong.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from medlsam_jax.cohort import oddities
from medlsam_jax.cohort.layout import box_log_ml, layout_of, layout_of_templates
from medlsam_jax.cohort.likeness import likeness_of
from medlsam_jax.cohort.looked import Looked, Quality
from medlsam_jax.cohort.manifest import Manifest, Record
from medlsam_jax.cohort.sketch import Sketch
from medlsam_jax.finding import FOUND, OUTSIDE
from medlsam_jax.io.scan_result import BOXES

if TYPE_CHECKING:
  from medlsam_jax.medlam.bank.bank import Bank

_SCAN_SEEMS = "the scan seems to be "
"""How a doubt of the search begins that is of the scan as a whole (`medlam.search.doubt.named`)."""


_AXES = re.compile("(?=.*[RL])(?=.*[AP])(?=.*[SI])[RLAPSI]{3}")


def quality_of(
  folder: Path, known: Manifest, bank: Bank | None = None, elsewhere: Mapping[str, Path] | None = None
) -> Quality:
  """Judges what lies in a folder of results; scans whose boxes cannot be read any more are left out.

  Args:
    folder: with the results, and the sketches of the scans.
    known: which scans there are.
    bank: whose templates the cohort is held against.
    elsewhere: by scan the folder of its boxes where it is another one, as `scan_result.corrected_in` gives it.
  """
  elsewhere = elsewhere or {}
  records = [each for each in known.records.values() if each.state == "done"]
  read = [(record, said) for record in records if (said := _boxes(elsewhere.get(record.scan, folder), record))]
  organs = list(dict.fromkeys(organ for _, said in read for organ in said["organs"]))
  corners = np.full((len(read), len(organs), 2, 3), np.nan)
  painted_ml, similarity = (np.full((len(read), len(organs)), np.nan) for _ in range(2))
  verdicts = [["" for _ in organs] for _ in read]
  for row, (_, said) in enumerate(read):
    for organ, entry in said["organs"].items():
      column = organs.index(organ)
      verdicts[row][column] = str(entry["verdict"])
      corners[row, column] = entry["box_world_mm"]
      painted_ml[row, column] = _number(entry.get("volume_ml"))
      similarity[row, column] = _number((entry.get("confidence") or {}).get("similarity"))
  given = np.array([[each not in ("", OUTSIDE) for each in row] for row in verdicts], bool).reshape(painted_ml.shape)
  corners[~given] = np.nan
  is_painted = bool(np.isfinite(painted_ml).any())
  log_ml = np.log(np.maximum(painted_ml, 0.01)) if is_painted else box_log_ml(corners)
  middles = corners.mean(2)
  sure = np.array([[each == FOUND for each in row] for row in verdicts], bool).reshape(given.shape)
  templates = None if bank is None or not organs else layout_of_templates(bank, organs)
  if templates is not None and is_painted:
    # theirs are sizes of boxes, several times those of masks
    templates = dataclasses.replace(templates, log_ml=np.full(len(organs), np.nan))
  log_ml = np.where(given, log_ml, np.nan)
  layout = layout_of(middles, log_ml, sure, templates)
  result = Quality(
    scans=[Looked(record, str(said["scan"]["source"]), _of_search(said)) for record, said in read],
    organs=organs,
    failed=[each for each in known.records.values() if each.state == "failed"],
    verdicts=verdicts,
    middles_mm=middles,
    log_ml=log_ml,
    similarity=similarity,
    axis_codes=[str(said["scan"]["axis_codes"]) for _, said in read],
    field_mm=np.array([_field(said) for _, said in read]).reshape(-1, 2, 3),
    is_painted=is_painted,
    deviation=np.abs(layout.residual_mm(middles) / layout.spread_mm).max(2),
    layout=layout,
    templates=templates,
    handed=layout.handedness(np.where(sure[..., None], middles, np.nan)),
    likeness=likeness_of(len(read), lambda row: Sketch.load(folder, read[row][0].scan)),
  )
  oddities.judge(result)
  return result


def _boxes(folder: Path, record: Record) -> dict[str, Any] | None:
  """What a scan's boxes file says; None of one that is damaged, or that lacks what is looked at here."""
  try:
    said = json.loads((folder / (record.scan + BOXES)).read_text())
    scan = said["scan"]
    places = [np.array(scan["affine"], float).reshape(4, 4), np.array(scan["shape"], float).reshape(3)]
    for entry in said["organs"].values():
      str(entry["verdict"])
      places.append(np.array(entry["box_world_mm"], float).reshape(2, 3))
      numbers = (entry.get("volume_ml"), (entry.get("confidence") or {}).get("similarity"))
      places.append(np.array([each for each in numbers if each is not None], float))
    whole = all(np.isfinite(each).all() for each in places) and {"source", "axis_codes"} <= scan.keys()
    return said if whole and _AXES.fullmatch(str(scan["axis_codes"])) else None
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    return None


def _of_search(said: dict[str, Any]) -> tuple[str, ...]:
  """Doubts that all organs share and that are of the scan: that it is upside down, say."""
  shared = [set(map(str, entry.get("doubts", ()))) for entry in said["organs"].values()]
  everywhere = set.intersection(*shared) if shared else set[str]()
  return tuple(sorted(each for each in everywhere if each.startswith(_SCAN_SEEMS)))


def _field(said: dict[str, Any]) -> Float[np.ndarray, "2 3"]:
  """Corners of what a scan shows, RAS mm."""
  scan = said["scan"]
  z, y, x = scan["shape"]
  ends = np.array([[i, j, k, 1] for i in (0, x - 1) for j in (0, y - 1) for k in (0, z - 1)])
  world = (ends @ np.array(scan["affine"], float).T)[:, :3]
  return np.stack([world.min(0), world.max(0)])


def _number(value: float | None) -> float:
  return np.nan if value is None else float(value)
