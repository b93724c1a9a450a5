"""Organs of one scan as a label map: names, values and voxels on the scan's grid."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Integer

from medlsam_jax import display, notices
from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Box, Grid, SourceImage, Volume
from medlsam_jax.io import colours, oblique
from medlsam_jax.io.label_values import LARGEST_VALUE
from medlsam_jax.io.painted import Painted, PaintedMap
from medlsam_jax.label_boxes import count_labels


@dataclasses.dataclass(frozen=True, eq=False)
class LabelMap:
  """`array` (z, y, x) of label values on `grid`; `names` says which organ a value is. 0 is no organ.

  Raises:
    InputError: the array's shape is not the grid's, or a value is 0, negative or given to two organs.
  """

  array: Integer[np.ndarray, "z y x"]
  grid: Grid
  names: Mapping[str, int]
  file_grid: Grid | None = None
  """The own grid of a tilted scan's file: files and volumes are of the labels there. None where `grid` is it."""
  source_images: tuple[SourceImage, ...] = dataclasses.field(default=(), repr=False)
  """The scan's DICOM images, which DICOM files of the labels refer to."""

  def __post_init__(self) -> None:
    if self.array.shape != self.grid.shape:
      raise InputError(f"label map of shape {self.array.shape} on a grid of shape {self.grid.shape}")
    check_values(self.names)

  def __repr__(self) -> str:
    organs = display.some(f"{organ} {value}" for organ, value in self.names.items())
    size = display.size(self.grid.shape, self.grid.spacing_mm)
    return f"LabelMap of {display.count(len(self.names), 'organ')} ({organs}): {size}, {self.grid.axis_codes}"

  def _repr_html_(self) -> str:
    volumes_ml = self.volumes_ml()
    rows = [[organ, str(value), f"{volumes_ml[organ]:.1f}"] for organ, value in self.names.items()]
    return display.html_table(repr(self), [["organ", "label value", "ml"], *rows])

  def __getitem__(self, organ: str) -> Bool[np.ndarray, "z y x"]:
    """Mask of one organ.

    Raises:
      InputError: no organ of that name.
    """
    if organ not in self.names:
      raise InputError(f"no organ {organ!r} in this label map; it has: {', '.join(self.names) or 'none'}")
    return self.array == self.names[organ]

  def volumes_ml(self) -> dict[str, float]:
    """Volume of each organ in millilitres, as counted in the file that `save` writes."""
    voxel_ml = abs(float(np.linalg.det(self._in_file[1].affine[:3, :3]))) / 1000
    return {organ: self._counts.get(value, 0) * voxel_ml for organ, value in self.names.items()}

  def painted(self) -> PaintedMap:
    """Labels, names and colours for writers of files."""
    array, grid = self._in_file
    organs = (
      Painted(organ, value, colours.of(place), self._counts.get(value, 0))
      for place, (organ, value) in enumerate(self.names.items())
    )
    return PaintedMap(array, grid, tuple(organs), self.source_images)

  def save(self, path: str | os.PathLike[str], kind: str | None = None) -> None:
    """Writes the labels on the grid of the scan's file, whole or not at all.

    Args:
      path: of the file.
      kind: one of `label_formats.FORMATS` (`nifti`, `dicom-seg`, `rtstruct`, ...); None goes by the ending of `path`:
        `.nii` and `.nii.gz` are NIfTI in the smallest integer type, `.dcm` is `dicom-seg`.

    Raises:
      InputError: nothing was painted that the format could hold, a package for it is missing, or it refers to a DICOM
        series and the scan is of none.
      OutputError: the file cannot be written, or its ending is of no format.
    """
    # Here, since label maps are made where nibabel and pydicom must not be imported.
    from medlsam_jax.io import label_formats

    label_formats.write(path, self.painted(), kind)

  def as_saved(self) -> LabelMap:
    """The same as a reader of its file has it: labels of a tilted scan went to the file's voxels and back."""
    if self.file_grid is None:
      return self
    array, file_grid = self._in_file
    return dataclasses.replace(self, array=oblique.nearest_labels(array, file_grid, self.grid))

  @functools.cached_property
  def _counts(self) -> dict[int, int]:
    """Voxels of each value in the scan's file."""
    return count_labels(self._in_file[0])

  @functools.cached_property
  def _in_file(self) -> tuple[Integer[np.ndarray, "z y x"], Grid]:
    """Labels and grid as the scan's file has its voxels."""
    if self.file_grid is None:
      return self.array, self.grid
    return oblique.nearest_labels(self.array, self.grid, self.file_grid), self.file_grid


def check_values(names: Mapping[str, int]) -> None:
  """Raises InputError unless each organ has a positive label value of its own, of at most 32 bits."""
  owners: dict[int, str] = {}
  for organ, value in names.items():
    if value <= 0:
      raise InputError(f"organ {organ}: label value {value}; values start at 1, 0 is no organ")
    if value > LARGEST_VALUE:
      raise InputError(f"organ {organ}: label value {value}; label maps hold values up to {LARGEST_VALUE}")
    if value in owners:
      raise InputError(f"organs {owners[value]} and {organ} have the same label value {value}")
    owners[value] = organ


def warn_of_swapped(volume: Volume, boxes: Mapping[str, Sequence[Box]]) -> None:
  """Says which boxes have their corners swapped: sorting them mends a slip of the hand, or hides a wrong number."""
  for organ, parts in boxes.items():
    if any((part.array()[0] > part.array()[1]).any() for part in parts):
      notices.warn(f"{volume.source}: {organ}: the low and the high corner of a box are swapped; taken sorted")
