"""Clean-up of a label map in place: stray pieces away, enclosed holes filled."""

from __future__ import annotations

import numpy as np
from jaxtyping import Integer
from scipy import ndimage

from medlsam_jax.label_boxes import find_labels


def clean_labels(array: Integer[np.ndarray, "z y x"], largest_component: bool, fill_holes: bool) -> None:
  """Cleans each label of `array` (z, y, x) in place, inside the label's own bounding box.

  Args:
    array: label values.
    largest_component: keep of each label only the largest piece whose voxels share faces.
    fill_holes: give background that a label encloses on all sides to it; other labels are left alone.
  """
  for value, bounds in find_labels(array).items():
    block = array[bounds]
    if largest_component:
      pieces, count = ndimage.label(block == value)
      if count > 1:
        largest = np.argmax(np.bincount(pieces.ravel())[1:]) + 1
        block[(block == value) & (pieces != largest)] = 0
    if fill_holes:
      block[ndimage.binary_fill_holes(block == value) & (block == 0)] = value
