"""DICOM headers read through one guarded place: whatever a field holds, the answer is a value, None or `Unusable`.

Fields are parsed from their bytes here and not by pydicom, whose own conversion raises many kinds of error and guesses
at others; what is wrong with a field is said with the field's name and its content.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import re
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from medlsam_jax.errors import InputError
from medlsam_jax.installation import install_hint

if TYPE_CHECKING:
  from pydicom.dataset import Dataset
  from pydicom.tag import BaseTag

_TEXT_VR = ("DS", "IS", "LO", "SH", "CS", "ST", "LT", "UC", "UT", "UI")
_BINARY_VR = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "US or SS": "H"}
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
_FIRST_GROUPS = (2, 8)
"""A data set without preamble starts with one of these groups: file meta information, or identification."""


class Unusable(Exception):
  """Why a file or frame cannot be part of a volume, in words that follow its name."""

  series: str = ""
  """The series that the file belongs to where it is a damaged slice of it; "" where it is no slice of a scan."""
  unreadable: bool = False
  """Whether the file is DICOM, and nothing more can be said of it."""


@dataclasses.dataclass
class Header:
  """The fields of one data set, or of one item of a sequence in it."""

  path: Path
  dataset: Dataset
  mended: set[str] = dataclasses.field(default_factory=set)
  """What was read although it is not written as the standard says; shared with the items of this header."""

  def text(self, name: str) -> str:
    """The field as stripped text, "" where it is absent. Numbers of other types come as their digits."""
    vr, value = self._field(name)
    if value is None:
      return ""
    if isinstance(value, bytes) and vr in _BINARY_VR:
      return "\\".join(f"{number:g}" for number in self._unpacked(name, vr, value))
    if not isinstance(value, bytes):
      return str(value).strip("\0 ")
    try:
      return value.decode("utf-8").strip("\0 \r\n\t")
    except UnicodeDecodeError:
      return value.decode("latin-1").strip("\0 \r\n\t")

  def values(self, name: str) -> list[str]:
    """The parts of a text field with several."""
    return [part.strip("\0 ") for part in self.text(name).split("\\")] if self.text(name) else []

  def numbers(self, name: str, count: int) -> tuple[float, ...] | None:
    """The field as `count` finite numbers, None where it is absent or empty.

    A comma is read as the decimal point it was meant to be, unless it may set off thousands.

    Raises:
      Unusable: another count, no numbers, or numbers that are not finite.
    """
    vr, value = self._field(name)
    if value is None:
      return None
    if isinstance(value, bytes) and vr in _BINARY_VR:
      numbers = self._unpacked(name, vr, value)
    else:
      parts = self.values(name)
      if not any(parts):
        return None
      numbers = tuple(self._number(name, part) for part in parts)
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
      raise Unusable(f"{name} is {self._shown(name)}, not {count} finite number{'s' if count > 1 else ''}")
    return numbers

  def number(self, name: str) -> float | None:
    """The field as one finite number, None where it is absent or empty; raises Unusable as `numbers` does."""
    numbers = self.numbers(name, 1)
    return None if numbers is None else numbers[0]

  def whole(self, name: str, default: int | None = None) -> int:
    """The field as a whole number, `default` where it is absent or empty.

    Raises:
      Unusable: absent without a default, or no whole number.
    """
    number = self.number(name)
    if number is None:
      if default is None:
        raise Unusable(f"no {name}")
      return default
    if number != int(number):
      raise Unusable(f"{name} is {self._shown(name)}, not a whole number")
    return int(number)

  def items(self, name: str) -> list[Header]:
    """The items of a sequence, none where it is absent; raises Unusable where it cannot be read."""
    if not self.has(name):
      return []
    try:
      items = list(self.dataset[_known(name)[0]].value or ())
    except Exception as error:  # pydicom parses a sequence only now, and may fail in any way
      raise Unusable(f"{name} cannot be read ({error})") from error
    if not all(hasattr(item, "get_item") for item in items):
      raise Unusable(f"{name} is no sequence")
    return [Header(self.path, item, self.mended) for item in items]

  def has(self, name: str) -> bool:
    """Whether the field is there, with or without content."""
    return _known(name)[0] in self.dataset

  def _field(self, name: str) -> tuple[str, str | bytes | int | float | None]:
    """Type and content of a field; None as content where it is absent or empty."""
    tag, known = _known(name)
    if tag not in self.dataset:
      return "", None
    try:
      element = self.dataset.get_item(tag)
    except Exception as error:  # a deferred or damaged element
      raise Unusable(f"{name} cannot be read ({error})") from error
    vr = element.VR if element.VR in _TEXT_VR or element.VR in _BINARY_VR else known
    value = element.value
    if isinstance(value, bytes):
      # two zero bytes are the number 0 of a binary field, and nothing in a text
      return vr, value if value.strip(b"\0 ") or (value and vr in _BINARY_VR) else None
    if value is None or value == "":
      return vr, None
    if not isinstance(value, str | int | float):  # several values that pydicom has parsed already
      value = "\\".join(str(part) for part in value) if hasattr(value, "__iter__") else str(value)
    return vr, value

  def _unpacked(self, name: str, vr: str, value: bytes) -> tuple[float, ...]:
    code = _BINARY_VR[vr]
    little = getattr(self.dataset.get_item(_known(name)[0]), "is_little_endian", True)
    try:
      return tuple(float(number) for (number,) in struct.iter_unpack(("<" if little else ">") + code, value))
    except struct.error as error:
      raise Unusable(f"{name} has {len(value)} bytes, which is no number of type {vr}") from error

  def _number(self, name: str, text: str) -> float:
    plain = text
    if "," in text and not _THOUSANDS.fullmatch(text):
      plain = text.replace(",", ".")
    try:
      number = float(plain)
    except ValueError as error:
      raise Unusable(f"{name} is {self._shown(name)}, not a number") from error
    if plain != text:
      self.mended.add(f"{name} is written with a comma, read as a decimal point")
    return number

  def _shown(self, name: str) -> str:
    try:
      return repr(self.text(name)[:60])
    except Unusable as error:
      return str(error)


@functools.cache
def _known(name: str) -> tuple[BaseTag, str]:
  """Tag and type of a field in pydicom's dictionary; asked once, which is most of the time of a header."""
  from pydicom.datadict import dictionary_VR, tag_for_keyword
  from pydicom.tag import Tag

  tag = Tag(tag_for_keyword(name) or 0)
  return tag, dictionary_VR(tag)


def pydicom_module() -> ModuleType:
  """pydicom, imported when the first DICOM file is read; raises InputError where it is not installed."""
  try:
    import pydicom
  except ImportError as error:
    raise InputError(f"reading DICOM needs pydicom: {install_hint('dicom')}") from error
  return pydicom


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Keeps pydicom's own warnings from the user: what matters of them is said in our words."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    yield


def has_mark(path: Path) -> bool:
  """Whether a file is DICOM by its first 140 bytes: the mark after the preamble, or a first element that may be one."""
  try:
    with path.open("rb") as file:
      return _is_dicom(file.read(140))
  except OSError:
    return False


def _is_dicom(start: bytes) -> bool:
  return start[128:132] == b"DICM" or _starts_with_an_element(start)


def _starts_with_an_element(start: bytes) -> bool:
  if len(start) < 12:
    return False
  for order in "<>":
    group, element = struct.unpack(order + "HH", start[:4])
    if group not in _FIRST_GROUPS or element > 0x0100:
      continue
    explicit = start[4:6] in (b"UL", b"OB", b"UI", b"CS", b"SH", b"LO", b"DA", b"TM", b"ST", b"UN")
    implicit = order == "<" and struct.unpack("<I", start[4:8])[0] <= 256
    if explicit or implicit:
      return True
  return False


def read_dataset(path: Path, tags: list[str] | None = None, pixels: bool = True) -> Header:
  """The data set of a file: the fields `tags` alone and no pixels, or all of it, with `pixels` or without.

  Raises:
    Unusable: no DICOM file, or one that cannot be parsed.
  """
  pydicom = pydicom_module()
  try:
    with path.open("rb") as file:
      if not _is_dicom(file.read(140)):
        raise Unusable("no DICOM file")
      file.seek(0)
      dataset = pydicom.dcmread(file, force=True, stop_before_pixels=not pixels or tags is not None, specific_tags=tags)
  except Unusable:
    raise
  except OSError as error:
    raise _unreadable(f"cannot be opened ({error.strerror or error})") from error
  except Exception as error:  # a damaged file ends in an error of any kind inside pydicom
    raise _unreadable(f"cannot be read as DICOM ({type(error).__name__}: {error})") from error
  if not len(dataset):
    raise _unreadable("cut off, or no DICOM file")
  return Header(path, dataset)


def _unreadable(reason: str) -> Unusable:
  error = Unusable(reason)
  error.unreadable = True
  return error
