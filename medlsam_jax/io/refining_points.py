"""Points that mend a mask: places that are in an organ or are not, from the files that `io.point_files` reads.

A list or label called `liver` holds places in the liver, one called `not liver` places that are not.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from medlsam_jax.geometry import Volume
from medlsam_jax.io import scans
from medlsam_jax.io.point_files import read_places, voxels_in_scan

OUTSIDE = "not "
"""Before an organ's name: the places are outside it."""


class Point(NamedTuple):
  """A place that is in an organ, or is not: scan voxels (z, y, x)."""

  place: tuple[float, float, float]
  is_inside: bool


def read_refining_points(path: str | os.PathLike[str], scan: Volume) -> dict[str, list[Point]]:
  """Points by organ, in the file's order.

  Args:
    path: our JSON, or a point list of 3D Slicer.
    scan: which they were set in.

  Raises:
    InputError: as `read_places`, or a point lies outside the scan; organ and point are named.
  """
  result: dict[str, list[Point]] = {}
  for name, world in read_places(path, scans.scan_name(scan.source)).items():
    organ = name.removeprefix(OUTSIDE).strip()
    for z, y, x in voxels_in_scan(world, scan.grid, name, str(Path(path))).tolist():
      result.setdefault(organ, []).append(Point((z, y, x), not name.startswith(OUTSIDE)))
  return result
