"""Boxes <-> 3D Slicer markups (`.mrk.json`): one ROI per organ, world millimetres (x, y, z).

Written in LPS, as Slicer itself does, for schema 1.0.3 (Slicer 5.0 and later). On the way in LPS and RAS are honoured.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from medlsam_jax import notices
from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Grid
from medlsam_jax.results.boxes_file import box_to_world
from medlsam_jax.results.given import Shown

SCHEMA = (
  "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
  "markups-schema-v1.0.3.json#"
)
COLOURS = (
  (0.86, 0.39, 0.33), (0.35, 0.68, 0.84), (0.47, 0.75, 0.36), (0.93, 0.73, 0.25),
  (0.65, 0.50, 0.83), (0.94, 0.56, 0.70), (0.30, 0.73, 0.66), (0.75, 0.62, 0.46),
)  # fmt: skip
"""Given out in turn; the preview uses the same."""

_FLIP = np.array([-1.0, -1.0, 1.0])
_UPRIGHT_RAS_IN_LPS = [-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0]
_ROTATED = 0.02


def rois(found: Mapping[str, Shown], grid: Grid) -> dict[str, Any]:
  """The content of a markups file with a box ROI for each organ; the verdict stands in its point's description."""
  items = []
  for number, (organ, each) in enumerate(found.items()):
    low, high = box_to_world(each.box, grid)
    centre = _plain((low + high) / 2 * _FLIP)
    colour = list(COLOURS[number % len(COLOURS)])
    items.append(
      {
        "type": "ROI",
        "name": organ,
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": False,
        "fixedNumberOfControlPoints": False,
        "labelFormat": "%N",
        "lastUsedControlPointNumber": 1,
        "roiType": "Box",
        "center": centre,
        "orientation": _UPRIGHT_RAS_IN_LPS,
        "size": _plain(high - low),
        "insideOut": False,
        "controlPoints": [
          {
            "id": "1",
            "label": organ,
            "description": each.verdict,
            "associatedNodeID": "",
            "position": centre,
            "orientation": _UPRIGHT_RAS_IN_LPS,
            "selected": True,
            "locked": False,
            "visibility": True,
            "positionStatus": "defined",
          }
        ],
        "measurements": [],
        "display": {"visibility": True, "opacity": 1.0, "color": colour, "selectedColor": colour, "fillOpacity": 0.1},
      }
    )
  return {"@schema": SCHEMA, "markups": items}


def read_rois(content: dict[str, Any], path: Path) -> dict[str, Float[np.ndarray, "2 3"]]:
  """Low and high corner in RAS mm of each ROI; empty where the file has none.

  The organ is the ROI's name, else its first point's label, else the file's name (Slicer saves a single ROI without its
  name). A rotated ROI counts as the box around it, with a warning.

  Raises:
    InputError: an ROI without centre or size, in other units than mm, or two of one organ.
  """
  items = content.get("markups")
  if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
    raise InputError(f"{path}: 'markups' is not a list of markups; save it again from 3D Slicer")
  found: dict[str, Float[np.ndarray, "2 3"]] = {}
  for item in items:
    if item.get("type") != "ROI":
      continue
    organ = _organ(item, path)
    if organ in found:
      raise InputError(f"{path}: two ROIs are called {organ}; rename or delete one")
    found[organ] = _corners(item, organ, path)
  return found


def _corners(item: dict[str, Any], organ: str, path: Path) -> Float[np.ndarray, "2 3"]:
  system = item.get("coordinateSystem", "LPS")
  if system not in ("LPS", "RAS"):
    raise InputError(f"{path}: {organ}: coordinate system {system!r}; use 'RAS' or 'LPS'")
  if item.get("coordinateUnits", "mm") not in ("mm", ["mm", "UCUM", "millimeter"]):
    raise InputError(f"{path}: {organ}: coordinates in {item['coordinateUnits']!r}; save the ROI in mm")
  centre = _numbers(item.get("center"), 3, "center", organ, path)
  size = np.abs(_numbers(item.get("size"), 3, "size", organ, path))
  turned = _numbers(item.get("orientation", np.eye(3).ravel().tolist()), 9, "orientation", organ, path).reshape(3, 3)
  if size.min() <= 0:
    raise InputError(f"{path}: {organ}: an ROI of size {size.tolist()} mm; draw a box")
  if np.sort(np.abs(turned), axis=1)[:, :2].max() > _ROTATED:
    notices.warn(f"{path}: {organ}: the ROI is rotated; the upright box around it is used")
  half = np.abs(turned) @ size / 2
  if system == "LPS":
    centre = centre * _FLIP
  return np.stack([centre - half, centre + half])


def _organ(item: dict[str, Any], path: Path) -> str:
  controls = item.get("controlPoints")
  first = controls[0] if isinstance(controls, list) and controls and isinstance(controls[0], dict) else {}
  label = re.sub(r"-\d+$", "", str(first.get("label") or ""))
  for name in (item.get("name"), label, path.name.removesuffix(".json").removesuffix(".mrk")):
    organ = str(name or "").strip()
    # R and ROI are what Slicer calls a box that nobody named
    if organ and not re.fullmatch(r"R|ROI(_\d+)?", organ):
      return organ
  raise InputError(f"{path}: an ROI has no name; call it what the organ is called, such as liver")


def _numbers(value: Any, count: int, key: str, organ: str, path: Path) -> Float[np.ndarray, " n"]:
  try:
    array = np.array(value, float)
  except (TypeError, ValueError):
    array = np.zeros(0)
  if array.shape != (count,) or not np.isfinite(array).all():
    raise InputError(f"{path}: {organ}: the ROI's {key} is {value!r}, not {count} finite numbers")
  return array


def _plain(values: Float[np.ndarray, "3"]) -> list[float]:
  return (np.round(values, 3) + 0.0).tolist()
