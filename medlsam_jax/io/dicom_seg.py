"""Label maps as DICOM segmentations on the frames of the series that the scan was read from (highdicom).

A segment for each organ that has a voxel, in order of their label values: name, SNOMED CT codes with the side as a
modifier, colour. Frames lie where the source's lie, in its order and direction, whatever the series: tilted, feet
first, uneven. A frame without the organ is left out; every slice of the source is referred to.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Integer

from medlsam_jax.errors import InputError
from medlsam_jax.geometry import SourceImage
from medlsam_jax.installation import PACKAGE, install_hint, version
from medlsam_jax.io.atomic import atomically
from medlsam_jax.io.dicom_headers import quiet
from medlsam_jax.io.dicom_names import LONGEST, dicom_names
from medlsam_jax.io.dicom_source import UNICODE, read_source
from medlsam_jax.io.organ_codes import SCHEME, Code, code_of
from medlsam_jax.io.painted import Painted

if TYPE_CHECKING:
  from highdicom.seg import SegmentDescription
  from highdicom.sr import CodedConcept

Kind = Literal["BINARY", "LABELMAP"]
WHAT = "a DICOM SEG"


def write_seg(
  path: str | os.PathLike[str],
  array: Integer[np.ndarray, "z y x"],
  organs: Sequence[Painted],
  images: Sequence[SourceImage],
  kind: Kind = "BINARY",
) -> None:
  """Writes a segmentation.

  Args:
    array: label values on the grid of the scan's file.
    organs: that have voxels in it; segments are numbered in this order.
    images: `source_images` of the scan.
    kind: `BINARY` has a frame of bits for each organ and slice, which every reader knows; `LABELMAP` one of numbers for
      each slice, which is smaller and newer.

  Raises:
    InputError: highdicom is not installed, no organ has a voxel, or as `read_source`; the source's header is so odd
      that no segmentation can be made of it.
    OutputError: the file cannot be written.
  """
  try:
    import highdicom
    from pydicom.uid import ExplicitVRLittleEndian, RLELossless
  except ImportError as error:
    raise InputError(f"writing {WHAT} needs highdicom: {install_hint('dicom')}") from error
  if not organs:
    raise InputError(f"{path}: nothing was painted, and {WHAT} cannot be empty")
  source = read_source(images, WHAT)
  numbers = np.zeros(int(array.max()) + 1, np.uint16 if len(organs) > 255 else np.uint8)
  for number, each in enumerate(organs, 1):
    numbers[each.value] = number
  labels = dicom_names(each.organ for each in organs)
  with quiet():
    try:
      segmentation = highdicom.seg.Segmentation(
        source_images=source.headers,
        pixel_array=source.in_frames(numbers[array]),
        segmentation_type=kind,
        segment_descriptions=[_described(number, each, labels[each.organ]) for number, each in enumerate(organs, 1)],
        series_instance_uid=highdicom.UID(),
        series_number=source.series_number,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=PACKAGE,
        manufacturer_model_name=PACKAGE,
        software_versions=version(),
        device_serial_number="none",
        content_label="ORGANS",
        content_description="organs found by medlsam_jax, for research use only",
        # bits of a frame each cannot be compressed in a way that readers know
        transfer_syntax_uid=RLELossless if kind == "LABELMAP" else ExplicitVRLittleEndian,
        series_description=f"organs ({PACKAGE}, research use only)"[:LONGEST],
      )
      segmentation.SpecificCharacterSet = UNICODE  # highdicom 0.27 leaves it to the caller
    except Exception as error:  # of highdicom and pydicom: many ways to say that a header is odd
      said = f"{Path(images[0].path).parent}: no DICOM SEG can be made of these headers ({error})"
      raise InputError(f"{said}; choose another format") from error
    with atomically(path) as part:
      segmentation.save_as(part)


def _described(number: int, painted: Painted, label: str) -> SegmentDescription:
  import highdicom
  from pydicom.sr.codedict import codes

  code = code_of(painted.organ)
  family = codes.DCM.ArtificialIntelligence
  algorithm = highdicom.AlgorithmIdentificationSequence(PACKAGE, family, version())
  red, green, blue = (round(part * 255) for part in painted.colour)
  segment = highdicom.seg.SegmentDescription(
    segment_number=number,
    segment_label=label,
    segmented_property_category=_concept(code.category),
    segmented_property_type=_concept(code.type),
    algorithm_type="AUTOMATIC",
    algorithm_identification=algorithm,
    anatomic_regions=None if code.region is None else [_concept(code.region)],
    display_color=highdicom.color.CIELabColor.from_rgb(red, green, blue),
  )
  if code.side is not None and code.region is not None:
    segment.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [_concept(code.side)]
  elif code.side is not None:
    segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [_concept(code.side)]
  return segment


def _concept(code: Code) -> CodedConcept:
  from highdicom.sr import CodedConcept as Concept

  return Concept(code.value, SCHEME, code.meaning)
