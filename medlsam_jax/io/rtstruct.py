"""Label maps as DICOM RT structure sets: closed contours of each organ on the slices of the scan's series.

Written with pydicom directly. An organ's pieces on a slice are contours of their own; holes are keyholes
(`io.contours`). Every slice of the source is referred to, and each contour names its own.
"""

from __future__ import annotations

import datetime
import os
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Grid, SourceImage
from medlsam_jax.installation import PACKAGE, version
from medlsam_jax.io.atomic import atomically
from medlsam_jax.io.contours import polygons_of
from medlsam_jax.io.dicom_headers import pydicom_module, quiet
from medlsam_jax.io.dicom_names import LONGEST, dicom_names
from medlsam_jax.io.dicom_source import PATIENT_AND_STUDY, Source, read_source
from medlsam_jax.io.organ_codes import SCHEME, Code, code_of
from medlsam_jax.io.painted import Painted, PaintedMap
from medlsam_jax.label_boxes import LabelBox, find_labels

if TYPE_CHECKING:
  from pydicom.dataelem import DataElement
  from pydicom.dataset import Dataset, FileDataset

WHAT = "an RTSTRUCT"
_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
"""Detached Study Management, retired; still what a reference to a study has."""
_DECIMALS = 4
"""Of millimetres: a ten-thousandth of a pixel decides nothing, and sixteen letters hold it."""


def write_rtstruct(path: str | os.PathLike[str], labels: PaintedMap) -> None:
  """Writes a structure set, one region for each organ that has a voxel.

  Raises:
    InputError: pydicom is not installed, no organ has a voxel, or as `read_source`.
    OutputError: the file cannot be written.
  """
  pydicom_module()
  if not labels.present:
    raise InputError(f"{path}: nothing was painted, and {WHAT} cannot be empty")
  source = read_source(labels.source_images, WHAT)
  boxes, names = find_labels(labels.array), dicom_names(each.organ for each in labels.present)
  with quiet():
    structures = _header(source)
    structures.StructureSetROISequence = [
      _item(
        ROINumber=number,
        ReferencedFrameOfReferenceUID=source.first.FrameOfReferenceUID,
        ROIName=names[each.organ],
        ROIGenerationAlgorithm="AUTOMATIC",
      )
      for number, each in enumerate(labels.present, 1)
    ]
    structures.ROIContourSequence = [
      _item(
        ROIDisplayColor=[round(part * 255) for part in each.colour],
        ContourSequence=_contours(each, boxes[each.value], labels, source),
        ReferencedROINumber=number,
      )
      for number, each in enumerate(labels.present, 1)
    ]
    structures.RTROIObservationsSequence = [
      _item(
        ObservationNumber=number,
        ReferencedROINumber=number,
        ROIObservationLabel=names[each.organ][:16].strip(),
        RTROIIdentificationCodeSequence=[_coded(each.organ)],
        RTROIInterpretedType="ORGAN",
        ROIInterpreter="",
      )
      for number, each in enumerate(labels.present, 1)
    ]
    with atomically(path) as part:
      structures.save_as(part, enforce_file_format=True)


def _header(source: Source) -> FileDataset:
  """All but the organs: patient and study of the source, and what it is that they were drawn on."""
  from pydicom.dataset import FileDataset, FileMetaDataset
  from pydicom.uid import UID, ImplicitVRLittleEndian, generate_uid

  first, now = source.first, datetime.datetime.now()
  day, time, uid = now.strftime("%Y%m%d"), now.strftime("%H%M%S"), generate_uid()
  # implicit, since other encodings hold 64 kB of points at the most
  meta = FileMetaDataset()
  meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(_STRUCTURE_SET), uid
  meta.TransferSyntaxUID = ImplicitVRLittleEndian
  result = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
  for name in ("SpecificCharacterSet", *PATIENT_AND_STUDY):
    if name in first:
      result[name] = first[name]
  _fill(result, **_own(uid, day, time), SeriesNumber=source.series_number)
  result.FrameOfReferenceUID = first.FrameOfReferenceUID
  images = [
    _item(ReferencedSOPClassUID=header.SOPClassUID, ReferencedSOPInstanceUID=header.SOPInstanceUID)
    for header in source.headers
  ]
  series = _item(SeriesInstanceUID=first.SeriesInstanceUID, ContourImageSequence=images)
  study = _item(
    ReferencedSOPClassUID=_STUDY_CLASS,
    ReferencedSOPInstanceUID=first.StudyInstanceUID,
    RTReferencedSeriesSequence=[series],
  )
  frame = _item(FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=[study])
  result.ReferencedFrameOfReferenceSequence = [frame]
  return result


def _own(uid: str, day: str, time: str) -> dict[str, object]:
  """Fields that are the structure set's own."""
  from pydicom.uid import generate_uid

  return {
    "SOPClassUID": _STRUCTURE_SET, "SOPInstanceUID": uid, "InstanceCreationDate": day, "InstanceCreationTime": time,
    "Modality": "RTSTRUCT", "SeriesInstanceUID": generate_uid(), "InstanceNumber": 1, "OperatorsName": "",
    "SeriesDescription": f"organs ({PACKAGE}, research use only)"[:LONGEST], "PositionReferenceIndicator": "",
    "Manufacturer": PACKAGE, "ManufacturerModelName": PACKAGE, "SoftwareVersions": version(),
    "StructureSetLabel": PACKAGE[:16], "StructureSetDate": day, "StructureSetTime": time,
    "StructureSetDescription": "organs, for research use only", "ApprovalStatus": "UNAPPROVED",
  }  # fmt: skip


def _contours(organ: Painted, box: LabelBox, labels: PaintedMap, source: Source) -> list[Dataset]:
  """The contours of an organ, whose voxels lie in `box`, by rising z."""
  planes, rows, columns = box
  items: list[Dataset] = []
  for image, place in zip(source.images, source.places(len(labels.array)), strict=True):
    mask = labels.array[place, rows, columns] == organ.value
    if not planes.start <= place < planes.stop or not mask.any():
      continue
    reference = _item(**source.reference(image))
    for polygon in polygons_of(mask):
      world = _in_world(polygon + np.array([columns.start, rows.start]), image, labels.grid)
      items.append(
        _item(
          ContourImageSequence=[reference],
          ContourGeometricType="CLOSED_PLANAR",
          NumberOfContourPoints=len(world),
          ContourNumber=len(items) + 1,
        )
      )
      items[-1].add(_numbers("ContourData", world))
  return items


def _in_world(polygon: Float[np.ndarray, "n 2"], image: SourceImage, grid: Grid) -> Float[np.ndarray, "n 3"]:
  """Points (x, y) of an image's pixels in LPS mm, on the image's own plane."""
  return np.array(image.position_mm) + polygon @ grid.affine[:3, :2].T * (-1, -1, 1)


def _numbers(name: str, values: Float[np.ndarray, "n 3"]) -> DataElement:
  """A field of many numbers, which pydicom would take one by one."""
  from pydicom.dataelem import DataElement

  text = "\\".join(f"{value:.{_DECIMALS}f}" for value in (values + 0.0).ravel().tolist())
  return DataElement(name, "DS", text, already_converted=True)


def _coded(organ: str) -> Dataset:
  code = code_of(organ)
  item = _code(code.type)
  if code.side is not None:
    item.SegmentedPropertyTypeModifierCodeSequence = [_code(code.side)]
  return item


def _code(code: Code) -> Dataset:
  return _item(CodeValue=code.value, CodingSchemeDesignator=SCHEME, CodeMeaning=code.meaning)


def _item(**fields: object) -> Dataset:
  from pydicom.dataset import Dataset

  return _fill(Dataset(), **fields)


def _fill(dataset: Dataset, **fields: object) -> Dataset:
  for name, value in fields.items():
    setattr(dataset, name, value)
  return dataset
