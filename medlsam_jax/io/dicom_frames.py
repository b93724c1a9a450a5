"""What one DICOM file says of the images in it, places, spacing and scale: slices and enhanced multi-frame CT."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from pathlib import Path

import numpy as np
from jaxtyping import Float

from medlsam_jax.io.dicom_headers import Header, Unusable, read_dataset

_GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
ACQUISITION = ("AcquisitionNumber", "TemporalPositionIdentifier", "TemporalPositionIndex", "StackID", "EchoNumbers")
"""Fields that tell acquisitions of one series apart; those of `_TIMES` only explain, since every slice has its own."""
_TIMES = ("AcquisitionTime", "ContentTime")
_NO_IMAGES = ("SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "RTRECORD", "SR", "PR", "KO", "DOC", "REG", "FID", "AU", "ECG")
_LOCALIZERS = {"LOCALIZER", "SCOUT", "TOPOGRAM"}
_FURTHEST_MM = 1e5
"""No place is further from a scanner's origin; beyond it, float32 would not tell slices apart."""
_PATIENT = ("PatientName", "PatientID", "OtherPatientNames", "OtherPatientIDs", "PatientBirthDate", "PatientBirthName")
_LEAST_LETTERS = 3
"""Shorter parts of a name or a number stand in too many other words."""
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
TAGS = [
  *_GEOMETRY,
  *ACQUISITION,
  *_TIMES,
  *_PATIENT,
  "BitsAllocated",
  "Columns",
  "ConvolutionKernel",
  "ImageType",
  "Modality",
  "ModalityLUTSequence",
  "NumberOfFrames",
  "PerFrameFunctionalGroupsSequence",
  "RescaleIntercept",
  "RescaleSlope",
  "RescaleType",
  "Rows",
  "SamplesPerPixel",
  "SeriesDescription",
  "SeriesInstanceUID",
  "SeriesNumber",
  "SharedFunctionalGroupsSequence",
  "SliceLocation",
  "SliceThickness",
  "SOPClassUID",
  "SOPInstanceUID",
  "SpacingBetweenSlices",
]


@dataclasses.dataclass(frozen=True)
class Series:
  """What tells one series from another to a reader."""

  uid: str
  number: str = ""
  description: str = ""
  kernel: str = ""
  modality: str = ""
  derived: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
  """One image by its header, pixels not decoded. Positions and directions in DICOM's LPS mm."""

  path: Path
  index: int
  frames: int
  """Which image of how many in the file."""
  uid: str
  series: Series
  shape: tuple[int, int]
  position: Float[np.ndarray, "3"]
  orientation: Float[np.ndarray, "2 3"]
  pixel_spacing: Float[np.ndarray, "2"]
  """Between rows, between columns."""
  thickness: float | None
  slope: float | None
  intercept: float | None
  rescale_type: str
  acquisition: dict[str, str]
  """Fields that tell acquisitions of one series apart, where they are written."""

  @property
  def name(self) -> str:
    """The file's name, and the frame's number where it has several."""
    return self.path.name if self.frames == 1 else f"{self.path.name} frame {self.index + 1}"


def read_frames(path: Path) -> tuple[list[Frame], set[str], dict[str, int]]:
  """The images of a file that have a place in space.

  Returns:
    Frames, what was mended in reading them, and the reasons for which other frames of the file are left out, counted.

  Raises:
    Unusable: no DICOM file, no image, a localizer, a colour image, or a field that is missing or damaged (named).
  """
  header = read_dataset(path, TAGS)
  kind = _other_kind(header) or ("" if header.has("Rows") else "no image")
  if kind:
    raise Unusable(kind)
  series = Series(
    header.text("SeriesInstanceUID") or "unnamed",
    header.text("SeriesNumber"),
    _description(header),
    header.text("ConvolutionKernel"),
    header.text("Modality").upper(),
    "DERIVED" in (part.upper() for part in header.values("ImageType")),
  )
  try:
    return _images(header, series)
  except Unusable as error:
    if not header.text("SOPClassUID").startswith(_SECONDARY_CAPTURE):
      error.series = series.uid
    raise


def _description(header: Header) -> str:
  """What a series is called where a user has to choose; empty where that names the patient: it stands in messages."""
  said = header.text("SeriesDescription")
  for name in _PATIENT:
    with contextlib.suppress(Unusable):
      parts = re.split(r"[\W_]+", header.text(name).casefold())
      if any(len(part) >= _LEAST_LETTERS and part in said.casefold() for part in parts):
        return ""
  return said


def may_be_slice(path: Path) -> bool:
  """Whether a DICOM file is a slice as far as its kind says: a damaged one is, a report or a localizer is not."""
  try:
    return not _other_kind(read_dataset(path, ["ImageType", "Modality", "SamplesPerPixel"]))
  except Unusable:
    return True


def _other_kind(header: Header) -> str:
  """What a file is that is no slice of a scan, "" where its kind does not say so."""
  modality = header.text("Modality").upper()
  if modality in _NO_IMAGES:
    return f"no scan (Modality {modality})"
  if header.whole("SamplesPerPixel", 1) != 1:
    return "a colour image"
  return "a localizer (ImageType)" if _is_localizer(header, "ImageType") else ""


def _is_localizer(header: Header, name: str) -> bool:
  return bool(_LOCALIZERS & {part.upper() for part in header.values(name)})


def _images(header: Header, series: Series) -> tuple[list[Frame], set[str], dict[str, int]]:
  shape = header.whole("Rows"), header.whole("Columns")
  if min(shape) < 1:
    raise Unusable(f"an image of {shape[0]} rows and {shape[1]} columns (Rows, Columns)")
  per_frame = header.items("PerFrameFunctionalGroupsSequence")
  if per_frame:
    return _enhanced(header, per_frame, series, shape)
  count = _number_of_frames(header, 1)
  if count > 1:
    raise Unusable(f"{count} frames without places of their own (NumberOfFrames, no PerFrameFunctionalGroupsSequence)")
  return [_frame(header, [header], (0, 1), series, shape)], header.mended, {}


def _number_of_frames(header: Header, otherwise: int) -> int:
  """NumberOfFrames; `otherwise`, with a note, where that is no number: decoding refuses pixels of another length."""
  try:
    return header.whole("NumberOfFrames", otherwise)
  except Unusable as error:
    header.mended.add(f"{error}; read as {otherwise} image{'s' if otherwise > 1 else ''}")
    return otherwise


def _enhanced(
  header: Header, per_frame: list[Header], series: Series, shape: tuple[int, int]
) -> tuple[list[Frame], set[str], dict[str, int]]:
  """Each frame's groups hold what is its own, the shared groups the rest; some files keep old fields beside."""
  shared = [group for owner in header.items("SharedFunctionalGroupsSequence") for group in _groups(owner)]
  declared = _number_of_frames(header, len(per_frame))
  if declared != len(per_frame):
    raise Unusable(f"NumberOfFrames is {declared}, PerFrameFunctionalGroupsSequence has {len(per_frame)}")
  frames: list[Frame] = []
  reasons: dict[str, int] = {}
  for index, item in enumerate(per_frame):
    try:
      groups = [*_groups(item), *shared]
      if any(_is_localizer(group, "FrameType") for group in groups):
        raise Unusable("a localizer (FrameType)")
      frames.append(_frame(header, [*groups, header], (index, declared), series, shape))
    except Unusable as error:
      reasons[str(error)] = reasons.get(str(error), 0) + 1
  if not frames:
    raise Unusable("; ".join(reasons))
  return frames, header.mended, reasons


_FRAME_GROUPS = (
  "PlanePositionSequence",
  "PlaneOrientationSequence",
  "PixelMeasuresSequence",
  "PixelValueTransformationSequence",
  "FrameContentSequence",
  "CTImageFrameTypeSequence",
)


def _groups(owner: Header) -> list[Header]:
  return [group for name in _FRAME_GROUPS for group in owner.items(name)[:1]]


def _frame(
  header: Header, groups: list[Header], which: tuple[int, int], series: Series, shape: tuple[int, int]
) -> Frame:
  def first(name: str) -> Header:
    return next((group for group in groups if group.has(name) and group.text(name)), header)

  missing = [name for name in _GEOMETRY if not first(name).text(name)]
  if missing:
    alone = " (SliceLocation alone is no place)" if header.text("SliceLocation") and missing[0] == _GEOMETRY[0] else ""
    raise Unusable(f"no {', '.join(missing)}{alone}: an image without a place in space")
  position = _array(first("ImagePositionPatient"), "ImagePositionPatient", 3)
  if np.abs(position).max() > _FURTHEST_MM:
    raise Unusable(f"ImagePositionPatient is {position.tolist()} mm, no place in a scanner")
  spacing = _array(first("PixelSpacing"), "PixelSpacing", 2)
  if spacing.min() <= 0:
    raise Unusable(f"pixel spacing {spacing.tolist()} mm (PixelSpacing); both must be above zero")
  slope, intercept = (first(name).number(name) for name in ("RescaleSlope", "RescaleIntercept"))
  if slope == 0:
    raise Unusable("RescaleSlope is 0, which makes all voxels one value")
  if slope is None and header.items("ModalityLUTSequence"):
    raise Unusable("values by a look-up table (ModalityLUTSequence), which is not read")
  acquisition = {name: first(name).text(name) for name in (*ACQUISITION, *_TIMES)}
  return Frame(
    path=header.path,
    index=which[0],
    frames=which[1],
    uid=header.text("SOPInstanceUID"),
    series=series,
    shape=shape,
    position=position,
    orientation=_orientation(first("ImageOrientationPatient")),
    pixel_spacing=spacing,
    thickness=_thickness(first("SpacingBetweenSlices"), first("SliceThickness")),
    slope=slope,
    intercept=intercept,
    rescale_type=first("RescaleType").text("RescaleType"),
    acquisition={name: value for name, value in acquisition.items() if value},
  )


def _array(header: Header, name: str, count: int) -> Float[np.ndarray, " count"]:
  numbers = header.numbers(name, count)
  if numbers is None:
    raise Unusable(f"{name} is empty")
  return np.array(numbers)


def _orientation(header: Header) -> Float[np.ndarray, "2 3"]:
  values = _array(header, "ImageOrientationPatient", 6).reshape(2, 3)
  lengths = np.linalg.norm(values, axis=1)
  if np.abs(lengths - 1).max() > 0.01 or abs(values[0] @ values[1]) > 0.01:
    raise Unusable(f"ImageOrientationPatient {values.ravel().tolist()} is not two right-angled directions")
  return values / lengths[:, None]


def _thickness(*headers: Header) -> float | None:
  """Of one slice alone: the distance or the thickness, whichever is a length. Some writers give a distance a sign."""
  for header, name in zip(headers, ("SpacingBetweenSlices", "SliceThickness"), strict=True):
    try:
      value = header.number(name)
    except Unusable:
      continue
    if value:
      return abs(value)
  return None
