"""Organs of a label map as files hold them: on the grid of the scan's file, each with its name, value and colour."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Integer

from medlsam_jax.geometry import Grid, SourceImage


@dataclasses.dataclass(frozen=True)
class Painted:
  """An organ of a label map."""

  organ: str
  value: int
  colour: tuple[float, float, float]
  """Red, green and blue from 0 to 1, as in the picture and the boxes of the same result."""
  voxels: int


@dataclasses.dataclass(frozen=True, eq=False)
class PaintedMap:
  """What writers of label maps need."""

  array: Integer[np.ndarray, "z y x"]
  grid: Grid
  """Of the scan's file."""
  organs: tuple[Painted, ...]
  """All that are named, those without a voxel too."""
  source_images: tuple[SourceImage, ...] = ()
  """Of the scan, where it is DICOM."""

  @property
  def present(self) -> list[Painted]:
    """The organs that have a voxel, by rising value."""
    return sorted((each for each in self.organs if each.voxels), key=lambda each: each.value)

  def alone(self, organ: Painted) -> PaintedMap:
    """One organ, of value 1."""
    only = dataclasses.replace(organ, value=1)
    return dataclasses.replace(self, array=(self.array == organ.value).astype(np.uint8), organs=(only,))
