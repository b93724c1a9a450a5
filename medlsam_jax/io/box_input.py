"""`ml.read_boxes` and `segment --boxes FILE`: whichever file a user brings -> boxes in the scan's voxels (z, y, x).

- `NAME_boxes.json` of ours, edited or not: `io.boxes_file`;
- 3D Slicer markups (`.mrk.json`) with ROIs, six points per organ, or both, and its older point lists (`.fcsv`):
  `io.slicer_files`;
- a JSON of six points per organ: `io.point_files`.

Label values come from the file, else from `labels.json` beside it, else they are numbered in the file's order.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
from jaxtyping import Float

from medlsam_jax.errors import InputError
from medlsam_jax.finding import GIVEN, Finding
from medlsam_jax.geometry import Box, Volume, faces_from_points
from medlsam_jax.io import boxes_file, scans, slicer_files
from medlsam_jax.io.label_table import LABELS_FILE, read_label_table
from medlsam_jax.io.point_files import points_in_scan, points_of_markups, read_json, read_points


def read_boxes(path: str | os.PathLike[str], scan: Volume) -> dict[str, Finding]:
  """Boxes by organ, in the file's order.

  Raises:
    InputError: the file is missing or malformed, an organ has not six points or is marked twice, points or a box lie
      outside the scan; file and organ are named.
  """
  path = Path(path)
  name = scans.scan_name(scan.source)
  slicer_files.refuse_annotation(path)
  content = {} if path.suffix.lower() in slicer_files.TABLE_ENDINGS else read_json(path)
  if "organs" in content:
    findings = boxes_file.from_dict(content, scan, str(path))
  elif "markups" in content:
    findings = _from_markups(content, path, scan, name)
  else:
    findings = _numbered(_of_points(read_points(path, name), path, scan), path)
  for organ, each in findings.items():
    if each.verdict == GIVEN and each.box.clipped(scan.grid.shape) is None:
      raise InputError(f"{path}: {organ}: its box lies outside the scan {scan.source}; is it another scan's?")
  return {organ: each.in_doubtful_scan(scan.doubts) for organ, each in findings.items()}


def _from_markups(content: dict, path: Path, scan: Volume, name: str) -> dict[str, Finding]:
  findings = {}
  for organ, corners in slicer_files.read_rois(content, path, name).items():
    findings[organ] = Finding.of_boxes(organ, 1, [boxes_file.box_from_world(corners, scan.grid)])
  for organ, each in _of_points(points_of_markups(content, path, name), path, scan).items():
    if organ in findings:
      raise InputError(f"{path}: {organ}: both an ROI and points; keep one")
    findings[organ] = each
  if not findings:
    raise InputError(f"{path}: no ROI and no points in it; draw one ROI, or mark six points, per organ")
  return _numbered(findings, path)


def _of_points(marked: dict[str, Float[np.ndarray, "6 3"]], path: Path, scan: Volume) -> dict[str, Finding]:
  findings = {}
  for organ, world in marked.items():
    points = faces_from_points(points_in_scan(world, scan.grid, organ, str(path)))
    # a click lies in a voxel, and boxes are made of whole voxels
    box = Box.from_corners(np.rint(points.min(0)), np.rint(points.max(0)))
    findings[organ] = Finding.of_boxes(organ, 1, [box], points=points)
  return findings


def _numbered(findings: dict[str, Finding], path: Path) -> dict[str, Finding]:
  """The same with label values."""
  beside = path.parent / LABELS_FILE
  table = read_label_table(beside) if beside.is_file() else {}
  free = max(table.values(), default=0)
  result = {}
  for organ, each in findings.items():
    value = table.get(organ)
    if value is None:
      value = free = free + 1
    result[organ] = dataclasses.replace(each, value=value)
  return result
