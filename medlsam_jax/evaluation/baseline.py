"""The trivial competitor: an organ's mean box over the templates, placed relative to the body's extent.

It looks at nothing but where the body ends, so that a data set on which it does well shows itself as easy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Protocol

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from medlsam_jax.errors import InputError
from medlsam_jax.geometry import WORKING_AXIS_CODES, WORKING_SPACING_MM, Box, Grid, Volume
from medlsam_jax.label_boxes import find_labels

BODY_HU = -300.0
"""Above it a voxel is body, couch or clothes; the body is the largest connected piece."""

Fractions = Float[np.ndarray, "2 3"]


class Marked(Protocol):
  """What is used of a `io.templates.Template`."""

  @property
  def scan(self) -> Volume:
    """The CT."""
    ...

  @property
  def labels(self) -> Volume | None:
    """Its label map, if it has one."""
    ...

  @property
  def values(self) -> dict[str, int]:
    """Organs in the label map."""
    ...

  @property
  def points(self) -> dict[str, Float[np.ndarray, "6 3"]]:
    """Organs given by six points, scan voxels."""
    ...


def body_box(scan: Volume) -> Box:
  """Box of the body in scan voxels, to within about 3 mm (finer scans are looked at in steps of that size).

  Raises:
    InputError: if nothing in the scan is above `BODY_HU`.
  """
  steps = np.maximum(1, np.floor(WORKING_SPACING_MM / scan.spacing_mm + 1e-6)).astype(int)
  pieces, count = ndimage.label(scan.array[:: steps[0], :: steps[1], :: steps[2]] > BODY_HU)
  if not count:
    raise InputError(f"{scan.source}: nothing above {BODY_HU:.0f} HU, so there is no body to place boxes in")
  where = ndimage.find_objects(pieces)[int(np.argmax(np.bincount(pieces.ravel())[1:]))]
  low = [s.start * step for s, step in zip(where, steps, strict=True)]
  last = [min(s.stop * step, n) - 1.0 for s, step, n in zip(where, steps, scan.grid.shape, strict=True)]
  return Box.from_corners(low, last)


def _edges(box: Box) -> Fractions:
  """Outer faces of a box of inclusive voxels."""
  return box.array() + np.array([[-0.5], [0.5]])


def _turned(fractions: Fractions, order: tuple[int, ...], flip: tuple[bool, ...]) -> Fractions:
  """Fractions along one frame's axes as fractions along another's."""
  moved = fractions[:, list(order)]
  return np.where(np.array(flip), 1.0 - moved[::-1], moved)


def _relative(box: Box, body: Box, grid: Grid) -> Fractions:
  """Low and high face as fractions of the body's extent, along the LAS axes (z, y, x)."""
  low, high = _edges(body)
  return _turned((_edges(box) - low) / (high - low), *grid.axes_to(WORKING_AXIS_CODES))


def _placed(fractions: Fractions, body: Box, grid: Grid) -> Box:
  """The inverse of `_relative`."""
  order, flip = grid.axes_to(WORKING_AXIS_CODES)
  back = tuple(int(i) for i in np.argsort(order))
  low, high = _edges(body)
  faces = low + _turned(fractions, back, tuple(flip[i] for i in back)) * (high - low)
  first, last = faces[0] + 0.5, faces[1] - 0.5
  return Box.from_corners(first, last)


@dataclasses.dataclass(frozen=True, eq=False)
class MeanBoxes:
  """Mean boxes of organs, as fractions of the body's extent along the LAS axes (z, y, x), low and high face."""

  fractions: dict[str, Fractions]

  @classmethod
  def of(cls, templates: Iterable[Marked]) -> MeanBoxes:
    """Means over the templates that have the organ; an organ that none has is left out.

    Raises:
      InputError: if a template shows no body.
    """
    each_organ: dict[str, list[Fractions]] = {}
    for template in templates:
      body, grid = body_box(template.scan), template.scan.grid
      for organ, points in template.points.items():
        box = Box.from_corners(np.min(points, axis=0), np.max(points, axis=0))
        each_organ.setdefault(organ, []).append(_relative(box, body, grid))
      where = find_labels(template.labels.array) if template.labels is not None else {}
      for organ, value in template.values.items():
        cut = where.get(value)
        if cut is not None and organ not in template.points:
          each_organ.setdefault(organ, []).append(_relative(Box.from_slices(cut), body, grid))
    return cls({organ: np.mean(each, axis=0) for organ, each in each_organ.items()})

  def place(self, scan: Volume) -> dict[str, Box]:
    """Boxes in voxels of a query scan, whose labels are not looked at.

    Raises:
      InputError: if the scan shows no body.
    """
    body = body_box(scan)
    return {organ: _placed(each, body, scan.grid) for organ, each in self.fractions.items()}
