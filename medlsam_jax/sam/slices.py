"""2D slices for the SAM family: scan voxels (z, y, x) <-> slices in display order <-> the network's square image.

Slices are shown in display order (`geometry.DISPLAY_AXIS_CODES`) whatever the scan's axes. Boxes in pixels are edges
`(x0, y0, x1, y1)`: pixel `i` spans `[i, i + 1]`.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Integer, Num, UInt8

from medlsam_jax.geometry import DISPLAY_AXIS_CODES, Box, Grid, reorient_corners
from medlsam_jax.sam.resampling import resize_bilinear, resize_cubic

Scaling = Literal["pad", "stretch"]
"""`pad`: the longest side fills the image, the rest is zero, right and bottom. `stretch`: both sides fill it."""
Pixels = Literal["unit", "imagenet"]
"""`unit`: each slice to [0, 1] by its own range. `imagenet`: 0..255 less SAM's mean over its standard deviation."""
Resampling = Literal["area", "bilinear", "cubic"]
"""How an image is brought to the network's size: each member of the family as it was trained (`sam.resampling`)."""

SAM_MEAN = np.array((123.675, 116.28, 103.53), np.float32)
SAM_SD = np.array((58.395, 57.12, 57.375), np.float32)


def box_in_slices(
  box: Box, grid: Grid, codes: str = DISPLAY_AXIS_CODES
) -> tuple[tuple[int, int], Float[np.ndarray, "4"]]:
  """A box in scan voxels (z, y, x) -> its first and last slice, and its edges in pixels of the slice.

  `codes` are the directions of rising column, row and slice.

  The box holds its corner voxels: one that spans columns 3 to 5 has the edges 3 and 6. Crossed corners are swapped;
  nothing is clipped.

  Raises:
    InputError: a corner is NaN or infinite.
  """
  low, high = reorient_corners(box, grid, codes)
  first, last = int(np.floor(low[0] + 0.5)), int(np.floor(high[0] + 0.5))
  return (first, last), np.array([low[2], low[1], high[2] + 1, high[1] + 1])


def tight_edges(mask: Bool[np.ndarray, "row column"]) -> Float[np.ndarray, "4"]:
  """Edges of the tight box of a mask that has a pixel."""
  rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
  return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)


def window_to_bytes(hu: Num[np.ndarray, "*n"], window_hu: tuple[float, float]) -> UInt8[np.ndarray, "*n"]:
  """HU to 0..255 through a window, truncated to integers as the published preprocessing does."""
  low, high = window_hu
  unit = (np.clip(hu, low, high).astype(np.float32) - np.float32(low)) / np.float32(high - low)
  return (unit * np.float32(255)).astype(np.uint8)


@functools.lru_cache(maxsize=32)
def area_matrix(size: int, target: int) -> Float32[np.ndarray, "target size"]:
  """Rows that average over each target pixel's stretch of the source: OpenCV's area interpolation along one axis.

  Holds for enlarging too, where OpenCV interpolates only in the target pixels that a source edge crosses.
  """
  edges = np.arange(target + 1) * (size / target)
  source = np.arange(size)
  overlap = np.minimum(edges[1:, None], source + 1) - np.maximum(edges[:-1, None], source)
  weights = np.maximum(overlap, 0)
  return _frozen(weights / weights.sum(1, keepdims=True))


@functools.lru_cache(maxsize=32)
def linear_matrix(size: int, target: int) -> Float32[np.ndarray, "target size"]:
  """Linear interpolation along one axis, half-pixel centres, edges held, no antialiasing (PyTorch's interpolate)."""
  position = np.clip((np.arange(target) + 0.5) * (size / target) - 0.5, 0, size - 1)
  below = np.minimum(position.astype(int), max(size - 2, 0))
  weights = np.zeros((target, size))
  weights[np.arange(target), below] = 1 - (position - below)
  weights[np.arange(target), np.minimum(below + 1, size - 1)] += position - below
  return _frozen(weights)


def _frozen(weights: np.ndarray) -> Float32[np.ndarray, "target size"]:
  """Float32 and read-only, since the cache hands the same array to every caller."""
  result = weights.astype(np.float32)
  result.flags.writeable = False
  return result


@dataclasses.dataclass(frozen=True)
class ImageFit:
  """How slices of one shape lie in the network's square image, and back."""

  rows: int
  columns: int
  image_size: int
  scaling: Scaling = "pad"
  resampling: Resampling = "area"

  @property
  def fitted(self) -> tuple[int, int]:
    """Rows and columns of the image that the slice fills; the rest, right and bottom, is zero."""
    if self.scaling == "stretch":
      return self.image_size, self.image_size
    scale = self.image_size / max(self.rows, self.columns)
    return max(1, int(self.rows * scale + 0.5)), max(1, int(self.columns * scale + 0.5))

  @property
  def scale_xy(self) -> tuple[float, float]:
    """Image pixels per slice pixel, along x and y."""
    if self.scaling == "stretch":
      return self.image_size / self.columns, self.image_size / self.rows
    return (self.image_size / max(self.rows, self.columns),) * 2

  def to_image(self, grey: UInt8[np.ndarray, "row column *channel"], pixels: Pixels) -> Float32[np.ndarray, "s s 3"]:
    """Slice or colour image of 0..255 to the network's input. A constant slice becomes zeros with `unit`."""
    rows, columns = self.fitted
    resized = self._resized(grey)
    if resized.ndim == 2:
      resized = resized[..., None]
    if pixels == "unit":
      low, high = resized.min(), resized.max()
      scaled = (resized - low) / max(high - low, np.float32(1e-8))
    else:
      scaled = (resized - SAM_MEAN) / SAM_SD
    image = np.zeros((self.image_size, self.image_size, 3), np.float32)
    image[:rows, :columns] = scaled
    return image

  def to_levels(self, grey: UInt8[np.ndarray, "row column"]) -> UInt8[np.ndarray, "s s"]:
    """A grey slice at the network's size, not yet scaled (`scaled_levels`): an eighth or less of what `to_image` is."""
    rows, columns = self.fitted
    levels = np.zeros((self.image_size, self.image_size), np.uint8)
    levels[:rows, :columns] = self._resized(grey)
    return levels

  def _resized(self, grey: UInt8[np.ndarray, "row column *channel"]) -> Float32[np.ndarray, "fitted fitted2 *channel"]:
    """Whole grey levels at the size that the image has inside the network's."""
    rows, columns = self.fitted
    if self.resampling != "area":
      resize = resize_bilinear if self.resampling == "bilinear" else resize_cubic
      return resize(grey, rows, columns).astype(np.float32)
    down, across = self._matrix(self.rows, rows), self._matrix(self.columns, columns)
    planes = [grey] if grey.ndim == 2 else list(np.moveaxis(grey, -1, 0))
    resized = np.stack([down @ plane.astype(np.float32) @ across.T for plane in planes], -1)
    # OpenCV gives 8-bit results; it rounds halves up in its SIMD path.
    resized = np.floor(resized + np.float32(0.5))
    return resized[..., 0] if grey.ndim == 2 else resized

  def _matrix(self, size: int, target: int) -> Float32[np.ndarray, "target size"]:
    # The stretch of the published MedLSAM is smooth where it enlarges; area interpolation would be blocky.
    return linear_matrix(size, target) if self.scaling == "stretch" and target > size else area_matrix(size, target)

  def points_to_image(self, points: Num[np.ndarray, "*k 2"]) -> Float[np.ndarray, "*k 2"]:
    """Pixels (x, y) of the slice to pixels of the image, as the family's programs do: by the sizes as rounded."""
    rows, columns = self.fitted
    return np.asarray(points, float) * (columns / self.columns, rows / self.rows)

  def box_to_image(self, edges: Num[np.ndarray, "*k 4"]) -> Float[np.ndarray, "*k 4"]:
    """Pixels of the slice to pixels of the image, neither rounded nor clipped."""
    x, y = self.scale_xy
    return np.asarray(edges, float) * (x, y, x, y)

  def from_logits(self, logits: Float[np.ndarray, "low low"]) -> Float32[np.ndarray, "row column"]:
    """Mask logits of the image, at any resolution, to the slice's pixels.

    Upsampled to the image, cropped to the part that the slice fills, resized to the slice: all linear, so that each
    axis is one matrix.
    """
    rows, columns = self.back_matrices(*logits.shape)
    return rows @ np.asarray(logits, np.float32) @ columns.T

  def to_low(self, plane: Float[np.ndarray, "row column"], low: int, beyond: float) -> Float32[np.ndarray, "low low"]:
    """Values of the slice's pixels at the centres of `low` pixels an edge of the image, linear; `beyond` the slice."""
    down, across = (
      _forth_matrix(size, self.image_size, filled, low)
      for size, filled in zip((self.rows, self.columns), self.fitted, strict=True)
    )
    answer = np.full((low, low), beyond, np.float32)
    answer[: len(down), : len(across)] = down @ np.asarray(plane, np.float32) @ across.T
    return answer

  def back_matrices(
    self, low_rows: int, low_columns: int
  ) -> tuple[Float32[np.ndarray, "row low"], Float32[np.ndarray, "column low"]]:
    """What `from_logits` multiplies by, one axis each."""
    return (
      _back_matrix(low_rows, self.image_size, self.fitted[0], self.rows),
      _back_matrix(low_columns, self.image_size, self.fitted[1], self.columns),
    )

  def from_positive_logits(
    self, logits: Float[np.ndarray, "low low"]
  ) -> tuple[tuple[slice, slice], Float32[np.ndarray, "row column"]] | None:
    """`from_logits` in the window of the slice that holds all its pixels above zero; None where there is none.

    Interpolation weights are never negative, so that a pixel can be above zero only where it draws on a logit that is:
    nothing of a mask lies outside the window, however far from its box it reaches.
    """
    positive = np.asarray(logits) > 0
    if not positive.any():
      return None
    low_rows, low_columns = logits.shape
    row_window, row_lows, rows = _reached(
      _back_matrix(low_rows, self.image_size, self.fitted[0], self.rows), np.any(positive, 1)
    )
    column_window, column_lows, columns = _reached(
      _back_matrix(low_columns, self.image_size, self.fitted[1], self.columns), np.any(positive, 0)
    )
    if not (len(rows) and len(columns)):
      return None
    return (row_window, column_window), rows @ np.asarray(logits[row_lows, column_lows], np.float32) @ columns.T


def scaled_levels(
  levels: UInt8[Array, "n s s"], fitted: Integer[Array, "2"], pixels: Pixels
) -> Float32[Array, "n s s 3"]:
  """What `ImageFit.to_image` gives, from `ImageFit.to_levels` and `ImageFit.fitted`, in a program."""
  place = jnp.arange(levels.shape[1])
  inside = ((place < fitted[0])[:, None] & (place < fitted[1]))[..., None]
  grey = levels.astype(jnp.float32)[..., None]
  if pixels == "unit":
    low = jnp.where(inside, grey, jnp.inf).min((1, 2, 3), keepdims=True)
    high = jnp.where(inside, grey, -jnp.inf).max((1, 2, 3), keepdims=True)
    scaled = jnp.broadcast_to((grey - low) / jnp.maximum(high - low, 1e-8), (*levels.shape, 3))
  else:
    scaled = (grey - SAM_MEAN) / SAM_SD
  return jnp.where(inside, scaled, 0)


def _reached(
  matrix: Float32[np.ndarray, "slice low"], positive: Bool[np.ndarray, " low"]
) -> tuple[slice, slice, Float32[np.ndarray, "window lows"]]:
  """Pixels that draw on a positive logit, from the first to the last; the logits that they draw on; the weights."""
  window = _span(np.any(matrix[:, _span(positive)] > 0, 1))
  lows = _span(np.any(matrix[window] > 0, 0))
  return window, lows, matrix[window, lows]


def _span(hit: Bool[np.ndarray, " n"]) -> slice:
  where = np.flatnonzero(hit)
  return slice(where[0], where[-1] + 1) if len(where) else slice(0, 0)


@functools.lru_cache(maxsize=32)
def _forth_matrix(size: int, image: int, fitted: int, low: int) -> Float32[np.ndarray, "filled slice"]:
  """What each low-resolution pixel that the slice fills draws from the slice's pixels, along one axis."""
  centres = (np.arange(low) + 0.5) * (image / low)
  place = np.clip(centres[centres < fitted] * (size / fitted) - 0.5, 0, size - 1)
  return _frozen(np.maximum(0, 1 - np.abs(place[:, None] - np.arange(size))))


@functools.lru_cache(maxsize=32)
def _back_matrix(low: int, image: int, fitted: int, slice_size: int) -> Float32[np.ndarray, "slice low"]:
  return _frozen(linear_matrix(fitted, slice_size) @ linear_matrix(low, image)[:fitted])
