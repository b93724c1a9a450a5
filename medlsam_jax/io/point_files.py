"""Files of six world points per organ, our JSON or 3D Slicer markups, to RAS mm, and from there to scan voxels.

Our format, points in any order, `[x, y, z]` in millimetres, RAS unless it says LPS:

    {"coordinate_system": "RAS", "liver": [[x, y, z], ... six], "spleen": [...]}

Those of 3D Slicer: `slicer_files`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
from jaxtyping import Float

from medlsam_jax import notices, working_grid
from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Grid, faces_from_points
from medlsam_jax.io import slicer_files
from medlsam_jax.io.slicer_files import PointList

COORDINATE_SYSTEM_KEY, UNITS_KEY = "coordinate_system", "coordinate_units"
OUTSIDE_VOXELS = 1.0
"""A point up to this far beyond the outermost voxel centres is a click on the scan's edge, and is moved there."""

_SAME_POINT_MM = 1e-3
_LARGEST = 1e9


def read_points(path: str | os.PathLike[str], scan: str = "") -> dict[str, Float[np.ndarray, "6 3"]]:
  """Six points (x, y, z) in RAS mm per organ, in the file's order.

  Args:
    path: our JSON, or 3D Slicer's `.mrk.json`, `.fcsv` or table of control points.
    scan: name of the scan that the file marks; a Slicer list without a name takes its file's, unless that is this.

  Raises:
    InputError: no such file, malformed, an unknown coordinate system or unit, no points, not six finite points for an
      organ, or six times the same; the organ is named.
  """
  path = Path(path)
  return _of_lists(_lists_of(path, scan, "a template's organs need six points each"), path)


def read_places(path: str | os.PathLike[str], scan: str = "") -> dict[str, Float[np.ndarray, "_n 3"]]:
  """Any number of points (x, y, z) in RAS mm by name, in the file's order; files as of `read_points`.

  Raises:
    InputError: as `read_points`, but for the number of points.
  """
  path = Path(path)
  return {
    name: np.array(places) for name, places in _gathered(_lists_of(path, scan, "points are wanted"), path).items()
  }


def _lists_of(path: Path, scan: str, wanted: str) -> list[PointList]:
  slicer_files.refuse_annotation(path)
  if path.suffix.lower() in slicer_files.TABLE_ENDINGS:
    return slicer_files.read_table(path, scan)
  content = read_json(path)
  if "markups" not in content:
    return _table(content, path)
  if not isinstance(content["markups"], list):
    raise InputError(f"{path}: 'markups' is not a list of markups; save it again from 3D Slicer")
  boxes = [item for item in content["markups"] if isinstance(item, dict) and item.get("type") == "ROI"]
  if boxes:
    notices.warn(f"{path}: {len(boxes)} ROI{'s' * (len(boxes) > 1)} left out; {wanted}")
  return slicer_files.read_lists(content, path, scan)


def points_of_markups(content: dict[str, object], path: Path, scan: str = "") -> dict[str, Float[np.ndarray, "6 3"]]:
  """`read_points` of a markups file's content, whose ROIs someone else reads; empty where it has no points."""
  lists = slicer_files.read_lists(content, path, scan)
  return _of_lists(lists, path) if lists else {}


def points_in_scan(world: Float[np.ndarray, "6 3"], grid: Grid, organ: str, source: str) -> Float[np.ndarray, "6 3"]:
  """Six points (x, y, z) in RAS mm to scan voxels (z, y, x), fractional, in the order of `FACES`.

  `FACES` are those of the **working grid** (LAS): "min z" is the lowest point of the body, "min x" the one furthest to
  the patient's right, whatever the axis order of the scan.

  Raises:
    InputError: a point lies outside the scan; organ and point are named.
  """
  working = working_grid.working_grid(grid)
  return working.to_scan(faces_from_points(working.from_scan(voxels_in_scan(world, grid, organ, source))))


def voxels_in_scan(world: Float[np.ndarray, "n 3"], grid: Grid, organ: str, source: str) -> Float[np.ndarray, "n 3"]:
  """Points (x, y, z) in RAS mm to scan voxels (z, y, x), fractional; clicks on the scan's edge are moved there.

  Raises:
    InputError: as `points_in_scan`.
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
  clipped: np.ndarray = np.clip(voxels, 0, last)
  return clipped


def read_json(path: Path) -> dict[str, object]:
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


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
  result: dict[str, object] = {}
  for key, value in pairs:
    if key in result:
      raise ValueError(f"{key!r} is there twice")
    result[key] = value
  return result


def _table(content: dict[str, object], path: Path) -> list[PointList]:
  """Our own format."""
  factors = slicer_files.to_ras_mm(content.get(COORDINATE_SYSTEM_KEY, "RAS"), content.get(UNITS_KEY), str(path))
  lists = []
  for organ, points in content.items():
    if organ in (COORDINATE_SYSTEM_KEY, UNITS_KEY):
      continue
    if not organ.strip():
      raise InputError(f"{path}: an organ without a name")
    if not isinstance(points, list):
      raise InputError(f"{path}: {organ}: expected a list of six [x, y, z], found {type(points).__name__}")
    lists.append(PointList([organ] * len(points), points, factors))
    if not points:
      raise _not_six(0, 1, organ, path)
  return lists


def _of_lists(lists: list[PointList], path: Path) -> dict[str, Float[np.ndarray, "6 3"]]:
  """Checked points by organ."""
  shared = Counter(organ for each in lists for organ in set(each.organs))
  return {organ: _checked(points, shared[organ], organ, path) for organ, points in _gathered(lists, path).items()}


def _gathered(lists: list[PointList], path: Path) -> dict[str, list[Float[np.ndarray, "3"]]]:
  """Points in RAS mm by organ."""
  result: dict[str, list[np.ndarray]] = {}
  for each in lists:
    for organ, position in zip(each.organs, each.positions, strict=True):
      result.setdefault(organ, []).append(_position(position, each.to_ras_mm, organ, path))
  if not result:
    raise InputError(f"{path}: no points in it; mark six points per organ")
  return result


def _position(point: object, to_ras_mm: np.ndarray, organ: str, path: Path) -> Float[np.ndarray, "3"]:
  numbers = point if isinstance(point, list) else []
  right = all(isinstance(v, int | float) and not isinstance(v, bool) for v in numbers)
  # a whole number may be too large for a float
  if not right or len(numbers) != 3 or not all(abs(v) < _LARGEST for v in numbers):
    raise InputError(f"{path}: {organ}: {point!r:.100} is not a point; write three finite numbers [x, y, z] in mm")
  return np.array(numbers, float) * to_ras_mm


def _checked(points: list[np.ndarray], lists: int, organ: str, path: Path) -> Float[np.ndarray, "6 3"]:
  if len(points) != 6:
    raise _not_six(len(points), lists, organ, path)
  array = np.array(points, float)
  # One point may be extreme on two faces: of an organ that a thin scan cuts to one slice, or at a tip.
  if np.ptp(array, axis=0).max() < _SAME_POINT_MM:
    raise InputError(
      f"{path}: {organ}: its six points are one, {_millimetres(array[0])}; mark the outermost point in each direction"
    )
  return array


def _not_six(count: int, lists: int, organ: str, path: Path) -> InputError:
  where = f" in {lists} lists of that organ" if lists > 1 else ""
  return InputError(
    f"{path}: {organ}: {count} points{where}, needs six: the lowest and highest, the most anterior and posterior, the "
    "furthest left and right"
  )


def _millimetres(point: np.ndarray) -> str:
  return "(" + ", ".join(f"{v:.1f}" for v in point) + ") mm RAS"
