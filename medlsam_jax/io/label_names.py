"""Organs' names inside a NIfTI label map: an extension of its header, which programs that do not know it pass over.

The text is the label table of Connectome Workbench (extension code 30), which TotalSegmentator writes and reads too: an
element `Label` for each value, its `Key`, its colour, and the name as text.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

from nibabel.nifti1 import Nifti1Extension

from medlsam_jax.errors import InputError
from medlsam_jax.io import nifti_file
from medlsam_jax.io.painted import Painted

_CODE = 30
_LONGEST = 1 << 24


def extension(organs: Iterable[Painted]) -> Nifti1Extension:
  """The names, values and colours of organs."""
  root = ElementTree.Element("CaretExtension")
  information = ElementTree.SubElement(root, "VolumeInformation", Index="0")
  table = ElementTree.SubElement(information, "LabelTable")
  for each in organs:
    parts = zip(("Red", "Green", "Blue"), each.colour, strict=True)
    attributes = {"Key": str(each.value), **{name: f"{part:.4f}" for name, part in parts}, "Alpha": "1"}
    ElementTree.SubElement(table, "Label", attributes).text = each.organ
  ElementTree.SubElement(information, "StudyMetaDataLinkSet")
  ElementTree.SubElement(information, "VolumeType").text = "Label"
  return Nifti1Extension(_CODE, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def names_inside(path: str | os.PathLike[str]) -> dict[str, int]:
  """Organ -> value as the header of a NIfTI file says; empty where it says nothing, or what cannot be read.

  Two values of one name are told apart by a number.
  """
  try:
    with nifti_file.open_stream(Path(path)) as stream:
      header = nifti_file.read_header(stream, str(path))
      room = min(int(header["vox_offset"]) - header.sizeof_hdr, _LONGEST)
      content = stream.read(max(room, 0))
  except (InputError, OSError, EOFError, ValueError, OverflowError):
    return {}
  for text in _texts(content):
    if names := _names(text):
      return names
  return {}


def _texts(content: bytes) -> Iterable[bytes]:
  """The extensions of a header, by what stands behind it."""
  place = 4
  if len(content) < place or not content[0]:
    return
  while place + 8 <= len(content):
    size = next(
      (n for order in ("little", "big") if (n := int.from_bytes(content[place : place + 4], order)) % 16 == 0 and n), 0
    )
    if size < 16 or place + size > len(content):
      return
    yield content[place + 8 : place + size].rstrip(b"\0")
    place += size


def _names(text: bytes) -> dict[str, int]:
  """What a label table says; empty where it is none."""
  if b"LabelTable" not in text or b"<!" in text.replace(b"<![CDATA[", b""):  # entities may grow without end
    return {}
  try:
    root = ElementTree.fromstring(text)
    labels = [(int(each.get("Key", "0")), (each.text or "").strip()) for each in root.iter("Label")]
  except (ElementTree.ParseError, ValueError):
    return {}
  names: dict[str, int] = {}
  for value, label in labels:
    if value > 0 and label and value not in names.values():
      names[label if label not in names else f"{label}_{value}"] = value
  return names
