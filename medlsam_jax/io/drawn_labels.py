"""Labels that are drawn plane by plane in the world (frames of a DICOM SEG, contours of an RTSTRUCT), laid on a scan.

Each slice of the scan takes the plane of an organ that it lies in (`io.plane_slices`); of a DICOM scan its images do:
where slices were laid even, each slice of the grid takes the labels of the image nearest to it. Nothing is
interpolated. Where organs overlap, the smaller one is on top.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Integer

from medlsam_jax import display, notices
from medlsam_jax.errors import InputError
from medlsam_jax.geometry import SAME_PLACE_VOXELS, Grid, Volume
from medlsam_jax.io import oblique
from medlsam_jax.io.contours import mask_of
from medlsam_jax.io.nifti import smallest_integer
from medlsam_jax.io.plane_slices import own_distance, planes_of_slices, usual_distance

_BETWEEN = 0.5
"""Voxels by which a plane may lie beyond the first or the last slice."""
_SAME_PLANE_MM = 0.1
"""Contours that are this near to each other are drawn on one plane: less than slices of a CT are apart."""
_LONGEST_MM = 10.0
"""Planes further apart are no neighbours: no scan that is read has slices further apart."""
_SHOWN = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Plane:
  """What is drawn of one organ on one plane."""

  value: int
  axis: int
  """Of the array (z, y, x) that the plane lies across."""
  place: float
  """Along it, in voxels of the scan's grid."""
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

  def slices(self, axis: int) -> Float[np.ndarray, " slice"]:
    """Where slices lie along an axis, in voxels; along z the images."""
    return self.places if axis == 0 else np.arange(self.grid.shape[axis], dtype=float)

  def apart_mm(self, axis: int) -> float:
    """Distance of the grid's planes across an axis."""
    return 1 / float(np.linalg.norm(np.linalg.inv(self.grid.affine[:3, :3])[2 - axis]))

  def holds(self, plane: Plane) -> bool:
    """Whether a plane lies between the first and the last slice, or as good as on them."""
    slices = self.slices(plane.axis)
    return bool(slices[0] - _BETWEEN <= plane.place <= slices[-1] + _BETWEEN)

  def frame(
    self,
    value: int,
    mask: Bool[np.ndarray, "row column"],
    corner_mm: Float[np.ndarray, "3"],
    steps_mm: Float[np.ndarray, "2 3"],
  ) -> Plane | None:
    """A frame of pixels; None where nothing of it is in the scan.

    Args:
      corner_mm: centre of its first pixel, RAS.
      steps_mm: from one row to the next, and from one column to the next.

    Raises:
      InputError: its pixels are not the scan's, or it lies between two slices.
    """
    corner = self.grid.voxel_from_world(corner_mm)
    steps = self.grid.voxel_from_world(corner_mm + steps_mm) - corner
    whole = np.rint(steps)
    axes = np.abs(whole).argmax(1)
    reach = np.abs(steps - whole) * np.array(mask.shape)[:, None]
    if reach.max() > SAME_PLACE_VOXELS or axes[0] == axes[1] or not (np.abs(whole).sum(1) == 1).all():
      raise InputError(f"its pixels are not those of {self.source}; is it of another series?")
    across = 3 - int(axes.sum())
    place = float(corner[across])
    slices = self.slices(across)
    on = float(slices[np.abs(slices - place).argmin()])
    if slices[0] - _BETWEEN <= place <= slices[-1] + _BETWEEN:
      if abs(on - place) > SAME_PLACE_VOXELS:
        raise InputError(f"a plane lies between slices of {self.source}; is it of another series?")
      place = on
    turned, starts = mask, list[int]()
    for which, axis in enumerate(axes):
      start = int(np.rint(corner[axis]))
      if whole[which, axis] < 0:
        turned, start = np.flip(turned, which), start - mask.shape[which] + 1
      starts.append(start)
    if axes[0] > axes[1]:
      turned, starts = turned.T, starts[::-1]
    return self._cut(value, across, place, turned, (starts[0], starts[1]))

  def contours(self, value: int, contours: Iterable[Float[np.ndarray, "_ 3"]]) -> Iterator[Plane]:
    """Closed contours of an organ, RAS mm; those of one plane together, a point in an odd number of them being inside.

    Raises:
      InputError: one does not lie along the slices of the scan.
    """
    drawn: dict[int, list[tuple[float, np.ndarray]]] = {}
    for points in contours:
      voxels = self.grid.voxel_from_world(points)
      axis = int(np.ptp(voxels, axis=0).argmin())
      if np.ptp(voxels[:, axis]) > 2 * SAME_PLACE_VOXELS:
        raise InputError(f"a contour is not in the plane of a slice of {self.source}; is it of another series?")
      drawn.setdefault(axis, []).append((float(voxels[:, axis].mean()), np.delete(voxels, axis, 1)[:, ::-1]))
    for axis, each in drawn.items():
      each.sort(key=lambda one: one[0])
      places = np.array([place for place, _ in each])
      ends = 1 + np.flatnonzero(np.diff(places) * self.apart_mm(axis) > _SAME_PLANE_MM)
      for start, end in itertools.pairwise([0, *ends.tolist(), len(each)]):
        polygons = [polygon for _, polygon in each[start:end]]
        yield self._plane(value, axis, float(places[start:end].mean()), polygons)

  def _plane(self, value: int, axis: int, place: float, polygons: Sequence[Float[np.ndarray, "_ 2"]]) -> Plane:
    shape = np.delete(np.array(self.shape), axis)
    every = np.concatenate(polygons)
    low = np.clip(np.floor(every.min(0)), 0, shape[::-1] - 1).astype(int)
    high = np.clip(np.ceil(every.max(0)), 0, shape[::-1] - 1).astype(int)
    columns, rows = (high - low + 1).tolist()
    mask = mask_of([polygon - low for polygon in polygons], (rows, columns))
    return Plane(value, axis, place, (int(low[1]), int(low[0])), mask)

  def _cut(self, value: int, axis: int, place: float, mask: np.ndarray, start: tuple[int, int]) -> Plane | None:
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
    return Plane(value, axis, place, (int(low[0] + start[0]), int(low[1] + start[1])), part)


@dataclasses.dataclass(frozen=True, eq=False)
class DrawnLabels:
  """A file of drawn labels, not yet laid on a scan."""

  names: Mapping[str, int]
  """Organs, and the values that they get."""
  source: str
  planes: Callable[[Lattice], Iterable[Plane | None]]
  """What is drawn, in a scan's voxels; None for what lies outside."""
  notes: tuple[str, ...] = ()
  distance_mm: float | None = None
  """Of its planes, where the file says it; else as they lie."""

  def on(self, scan: Volume, organs: Iterable[str] | None = None) -> Volume:
    """The label map on the scan's voxels, of these organs only where they are given.

    Raises:
      InputError: it is of another series: planes that are not the scan's, or none of them in it.
    """
    lattice = Lattice.of(scan)
    wanted = set(self.names.values() if organs is None else (self.names[o] for o in organs if o in self.names))
    try:
      every = list(self.planes(lattice))
    except InputError as error:
      raise InputError(f"{self.source}: {error}") from error
    inside = [plane for plane in every if plane and lattice.holds(plane)]
    if every and not inside:
      raise InputError(f"{self.source}: all that is drawn lies outside {scan.source}; is it another scan's?")
    notes = list(self.notes)
    if lost := len(every) - len(inside):
      notes.append(f"{self.source}: {lost} of {len(every)} planes lie outside {scan.source} and are left out")
    laid_on, said = self._on_slices(lattice, inside)
    notes += said
    array, shared = _laid([each for each in laid_on if each[1].value in wanted], lattice.shape)
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

  def _on_slices(self, lattice: Lattice, planes: Sequence[Plane]) -> tuple[list[tuple[int, Plane]], list[str]]:
    """Slices, each with a plane that it takes, and what is worth knowing of that."""
    by_organ: dict[tuple[int, int], list[Plane]] = {}
    for plane in planes:
      by_organ.setdefault((plane.axis, plane.value), []).append(plane)
    places = {key: np.unique([plane.place for plane in own]) for key, own in by_organ.items()}
    result: list[tuple[int, Plane]] = []
    between, unused, alone = Counter[int](), 0, set[int]()
    for (axis, value), own in by_organ.items():
      apart_mm = lattice.apart_mm(axis)
      longest = _LONGEST_MM / apart_mm
      if self.distance_mm is not None:
        distance = self.distance_mm / apart_mm
      else:
        usual = usual_distance((each for (other, _), each in places.items() if other == axis), longest)
        distance = own_distance(places[axis, value], usual or 1.0, longest)
        if usual is None and len(own) > 1:
          alone.add(value)
      taken = planes_of_slices(places[axis, value], lattice.slices(axis), distance)
      for number, place in enumerate(places[axis, value]):
        slices = np.flatnonzero(taken == number).tolist()
        result += [(each, plane) for plane in own if plane.place == place for each in slices]
        between[value] += max(len(slices) - 1, 0)
        unused += not slices
    notes = []
    if filled := {organ: between[value] for organ, value in self.names.items() if between[value]}:
      organs = display.some((f"{organ} {count}" for organ, count in filled.items()), _SHOWN)
      notes.append(
        f"{self.source}: drawn on planes further apart than the slices of {lattice.source}; slices between take the "
        f"nearest plane of the organ ({organs})"
      )
    if alone:
      organs = display.some((organ for organ, value in self.names.items() if value in alone), _SHOWN)
      notes.append(
        f"{self.source}: planes more than {_LONGEST_MM:g} mm apart ({organs}); slices between stay empty, draw there"
      )
    if unused:
      notes.append(
        f"{self.source}: drawn on planes between the slices of {lattice.source}, which take the nearest; {unused} of "
        f"{len(planes)} planes are not used"
      )
    return result, notes


def _laid(
  drawn: Sequence[tuple[int, Plane]], shape: tuple[int, int, int]
) -> tuple[Integer[np.ndarray, "image y x"], set[int]]:
  """Planes on their slices in one array, the larger organs first; and the values of which voxels were painted over."""
  sizes: Counter[int] = Counter()
  for _, plane in drawn:
    sizes[plane.value] += int(np.count_nonzero(plane.mask))
  array = np.zeros(shape, smallest_integer(0, max(sizes, default=0)))
  shared = set[int]()
  for place, plane in sorted(drawn, key=lambda each: -sizes[each[1].value]):
    rows, columns = plane.mask.shape
    part = np.moveaxis(array, plane.axis, 0)[place]
    part = part[plane.low[0] : plane.low[0] + rows, plane.low[1] : plane.low[1] + columns]
    shared |= set(np.unique(part[plane.mask]).tolist()) - {0, plane.value}
    part[plane.mask] = plane.value
  return array, shared


def _image_of_slice(places: Float[np.ndarray, " image"], slices: int) -> Integer[np.ndarray, " z"]:
  """The image nearest to each slice of the grid."""
  return np.abs(np.arange(slices)[:, None] - places[None]).argmin(1)
