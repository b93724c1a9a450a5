"""Marks on a few slices of an image -> the mask of one organ: each marked slice, and on from there slice by slice.

On a slice that has a box of its own, that box prompts the network, prepared as `pipeline.segment` does; between two
such slices the box is interpolated. Beyond them the box of the mask before, widened, prompts the next slice, as in
`sam.propagation`, until the organ ends: the mask is empty, or little of it lies where the mask before lay. Points on
a slice are asked together with its box.
"""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np
from jaxtyping import Bool, Float

from medlsam_jax.geometry import Box, reorient, reorient_corners
from medlsam_jax.sam.prompts import Prompt
from medlsam_jax.sam.propagation import PropagationSettings
from medlsam_jax.sam.slice_boxes import boxes_by_slice
from medlsam_jax.sam.sliced_scan import SlicedScan
from medlsam_jax.sam.slices import box_in_slices, tight_edges
from medlsam_jax.serve.kept_slices import KeptSlices
from medlsam_jax.serve.marks import Marks

LEAST_OVERLAP = 0.5
"""Dice of the masks of two neighbouring slices, below which the organ has ended (or another one begins)."""
ANSWERS_KEPT = 400
"""Masks of slices that were asked for; a quarter of a megabyte each in a slice of 512 x 512."""
_PLANE_OF = {"S": "axial", "I": "axial", "P": "coronal", "A": "coronal", "L": "sagittal", "R": "sagittal"}

Plane = Bool[np.ndarray, "row column"]


@dataclasses.dataclass(eq=False)
class Asked:
  """Marks as they lie in the slices of one plane."""

  edges: dict[int, Float[np.ndarray, "4"]]
  """Boxes of slices, pixels."""
  points: dict[int, tuple[Float[np.ndarray, "p 2"], np.ndarray]]
  """Points (x, y) of slices, and 1 or 0 of each."""
  start: int
  """Slice of the first mark."""
  start_edges: Float[np.ndarray, "4"] | None
  """Its box, which is asked again where a mask is lost before the organ's end."""
  limits: tuple[int, int] | None
  """First and last slice, where boxes say how far the organ goes."""

  @property
  def reach(self) -> tuple[int, int]:
    """First and last slice with a mark that says that the organ is there."""
    marked = [self.start, *self.edges, *(i for i, (_, inside) in self.points.items() if inside.any())]
    return min(marked), max(marked)


class Sweep:
  """Paints one organ in an image.

  Args:
    kept: its slices.
    default_axis: array axis (of z, y, x) across which slices are cut where no box says so.
    spreads: whether the mask goes on beyond the slices that are marked.
    patience_s: how long an answer may wait for slices that are not marked and have to be encoded first. Viewers give
      up after a minute; what is left out then is there at the next mark.
  """

  def __init__(self, kept: KeptSlices, default_axis: int, spreads: bool, patience_s: float = math.inf) -> None:
    self._kept, self._axis, self._spreads, self._patience_s = kept, default_axis, spreads, patience_s
    self._until = math.inf
    self.left_out = 0
    """Slices of the last answer for which there was no time."""
    self._answers: dict[bytes, Plane | None] = {}

  def set_spreads(self, spreads: bool) -> None:
    """Whether the mask goes on beyond the slices that are marked."""
    self._spreads = spreads

  def plane_of(self, marks: Marks) -> str:
    """The plane in which the first box is one slice; else that of the default axis."""
    axis = self._axis
    if marks.boxes:
      thin = [a for a, (low, high) in enumerate(marks.boxes[0].array().T) if high == low]
      axis = thin[0] if len(thin) == 1 else axis
    return _PLANE_OF[self._kept.volume.grid.axis_codes[2 - axis]]

  def slice_of(self, plane: str, place: tuple[int, int, int]) -> int:
    """Slice of a plane in which a voxel lies."""
    return _in_slices(place, self._kept.plane(plane))[0]

  def paint(self, marks: Marks) -> Bool[np.ndarray, "z y x"]:
    """The mask, in the order of the image's voxels."""
    shape, self._until, self.left_out = self._kept.volume.array.shape, time.monotonic() + self._patience_s, 0
    array = np.zeros(shape, bool) if marks.start is None else marks.start.copy()
    if not marks.is_empty:
      plane = self.plane_of(marks)
      scan = self._kept.plane(plane)
      view = reorient(array, scan.volume.grid, scan.codes)
      allowed = reorient(_allowed(marks, shape), scan.volume.grid, scan.codes)
      if marks.start is not None:
        self._mend(plane, asked_of(marks, scan), view, allowed, marks.refine)
      else:
        asked = asked_of(marks, scan)
        for step in (1, -1):
          self._go(plane, asked, view, allowed, step)
    for each in marks.erased:
      each.take_from(array)
    return array

  def _go(self, plane: str, asked: Asked, view: np.ndarray, allowed: np.ndarray, step: int) -> None:
    """From the first mark's slice up (1) or down (-1)."""
    first, last = asked.reach
    edge = asked.limits or ((0, len(view) - 1) if self._spreads else (first, last))
    way = range(asked.start, (edge[1] if step > 0 else edge[0]) + step, step)
    before: Plane | None = None
    for index in way:
      bound = first <= index <= last or asked.limits is not None
      if self._is_late(plane, index, asked):
        self.left_out += 1
        before = None
        if bound:
          continue
        return
      edges = tight_edges(before) if before is not None and before.any() else None
      if edges is None and before is not None and asked.limits is not None:
        edges, margin = asked.start_edges, None
      else:
        margin = PropagationSettings.margin_px
      found = self._ask(plane, index, asked, edges, margin, way)
      mask = found & allowed[index] if found is not None else np.zeros(view.shape[1:], bool)
      if not bound and not _goes_on(before, mask):
        return
      view[index] = mask
      before = mask

  def _is_late(self, plane: str, index: int, asked: Asked) -> bool:
    """Whether a slice that is not marked would have to be encoded, and the time for that is over."""
    marked = index in asked.edges or index in asked.points
    return not marked and not self._kept.has(plane, index) and time.monotonic() > self._until

  def _mend(self, plane: str, asked: Asked, view: np.ndarray, allowed: np.ndarray, refine: bool) -> None:
    """A mask that was there: slices that are marked are asked anew, or all that it has."""
    marked = {*asked.edges, *asked.points}
    if refine:
      marked |= set(np.flatnonzero(view.any((1, 2))).tolist())
    for index in sorted(marked):
      edges = tight_edges(view[index]) if view[index].any() else None
      found = self._ask(plane, index, asked, edges, PropagationSettings.margin_px, range(index, index + 1))
      if found is not None:
        view[index] = found & allowed[index]

  def _ask(
    self,
    plane: str,
    index: int,
    asked: Asked,
    led: Float[np.ndarray, "4"] | None,
    margin_px: float | None,
    way: range,
  ) -> Plane | None:
    """The network's mask of a slice; None where there is nothing to ask about it.

    Args:
      led: box of the mask before, where the slice has no box of its own.
      margin_px: by which that is widened.
      way: slices that follow, for the encoder.
    """
    scan, own = self._kept.plane(plane), asked.edges.get(index)
    points, labels = asked.points.get(index, (np.zeros((0, 2)), np.zeros(0, int)))
    if own is None and led is None and not labels.any():
      return None
    if own is not None:
      box = scan.prompts(own[None])[0]
    elif led is not None and _holds(led, points[labels == 1]):
      box = scan.prompts(led[None], margin_px)[0]
    else:
      box = None
    key = repr((plane, index, None if box is None else box.tolist(), points.tolist(), labels.tolist())).encode()
    if key not in self._answers:
      following = way[way.index(index) + 1 : way.index(index) + 64] if index in way else ()
      self._answers[key] = self._answer(scan, plane, index, box, points, labels, following)
      if len(self._answers) > ANSWERS_KEPT:
        del self._answers[next(iter(self._answers))]
    return self._answers[key]

  def _answer(
    self,
    scan: SlicedScan,
    plane: str,
    index: int,
    box: Float[np.ndarray, "4"] | None,
    points: Float[np.ndarray, "p 2"],
    labels: np.ndarray,
    following: range | tuple[()],
  ) -> Plane | None:
    image = self._kept.get(plane, index, following)
    if image is None:
      return None
    predictor = self._kept.predictor
    if not len(points):
      logits = predictor.decode(image.embedding, np.asarray(box, np.float32)[None])[0][0]
    else:
      # `answer` takes pixels of the slice, by the sizes as rounded
      rows, columns = scan.fit.fitted
      back = np.tile((scan.fit.columns / columns, scan.fit.rows / rows), 2)
      prompt = Prompt(points, labels, None if box is None else box * back)
      logits = predictor.answer(image, [prompt])[0][0, 0]
    return scan.fit.from_logits(logits) > 0

  def forget(self) -> None:
    """Drops the answers that are kept."""
    self._answers.clear()


def asked_of(marks: Marks, scan: SlicedScan) -> Asked:
  """Marks as slices of a plane see them.

  A box that is one slice prompts it. One through many slices prompts its middle one, and says how far the organ goes;
  and so does, for that alone, a box that was drawn in another plane.
  """
  grid, codes = scan.volume.grid, scan.codes
  flat: list[Box] = []
  deep: list[tuple[int, int, Float[np.ndarray, "4"]]] = []
  across: list[tuple[int, int]] = []
  for box in marks.boxes:
    (first, last), edges = box_in_slices(box, grid, codes)
    if first == last:
      flat.append(box)
    elif (edges[2:] - edges[:2]).min() > 1:
      deep.append((first, last, edges))
    else:
      across.append((first, last))
  points = _points_of(marks, scan)
  by_slice = boxes_by_slice(flat, grid, 0, scan.settings.fill_gaps, codes) if flat else {}
  limits = _spanned([*((first, last) for first, last, _ in deep), *across])
  if deep:
    first, last, edges = deep[0]
    start = first + (last - first + 1) // 2
    by_slice.setdefault(start, edges)
  else:
    start = _in_slices(marks.first, scan)[0] if marks.first is not None else 0
  if limits is not None:
    limits = _spanned([limits, (start, start), *((i, i) for i in by_slice)])
  return Asked(by_slice, points, start, by_slice.get(start), limits)


def _allowed(marks: Marks, shape: tuple[int, ...]) -> Bool[np.ndarray, "z y x"]:
  """Where nothing was erased; one voxel that stands for all where nothing was."""
  if not marks.erased:
    return np.broadcast_to(np.True_, shape)
  allowed = np.ones(shape, bool)
  for each in marks.erased:
    each.take_from(allowed)
  return allowed


def _points_of(marks: Marks, scan: SlicedScan) -> dict[int, tuple[Float[np.ndarray, "p 2"], np.ndarray]]:
  by_slice: dict[int, list[tuple[float, float, int]]] = {}
  for point in marks.points:
    index, row, column = _in_slices(point.place, scan)
    by_slice.setdefault(index, []).append((column, row, int(point.inside)))
  return {
    index: (np.array([each[:2] for each in found], float), np.array([each[2] for each in found], int))
    for index, found in by_slice.items()
  }


def _in_slices(place: tuple[int, int, int], scan: SlicedScan) -> tuple[int, int, int]:
  corner = reorient_corners(Box.from_corners(place, place), scan.volume.grid, scan.codes)[0]
  index, row, column = (int(each) for each in corner)
  return index, row, column


def _spanned(spans: list[tuple[int, int]]) -> tuple[int, int] | None:
  return (min(first for first, _ in spans), max(last for _, last in spans)) if spans else None


def _holds(edges: Float[np.ndarray, "4"], points: Float[np.ndarray, "p 2"]) -> bool:
  """Whether points that are in the organ lie in the box that led here: else it is of something else."""
  return bool((points >= edges[:2]).all() and (points <= edges[2:]).all())


def _goes_on(before: Plane | None, mask: Plane) -> bool:
  """Whether a mask is the same organ's as the one of the slice before."""
  if not mask.any():
    return False
  if before is None or not before.any():
    return True
  return bool(2 * (before & mask).sum() >= LEAST_OVERLAP * (before.sum() + mask.sum()))
