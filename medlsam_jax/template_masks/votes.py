"""What templates say of an organ in a scan: how likely it is in each voxel of a part of it, along any directions."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from medlsam_jax.geometry import DISPLAY_AXIS_CODES, WORKING_AXIS_CODES, Grid, reorient


@dataclasses.dataclass(frozen=True, eq=False)
class Vote:
  """An organ's part of a scan; outside it the organ is not."""

  low: tuple[int, int, int]
  """First voxel of the part, in the scan's array along the directions that `share` has."""
  share: Float[np.ndarray, "a b c"]
  """How likely each of its voxels is the organ's, from 0 to 1."""

  @property
  def window(self) -> tuple[slice, slice, slice]:
    """Where the part lies in that array."""
    z, y, x = (slice(low, low + size) for low, size in zip(self.low, self.share.shape, strict=True))
    return z, y, x

  def shown(self, grid: Grid, codes: str = DISPLAY_AXIS_CODES) -> Vote:
    """A vote along the working grid's directions, along those of `codes` (rising column, row and slice).

    Args:
      grid: of the scan.
      codes: as for `geometry.reorient`.
    """
    shape = [grid.shape[axis] for axis in grid.axes_to(WORKING_AXIS_CODES)[0]]
    turned = Grid((shape[0], shape[1], shape[2]), np.diag([-1.0, 1.0, 1.0, 1.0]))
    order, flip = turned.axes_to(codes)
    z, y, x = (
      shape[axis] - self.low[axis] - self.share.shape[axis] if flipped else self.low[axis]
      for axis, flipped in zip(order, flip, strict=True)
    )
    return Vote((z, y, x), reorient(self.share, turned, codes))
