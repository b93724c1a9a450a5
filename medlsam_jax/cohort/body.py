"""Where the body lies in a scan: the box around the largest thing that is not air."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from medlsam_jax.geometry import Volume

BODY_HU = -300.0
"""Between air and fat."""
_STEP_MM = 6.0


def body_mm(scan: Volume) -> Float[np.ndarray, "2 3"] | None:
  """Low and high corner of the body's outline, RAS mm (x, y, z), to about 6 mm; None in a scan of nothing but air.

  Of what is not air the largest connected piece: the table is thin and mostly apart from the patient.
  """
  steps = np.maximum(np.rint(_STEP_MM / scan.spacing_mm).astype(int), 1)
  coarse = scan.array[:: steps[0], :: steps[1], :: steps[2]] > BODY_HU
  body = largest_piece(coarse)
  if body is None:
    return None
  where = ndimage.find_objects(body.astype(np.uint8))[0]
  ends = np.array([[part.start, part.stop - 1] for part in where]).T * steps
  corners = scan.grid.world_from_voxel(ends)
  return np.stack([corners.min(0), corners.max(0)])


def largest_piece(mask: Bool[np.ndarray, "z y x"]) -> Bool[np.ndarray, "z y x"] | None:
  """The largest connected piece of a mask; None of an empty one."""
  pieces, count = ndimage.label(mask)
  return pieces == int(np.bincount(pieces.ravel())[1:].argmax()) + 1 if count else None
