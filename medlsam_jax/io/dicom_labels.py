"""DICOM segmentations (SEG) and RT structure sets (RTSTRUCT) as labels that are laid on their scan.

Of whatever program: binary, fractional (half and more is in) and label map segmentations; closed planar contours.
Organs are called as their segments and regions are.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from medlsam_jax.errors import InputError
from medlsam_jax.io.dicom_headers import Unusable, has_mark, quiet, read_dataset
from medlsam_jax.io.dicom_names import text_of
from medlsam_jax.io.drawn_labels import DrawnLabels, Lattice, Plane

if TYPE_CHECKING:
  from pydicom.dataset import Dataset

SUFFIX = ".dcm"
_SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_TO_RAS = np.array([-1.0, -1.0, 1.0])


def is_drawn(path: str | os.PathLike[str]) -> bool:
  """Whether a file is of DICOM, so that its labels are laid on a scan."""
  path = Path(path)
  return path.is_file() and (path.suffix.lower() == SUFFIX or (not path.suffix and has_mark(path)))


def read_drawn(path: str | os.PathLike[str], pixels: bool = True) -> DrawnLabels:
  """Reads a segmentation or a structure set; without `pixels` only the names count.

  Raises:
    InputError: pydicom is not installed, no such file, another kind of DICOM file, a damaged one, one without organs.
  """
  path = Path(path)
  if not path.is_file():
    raise InputError(f"{path}: no such file")
  with quiet():
    try:
      dataset = read_dataset(path, pixels=pixels).dataset
      kind = str(dataset.get("SOPClassUID") or "")
      if kind in _SEGMENTATIONS:
        return _segmentation(dataset, str(path))
      if str(dataset.get("Modality") or "") == "RTSTRUCT":
        return _structures(dataset, str(path))
    except Unusable as error:
      raise InputError(f"{path}: {error}") from error
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:  # fields that are missing or damaged
      raise InputError(f"{path}: a damaged DICOM label file ({type(error).__name__}: {error})") from error
  raise InputError(f"{path}: neither a DICOM SEG nor an RTSTRUCT (Modality {dataset.get('Modality') or 'unknown'})")


def _named(labels: Iterable[tuple[int, str]], source: str) -> tuple[dict[str, int], dict[int, int]]:
  """Organ -> value, and number in the file -> value; a name that is there twice gets a number."""
  names: dict[str, int] = {}
  values: dict[int, int] = {}
  for number, label in labels:
    name, count = label, 1
    while name in names:
      count += 1
      name = f"{label}_{count}"
    names[name] = values[number] = len(names) + 1
  if not names:
    raise InputError(f"{source}: no organ is drawn in it")
  return names, values


def _segmentation(dataset: Dataset, source: str) -> DrawnLabels:
  segments = [(int(item.SegmentNumber), item) for item in dataset.SegmentSequence]
  # label maps number what is no organ 0
  names, values = _named(((number, _label(item)) for number, item in segments if number), source)
  kind = str(dataset.SegmentationType)
  notes: tuple[str, ...] = ()
  least = 1.0
  if kind == "FRACTIONAL":
    least = float(dataset.MaximumFractionalValue) / 2
    notes = (f"{source}: a fractional segmentation; half and more of {dataset.MaximumFractionalValue} is in an organ",)
  shared = dataset.SharedFunctionalGroupsSequence[0] if dataset.get("SharedFunctionalGroupsSequence") else dataset
  planes = [_plane(item, shared) for item in dataset.PerFrameFunctionalGroupsSequence]
  numbers = [0] * len(planes)
  if kind != "LABELMAP":
    numbers = [
      int(_group(item, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber)
      for item in dataset.PerFrameFunctionalGroupsSequence
    ]

  def drawn(lattice: Lattice) -> Iterator[Plane | None]:
    for (corner, steps), number, pixels in zip(planes, numbers, _frames(dataset, source), strict=True):
      inside = {values[number]: pixels >= least} if number else {}
      if kind == "LABELMAP":
        inside = {values[each]: pixels == each for each in np.unique(pixels).tolist() if each in values}
      for value, mask in inside.items():
        if mask.any():
          yield lattice.frame(value, mask, corner, steps)

  return DrawnLabels(names, source, drawn, notes, _distance_mm(dataset, shared))


def _label(segment: Dataset) -> str:
  """What a segment is called: its label, else what its code means."""
  label = text_of(segment.get("SegmentLabel"))
  return label or text_of(segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning)


def _group(item: Dataset, shared: Dataset, name: str) -> Dataset:
  """The frame's own group, else the one that all frames share."""
  return (item if item.get(name) else shared)[name].value[0]


def _plane(item: Dataset, shared: Dataset) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "2 3"]]:
  """First pixel of a frame, and its steps from row to row and from column to column, RAS mm."""
  corner = np.array(_group(item, shared, "PlanePositionSequence").ImagePositionPatient, float)
  along = _group(item, shared, "PlaneOrientationSequence").ImageOrientationPatient
  row, column = np.array(along, float).reshape(2, 3)
  down, across = (float(value) for value in _group(item, shared, "PixelMeasuresSequence").PixelSpacing)
  return corner * _TO_RAS, np.stack([column * down, row * across]) * _TO_RAS


def _distance_mm(dataset: Dataset, shared: Dataset) -> float | None:
  """How far frames lie apart, where the file says it: frames without an organ are left out, so that theirs may not."""
  first = dataset.PerFrameFunctionalGroupsSequence[0]
  distance = float(_group(first, shared, "PixelMeasuresSequence").get("SpacingBetweenSlices") or 0)
  return distance if distance > 0 else None


def _frames(dataset: Dataset, source: str) -> Iterator[np.ndarray]:
  """The frames' pixels, one after the other."""
  from pydicom.pixels import iter_pixels

  try:
    yield from iter_pixels(dataset)
  except Exception as error:  # decoders of several packages, each with its own errors
    raise InputError(f"its pixels cannot be decoded ({type(error).__name__}: {error})") from error


def _structures(dataset: Dataset, source: str) -> DrawnLabels:
  titles = {int(item.ROINumber): text_of(item.ROIName) for item in dataset.StructureSetROISequence}
  contours: dict[int, list[np.ndarray]] = {}
  for region in dataset.get("ROIContourSequence") or ():
    closed = [item for item in region.get("ContourSequence") or () if item.ContourGeometricType in _CLOSED]
    if closed:
      points = [np.array(item.ContourData, float).reshape(-1, 3) * _TO_RAS for item in closed]
      contours[int(region.ReferencedROINumber)] = points
  names, values = _named(((number, titles.get(number) or f"region {number}") for number in contours), source)
  if not all(np.isfinite(points).all() for each in contours.values() for points in each):
    raise InputError(f"{source}: a contour with points that are no numbers")

  def drawn(lattice: Lattice) -> Iterator[Plane | None]:
    for number, points in contours.items():
      yield from lattice.contours(values[number], points)

  return DrawnLabels(names, source, drawn)
