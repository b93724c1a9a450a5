"""Files of six world points per organ, our JSON or 3D Slicer markups, to RAS mm, and from there to scan voxels.

Our format, points in any order, `[x, y, z]` in millimetres, RAS unless it says LPS:

    {"coordinate_system": "RAS", "liver": [[x, y, z], ... six], "spleen": [...]}

3D Slicer markups (`.mrk.json`), LPS unless the list says RAS, point lists only. The organ of a control point is

- its label without a trailing `-1` .. `-6`: `liver-1`, or `liver` six times. Slicer labels points so by itself when the
  list is called `liver`; several organs may share a list;
- for Slicer's other default labels (`F-1`, `1`, none): the list's name, where the file states it.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from medlsam_jax.data import ct
from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Grid, faces_from_points

COORDINATE_SYSTEM_KEY = "coordinate_system"
OUTSIDE_VOXELS = 1.0
"""A point up to this far beyond the outermost voxel centres is a click on the scan's edge, and is moved there."""

_SAME_POINT_MM = 1e-3
_TO_RAS = {"RAS": np.array([1.0, 1.0, 1.0]), "LPS": np.array([-1.0, -1.0, 1.0])}
_UNNAMED = re.compile(r"(F|P|MarkupsFiducial|Point ?List(_\d+)?)?")


def read_points(path: str | os.PathLike[str]) -> dict[str, Float[np.ndarray, "6 3"]]:
  """Six points (x, y, z) in RAS mm per organ, in the file's order.

  Raises:
    InputError: no such file, malformed JSON, an unknown coordinate system, no points, not six finite points for an
      organ, or six times the same; the organ is named.
  """
  path = Path(path)
  content = read_json(path)
  found = _from_markups(content, path) if "markups" in content else _from_table(content, path)
  if not found:
    raise InputError(f"{path}: no points in it; mark six points per organ")
  return {organ: _checked(points, organ, path) for organ, points in found.items()}


def points_in_scan(world: Float[np.ndarray, "6 3"], grid: Grid, organ: str, source: str) -> Float[np.ndarray, "6 3"]:
  """Six points (x, y, z) in RAS mm to scan voxels (z, y, x), fractional, in the order of `FACES`.

  `FACES` are those of the **working grid** (LAS): "min z" is the lowest point of the body, "min x" the one furthest to
  the patient's right, whatever the axis order of the scan.

  Raises:
    InputError: a point lies outside the scan; organ and point are named.
  """
  voxels = grid.voxel_from_world(world)
  last = np.array(grid.shape) - 1
  outside = ((voxels < -OUTSIDE_VOXELS) | (voxels > last + OUTSIDE_VOXELS)).any(axis=1)
  if outside.any():
    index = int(np.flatnonzero(outside)[0])
    raise InputError(
      f"{source}: {organ}: point {index + 1} at {_millimetres(world[index])} lies outside the scan, at voxel "
      f"{voxels[index].round(1).tolist()} of {list(grid.shape)} (z y x); is it another scan's, or LPS written as RAS?"
    )
  working = ct.working_grid(grid)
  return working.to_scan(faces_from_points(working.from_scan(np.clip(voxels, 0, last))))


def read_json(path: Path) -> dict[str, Any]:
  """A JSON object from a file.

  Raises:
    InputError: no such file, not JSON, not an object, or one key twice.
  """
  try:
    content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_unique_keys)
  except FileNotFoundError as error:
    raise InputError(f"{path}: no such file") from error
  except (OSError, ValueError, RecursionError) as error:
    raise InputError(f"{path}: not valid JSON ({error})") from error
  if not isinstance(content, dict):
    raise InputError(f"{path}: expected a JSON object {{...}}, found {type(content).__name__}")
  return content


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  keys = [key for key, _ in pairs]
  twice = next((key for key in keys if keys.count(key) > 1), None)
  if twice is not None:
    raise ValueError(f"{twice!r} is there twice")
  return dict(pairs)


def _from_table(content: dict[str, Any], path: Path) -> dict[str, list[Any]]:
  to_ras = _to_ras(content.get(COORDINATE_SYSTEM_KEY, "RAS"), path)
  found = {}
  for organ, points in content.items():
    if organ == COORDINATE_SYSTEM_KEY:
      continue
    if not isinstance(points, list):
      raise InputError(f"{path}: {organ}: expected a list of six [x, y, z], found {type(points).__name__}")
    found[organ] = [_position(point, to_ras, organ, path) for point in points]
  return found


def _from_markups(content: dict[str, Any], path: Path) -> dict[str, list[Any]]:
  lists = content["markups"]
  if not isinstance(lists, list) or not all(isinstance(one, dict) for one in lists):
    raise InputError(f"{path}: 'markups' is not a list of markups; save it again from 3D Slicer")
  found: dict[str, list[Any]] = {}
  for markup in lists:
    if markup.get("type", "Fiducial") != "Fiducial":
      continue
    if markup.get("coordinateUnits", "mm") != "mm":
      raise InputError(f"{path}: coordinates in {markup['coordinateUnits']!r}; save the markups in mm")
    to_ras = _to_ras(markup.get("coordinateSystem", "LPS"), path)
    controls = markup.get("controlPoints", [])
    if not isinstance(controls, list) or not all(isinstance(one, dict) for one in controls):
      raise InputError(f"{path}: 'controlPoints' is not a list of points; save it again from 3D Slicer")
    for control in controls:
      if control.get("positionStatus", "defined") != "defined":
        continue
      organ = _organ(control, markup, path)
      found.setdefault(organ, []).append(_position(control.get("position"), to_ras, organ, path))
  return found


def _organ(control: dict[str, Any], markup: dict[str, Any], path: Path) -> str:
  label = str(control.get("label") or "").strip()
  stem = re.sub(r"(^|\s*-\s*)\d+$", "", label)
  organ = stem if not _UNNAMED.fullmatch(stem) else str(markup.get("name") or "").strip()
  if _UNNAMED.fullmatch(organ):
    raise InputError(
      f"{path}: point {label!r} names no organ; call the point list liver, or the points liver-1 .. liver-6"
    )
  return organ


def _to_ras(system: Any, path: Path) -> Float[np.ndarray, "3"]:
  if system not in ("RAS", "LPS"):
    raise InputError(f"{path}: coordinate system {system!r}; use 'RAS' or 'LPS'")
  return _TO_RAS[system]


def _position(point: Any, to_ras: np.ndarray, organ: str, path: Path) -> Float[np.ndarray, "3"]:
  numbers = isinstance(point, list) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in point)
  if not numbers or len(point) != 3 or not np.isfinite(np.array(point, float)).all():
    raise InputError(f"{path}: {organ}: {point!r} is not a point; write three finite numbers [x, y, z] in mm")
  return np.array(point, float) * to_ras


def _checked(points: list[Any], organ: str, path: Path) -> Float[np.ndarray, "6 3"]:
  if len(points) != 6:
    raise InputError(
      f"{path}: {organ}: {len(points)} points, needs six: the lowest and highest, the most anterior and posterior, the "
      "furthest left and right"
    )
  array = np.array(points, float)
  # One point may be extreme on two faces: of an organ that a thin scan cuts to one slice, or at a tip.
  if np.ptp(array, axis=0).max() < _SAME_POINT_MM:
    raise InputError(
      f"{path}: {organ}: its six points are one, {_millimetres(array[0])}; mark the outermost point in each direction"
    )
  return array


def _millimetres(point: np.ndarray) -> str:
  return "(" + ", ".join(f"{v:.1f}" for v in point) + ") mm RAS"
