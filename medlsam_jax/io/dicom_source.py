"""The headers of the DICOM images that a scan was read from, made ready to be referred to by a file of labels.

What a file that refers to them must repeat (patient, study, frame of reference) is taken from them and from nowhere
else. Fields that anonymisation emptied are made up where the standard asks for them, with a warning.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Shaped

from medlsam_jax import notices
from medlsam_jax.errors import InputError
from medlsam_jax.geometry import SourceImage
from medlsam_jax.io.dicom_headers import Unusable, quiet, read_dataset

if TYPE_CHECKING:
  from pydicom.dataset import Dataset

_MUST_BE_THERE = (
  "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime",
  "ReferringPhysicianName",
)  # fmt: skip
"""Fields that may be empty, not absent (type 2 of the standard)."""
PATIENT_AND_STUDY = ("StudyInstanceUID", *_MUST_BE_THERE)
"""What a file of the same study repeats of its source."""
UNICODE = "ISO_IR 192"
"""Letters of a file of labels, as DICOM calls them."""
_SERIES_STEP = 1000
"""Added to the number of the source's series."""
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
_REFERENCES = [
  *_UIDS, "SOPClassUID", "SOPInstanceUID", "Modality", "Rows", "Columns", "ImagePositionPatient",
  "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "NumberOfFrames",
]  # fmt: skip
"""All that is needed of the images after the first."""


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
  """Headers of the images of one scan."""

  headers: list[Dataset]
  """One for each slice, by rising z, or of an enhanced multi-frame file that one."""
  images: tuple[SourceImage, ...]
  frames: int
  """Of all headers together: one each, or those of the multi-frame file, which may have more than the scan took."""

  @property
  def first(self) -> Dataset:
    """The header that patient and study are taken from."""
    return self.headers[0]

  @property
  def is_multi_frame(self) -> bool:
    """Whether it is one enhanced file."""
    return "PerFrameFunctionalGroupsSequence" in self.first

  @property
  def series_number(self) -> int:
    """Of a series that is made of the source's."""
    try:
      return _SERIES_STEP + int(self.first.get("SeriesNumber") or 0)
    except (TypeError, ValueError):
      return _SERIES_STEP

  def places(self, slices: int) -> list[int]:
    """The slice that each image has, of `slices` of the file's grid; the nearest where they were laid even."""
    return [int(np.clip(np.rint(image.place_vox), 0, slices - 1)) for image in self.images]

  def reference(self, image: SourceImage) -> dict[str, object]:
    """The fields by which a file refers to an image."""
    header = self.first if self.is_multi_frame else self._by_path[image.path]
    fields: dict[str, object] = {"ReferencedSOPClassUID": header.SOPClassUID}
    fields["ReferencedSOPInstanceUID"] = header.SOPInstanceUID
    return {**fields, "ReferencedFrameNumber": image.frame + 1} if self.is_multi_frame else fields

  @functools.cached_property
  def _by_path(self) -> dict[str, Dataset]:
    return {image.path: header for image, header in zip(self.images, self.headers, strict=True)}

  def in_frames(self, array: Shaped[np.ndarray, "z y x"]) -> Shaped[np.ndarray, "frame y x"]:
    """An array on the grid of the scan's file as the source's own frames, those that were not taken being 0."""
    nearest = self.places(len(array))
    if not self.is_multi_frame:
      return array if nearest == list(range(len(array))) else array[nearest]
    result = np.zeros((self.frames, *array.shape[1:]), array.dtype)
    result[[image.frame for image in self.images]] = array[nearest]
    return result


def read_source(images: Sequence[SourceImage], what: str) -> Source:
  """The headers of a scan's images.

  Args:
    images: `source_images` of the scan's `Volume`.
    what: that refers to them, for messages: `a DICOM SEG`.

  Raises:
    InputError: the scan is not of DICOM, its files are gone, or several multi-frame files make it.
  """
  if not images:
    raise InputError(f"{what} refers to the images of a DICOM series, and the scan is of none; choose another format")
  paths = list(dict.fromkeys(image.path for image in images))
  with quiet():
    headers = [_header(path, what, whole=number == 0) for number, path in enumerate(paths)]
    frames = max(int(headers[0].get("NumberOfFrames") or 1), 1)
    if frames > 1 and len(headers) > 1:
      raise InputError(f"{paths[0]}: {what} refers to one multi-frame file, and this scan is made of {len(paths)}")
    if frames == 1 and not _has_groups(headers[0]):
      for header in headers:
        header.pop("NumberOfFrames", None)
    _use_unicode(headers[0])
  _complete(headers, what, str(Path(paths[0]).parent))
  return Source(headers, tuple(images), max(frames, len(headers)))


def _use_unicode(header: Dataset) -> None:
  """Text that is copied from the source stands beside organs' names, which may need other letters than the source's."""
  header.decode()
  header.SpecificCharacterSet = UNICODE


def _has_groups(header: Dataset) -> bool:
  return "PerFrameFunctionalGroupsSequence" in header


def _header(path: str, what: str, whole: bool) -> Dataset:
  try:
    return read_dataset(Path(path), None if whole else _REFERENCES, pixels=False).dataset
  except Unusable as error:
    raise InputError(f"{path}: {error}; {what} refers to the scan's own files, which must still be there") from error


def _complete(headers: list[Dataset], what: str, source: str) -> None:
  """Fills what the standard asks for and the files lack, in place."""
  from pydicom.uid import generate_uid

  first = headers[0]
  for name in _MUST_BE_THERE:
    if name not in first:
      setattr(first, name, "")
  if first.PatientSex not in ("M", "F", "O"):
    first.PatientSex = ""
  for header in headers:
    meta = getattr(header, "file_meta", {})
    header.SOPClassUID = header.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or ""
    header.SOPInstanceUID = header.get("SOPInstanceUID") or meta.get("MediaStorageSOPInstanceUID") or ""
    if not header.SOPInstanceUID or not header.SOPClassUID:
      raise InputError(f"{source}: a slice without SOPInstanceUID or SOPClassUID, which {what} has to name")
  if not _has_groups(first) and not first.get("SliceThickness"):
    places = [np.array(header.ImagePositionPatient, float) for header in headers[:2]]
    for header in headers:
      header.SliceThickness = round(float(np.linalg.norm(places[-1] - places[0])), 6) or 1.0
  missing = [name for name in _UIDS if not first.get(name)]
  if missing:
    notices.warn(
      f"{source}: no {', '.join(missing)} in the files (anonymised?); {what} states made-up ones, so that viewers may "
      "not file it beside the scan"
    )
  for name in missing:
    # of the same files the same: files of labels that are made of them go together
    made_up = generate_uid(entropy_srcs=[name, *(str(header.SOPInstanceUID) for header in headers)])
    for header in headers:
      setattr(header, name, made_up)
