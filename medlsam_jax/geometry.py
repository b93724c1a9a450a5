"""Frames and shapes: the scan's own voxels, the working grid, and world millimetres, with the ways between them.

Three frames, stated once:

- **scan voxels** `(z, y, x)`: indices of `Volume.array`, which is the NIfTI array transposed, whatever its orientation;
- **working voxels** `(z, y, x)`: the 3 mm grid in LAS orientation that MedLAM sees (reference: MedLSAM, preprocessing);
- **world** `(x, y, z)`: RAS millimetres, as in NIfTI.

Whether two grids are the same, or two arrays over the same lattice of voxels, is decided here alone: `Grid.is_same` and
`Grid.relay_to`, both within `SAME_PLACE_VOXELS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Literal, TypeVar

import numpy as np
from jaxtyping import Float, Num, Shaped

from medlsam_jax import display
from medlsam_jax.errors import InputError
from medlsam_jax.relay import Relay

WORKING_SPACING_MM = 3.0
WORKING_AXIS_CODES = "LAS"
PATCH_EDGE = 64
DISPLAY_AXIS_CODES = "LPS"
"""Directions of rising column, row and slice in which scans are shown (radiological): slices run along the scan's
nearest inferior-superior axis, row 0 is anterior, column 0 the patient's right."""
MAX_VOXELS = 600_000_000
"""Largest scan that is read: about 512x512x2300. As float32 it takes 2.4 GB."""
FACES = ("min z", "min y", "min x", "max z", "max y", "max x")
OFFSET_RANGE_MM = (1500.0, 600.0, 600.0)
"""Reach of the relative offset that two head outputs describe: `offset_mm = range * tanh(head(p) - head(q))`, z y x."""

Value = TypeVar("Value")
Convention = Literal["published", "consistent"]
"""How the working grid is laid over the scan.

`published`: the arithmetic of the published program, whose image grid is corner aligned (first and last voxel centres
of scan and grid coincide) while its label grid is half-pixel aligned and its results go back by a plain division.
`consistent`: one half-pixel aligned grid for image, labels and results.
"""

SAME_PLACE_VOXELS = 0.25
"""Two grids are the same where no voxel of one lies further than this, along any axis, from its partner in the other.
Programs round the spacing, the origin and the quaternion that they write (a quaternion in single precision turns a scan
by up to 0.3 mm per metre); the smallest mistake, a corner taken for a centre, is half a voxel."""

_FAR_VOXELS = 2**31
"""Grids that far apart have nothing to do with each other, and their distance is no whole number any more."""

_AXIS_LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))


@dataclasses.dataclass(frozen=True)
class HeaderForms:
  """What a NIfTI header states about where its voxels lie, number by number and in its own units.

  A label map written for the scan states the same, so that every program lays it where it lays the scan, whichever of
  the forms it goes by.
  """

  sform_code: int
  sform: tuple[tuple[float, float, float, float], ...]
  """Rows srow_x, srow_y, srow_z."""
  qform_code: int
  quaternion: tuple[float, float, float]
  """quatern_b, c, d."""
  offset: tuple[float, float, float]
  """qoffset_x, y, z."""
  pixdim: tuple[float, float, float, float]
  """The sign of the qform's third axis, and the edges of a voxel (x, y, z)."""
  units: int
  """xyzt_units."""
  is_taken: bool = True
  """False where no form says anything, and the grid that goes with these was made up."""


@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
  """Where the voxels of an array lie: `shape` in (z, y, x), `affine` from voxel (x, y, z) to RAS mm as in NIfTI.

  Equal are grids of the same numbers, bit by bit; whether two put their voxels at the same place is `is_same`. The
  affine is copied and cannot be written to.
  """

  shape: tuple[int, int, int]
  affine: Float[np.ndarray, "4 4"]
  forms: HeaderForms | None = dataclasses.field(default=None, repr=False)
  """What the file's header says, for files written on this grid; no part of the grid's identity. None where there is no
  NIfTI file, or where its array was resampled."""

  def __post_init__(self) -> None:
    affine = np.array(self.affine, float)
    affine.flags.writeable = False
    object.__setattr__(self, "affine", affine)

  def __eq__(self, other: object) -> bool:
    if not isinstance(other, Grid):
      return NotImplemented
    return tuple(self.shape) == tuple(other.shape) and np.array_equal(self.affine, other.affine)

  def __hash__(self) -> int:
    # adding 0.0 turns -0.0 into 0.0, which is equal to it
    return hash((tuple(self.shape), (self.affine + 0.0).tobytes()))

  @property
  def is_stated(self) -> bool:
    """False where the file says that its orientation is unknown: both codes of its header are 0."""
    return self.forms is None or self.forms.sform_code != 0 or self.forms.qform_code != 0

  def __repr__(self) -> str:
    return f"Grid: {display.size(self.shape, self.spacing_mm)}, {self.axis_codes}"

  @property
  def spacing_mm(self) -> Float[np.ndarray, "3"]:
    """Edge lengths of a voxel in mm, (z, y, x)."""
    return np.linalg.norm(self.affine[:3, :3], axis=0)[::-1]

  @property
  def axis_codes(self) -> str:
    """Nearest anatomical direction of each rising index in (x, y, z) order, such as `LPS`."""
    directions = self._nearest_axes()
    return "".join(_AXIS_LETTERS[world][int(sign > 0)] for world, sign in directions)

  def _nearest_axes(self) -> list[tuple[int, float]]:
    """For each array axis in (x, y, z): the world axis it runs along and the sign, each world axis used once."""
    cosines = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
    result: list[tuple[int, float]] = [(0, 1.0)] * 3
    free_world, free_array = {0, 1, 2}, {0, 1, 2}
    for flat in np.argsort(-np.abs(cosines), axis=None):
      world, axis = divmod(int(flat), 3)
      if world in free_world and axis in free_array:
        result[axis] = (world, float(np.sign(cosines[world, axis])))
        free_world.remove(world)
        free_array.remove(axis)
    return result

  def world_from_voxel(self, points: Num[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    """Voxel coordinates (z, y, x) to RAS mm (x, y, z)."""
    return np.asarray(points, float)[..., ::-1] @ self.affine[:3, :3].T + self.affine[:3, 3]

  def voxel_from_world(self, points: Num[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    """RAS mm (x, y, z) to fractional voxel coordinates (z, y, x)."""
    inverse = np.linalg.inv(self.affine[:3, :3])
    return ((np.asarray(points, float) - self.affine[:3, 3]) @ inverse.T)[..., ::-1]

  def axes_to(self, codes: str) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """How to bring an array of this grid into orientation `codes` (x, y, z letters).

    Returns:
      `order`: for each (z, y, x) axis of the result, the (z, y, x) axis of this array it comes from; `flip`: whether
      it runs the other way. The reoriented array is `array.transpose(order)` with the flipped axes reversed.
    """
    have = {world: (axis, sign) for axis, (world, sign) in enumerate(self._nearest_axes())}
    order, flip = [], []
    for letter in codes[::-1]:
      world = next(i for i, pair in enumerate(_AXIS_LETTERS) if letter in pair)
      axis, sign = have[world]
      order.append(2 - axis)
      flip.append(sign != (1.0 if letter == _AXIS_LETTERS[world][1] else -1.0))
    return (order[0], order[1], order[2]), (flip[0], flip[1], flip[2])

  def is_same(self, other: Grid) -> bool:
    """Whether both grids have the same shape and put every voxel at the same place, within `SAME_PLACE_VOXELS`."""
    if self == other:
      return True
    relay = self.relay_to(other)
    return relay is not None and relay.is_identity

  def relay_to(self, other: Grid) -> Relay | None:
    """How an array of this grid is laid onto `other`, where the voxels of the two coincide.

    The arrays may run along other axes, in other directions, and begin and end elsewhere; None where voxels that both
    cover lie further apart than `SAME_PLACE_VOXELS` of a voxel of `other`, or their edges differ by as much.
    """
    if min(self.shape) < 1 or min(other.shape) < 1 or not np.isfinite([self.affine, other.affine]).all():
      return None
    try:
      matrix = np.linalg.solve(other.affine[:3, :3], self.affine[:3, :3])[::-1, ::-1]
      offset = other.voxel_from_world(self.world_from_voxel(np.zeros(3)))
    except np.linalg.LinAlgError:
      return None
    whole = np.rint(matrix)
    if not np.abs(matrix - whole).max() <= SAME_PLACE_VOXELS:
      return None
    if not (np.abs(whole) == np.eye(3)[np.abs(whole).argmax(1)]).all() or abs(np.linalg.det(whole)) != 1:
      return None
    last = np.array(self.shape) - 1
    # The whole step is read where the two meet, since rounded edges add up along an axis.
    middle = np.clip(np.linalg.solve(matrix, (np.array(other.shape) - 1) / 2 - offset), 0, last)
    step = np.rint(matrix @ middle + offset - whole @ middle)
    if np.abs(step).max() > _FAR_VOXELS:
      return None
    order = np.abs(whole).argmax(1)
    flip = whole[range(3), order] < 0
    start = np.where(flip, step - last[order], step)
    relay = Relay(
      _triple(order.tolist()), _triple(flip.tolist()), _triple(start.astype(int).tolist()), self.shape, other.shape
    )
    low, high = relay.covered
    if (low > high).any():
      low, high = start, start + last[order]
    corners = np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1)
    back = np.linalg.solve(whole, corners - step[:, None])
    apart = np.abs(matrix @ back + offset[:, None] - corners).max()
    return relay if apart <= SAME_PLACE_VOXELS else None

  def describe(self) -> str:
    """Shape, orientation and place in words, for messages about two grids."""
    shape = "x".join(map(str, self.shape))
    corner = ", ".join(f"{v:.2f}" for v in self.affine[:3, 3])
    return (
      f"{shape} voxels z y x, {self.axis_codes}, affine {self.affine[:3, :3].round(3).tolist()}, origin ({corner}) mm"
    )


def _triple(values: Iterable[Value]) -> tuple[Value, Value, Value]:
  z, y, x = values
  return z, y, x


def reorient(array: np.ndarray, grid: Grid, codes: str) -> np.ndarray:
  """View of a (z, y, x) array of `grid` with its axes along `codes`, nearest axes, no resampling."""
  order, flip = grid.axes_to(codes)
  return array.transpose(order)[tuple(slice(None, None, -1) if f else slice(None) for f in flip)]


def display_view(array: Shaped[np.ndarray, "z y x"], grid: Grid) -> Shaped[np.ndarray, "slice row column"]:
  """View (not a copy: writing to it writes to `array`) of an array of `grid` in display order."""
  return reorient(array, grid, DISPLAY_AXIS_CODES)


def reorient_corners(box: Box, grid: Grid, codes: str) -> Float[np.ndarray, "2 3"]:
  """Lowest and highest corner of a box of `grid`'s voxels in the array that `reorient` gives; crossed ones are sorted.

  Raises:
    InputError: a corner is NaN or infinite.
  """
  corners = box.array()
  if not np.isfinite(corners).all():
    raise InputError(f"box {corners[0].tolist()} to {corners[1].tolist()}: a corner is not a finite number")
  order, flip = grid.axes_to(codes)
  moved = corners[:, order]
  for axis, flipped in enumerate(flip):
    if flipped:
      moved[:, axis] = grid.shape[order[axis]] - 1 - moved[:, axis]
  return np.stack([moved.min(0), moved.max(0)])


@dataclasses.dataclass(frozen=True)
class SourceImage:
  """One DICOM image that a scan was read from: files that refer to a scan name its images."""

  path: str
  frame: int
  """Which image of the file, from 0."""
  place_vox: float
  """Where it lies along z, in voxels of the grid of the scan's file: no whole number where slices were laid even."""
  position_mm: tuple[float, float, float]
  """Of the centre of its first pixel, as the file states it: LPS (x, y, z)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Volume:
  """A scan or label map: `array` (z, y, x) in HU or label values, its grid, and the file it came from."""

  array: Num[np.ndarray, "z y x"]
  grid: Grid
  source: str = "<array>"
  file_grid: Grid | None = None
  """The file's own grid where that is tilted and `array` was resampled (`io.oblique`); None where `grid` is it."""
  file_array: Num[np.ndarray, "fz fy fx"] | None = dataclasses.field(default=None, repr=False)
  """Of a label map with a `file_grid`: the file's own voxels, so that it is laid on its scan before it is resampled."""
  notes: tuple[str, ...] = ()
  """What reading had to settle, mend or leave out, a sentence each; result files repeat it."""
  doubts: tuple[str, ...] = ()
  """Why whatever is found in this scan may be wrong (values that are no HU, a thin slab), a sentence each. No organ of
  such a scan is called `found`."""
  source_images: tuple[SourceImage, ...] = dataclasses.field(default=(), repr=False)
  """The DICOM images that it was read from, by rising z; none of another format."""
  judged: bool = False
  """Whether `io.scan_checks` has looked for doubts; where it has not, `pipeline.localize` does."""

  def __repr__(self) -> str:
    reasons = "; ".join(doubt.removeprefix(f"{self.source}: ") for doubt in self.doubts)
    doubtful = f"; doubtful: {reasons}" if reasons else ""
    size = display.size(self.array.shape, self.spacing_mm)
    return f"Volume {self.source}: {size}, {self.grid.axis_codes}, {self.array.dtype}{doubtful}"

  def _repr_html_(self) -> str:
    said = [["doubt", text] for text in self.doubts] + [["note", text] for text in self.notes]
    return display.html_table(repr(self), [["", "what reading said"], *said] if said else [])

  @property
  def affine(self) -> Float[np.ndarray, "4 4"]:
    """Voxel (x, y, z) to RAS mm."""
    return self.grid.affine

  @property
  def spacing_mm(self) -> Float[np.ndarray, "3"]:
    """Edge lengths of a voxel in mm, (z, y, x)."""
    return self.grid.spacing_mm


@dataclasses.dataclass(frozen=True)
class Box:
  """An axis-aligned box by its low and high corner, (z, y, x), both **inclusive** voxels; may reach outside a scan."""

  low: tuple[float, float, float]
  high: tuple[float, float, float]

  def __repr__(self) -> str:
    low, high = (", ".join(f"{float(place):.6g}" for place in corner) for corner in (self.low, self.high))
    return f"Box(low=({low}), high=({high}))"

  @classmethod
  def from_corners(cls, low: Iterable[float], high: Iterable[float]) -> Box:
    """By its low and high corner as anything that holds three numbers each, (z, y, x)."""
    (z0, y0, x0), (z1, y1, x1) = low, high
    return cls((float(z0), float(y0), float(x0)), (float(z1), float(y1), float(x1)))

  @classmethod
  def from_slices(cls, where: Iterable[slice]) -> Box:
    """The box of the voxels that three slices of an array hold, as `label_boxes.find_labels` gives them."""
    along = list(where)
    return cls.from_corners([each.start for each in along], [each.stop - 1 for each in along])

  @classmethod
  def of_mask(cls, mask: np.ndarray) -> Box | None:
    """Tight box of the true voxels, or None where there are none."""
    if not mask.any():
      return None
    hits = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return cls.from_corners([hit[0] for hit in hits], [hit[-1] for hit in hits])

  @classmethod
  def of_points(cls, points: Num[np.ndarray, "6 3"]) -> Box:
    """Box that six extreme points in the order of `FACES` span; corners are swapped on an axis where they crossed."""
    points = np.asarray(points, float)
    first, second = np.diagonal(points[:3]), np.diagonal(points[3:])
    return cls.from_corners(np.minimum(first, second), np.maximum(first, second))

  @classmethod
  def around(cls, boxes: list[Box]) -> Box:
    """Smallest box that holds all `boxes`."""
    return cls.from_corners(np.min([b.low for b in boxes], axis=0), np.max([b.high for b in boxes], axis=0))

  def array(self) -> Float[np.ndarray, "2 3"]:
    """Low and high corner as an array."""
    return np.array([self.low, self.high], float)

  def clipped(self, shape: tuple[int, ...]) -> Box | None:
    """The part inside an array of `shape`, or None when nothing of it is."""
    low = np.maximum(self.low, 0)
    high = np.minimum(self.high, np.array(shape) - 1)
    if (low > high).any():
      return None
    return Box.from_corners(low, high)


def faces_from_points(points: Num[np.ndarray, "6 3"]) -> Float[np.ndarray, "6 3"]:
  """Six points in any order, assigned to `FACES` by coordinate so that the box they span is the largest.

  The lowest point along z becomes `min z` and so on; where one point is extreme on two axes, the assignment with the
  greatest summed extent is taken (an optimal assignment, scipy).
  """
  from scipy.optimize import linear_sum_assignment

  points = np.asarray(points, float)
  score = np.concatenate([-points.T, points.T])
  faces, chosen = linear_sum_assignment(score, maximize=True)
  ordered = np.empty_like(points)
  ordered[faces] = points[chosen]
  return ordered
