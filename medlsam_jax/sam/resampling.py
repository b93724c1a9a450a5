"""8-bit images to another size, as each member of the SAM family saw its training images.

`bilinear`: Pillow's antialiased triangle filter (SAM, MobileSAM). `cubic`: Gaussian smoothing where it shrinks, then
cubic splines (MedSAM, which used scikit-image). Area averaging (LiteMedSAM) is in `sam.slices`.
"""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float64, UInt8


def resize_bilinear(
  image: UInt8[np.ndarray, "row column *channel"], rows: int, columns: int
) -> UInt8[np.ndarray, "rows columns *channel"]:
  """Pillow's bilinear filter, widened where it shrinks."""
  from PIL import Image

  resized = Image.fromarray(np.ascontiguousarray(image)).resize((columns, rows), Image.Resampling.BILINEAR)
  return np.asarray(resized)


def resize_cubic(
  image: UInt8[np.ndarray, "row column *channel"], rows: int, columns: int
) -> UInt8[np.ndarray, "rows columns *channel"]:
  """Cubic splines, half-pixel centres, mirrored edges, held inside the image's range and truncated to integers.

  Axes that shrink by a factor f are first smoothed with a standard deviation of (f - 1) / 2.
  """
  down, across = _cubic_matrix(image.shape[0], rows), _cubic_matrix(image.shape[1], columns)
  planes = [image] if image.ndim == 2 else list(np.moveaxis(image, -1, 0))
  resized = np.stack([down @ plane.astype(np.float64) @ across.T for plane in planes], -1)
  # Flat areas are whole numbers but for rounding, which must not take a grey level from them.
  resized = np.clip(resized + 1e-6, image.min(), image.max()).astype(np.uint8)
  return resized[..., 0] if image.ndim == 2 else resized


@functools.lru_cache(maxsize=16)
def _cubic_matrix(size: int, target: int) -> Float64[np.ndarray, "target size"]:
  """What smoothing and splines do along one axis: both are linear, and a matrix is faster than splines of an image."""
  from scipy import ndimage

  matrix = np.eye(size)
  if size > target:
    matrix = ndimage.gaussian_filter1d(matrix, (size / target - 1) / 2, axis=0, mode="mirror")
  matrix = ndimage.zoom(matrix, (target / size, 1), order=3, mode="mirror", grid_mode=True)
  matrix.flags.writeable = False
  return matrix
