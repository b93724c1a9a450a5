"""Labels that are drawn plane by plane in the world (frames of a DICOM SEG, contours of an RTSTRUCT), laid on a scan.

A plane belongs to the slice of the scan that it lies on, for a DICOM scan to the image at that place: where slices were
laid even, each slice of the grid takes the labels of the image nearest to it. Nothing is interpolated. Where organs
overlap, the smaller one is on top.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Integer

from medlsam_jax import notices
from medlsam_jax.errors import InputError
from medlsam_jax.geometry import SAME_PLACE_VOXELS, Grid, Volume
from medlsam_jax.io import oblique
from medlsam_jax.io.contours import mask_of
from medlsam_jax.io.nifti import smallest_integer

_BETWEEN = 0.5
"""Voxels by which a contour may lie off its slice: contours are drawn on other scanners' rounding."""


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
  """What is drawn of one organ on one plane."""

  value: int
  axis: int
  """Of the array (z, y, x) that the plane lies across."""
  place: int
  """Along it."""
  low: tuple[int, int]
  """Where `mask` begins along the other two axes, in their order."""
  mask: Bool[np.ndarray, "a b"]


@dataclasses.dataclass(frozen=True, eq=False)
class Lattice:
  """Where planes of a scan may lie: on its images, or on the slices of its file."""

  grid: Grid
  """Of the scan's file."""
  places: Float[np.ndarray, " image"]
  """Of the images along z, in voxels of the grid."""
  source: str

  @classmethod
  def of(cls, scan: Volume) -> Lattice:
    """Of a scan, DICOM or not."""
    grid = scan.file_grid or scan.grid
    places = [image.place_vox for image in scan.source_images] or list(range(grid.shape[0]))
    return cls(grid, np.array(places, float), scan.source)

  @property
  def shape(self) -> tuple[int, int, int]:
    """Of an array of images."""
    return (len(self.places), *self.grid.shape[1:])

  def nearest(self, axis: int, place: float, tolerance: float) -> int | None:
    """The image or slice at a place along an axis; None outside the scan.

    Raises:
      InputError: it lies between two.
    """
    places = self.places if axis == 0 else np.arange(self.grid.shape[axis])
    if place < places[0] - _BETWEEN or place > places[-1] + _BETWEEN:
      return None
    chosen = int(np.abs(places - place).argmin())
    if abs(places[chosen] - place) > tolerance:
      raise InputError(f"a plane lies between slices of {self.source}; is it of another series?")
    return chosen

  def frame(
    self,
    value: int,
    mask: Bool[np.ndarray, "row column"],
    corner_mm: Float[np.ndarray, "3"],
    steps_mm: Float[np.ndarray, "2 3"],
  ) -> Piece | None:
    """A frame of pixels; None where nothing of it is in the scan.

    Args:
      corner_mm: centre of its first pixel, RAS.
      steps_mm: from one row to the next, and from one column to the next.

    Raises:
      InputError: its pixels are not the scan's.
    """
    corner = self.grid.voxel_from_world(corner_mm)
    steps = self.grid.voxel_from_world(corner_mm + steps_mm) - corner
    whole = np.rint(steps)
    axes = np.abs(whole).argmax(1)
    reach = np.abs(steps - whole) * np.array(mask.shape)[:, None]
    if reach.max() > SAME_PLACE_VOXELS or axes[0] == axes[1] or not (np.abs(whole).sum(1) == 1).all():
      raise InputError(f"its pixels are not those of {self.source}; is it of another series?")
    across = 3 - int(axes.sum())
    place = self.nearest(across, float(corner[across]), SAME_PLACE_VOXELS)
    turned, starts = mask, list[int]()
    for which, axis in enumerate(axes):
      start = int(np.rint(corner[axis]))
      if whole[which, axis] < 0:
        turned, start = np.flip(turned, which), start - mask.shape[which] + 1
      starts.append(start)
    if axes[0] > axes[1]:
      turned, starts = turned.T, starts[::-1]
    return None if place is None else self._cut(value, across, place, turned, (starts[0], starts[1]))

  def contours(self, value: int, contours: Iterable[Float[np.ndarray, "_ 3"]]) -> Iterator[Piece | None]:
    """Closed contours of an organ, RAS mm; those on one slice together, a point in an odd number of them being inside.

    Raises:
      InputError: one does not lie on a slice of the scan.
    """
    by_plane: dict[tuple[int, int], list[np.ndarray]] = {}
    for points in contours:
      voxels = self.grid.voxel_from_world(points)
      axis = int(np.ptp(voxels, axis=0).argmin())
      if np.ptp(voxels[:, axis]) > 2 * SAME_PLACE_VOXELS:
        raise InputError(f"a contour is not in the plane of a slice of {self.source}; is it of another series?")
      place = self.nearest(axis, float(voxels[:, axis].mean()), _BETWEEN + SAME_PLACE_VOXELS)
      if place is None:
        yield None
        continue
      by_plane.setdefault((axis, place), []).append(np.delete(voxels, axis, 1)[:, ::-1])
    for (axis, place), polygons in by_plane.items():
      shape = np.delete(np.array(self.shape), axis)
      every = np.concatenate(polygons)
      low = np.clip(np.floor(every.min(0)), 0, shape[::-1] - 1).astype(int)
      high = np.clip(np.ceil(every.max(0)), 0, shape[::-1] - 1).astype(int)
      columns, rows = (high - low + 1).tolist()
      mask = mask_of([polygon - low for polygon in polygons], (rows, columns))
      yield Piece(value, axis, place, (int(low[1]), int(low[0])), mask)

  def _cut(self, value: int, axis: int, place: int, mask: np.ndarray, start: tuple[int, int]) -> Piece | None:
    """The part of a mask that is labelled and in the scan."""
    shape = np.delete(np.array(self.shape), axis)
    hits = [np.flatnonzero(mask.any(1 - along)) for along in (0, 1)]
    if not len(hits[0]):
      return None
    low = [max(hit[0], -begin) for hit, begin in zip(hits, start, strict=True)]
    high = [min(hit[-1] + 1, size - begin) for hit, begin, size in zip(hits, start, shape.tolist(), strict=True)]
    if low[0] >= high[0] or low[1] >= high[1]:
      return None
    part = mask[low[0] : high[0], low[1] : high[1]].copy()
    return Piece(value, axis, place, (int(low[0] + start[0]), int(low[1] + start[1])), part)


@dataclasses.dataclass(frozen=True, eq=False)
class DrawnLabels:
  """A file of drawn labels, not yet laid on a scan."""

  names: Mapping[str, int]
  """Organs, and the values that they get."""
  source: str
  pieces: Callable[[Lattice], Iterable[Piece | None]]
  """What is drawn, on a scan's slices; None for what lies outside."""
  notes: tuple[str, ...] = ()

  def on(self, scan: Volume, organs: Iterable[str] | None = None) -> Volume:
    """The label map on the scan's voxels, of these organs only where they are given.

    Raises:
      InputError: it is of another series: planes that are not the scan's, or none of them in it.
    """
    lattice = Lattice.of(scan)
    wanted = set(self.names.values() if organs is None else (self.names[o] for o in organs if o in self.names))
    try:
      every = list(self.pieces(lattice))
    except InputError as error:
      raise InputError(f"{self.source}: {error}") from error
    if every and not any(every):
      raise InputError(f"{self.source}: all that is drawn lies outside {scan.source}; is it another scan's?")
    notes = list(self.notes)
    if lost := sum(piece is None for piece in every):
      notes.append(f"{self.source}: {lost} of {len(every)} planes lie outside {scan.source} and are left out")
    array, shared = _laid([piece for piece in every if piece and piece.value in wanted], lattice.shape)
    if shared:
      named = [organ for organ, value in self.names.items() if value in shared]
      notes.append(f"{self.source}: organs overlap ({', '.join(named)} by others); the smaller one counts there")
    for note in notes:
      notices.warn(note)
    array = array[_image_of_slice(lattice.places, lattice.grid.shape[0])]
    laid = Volume(array, lattice.grid, self.source, notes=tuple(notes))
    if scan.file_grid is None:
      return dataclasses.replace(laid, grid=scan.grid)
    return oblique.straighten(laid, labels=True)


def _laid(pieces: Sequence[Piece], shape: tuple[int, int, int]) -> tuple[Integer[np.ndarray, "image y x"], set[int]]:
  """All pieces in one array, the larger organs first; and the values of which voxels were painted over."""
  sizes: Counter[int] = Counter()
  for piece in pieces:
    sizes[piece.value] += int(np.count_nonzero(piece.mask))
  array = np.zeros(shape, smallest_integer(0, max(sizes, default=0)))
  shared = set[int]()
  for piece in sorted(pieces, key=lambda each: -sizes[each.value]):
    rows, columns = piece.mask.shape
    plane = np.moveaxis(array, piece.axis, 0)[piece.place]
    part = plane[piece.low[0] : piece.low[0] + rows, piece.low[1] : piece.low[1] + columns]
    shared |= set(np.unique(part[piece.mask]).tolist()) - {0, piece.value}
    part[piece.mask] = piece.value
  return array, shared


def _image_of_slice(places: Float[np.ndarray, " image"], slices: int) -> Integer[np.ndarray, " z"]:
  """The image nearest to each slice of the grid."""
  return np.abs(np.arange(slices)[:, None] - places[None]).argmin(1)
