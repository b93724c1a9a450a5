"""Scans and label maps in scan voxels to the 3 mm LAS working grid, and HU to intensity. Arrays are (z, y, x).

Resampling is linear and works axis by axis, so each axis gets one small matrix and the whole is three sparse products,
done plane by plane: a 512x512x400 scan takes a second or two and little more memory than itself. Reference: MedLSAM,
preprocessing.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Float, Float32, Integer, Num
from scipy import ndimage, sparse

from medlsam_jax.errors import InputError
from medlsam_jax.geometry import (
  MAX_VOXELS,
  PATCH_EDGE,
  WORKING_AXIS_CODES,
  WORKING_SPACING_MM,
  Convention,
  Grid,
  Volume,
  reorient,
)
from medlsam_jax.label_boxes import find_labels

HU_KNOTS = (-1000.0, -200.0, 200.0, 1500.0)
INTENSITY_KNOTS = (0.0, 0.2, 0.8, 1.0)
"""Intensity at `HU_KNOTS`; linear between, constant outside (reference: MedLSAM, preprocessing)."""

PATCH_MARGIN = PATCH_EDGE // 2
"""Voxels of 0 on each side of a scan, so that every voxel of it can be the centre of a patch."""

_NEGLIGIBLE_WEIGHT = 1e-17
"""A cubic spline's reach falls by a quarter a voxel: what is dropped is below 1e-11 HU."""
MAX_WORKING_VOXELS = 200_000_000
"""5.4 cubic metres at 3 mm: a body with all the air that a scanner can see around it is a tenth of that."""
AIR_INTENSITY = 0.001
"""Working-grid intensity below which a voxel is air, where no agent starts and no training patch is centred."""


@dataclasses.dataclass(frozen=True, eq=False)
class WorkingGrid:
  """The tie between a scan's own voxels and its 3 mm LAS working grid; equal are those of the same numbers."""

  scan: Grid
  shape: tuple[int, int, int]
  zoom: Float[np.ndarray, "3"]
  """Working voxels per scan voxel along each working axis, (z, y, x): reoriented spacing / 3 mm."""
  convention: Convention = "consistent"

  def __eq__(self, other: object) -> bool:
    if not isinstance(other, WorkingGrid):
      return NotImplemented
    same = (self.scan, self.shape, self.convention) == (other.scan, other.shape, other.convention)
    return same and np.array_equal(self.zoom, other.zoom)

  def __hash__(self) -> int:
    return hash((self.scan, self.shape, self.convention))

  @property
  def _scan_shape(self) -> tuple[int, ...]:
    order, _ = self.scan.axes_to(WORKING_AXIS_CODES)
    return tuple(self.scan.shape[axis] for axis in order)

  def to_scan(self, points: Num[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    """Working voxels to scan voxels, both (z, y, x). `published` rounds to whole voxels, `consistent` does not."""
    points = np.asarray(points, float)
    if self.convention == "published":
      moved = np.around(points * (1.0 / self.zoom))
    else:
      moved = (points + 0.5) / self.zoom - 0.5
    order, flip = self.scan.axes_to(WORKING_AXIS_CODES)
    result = np.empty_like(moved)
    for axis in range(3):
      along = moved[..., axis]
      result[..., order[axis]] = self._scan_shape[axis] - 1 - along if flip[axis] else along
    return result

  def from_scan(self, points: Num[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    """Scan voxels to fractional working voxels, both (z, y, x): the inverse of `to_scan` without its rounding."""
    points = np.asarray(points, float)
    order, flip = self.scan.axes_to(WORKING_AXIS_CODES)
    result = np.empty_like(points)
    for axis in range(3):
      along = points[..., order[axis]]
      result[..., axis] = self._scan_shape[axis] - 1 - along if flip[axis] else along
    return result * self.zoom if self.convention == "published" else (result + 0.5) * self.zoom - 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class WorkingScan:
  """A scan as MedLAM sees it: `intensity` in [0, 1] on the working grid, (z, y, x), not padded, and the way back."""

  intensity: Float32[np.ndarray, "z y x"]
  grid: WorkingGrid


def hu_to_intensity(hu: Num[np.ndarray, "*n"]) -> Float32[np.ndarray, "*n"]:
  """HU to [0, 1], piecewise linear through (-1000, 0), (-200, .2), (200, .8), (1500, 1), clipped outside."""
  return np.interp(hu, HU_KNOTS, INTENSITY_KNOTS).astype(np.float32)


def pad_for_patches(intensity: Num[np.ndarray, "z y x"]) -> Num[np.ndarray, "z+64 y+64 x+64"]:
  """`PATCH_MARGIN` voxels of 0 on each side: a scan of any size, smaller than a patch too, can then be searched."""
  # not np.pad: it writes the margin too, which the system hands out as zeros, and takes twice as long
  padded = np.zeros([size + 2 * PATCH_MARGIN for size in intensity.shape], intensity.dtype)
  padded[(slice(PATCH_MARGIN, -PATCH_MARGIN),) * intensity.ndim] = intensity
  return padded


def working_grid(scan: Grid, convention: Convention = "consistent") -> WorkingGrid:
  """The working grid of images of a scan.

  `published`: round(n * zoom) voxels. `consistent`: floor(n * zoom), at least 1, where a whole number missed by
  rounding of the stored spacing (2.9999998 mm) counts as reached.
  """
  counts, zoom = _counts(scan), _zoom(scan)
  if convention == "published":
    # Python's round, half to even, as in scipy.ndimage.zoom, which the published program calls.
    sizes = [max(round(float(n * f)), 1) for n, f in zip(counts, zoom, strict=True)]
  else:
    sizes = [max(int(np.floor(n * f + 1e-3)), 1) for n, f in zip(counts, zoom, strict=True)]
  return WorkingGrid(scan, (sizes[0], sizes[1], sizes[2]), zoom, convention)


def to_working_grid(volume: Volume, convention: Convention = "consistent") -> WorkingScan:
  """A scan in HU to intensities on the working grid.

  `published`: cubic spline interpolation in double precision, corner aligned, no smoothing before shrinking: equal to
  the published program within 1e-4 (and without its crash on scans that are exactly 3 mm).
  `consistent`: cubic convolution (Keys), half-pixel aligned, its kernel widened on axes that shrink, so that the noise
  of fine voxels averages out; HU are clipped first, so that metal and padding values do not ring.

  Raises:
    InputError: the array is not 3D or is empty; the working grid would be larger than any body.
  """
  _refuse_shape(volume)
  grid = working_grid(volume.grid, convention)
  _refuse_size(volume, grid)
  counts = _counts(volume.grid)
  if convention == "published":
    matrices = [_spline_matrix(n, f, size) for n, f, size in zip(counts, grid.zoom, grid.shape, strict=True)]
    hu = _resample(volume, matrices, limits=None)
  else:
    matrices = [_cubic_matrix(n, f, size) for n, f, size in zip(counts, grid.zoom, grid.shape, strict=True)]
    hu = _resample(volume, [m.astype(np.float32) for m in matrices], limits=(HU_KNOTS[0], HU_KNOTS[-1]))
  return WorkingScan(hu_to_intensity(hu), grid)


def labels_to_working_grid(
  volume: Volume, convention: Convention = "consistent"
) -> tuple[Integer[np.ndarray, "z y x"], WorkingGrid]:
  """A label map to the working grid: trilinear of each label's mask, then the label with the most, ties to the lowest.

  Half-pixel aligned in both conventions. `published`: floor(n * zoom) voxels, so that images can have one voxel more
  on an axis. `consistent`: the grid of `working_grid`, the same as images.

  Returns:
    Labels in the type of `volume.array`, and their grid.

  Raises:
    InputError: the array is not 3D, is empty, or holds negative labels; the working grid would be larger than any body.
  """
  _refuse_shape(volume)
  grid = working_grid(volume.grid, convention)
  _refuse_size(volume, grid)
  if convention == "published":
    sizes = [max(int(n * f), 1) for n, f in zip(_counts(volume.grid), grid.zoom, strict=True)]
    grid = dataclasses.replace(grid, shape=(sizes[0], sizes[1], sizes[2]))
  labels = reorient(volume.array, volume.grid, WORKING_AXIS_CODES)
  if labels.min() < 0:
    raise InputError(f"{volume.source}: label {labels.min()}; labels must be 0 (background) or above")
  taps = [_Taps.of(n, f, size) for n, f, size in zip(labels.shape, grid.zoom, grid.shape, strict=True)]
  result = np.zeros(grid.shape, labels.dtype)
  most = np.zeros(grid.shape, np.float32)
  whole = tuple(slice(0, n) for n in labels.shape)
  for value, box in ({0: whole} | find_labels(labels)).items():
    near = [t.within(part) for t, part in zip(taps, box, strict=True)]
    inside = tuple(part for part, _, _ in near)
    if any(part.start >= part.stop for part in inside):
      continue
    share = labels[tuple(source for _, source, _ in near)] == value
    # x, then y, then z, in single precision: the order of the published program's arithmetic, which decides ties.
    for axis in (2, 1, 0):
      share = near[axis][2].apply(share, axis)
    more = share > most[inside]
    most[inside][more] = share[more]
    result[inside][more] = value
  return result, grid


@dataclasses.dataclass(frozen=True, eq=False)
class _Taps:
  """Linear interpolation along one axis: `low` and `high` source voxel and the weight of `high`, per result voxel."""

  low: Integer[np.ndarray, " size"]
  high: Integer[np.ndarray, " size"]
  weight: Float32[np.ndarray, " size"]

  @classmethod
  def of(cls, count: int, zoom: float, size: int) -> _Taps:
    """Half-pixel aligned; source positions in single precision and held inside the first and last voxel."""
    step = np.float32(1.0 / zoom)
    position = np.maximum(step * (np.arange(size, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), 0)
    low = np.minimum(position.astype(np.int64), count - 1)
    high = np.minimum(low + 1, count - 1)
    return cls(low, high, position - low.astype(np.float32))

  def within(self, box: slice) -> tuple[slice, slice, _Taps]:
    """What a mask in `box` reaches: the result voxels, the source voxels they read, and the taps between the two."""
    reached = np.flatnonzero((self.high >= box.start) & (self.low < box.stop))
    if not len(reached):
      return slice(0, 0), slice(0, 0), self
    result = slice(int(reached[0]), int(reached[-1]) + 1)
    source = slice(int(self.low[result.start]), int(self.high[result.stop - 1]) + 1)
    taps = _Taps(self.low[result] - source.start, self.high[result] - source.start, self.weight[result])
    return result, source, taps

  def apply(self, array: np.ndarray, axis: int) -> Float32[np.ndarray, "..."]:
    weight = self.weight.reshape([-1 if a == axis else 1 for a in range(array.ndim)])
    return array.take(self.low, axis) * (1 - weight) + array.take(self.high, axis) * weight


def _refuse_shape(volume: Volume) -> None:
  if volume.array.ndim != 3 or volume.array.size == 0:
    raise InputError(f"{volume.source}: array of shape {volume.array.shape}; a scan has three axes, none empty")


def _refuse_size(volume: Volume, grid: WorkingGrid) -> None:
  """Refuses before anything is allocated; arrays half way, resampled along some axes, count too."""
  count, size = _counts(volume.grid), grid.shape
  half_way = [count[0] * count[1] * size[2], *(count[a] * size[a - 1] * size[a - 2] for a in range(3))]
  if math.prod(size) <= MAX_WORKING_VOXELS and max(half_way) <= MAX_VOXELS:
    return
  spacing = " x ".join(f"{mm:g}" for mm in volume.spacing_mm)
  extent = " x ".join(f"{n * mm / 1000:.3g}" for n, mm in zip(volume.grid.shape, volume.spacing_mm, strict=True))
  raise InputError(
    f"{volume.source}: a spacing of {spacing} mm (z y x) makes the scan {extent} m large, {math.prod(size):.3g} voxels "
    f"of {WORKING_SPACING_MM:g} mm; correct the spacing, or crop the scan"
  )


def _counts(scan: Grid) -> list[int]:
  """Scan voxels along each working axis."""
  order, _ = scan.axes_to(WORKING_AXIS_CODES)
  return [scan.shape[axis] for axis in order]


def _zoom(scan: Grid) -> Float[np.ndarray, "3"]:
  """Working voxels per scan voxel along each working axis."""
  order, _ = scan.axes_to(WORKING_AXIS_CODES)
  # Single precision as in a NIfTI header, whose spacing the published sizes are computed from.
  return scan.spacing_mm[list(order)].astype(np.float32).astype(float) / WORKING_SPACING_MM


def _spline_matrix(count: int, zoom: float, size: int) -> Float[np.ndarray, "size count"]:
  """scipy's corner-aligned cubic spline zoom of one axis as a matrix: what it makes of each unit vector."""
  # A factor made from the size gives that size even where count * zoom rounds to 0.
  factor = zoom if round(float(count * zoom)) == size else size / count
  return ndimage.zoom(np.eye(count), (factor, 1.0), order=3)


def _cubic_matrix(count: int, zoom: float, size: int) -> Float[np.ndarray, "size count"]:
  """Cubic convolution with half-pixel centres; weights sum to 1. Keys, IEEE ASSP 29 (1981), a = -1/2."""
  centres = (np.arange(size) + 0.5) / zoom - 0.5
  distance = np.abs(np.arange(count) - centres[:, None]) / max(1.0 / zoom, 1.0)
  near = (1.5 * distance - 2.5) * distance**2 + 1
  far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
  weights = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
  return weights / weights.sum(axis=1, keepdims=True)


def _resample(
  volume: Volume, matrices: list[Float[np.ndarray, "_ _"]], limits: tuple[float, float] | None
) -> Float[np.ndarray, "z y x"]:
  """Applies a matrix per working axis, in its precision, to values clipped to `limits`; result on the working axes."""
  order, flip = volume.grid.axes_to(WORKING_AXIS_CODES)
  # Few weights of a row matter, and sparse products leave BLAS threads out of it: on a busy machine those wait for
  # each other at every plane (measured at load 10 on 2 cores: 18 s against 1 s by one thread).
  along = [sparse.csr_array(matrices[0])] * 3
  for working, scan in enumerate(order):
    matrix = np.where(np.abs(matrices[working]) > _NEGLIGIBLE_WEIGHT, matrices[working], 0)
    along[scan] = sparse.csr_array(matrix[:, ::-1] if flip[working] else matrix)
  dtype = matrices[0].dtype
  planes = np.empty((len(volume.array), along[1].shape[0], along[2].shape[0]), dtype)
  for index, plane in enumerate(volume.array):
    plane = plane.astype(dtype)
    if limits is not None:
      np.clip(plane, *limits, out=plane)
    planes[index] = (along[2] @ (along[1] @ plane).T).T
  result = along[0] @ planes.reshape(len(planes), -1)
  return np.ascontiguousarray(result.reshape(-1, *planes.shape[1:]).transpose(order))
