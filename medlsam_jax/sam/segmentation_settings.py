"""How boxes and slices of a scan are prepared for a network of the SAM family, and its presets."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from medlsam_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class SegmentationSettings:
  """How boxes and slices are prepared for the network. Defaults are LiteMedSAM's own (reference, section 7).

  Raises:
    ConfigError: a value out of range.
  """

  window_hu: tuple[float, float] = (-160.0, 240.0)
  """HU shown as black and as white."""
  grey_range: Literal["window", "scan"] = "window"
  """What becomes 0..255: the whole window, or the range that the scan has inside it."""
  scaling: Literal["model", "pad", "stretch"] = "model"
  """How a slice fills the network's image: as the network was trained (size and interpolation), or a given way."""
  margin_px: float = 3.0
  """Widening of each box edge, in pixels of an image of `margin_frame` pixels an edge, whatever the network's."""
  margin_frame: int = 256
  rounding: Literal["down", "nearest"] = "down"
  """How box edges become whole pixels, before the margin."""
  extra_slices: int = 0
  """Slices added to an organ's lower and upper end; a negative number takes away."""
  fill_gaps: bool = True
  """Whether slices between two parts of an organ get an interpolated box."""
  largest_component: bool = False
  """Keep only the largest connected piece of each organ."""
  fill_holes: bool = False
  """Give enclosed holes of an organ to it, unless another organ is there."""

  def __post_init__(self) -> None:
    low, high = self.window_hu
    if not (np.isfinite([low, high]).all() and low < high):
      raise ConfigError(f"window_hu {self.window_hu}: the first must be below the second")
    if not (self.margin_px >= 0 and self.margin_frame > 0):
      raise ConfigError(f"margin_px {self.margin_px} at margin_frame {self.margin_frame}: neither may be negative")
    for name, value, known in (
      ("grey_range", self.grey_range, ("window", "scan")),
      ("scaling", self.scaling, ("model", "pad", "stretch")),
      ("rounding", self.rounding, ("down", "nearest")),
    ):
      if value not in known:
        raise ConfigError(f"{name} {value!r} is unknown; known: {', '.join(known)}")


LITEMEDSAM = SegmentationSettings()
MEDLSAM = SegmentationSettings(
  window_hu=(-500.0, 1000.0),
  grey_range="scan",
  scaling="stretch",
  margin_px=10.0,
  margin_frame=1024,
  rounding="nearest",
)
"""Published values (reference, section 6) without the program's bugs: water is not black, the network gets its own
pixel scaling, and no end slice is dropped. Boxes are kept inside the image."""
PRESETS = {"litemedsam": LITEMEDSAM, "medlsam": MEDLSAM}
