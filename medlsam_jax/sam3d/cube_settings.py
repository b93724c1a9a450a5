"""How cubes are cut from scans for the volumetric network: said in training, kept in the adapter file, used after."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import cast

import numpy as np
from jaxtyping import Array, Float

from medlsam_jax.errors import WeightsError
from medlsam_jax.sam.slices import SAM_MEAN, SAM_SD, Pixels

IN_HEADER = "cubes"


@dataclasses.dataclass(frozen=True)
class CubeSettings:
  """Of one adapter file."""

  spacing_mm: float = 2.0
  """Between voxels of a cube."""
  window_hu: tuple[float, float] = (-160.0, 240.0)
  """HU shown as black and as white."""
  margin: float = 0.1
  """Of a box's edge, on each of its sides, that a cube is to show besides the box. The relative crops at 1.2 times."""
  organs: tuple[str, ...] = ()
  """That the adapters have learned; others can be asked for, with a warning."""

  def entry(self) -> dict[str, str]:
    """For the header of an adapter file."""
    return {IN_HEADER: json.dumps(dataclasses.asdict(self))}

  @classmethod
  def of_header(cls, header: Mapping[str, str], source: str) -> CubeSettings:
    """What an adapter file says.

    Raises:
      WeightsError: it says nothing, or nothing of sense.
    """
    try:
      said = json.loads(header[IN_HEADER])
      low, high = (float(each) for each in said["window_hu"])
      settings = cls(float(said["spacing_mm"]), (low, high), float(said["margin"]), tuple(map(str, said["organs"])))
    except (KeyError, TypeError, ValueError) as error:
      raise WeightsError(f"{source}: its header does not say how cubes are cut ({error})") from error
    if not settings.are_of_use:
      raise WeightsError(f"{source}: its header says {settings}, by which no cube can be cut")
    return settings

  @property
  def are_of_use(self) -> bool:
    """Whether cubes can be cut by them."""
    low, high = self.window_hu
    is_window = math.isfinite(low) and math.isfinite(high) and low < high
    return is_window and 0 < self.spacing_mm < 100 and 0 <= self.margin < 10


def to_pixels(hu: Float[Array, "*n"], window_hu: tuple[float, float], pixels: Pixels) -> Float[Array, "*n"]:
  """HU through a window, scaled as the base wants its pixels; `imagenet` by the mean over its three colours."""
  low, high = window_hu
  unit = (hu.clip(low, high) - low) / (high - low)
  if pixels == "unit":
    return unit
  return cast(Array, (unit * 255 - float(np.mean(SAM_MEAN))) / float(np.mean(SAM_SD)))
