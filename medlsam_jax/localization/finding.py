"""What a search says of one organ, in voxels (z, y, x) of the scan."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from medlsam_jax.geometry import Box
from medlsam_jax.localization import boxes
from medlsam_jax.localization.confidence import Confidence, Verdict


@dataclasses.dataclass(frozen=True, eq=False)
class Finding:
  """Where an organ is, and how far to trust that."""

  organ: str
  value: int
  """Label value for results."""
  points: Float[np.ndarray, "parts 6 3"]
  """Scan voxels in the order of `FACES`, part after part from the feet up (one part unless SPL); may lie outside."""
  verdict: Verdict
  confidence: Confidence

  @property
  def parts(self) -> list[Box]:
    """Box of each part."""
    return boxes.part_boxes(self.points)

  @property
  def box(self) -> Box:
    """Smallest box around all parts."""
    return Box.around(self.parts)

  @property
  def whole_points(self) -> Float[np.ndarray, "6 3"]:
    """Six extreme points of the organ as a whole."""
    return boxes.whole_points(self.points)
