"""Point lists and box ROIs of 3D Slicer by one set of rules: markups (`.mrk.json`) and the older tables (`.fcsv`).

- Coordinates: LPS or RAS, by name or by the number that older versions wrote (0 is RAS, 1 is LPS); metric units, as
  text or coded (`["mm", "UCUM", "millimeter"]`).
- `.fcsv`: columns by its header line, else by its version; also the control-points table of newer versions (`.csv`,
  `.tsv`: label, l, p, s).
- Names: `slicer_names`. Whatever is neither a point list nor a box (lines, curves, planes) is left out with a warning.
"""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from medlsam_jax import notices
from medlsam_jax.errors import InputError
from medlsam_jax.io import slicer_names

TABLE_ENDINGS = (".fcsv", ".csv", ".tsv")
_ANNOTATION_ENDING = ".acsv"

_RAS, _LPS = (1.0, 1.0, 1.0), (-1.0, -1.0, 1.0)
_SYSTEMS = {"RAS": _RAS, "LPS": _LPS, "0": _RAS, "1": _LPS}
_MILLIMETRES = {
  "": 1.0,
  "mm": 1.0,
  "cm": 10.0,
  "dm": 100.0,
  "m": 1000.0,
  "um": 1e-3,
  "µm": 1e-3,
  "μm": 1e-3,
  "nm": 1e-6,
}
_LONG_UNITS = {"millimet": "mm", "centimet": "cm", "decimet": "dm", "met": "m", "micromet": "um", "nanomet": "nm"}
_DIRECTIONS = {"r": (0, 1.0), "l": (0, -1.0), "a": (1, 1.0), "p": (1, -1.0), "s": (2, 1.0), "i": (2, -1.0)}
_ROTATED = 0.02
_MARKUPS_COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"
_OLDEST_COLUMNS = "label,x,y,z,sel,vis"


@dataclasses.dataclass(frozen=True, eq=False)
class PointList:
  """Points as they stand in a file, not yet checked."""

  organs: list[str]
  """Of each point."""
  positions: Sequence[object]
  to_ras_mm: Float[np.ndarray, "3"]
  """Factors that bring a position to RAS mm."""


def read_lists(content: Mapping[str, object], path: Path, scan: str = "") -> list[PointList]:
  """Point lists of a markups file; what else it holds is left out with a warning, but for ROIs, see `read_rois`.

  Args:
    content: of the file.
    scan: name of the scan that it marks; a file called by it names no organ.

  Raises:
    InputError: not markups, unknown units or coordinates, a list that names no organ.
  """
  result = []
  for number, item in enumerate(_items(content, path), 1):
    kind = item.get("type", "Fiducial")
    if kind not in ("Fiducial", "ROI"):
      title = _text(item.get("name")) or number
      notices.warn(f"{path}: the {kind} {title} is left out; organs are marked by point lists and box ROIs")
    if kind != "Fiducial":
      continue
    controls = item.get("controlPoints", [])
    if not isinstance(controls, list) or not all(isinstance(one, dict) for one in controls):
      raise InputError(f"{path}: 'controlPoints' is not a list of points; save it again from 3D Slicer")
    placed = [one for one in controls if one.get("positionStatus", "defined") == "defined"]
    factors = to_ras_mm(item.get("coordinateSystem", "LPS"), item.get("coordinateUnits"), str(path))
    if placed:
      labels = [_text(one.get("label")) for one in placed]
      file = slicer_names.file_name(path, scan)
      organs = slicer_names.organs_of(labels, _text(item.get("name")), file, str(path))
      result.append(PointList(organs, [one.get("position") for one in placed], factors))
  return result


def read_rois(content: Mapping[str, object], path: Path, scan: str = "") -> dict[str, Float[np.ndarray, "2 3"]]:
  """Low and high corner in RAS mm of each ROI of a markups file; empty where it has none.

  A rotated ROI counts as the box around it, one with a negative size as its mirror image, each with a warning.

  Raises:
    InputError: an ROI without centre or size, in unknown units or coordinates, without a name, or two of one organ.
  """
  result: dict[str, Float[np.ndarray, "2 3"]] = {}
  for item in _items(content, path):
    if item.get("type") != "ROI":
      continue
    controls = item.get("controlPoints")
    first = controls[0] if isinstance(controls, list) and controls and isinstance(controls[0], dict) else {}
    file = slicer_names.file_name(path, scan)
    organ = slicer_names.roi_organ(_text(item.get("name")), _text(first.get("label")), file, str(path))
    if organ in result:
      raise InputError(f"{path}: two ROIs are called {organ}; rename or delete one")
    result[organ] = _corners(item, f"{path}: {organ}")
  return result


def read_table(path: Path, scan: str = "") -> list[PointList]:
  """The point list of an older Slicer (`.fcsv`), or a table of control points (`.csv`, `.tsv`).

  Raises:
    InputError: the file is missing or no such table, a row that does not fit its columns, a list that names no organ.
  """
  lines = _lines(path)
  notes, rows = _split(lines)
  oldest = bool(lines) and "Fiducial List file" in lines[0]
  columns = notes.get("columns", _OLDEST_COLUMNS if oldest else _MARKUPS_COLUMNS)
  separator = "\t" if path.suffix.lower() == ".tsv" else ","
  if "columns" not in notes and rows and {"label"} < set(rows[0][1].lower().split(separator)):
    columns = rows.pop(0)[1]
  names = [name.strip().lower() for name in columns.split(separator)]
  axes, factors = _axes(names, notes, oldest, path)
  labels, positions = [], []
  for number, line in rows:
    fields = _fields(line, separator)
    if len(fields) <= max(axes):
      raise InputError(f"{path}, line {number}: {line!r} does not have the columns {columns}; save it as .mrk.json")
    row = dict(zip(names, fields, strict=False))
    if row.get("defined", "1") != "0":
      labels.append(row.get("label", ""))
      positions.append([_number(fields[axis]) for axis in axes])
  if not positions:
    return []
  file = slicer_names.file_name(path, scan)
  return [PointList(slicer_names.organs_of(labels, notes.get("name", ""), file, str(path)), positions, factors)]


def to_ras_mm(system: object, units: object, place: str) -> Float[np.ndarray, "3"]:
  """Factors that bring coordinates of a system (LPS, RAS, 0, 1) in metric units to RAS mm.

  Raises:
    InputError: another system or unit.
  """
  known = _SYSTEMS.get(str(system).strip().upper())
  if known is None or isinstance(system, bool):
    raise InputError(f"{place}: coordinate system {system!r}; use 'RAS' or 'LPS'")
  code = units[0] if isinstance(units, list) and units else units
  text = _text(code)
  word = next((short for long, short in _LONG_UNITS.items() if re.fullmatch(f"{long}(er|re)s?", text.lower())), text)
  if word not in _MILLIMETRES or not isinstance(code, str | None):
    raise InputError(f"{place}: coordinates in {units!r}; save them in mm")
  return np.array(known) * _MILLIMETRES[word]


def refuse_annotation(path: Path) -> None:
  """Says what to do with a ruler, point or ROI of Slicer's old annotations module.

  Raises:
    InputError: the file is one.
  """
  if path.suffix.lower() == _ANNOTATION_ENDING:
    raise InputError(
      f"{path}: an annotation of Slicer 4, which is not read; load it in Slicer 5, convert it to markups, and save "
      "that as .mrk.json"
    )


def _items(content: Mapping[str, object], path: Path) -> list[dict[str, object]]:
  items = content.get("markups")
  if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
    raise InputError(f"{path}: 'markups' is not a list of markups; save it again from 3D Slicer")
  return items


def _corners(item: Mapping[str, object], place: str) -> Float[np.ndarray, "2 3"]:
  factors = to_ras_mm(item.get("coordinateSystem", "LPS"), item.get("coordinateUnits"), place)
  scale = np.abs(factors)
  centre = _numbers(item.get("center"), 3, "center", place) * factors
  size = _numbers(item.get("size"), 3, "size", place) * scale
  turned = _numbers(item.get("orientation", np.eye(3).ravel().tolist()), 9, "orientation", place).reshape(3, 3)
  if np.abs(turned @ turned.T - np.eye(3)).max() > _ROTATED:
    raise InputError(
      f"{place}: the ROI's orientation {turned.tolist()} is no rotation; save the ROI again from 3D Slicer"
    )
  if (size == 0).any():
    raise InputError(f"{place}: an ROI of size {size.tolist()} mm; draw a box")
  if (size < 0).any():
    axes = ", ".join("xyz"[axis] for axis in np.flatnonzero(size < 0))
    notices.warn(
      f"{place}: the ROI has a negative size along {axes}: its corners are swapped there, and taken as sorted"
    )
  if np.sort(np.abs(turned), axis=1)[:, :2].max() > _ROTATED:
    notices.warn(f"{place}: the ROI is rotated; the upright box around it is used")
  half = np.abs(turned) @ np.abs(size) / 2
  return np.stack([centre - half, centre + half])


def _numbers(value: object, count: int, key: str, place: str) -> Float[np.ndarray, " n"]:
  try:
    array = np.array(value, float)
  except (TypeError, ValueError, OverflowError):
    array = np.zeros(0)
  if array.shape != (count,) or not np.isfinite(array).all():
    raise InputError(f"{place}: the ROI's {key} is {value!r}, not {count} finite numbers")
  return array


def _lines(path: Path) -> list[str]:
  try:
    data = path.read_bytes()
  except FileNotFoundError as error:
    raise InputError(f"{path}: no such file") from error
  except OSError as error:
    raise InputError(f"{path}: cannot be read ({error.strerror})") from error
  try:
    return data.decode("utf-8-sig").splitlines()
  except UnicodeDecodeError:
    notices.warn(f"{path}: its letters are not UTF-8; read as Windows writes them, look at the names of organs")
    return data.decode("cp1252", errors="replace").splitlines()


def _split(lines: list[str]) -> tuple[dict[str, str], list[tuple[int, str]]]:
  """What a table's comments say, by key, and its other lines with their numbers."""
  notes: dict[str, str] = {}
  rows = []
  for number, line in enumerate(lines, 1):
    if line.lstrip().startswith("#"):
      key, equals, value = line.lstrip("# \t").partition("=")
      if equals:
        notes.setdefault(key.strip(), value.strip())
    elif line.strip():
      rows.append((number, line))
  return notes, rows


def _fields(line: str, separator: str) -> list[str]:
  try:
    return [field.strip() for field in next(csv.reader([line], delimiter=separator, skipinitialspace=True))]
  except csv.Error:
    return []


def _axes(
  names: list[str], notes: dict[str, str], oldest: bool, path: Path
) -> tuple[list[int], Float[np.ndarray, "3"]]:
  """Which columns are x, y and z, and the factors that bring them to RAS mm."""
  lettered = {axis: (names.index(name), sign) for name, (axis, sign) in _DIRECTIONS.items() if name in names}
  if len(lettered) == 3:
    return [lettered[axis][0] for axis in range(3)], np.array([lettered[axis][1] for axis in range(3)])
  if not {"x", "y", "z"} <= set(names):
    raise InputError(f"{path}: no point list of 3D Slicer; it has no columns x, y and z. Save the list as .mrk.json")
  system = notes.get("CoordinateSystem", notes.get("coordinateSystem"))
  if system is None:
    system = "RAS"
    if not oldest:
      notices.warn(f"{path}: states no coordinate system; taken as RAS")
  return [names.index(name) for name in "xyz"], to_ras_mm(system, None, str(path))


def _number(text: str) -> float | str:
  try:
    return float(text)
  except ValueError:
    return text


def _text(value: object) -> str:
  return "" if value is None else str(value).strip()
