"""Writes DICOM files as scanners and tools do, the damaged ones too. Not a test."""

import struct
import warnings

import numpy as np
import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

AXIAL = [1, 0, 0, 0, 1, 0]
SERIES = "1.2.826.0.1.3680043.8.498.1"


def new_image(path, pixels, series=SERIES, kind=CTImageStorage, signed=False, bits=16):
  """A data set with pixels but without a place in space."""
  meta = FileMetaDataset()
  meta.MediaStorageSOPClassUID = kind
  meta.MediaStorageSOPInstanceUID = generate_uid()
  meta.TransferSyntaxUID = ExplicitVRLittleEndian
  image = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
  image.SOPClassUID = kind
  image.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
  image.Modality = "CT"
  image.SeriesInstanceUID = series
  image.Rows, image.Columns = pixels.shape[-2:]
  image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
  image.BitsAllocated, image.BitsStored = 16, bits
  image.HighBit, image.PixelRepresentation = bits - 1, int(signed)
  image.PixelData = (pixels.astype(np.int64) & 0xFFFF).astype("<u2").tobytes()
  return image


def write_slice(
  path, pixels, position, orientation=AXIAL, slope=1, intercept=-1024, series=SERIES, raw=None, drop=(), **extra
):
  """One CT slice.

  Args:
    raw: field name to (VR, bytes), written as they are.
    drop: names of fields to leave out.
    extra: further fields; `signed`, `bits` and `kind` as `new_image` has them, `preamble=False` leaves that out.
  """
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pydicom's, of what is written wrong on purpose
    return _write_slice(path, pixels, position, orientation, slope, intercept, series, raw, drop, **extra)


def _write_slice(path, pixels, position, orientation, slope, intercept, series, raw, drop, **extra):
  options = {name: extra.pop(name) for name in ("signed", "bits", "kind") if name in extra}
  preamble = extra.pop("preamble", True)
  image = new_image(path, pixels, series, **options)
  image.PixelSpacing = [0.75, 0.5]
  image.ImagePositionPatient = [float(v) for v in position]
  image.ImageOrientationPatient = [float(v) for v in orientation]
  image.SliceThickness = 5
  image.RescaleSlope, image.RescaleIntercept = slope, intercept
  for key, value in extra.items():
    setattr(image, key, value)
  for name in drop:
    del image[name]
  for name, (_, content) in (raw or {}).items():
    # written as another type of the same layout, whose content pydicom leaves alone; the type is put right below
    image[tag_for_keyword(name)] = DataElement(tag_for_keyword(name), "LT", "?" * (len(content) + len(content) % 2))
  if preamble:
    image.save_as(path, enforce_file_format=True)
  else:
    pydicom.dcmwrite(path, Dataset(image), implicit_vr=False, little_endian=True, enforce_file_format=False)
  written = path.read_bytes()
  for name, (vr, content) in (raw or {}).items():
    tag = struct.pack("<HH", *divmod(tag_for_keyword(name), 0x10000))
    length = len(content) + len(content) % 2
    start = written.index(tag + b"LT" + struct.pack("<H", length) + b"?" * length)
    whole = tag + vr.encode() + struct.pack("<H", len(content)) + content
    written = written[:start] + whole + written[start + 8 + length :]
  path.write_bytes(written)
  return path


def write_series(folder, stored, order=None, step=2.5, places=None, **extra):
  """Slices bottom to top; `order` gives the file numbers, so that names do not follow positions."""
  folder.mkdir(parents=True, exist_ok=True)
  places = [100 + step * index for index in range(len(stored))] if places is None else places
  for index, number in enumerate(order or range(len(stored))):
    write_slice(folder / f"{number:03d}.dcm", stored[index], (-30, -40, places[index]), **extra)
  return folder


def item(**fields):
  """An item of a sequence; data sets as values become sequences of one."""
  result = Dataset()
  for name, value in fields.items():
    setattr(result, name, [value] if isinstance(value, Dataset) else value)
  return result


def write_enhanced(path, stored, positions, per_frame_spacing=False, rescale=None, changes=None, **extra):
  """An enhanced CT of one frame per position. `rescale`: slope and intercept of each frame, shared where None."""
  image = new_image(path, stored, kind=EnhancedCTImageStorage)
  image.NumberOfFrames = len(stored)
  measures = item(PixelSpacing=[0.75, 0.5], SliceThickness=5)
  plane = item(ImageOrientationPatient=[float(v) for v in AXIAL])
  shared = item(PlaneOrientationSequence=plane)
  if not per_frame_spacing:
    shared.PixelMeasuresSequence = [measures]
  if rescale is None:
    shared.PixelValueTransformationSequence = [item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")]
  image.SharedFunctionalGroupsSequence = [shared]
  frames = []
  for index, position in enumerate(positions):
    frame = item(PlanePositionSequence=item(ImagePositionPatient=[float(v) for v in position]))
    if per_frame_spacing:
      frame.PixelMeasuresSequence = [measures]
    if rescale is not None:
      slope, intercept = rescale[index]
      frame.PixelValueTransformationSequence = [item(RescaleSlope=slope, RescaleIntercept=intercept)]
    for name, values in (changes or {}).items():
      setattr(frame, name, [values[index]])
    frames.append(frame)
  image.PerFrameFunctionalGroupsSequence = frames
  for key, value in extra.items():
    setattr(image, key, value)
  image.save_as(path, enforce_file_format=True)
  return path
