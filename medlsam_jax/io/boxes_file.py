"""Results -> `NAME_boxes.json`, and back after a user has corrected a box in it.

Two frames, named in every key: `_vox` are voxels (z, y, x) of the scan's file, a box being its **inclusive** low and
high corner voxel; `_world_mm` are RAS millimetres (x, y, z), a box being its outer faces. `docs/file_formats.md` shows
a file. Of a tilted scan, which is worked on straightened (`io.oblique`), a box is upright in the world, and its
`_vox` is the smallest box of the voxels of the file around it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float

from medlsam_jax import notices
from medlsam_jax.errors import InputError
from medlsam_jax.finding import GIVEN, Agreement, Confidence, Finding
from medlsam_jax.geometry import Box, Grid, HeaderForms, Volume
from medlsam_jax.io import oblique, scan_checks

FORMAT = "medlsam_jax boxes 1"
DECIMALS = 3
UNSTATED = "not stated by the file"
WRITTEN = frozenset(("box_vox", "box_world_mm", "parts_vox", "parts_world_mm"))
"""How an entry of ours says its box: with all of them, what was changed by hand shows."""
_EDITED = 0.01
"""Numbers of a file that differ by more than this, in voxels or mm, were changed by hand."""
_NUMBERS = re.compile(r"\[\s+(-?[\d.e+-]+(?:,\s+-?[\d.e+-]+)*)\s+\]")


def box_to_world(box: Box, grid: Grid) -> Float[np.ndarray, "2 3"]:
  """Outer faces of a box of scan voxels: low and high corner, RAS mm (x, y, z)."""
  corners = grid.world_from_voxel(box.array() + np.array([[-0.5], [0.5]]))
  return np.stack([corners.min(0), corners.max(0)])


def box_from_world(corners: Float[np.ndarray, "2 3"], grid: Grid) -> Box:
  """The inverse of `box_to_world`; the corners may be any two opposite ones."""
  low, high = np.asarray(corners, float).min(0), np.asarray(corners, float).max(0)
  # each array axis runs along one world axis, up or down: take the world corner that its low end lies at
  rising = grid.affine[:3, :3][np.abs(grid.affine[:3, :3]).argmax(0), range(3)] > 0
  along = np.abs(grid.affine[:3, :3]).argmax(0)
  start, stop = np.empty(3), np.empty(3)
  for axis in range(3):
    start[along[axis]] = (low if rising[axis] else high)[along[axis]]
    stop[along[axis]] = (high if rising[axis] else low)[along[axis]]
  voxels = grid.voxel_from_world(np.stack([start, stop]))
  first, last = voxels.min(0) + 0.5, voxels.max(0) - 0.5
  # a box thinner than a voxel is the voxel that holds it
  middle = (first + last) / 2
  first, last = np.minimum(first, middle), np.maximum(last, middle)
  return Box.from_corners(first, last)


def to_dict(
  name: str,
  scan: Volume,
  findings: Mapping[str, Finding],
  volumes_ml: Mapping[str, float] | None,
  provenance: Mapping[str, object],
) -> dict[str, object]:
  """Everything that the file says, as plain numbers; `volumes_ml` is None where nothing was segmented."""
  grid = scan.file_grid or scan.grid
  return {
    "format": FORMAT,
    "frames": {
      "vox": "scan voxels (z, y, x) from 0; a box is its inclusive low and high corner and may reach outside the scan",
      "world_mm": "RAS millimetres (x, y, z); a box is its outer faces",
      "points": "order of faces: min z, min y, min x, max z, max y, max x of the scan's axes",
    },
    "scan": {
      "name": name,
      "source": scan.source,
      "shape": list(grid.shape),
      "spacing_mm": _rounded(grid.spacing_mm, 6),
      "axis_codes": grid.axis_codes,
      "affine": _rounded(grid.affine, 6),
      **({} if grid.forms is None or grid.forms.is_taken else {"orientation": UNSTATED}),
      "doubts": list(scan.doubts),
      "notes": list(scan.notes),
    },
    "organs": {organ: _organ(each, scan, (volumes_ml or {}).get(organ)) for organ, each in findings.items()},
    "provenance": dict(provenance),
  }


def _organ(finding: Finding, scan: Volume, volume_ml: float | None) -> dict[str, object]:
  entry: dict[str, object] = {
    "label": finding.value,
    "verdict": finding.verdict,
    "doubts": list(finding.doubts),
    **_stated(finding.parts, scan),
    "parts_world_mm": _rounded(np.stack([box_to_world(part, scan.grid) for part in finding.parts])),
    "extreme_points_vox": _rounded(oblique.points_to_file(finding.whole_points, scan)),
    "extreme_points_world_mm": _rounded(scan.grid.world_from_voxel(finding.whole_points)),
    "points_vox": _rounded(oblique.points_to_file(finding.points, scan)),
  }
  trust = finding.confidence
  if trust is not None:
    entry["confidence"] = {
      "similarity": _number(trust.similarity),
      "agent_spread_mm": _number(trust.agent_spread_mm),
      "template_spread_mm": _number(trust.template_spread_mm),
      **_agreement(trust.agreement),
      **_probabilities(trust),
      "visible": _number(trust.visible),
      "targets_outside": int(np.count_nonzero(trust.outside)),
      "targets_vox": _rounded(oblique.points_to_file(trust.targets, scan)),
    }
  elif finding.confidence_said is not None:
    entry["confidence"] = dict(finding.confidence_said)
  if volume_ml is not None:
    entry["volume_ml"] = _number(volume_ml)
  return entry


def _probabilities(trust: Confidence) -> dict[str, object]:
  """Those of a network that is calibrated."""
  known = {"right_probability": trust.right_probability, "gone_probability": trust.gone_probability}
  return {name: _number(value) for name, value in known.items() if value is not None}


def _agreement(agreement: Agreement | None) -> dict[str, object]:
  """What single templates say, where they were asked."""
  if agreement is None:
    return {}
  return {
    "template_similarity": {name: _number(value) for name, value in agreement.by_template.items()},
    "face_spread_mm": _number(agreement.face_spread_mm),
    "face_spread": _number(agreement.face_spread),
  }


def _stated(parts: list[Box], scan: Volume) -> dict[str, object]:
  """The three ways in which a file says an organ's box, each of which may be edited."""
  whole = Box.around(parts)
  return {
    "box_vox": _rounded(oblique.box_to_file(whole, scan).array()),
    "box_world_mm": _rounded(box_to_world(whole, scan.grid)),
    "parts_vox": _rounded(np.stack([oblique.box_to_file(part, scan).array() for part in parts])),
  }


def as_written(findings: Mapping[str, Finding], scan: Volume) -> dict[str, Finding]:
  """The same as a reader of the file has them: points to so many decimals of the file's voxels, and no more."""
  result = {}
  for organ, each in findings.items():
    points = np.array(_rounded(oblique.points_to_file(each.points, scan)))
    result[organ] = dataclasses.replace(each, points=oblique.points_from_file(points, scan), boxes=None)
  return result


def to_text(content: Mapping[str, object]) -> str:
  """JSON with one line for each row of numbers, so that people can read and edit it."""
  text = json.dumps(content, indent=1, allow_nan=False)
  return _NUMBERS.sub(lambda row: "[" + re.sub(r"\s+", " ", row[1]) + "]", text) + "\n"


def from_dict(content: Mapping[str, object], scan: Volume, source: str) -> dict[str, Finding]:
  """Boxes of a file that this program wrote, as the user left them.

  `box_vox`, `box_world_mm` and `parts_vox` say the same thing, as does `parts_world_mm`, which they are held against:
  the one of the three that was edited wins; an edited box stands for the whole organ, without parts. Points are not
  read; what a search said of a box that was not edited is kept (`Finding.confidence_said`). Of an entry written by hand
  one of the three is enough. An edited `_vox` box of a tilted scan counts as the upright box around it.

  Raises:
    InputError: the file is of another scan, an entry cannot be understood, two of the three were edited differently,
      or an edited box lies outside the scan; file and organ are named.
  """
  organs = content.get("organs")
  if not isinstance(organs, dict) or not organs:
    raise InputError(f"{source}: names no organs")
  here, scan = scan, _as_written(content.get("scan"), scan, source)
  findings = {}
  for number, (organ, entry) in enumerate(organs.items(), 1):
    if not isinstance(entry, dict):
      raise InputError(f"{source}: {organ}: expected an object with box_vox, not {type(entry).__name__}")
    parts, edited = _parts(entry, scan, f"{source}: {organ}")
    label = label_of(entry, number, f"{source}: {organ}")
    verdict = GIVEN if edited or "verdict" not in entry else str(entry["verdict"])
    # doubts of the search do not hold of a box that the user put somewhere else
    said = [] if verdict == GIVEN else entry.get("doubts", [])
    doubts = tuple(map(str, said)) if isinstance(said, list) else ()
    trust = None if verdict == GIVEN else _confidence(entry.get("confidence"), scan, here)
    made = Finding.of_boxes(organ, label, parts, verdict, doubts=doubts)
    findings[organ] = dataclasses.replace(made, confidence_said=trust)
  return findings


def _confidence(said: object, written: Volume, here: Volume) -> dict[str, object] | None:
  """What a file says of a search, its targets in voxels of the file of `here`; None where that cannot be kept."""
  if not isinstance(said, dict):
    return None
  kept = dict(said)
  try:
    json.dumps(kept, allow_nan=False)
    if written is not here and "targets_vox" in kept:
      targets = oblique.points_from_file(np.array(kept["targets_vox"], float).reshape(-1, 6, 3), written)
      kept["targets_vox"] = _rounded(oblique.points_to_file(targets, here))
  except (TypeError, ValueError):  # a file that was edited by hand
    return None
  return kept


def label_of(entry: Mapping[str, object], otherwise: int, place: str) -> int:
  """Label value that the entry of an organ states, `otherwise` where it states none.

  Raises:
    InputError: it is no whole number above 0.
  """
  label = entry.get("label", otherwise)
  if not isinstance(label, int) or isinstance(label, bool) or label < 1:
    raise InputError(f"{place}: label {label!r} is not a whole number above 0")
  return label


def _parts(entry: dict[str, object], scan: Volume, place: str) -> tuple[list[Box], bool]:
  """Boxes of an organ in voxels of `scan.array`, and whether the user changed them."""
  says: dict[str, list[Box]] = {}
  if entry.get("parts_vox"):
    says["parts_vox"] = [oblique.box_from_file(_box(each, place), scan) for each in _rows(entry["parts_vox"], place)]
  if "box_vox" in entry:
    says["box_vox"] = [oblique.box_from_file(_box(entry["box_vox"], place), scan)]
  if "box_world_mm" in entry:
    says["box_world_mm"] = [box_from_world(_world_corners(entry["box_world_mm"], place), scan.grid)]
  if not says:
    raise InputError(f"{place}: has no box; write box_vox, box_world_mm or parts_vox")
  if entry.get("parts_world_mm") and len(says) == 3:
    return _against_world(entry, says, scan, place)
  agree = {(one, other): _same(says[one], says[other]) for one in says for other in says if one < other}
  if all(agree.values()):
    return says.get("parts_vox") or next(iter(says.values())), len(says) < 3
  odd = [one for one in says if not any(same for pair, same in agree.items() if one in pair)]
  if len(odd) != 1 or len(says) < 3:
    raise _undecided(says, place)
  return says[odd[0]], True


def _against_world(
  entry: dict[str, object], says: dict[str, list[Box]], scan: Volume, place: str
) -> tuple[list[Box], bool]:
  """`_parts` of an entry as it was written: what was edited differs from what `parts_world_mm` gives."""
  rows = _rows(entry["parts_world_mm"], place)
  parts = [box_from_world(_corners(each, place), scan.grid) for each in rows]
  edited = [one for one, value in _stated(parts, scan).items() if not _close(value, entry[one])]
  if len(edited) > 1:
    raise _undecided(edited, place)
  return (says[edited[0]], True) if edited else (parts, False)


def _close(first: object, second: object) -> bool:
  one, two = np.array(first, float), np.array(second, float)
  return one.shape == two.shape and bool(np.abs(one - two).max() <= _EDITED)


def _undecided(says: Iterable[str], place: str) -> InputError:
  return InputError(f"{place}: {', '.join(says)} say different boxes; keep only the one that is right")


def _same(first: list[Box], second: list[Box]) -> bool:
  return bool(np.abs(Box.around(first).array() - Box.around(second).array()).max() <= _EDITED)


def _box(value: object, place: str) -> Box:
  low, high = _sorted(_corners(value, place), "zyx", place)
  return Box.from_corners(low, high)


def _world_corners(value: object, place: str) -> Float[np.ndarray, "2 3"]:
  corners = _sorted(_corners(value, place), "xyz", place)
  flat = np.flatnonzero(corners[0] == corners[1])
  if len(flat):
    raise InputError(
      f"{place}: its box has no extent along {'xyz'[flat[0]]} (mm); both corners have {corners[0][flat[0]]:g}"
    )
  return corners


def _sorted(corners: Float[np.ndarray, "2 3"], axes: str, place: str) -> Float[np.ndarray, "2 3"]:
  """Low corner, high corner; where they were swapped, with a warning: that box may be a slip of the hand."""
  swapped = [
    f"{axes[axis]} ({corners[0, axis]:g} above {corners[1, axis]:g})"
    for axis in np.flatnonzero(corners[0] > corners[1])
  ]
  if swapped:
    notices.warn(
      f"{place}: the low and the high corner of its box are swapped along {', '.join(swapped)}; taken sorted"
    )
  return np.sort(corners, axis=0)


def _rows(value: object, place: str) -> list[object]:
  if not isinstance(value, list):
    raise InputError(f"{place}: {value!r:.100} is no list of boxes; write [[[low], [high]], ...]")
  return value


def _corners(value: object, place: str) -> Float[np.ndarray, "2 3"]:
  try:
    corners = np.array(value, float)
  except (TypeError, ValueError, OverflowError):
    corners = np.zeros(0)
  if corners.shape != (2, 3) or not np.isfinite(corners).all():
    raise InputError(f"{place}: {value!r} is not a box; write [[low], [high]], three finite numbers each")
  return corners


def scan_grid(written: object, source: str) -> Grid | None:
  """The grid of the file that the scan entry of a boxes file speaks of; None without an entry.

  Raises:
    InputError: the entry has no shape or no affine, or ones that no scan has.
  """
  if written is None:
    return None
  try:
    said = written if isinstance(written, dict) else {}
    z, y, x = (int(n) for n in said["shape"])
    affine = np.array(said["affine"], float).reshape(4, 4)
    sound = min(z, y, x) > 0 and np.isfinite(affine).all() and np.linalg.det(affine[:3, :3]) != 0
    if not sound:
      raise ValueError(f"shape {[z, y, x]}, affine {affine.tolist()}")
  except (KeyError, TypeError, ValueError, OverflowError) as error:
    raise InputError(
      f"{source}: its scan entry needs shape and affine ({error}); leave the entry as it was written"
    ) from error
  scan_checks.refuse_size((z, y, x), f"{source}: its scan entry")
  forms = None
  if said.get("orientation") == UNSTATED:
    forms = HeaderForms(0, (), 0, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0, 1.0), 0, is_taken=False)
  return Grid((z, y, x), affine, forms)


def _as_written(written: object, scan: Volume, source: str) -> Volume:
  """`scan` with the file that its voxel numbers count as its file: the same scan, perhaps in another axis order."""
  grid, own = scan_grid(written, source), scan.file_grid or scan.grid
  if grid is None or grid.is_same(own):
    return scan
  relay = grid.relay_to(own)
  # Scans saved with the same origin share a lattice: boxes of one that is longer are more likely another scan's.
  if relay is None or not relay.is_turn:
    raise InputError(
      f"{source}: boxes of another scan than {scan.source}; its voxels lie elsewhere: {grid.describe()} against "
      f"{own.describe()}"
    )
  return dataclasses.replace(scan, file_grid=grid)


def _rounded(values: object, decimals: int = DECIMALS) -> object:
  # adding 0.0 turns -0.0 into 0.0
  return (np.round(np.asarray(values, float), decimals) + 0.0).tolist()


def _number(value: float | None) -> float | None:
  return None if value is None or not math.isfinite(value) else round(float(value), 4)
