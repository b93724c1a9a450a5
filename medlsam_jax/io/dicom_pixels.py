"""Stored pixels of DICOM images: decoded, their bits sorted out, and scaled to HU with padding marked as NaN.

Uncompressed pixels are cut from the file here, so that lengths, unused bits and byte order are checked once;
compressed ones go through pydicom's decoders (GDCM, OpenJPEG, its own RLE), whatever of them is installed.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float32, Integer, Num

from medlsam_jax.errors import InputError
from medlsam_jax.io.dicom_frames import Frame
from medlsam_jax.io.dicom_headers import Header, Unusable, read_dataset

if TYPE_CHECKING:
  from pydicom.pixels.decoders.base import DecodeOptions
  from pydicom.uid import UID

_OPENJPEG = "1.2.840.10008.1.2.4.9", "1.2.840.10008.1.2.4.20"
"""How the transfer syntaxes of JPEG 2000 and its high-throughput kind begin."""
_RLE = "1.2.840.10008.1.2.5"
_JPEG_FAMILY = "1.2.840.10008.1.2.4.5", "1.2.840.10008.1.2.4.7", "1.2.840.10008.1.2.4.8", *_OPENJPEG
_JPEG_START, _OPENJPEG_STARTS = b"\xff\xd8", (b"\xff\x4f", b"\0\0\0\x0cjP")
"""Of JPEG and JPEG-LS; of a JPEG 2000 code stream and of one in its file format."""
_JPEG_12_BIT = "1.2.840.10008.1.2.4.51"
_TISSUE_HU = (-900.0, 3100.0)
"""A padding value within these may be tissue too: it counts as padding only where the corners of the image hold it."""


@dataclasses.dataclass
class Pixels:
  """The pixels of one file, encoded, and how they are to be read."""

  path: Path
  header: Header
  shape: tuple[int, int]
  allocated: int
  stored: int
  high: int
  signed: bool
  remarks: set[str]
  """What is odd about these pixels, as `doubts` of the volume."""

  @property
  def data(self) -> bytes:
    """The content of the pixel data element."""
    for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
      if self.header.has(name):
        content = self.header.dataset.get_item(name).value
        return bytes(content or b"")
    raise Unusable("no pixels (PixelData)")

  def frame(self, index: int, frames: int) -> tuple[Num[np.ndarray, "y x"], Integer[np.ndarray, "y x"] | None]:
    """One image's stored values, and its raw bit patterns where they are known (uncompressed)."""
    syntax = _syntax(self.header)
    if not self.header.has("PixelData"):
      return self._floats(index), None
    if syntax.is_compressed and str(syntax) == _RLE:  # whose unused bits are as in uncompressed pixels
      raw = self._decoded(syntax, index, frames, self.allocated, False)
      return self._values(raw), raw
    if syntax.is_compressed:
      return self._decoded(syntax, index, frames, self.stored, self.signed), None
    raw = self._cut(index, frames, syntax)
    return self._values(raw), raw

  def _cut(self, index: int, frames: int, syntax: UID) -> Integer[np.ndarray, "y x"]:
    data, size = self.data, self.shape[0] * self.shape[1] * self.allocated // 8
    if len(data) < size * frames:
      raise Unusable(f"truncated or damaged pixels: {len(data)} bytes, {size * frames} expected; copy the file again")
    if len(data) > size * frames + max(1, size // 100):
      raise Unusable(f"{len(data)} bytes of pixels, {size * frames} expected of Rows, Columns and NumberOfFrames")
    order = "<" if syntax.is_little_endian else ">"
    kind = np.dtype(f"{order}u{self.allocated // 8}")
    raw = np.frombuffer(data, kind, self.shape[0] * self.shape[1], index * size).reshape(self.shape)
    return raw.astype(kind.newbyteorder("="), copy=False)

  def _floats(self, index: int) -> Float32[np.ndarray, "y x"]:
    kind = np.float32 if self.header.has("FloatPixelData") else np.float64
    count = self.shape[0] * self.shape[1]
    data = self.data
    if len(data) < (index + 1) * count * np.dtype(kind).itemsize:
      raise Unusable(f"truncated or damaged pixels: {len(data)} bytes; copy the file again")
    values = np.frombuffer(data, kind, count, index * count * np.dtype(kind).itemsize).reshape(self.shape)
    if not np.isfinite(values).all():
      raise Unusable("NaN or infinite pixels")
    return values.astype(np.float32)

  def _values(self, raw: Integer[np.ndarray, "y x"]) -> Integer[np.ndarray, "y x"]:
    """The stored bits of each word, sign extended; bits outside them (an old kind of overlay) are cut away."""
    kind = np.dtype(f"i{raw.dtype.itemsize}")
    if self.stored == self.allocated:
      return raw.view(kind) if self.signed else raw
    # shifting up and down again extends the sign, and drops what lies above and below
    up, down = self.allocated - 1 - self.high, self.allocated - self.stored
    values = np.left_shift(raw, up)
    values = np.right_shift(values.view(kind) if self.signed else values, down)
    if not self.signed and up and (np.right_shift(raw, self.high + 1) != 0).any():
      self._unused_bits(raw)
    return values

  def _unused_bits(self, raw: Integer[np.ndarray, "y x"]) -> None:
    dataset = self.header.dataset
    overlay = any((group, 0x0102) in dataset for group in range(0x6000, 0x6020, 2))
    padding = self._padding_value()
    above = np.right_shift(raw, self.high + 1) != 0
    if overlay or (padding is not None and (raw[above] == int(padding) % (1 << self.allocated)).all()):
      return
    self.remarks.add(
      f"bits above BitsStored ({self.stored}) are set and were cut away; if they belong to the values, those are wrong"
    )

  def _padding_value(self) -> float | None:
    try:
      return self.header.number("PixelPaddingValue")
    except Unusable:
      return None

  def _decoded(self, syntax: UID, index: int, frames: int, stored: int, signed: bool) -> Integer[np.ndarray, "y x"]:
    from pydicom.pixels import get_decoder

    try:
      decoder = get_decoder(syntax)
    except NotImplementedError as error:
      raise InputError(f"{self.path}: no decoder of {_called(syntax)}; convert to NIfTI, with dcm2niix say") from error
    if not decoder.is_available:
      raise InputError(f"{self.path}: {_no_decoder(syntax)}")
    self._refuse_cut_code(syntax, index, frames)
    options: DecodeOptions = {
      "rows": self.shape[0],
      "columns": self.shape[1],
      "number_of_frames": frames,
      "samples_per_pixel": 1,
      "photometric_interpretation": "MONOCHROME2",
      "bits_allocated": self.allocated,
      "bits_stored": stored,
      "pixel_representation": int(signed),
      "pixel_keyword": "PixelData",
      "pixel_vr": "OB",
    }
    try:
      array, _ = decoder.as_array(self.data, index=index, raw=True, **options)  # type: ignore[arg-type]  # mypy takes the TypedDict for one value
    except Exception as error:  # decoders of four packages, each with its own errors
      return self._decoded_otherwise(syntax, index, frames, error)
    return np.asarray(array)

  def _refuse_cut_code(self, syntax: UID, index: int, frames: int) -> None:
    """Decoders fill what is missing of a JPEG with grey, and some releases of GDCM all of what is none, unsaid."""
    from pydicom import encaps

    if str(syntax) == _RLE or not str(syntax).startswith(_JPEG_FAMILY):
      return
    try:
      code = bytes(encaps.get_frame(self.data, index, number_of_frames=frames))
    except Exception as error:  # fragments may be damaged in any way
      raise Unusable(f"truncated or damaged pixels ({_called(syntax)}: {error}); copy the file again") from error
    begins = code.startswith(_OPENJPEG_STARTS if str(syntax).startswith(_OPENJPEG) else _JPEG_START)
    if not begins or not code.rstrip(b"\0").endswith(b"\xff\xd9"):
      lacks = "the end" if begins else "the start"
      raise Unusable(f"truncated or damaged pixels (they lack {lacks} of {_called(syntax)}); copy the file again")

  def _decoded_otherwise(self, syntax: UID, index: int, frames: int, error: Exception) -> Integer[np.ndarray, "y x"]:
    """12-bit JPEG: pydicom does not ask GDCM for it, which reads it."""
    if str(syntax) == _JPEG_12_BIT and self.stored > 8:
      if importlib.util.find_spec("gdcm") is None:
        raise InputError(f"{self.path}: {_no_decoder(syntax)}") from error
      array = _by_gdcm(self.path, (frames, *self.shape))
      if array is not None:
        return array[index]
    reason = str(error).strip().splitlines()[-1].strip() if str(error).strip() else type(error).__name__
    raise Unusable(f"truncated or damaged pixels ({_called(syntax)}: {reason}); copy the file again") from error


def _by_gdcm(path: Path, shape: tuple[int, int, int]) -> Integer[np.ndarray, "frame y x"] | None:
  import gdcm

  reader = gdcm.ImageReader()
  reader.SetFileName(str(path))
  if not reader.Read():
    return None
  values = np.frombuffer(reader.GetImage().GetBuffer().encode("utf-8", "surrogateescape"), "<u2")
  return values.reshape(shape) if values.size == int(np.prod(shape)) else None


def _syntax(header: Header) -> UID:
  """The file's transfer syntax; where it does not say (no file meta information), the way in which it was parsed."""
  from pydicom import uid

  meta = getattr(header.dataset, "file_meta", None)
  syntax = meta.get("TransferSyntaxUID") if meta is not None else None
  if syntax:
    return uid.UID(str(syntax))
  implicit, little = header.dataset.original_encoding
  if implicit:
    return uid.ImplicitVRLittleEndian
  return uid.ExplicitVRLittleEndian if little in (True, None) else uid.ExplicitVRBigEndian


def _called(syntax: UID) -> str:
  return f"{syntax.name} ({syntax})" if syntax.name != str(syntax) else f"transfer syntax {syntax}"


def _no_decoder(syntax: UID) -> str:
  packages = "pylibjpeg pylibjpeg-openjpeg" if str(syntax).startswith(_OPENJPEG) else "python-gdcm"
  return (
    f"its pixels are {_called(syntax)}, which nothing installed here decodes; pip install {packages}, "
    "or convert to NIfTI"
  )


def read_pixels(path: Path) -> Pixels:
  """The file's pixels and their layout; raises Unusable where a field of the layout is missing or impossible."""
  header = read_dataset(path)
  allocated = header.whole("BitsAllocated", 16)
  stored = header.whole("BitsStored", allocated)
  high = header.whole("HighBit", stored - 1)
  if allocated not in (8, 16, 32) and header.has("PixelData"):
    raise Unusable(f"BitsAllocated is {allocated}; 8, 16 and 32 are read")
  if not 0 < stored <= allocated or not stored - 1 <= high < allocated:
    raise Unusable(f"BitsAllocated {allocated}, BitsStored {stored} and HighBit {high} contradict each other")
  remarks = set()
  photometric = header.text("PhotometricInterpretation")
  if photometric not in ("", "MONOCHROME2"):
    remarks.add(f"PhotometricInterpretation is {photometric}, of a CT MONOCHROME2; the values may be inverted")
  return Pixels(
    path,
    header,
    (header.whole("Rows"), header.whole("Columns")),
    allocated,
    stored,
    high,
    header.whole("PixelRepresentation", 0) == 1,
    remarks,
  )


def hounsfield(pixels: Pixels, frame: Frame) -> Float32[np.ndarray, "y x"]:
  """One image in HU by its slope and intercept (1 and 0 where absent); padding is NaN.

  Raises:
    Unusable: damaged pixels, or fields of the pixel layout.
    InputError: nothing installed decodes the file's transfer syntax.
  """
  values, raw = pixels.frame(frame.index, frame.frames)
  slope = 1.0 if frame.slope is None else frame.slope
  result = values.astype(np.float32) * np.float32(slope) + np.float32(frame.intercept or 0.0)
  padding = _padding(pixels, values, raw, frame)
  if padding is not None:
    result[padding] = np.nan
  return result


def _padding(
  pixels: Pixels, values: np.ndarray, raw: Integer[np.ndarray, "y x"] | None, frame: Frame
) -> Bool[np.ndarray, "y x"] | None:
  header = pixels.header
  try:
    value, limit = header.number("PixelPaddingValue"), header.number("PixelPaddingRangeLimit")
  except Unusable as error:
    pixels.remarks.add(f"{error}; padding is taken as tissue")
    return None
  if value is None:
    return None
  ends = sorted(_as_stored(number, pixels) for number in (value, value if limit is None else limit))
  padding = (values >= ends[0]) & (values <= ends[1])
  if raw is not None and limit is None:
    # a padding of -2000 in words of 12 unsigned bits is meant as the whole word
    padding |= raw == int(value) % (1 << pixels.allocated)
  if not padding.any():
    return None
  slope = 1.0 if frame.slope is None else frame.slope
  hounsfield_ends = [end * slope + (frame.intercept or 0.0) for end in ends]
  outside = max(hounsfield_ends) < _TISSUE_HU[0] or min(hounsfield_ends) > _TISSUE_HU[1]
  corners = padding[[0, 0, -1, -1], [0, -1, 0, -1]]
  return padding if outside or corners.all() else None


def _as_stored(number: float, pixels: Pixels) -> int:
  """A padding value as the pixels hold it, whichever sign its own field was written with."""
  words = 1 << pixels.allocated
  pattern = int(number) % words
  return pattern - words if pixels.signed and pattern >= words // 2 else pattern


def whole_copy(frame: Frame, other: Frame) -> Frame | None:
  """Which of two images to keep where both are one, by their values, else None.

  The same image (SOPInstanceUID) damaged in copying counts as a copy of the whole one.
  """
  if frame.path == other.path or (frame.index, frame.frames) != (other.index, other.frames):
    return None
  values, other_values = _values_or_none(frame), _values_or_none(other)
  if values is not None and other_values is not None:
    return frame if np.array_equal(values, other_values, equal_nan=True) else None
  if not frame.uid or frame.uid != other.uid:
    return None
  return frame if values is not None else other if other_values is not None else None


def _values_or_none(frame: Frame) -> Float32[np.ndarray, "y x"] | None:
  try:
    return hounsfield(read_pixels(frame.path), frame)
  except (Unusable, InputError):
    return None
