"""Contours lie on the slices they name, and rasterised by another library (matplotlib) they are the masks."""

import labelled_series
import numpy as np
import pydicom
import pytest
from labelled_series import LAYOUTS, ORGANS, labels_of, read, write_labelled
from matplotlib.path import Path

from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Grid
from medlsam_jax.io.contours import mask_of
from medlsam_jax.io.labels import LabelMap

PRESENT = [organ for organ in sorted(ORGANS, key=ORGANS.get) if organ != "spleen"]


@pytest.fixture
def made(tmp_path, request):
  layout = getattr(request, "param", "axial")
  scan = read(write_labelled(tmp_path / "ct", layout))
  labels = labels_of(scan)
  labels.save(tmp_path / "rt.dcm", "rtstruct")
  return scan, labels, pydicom.dcmread(tmp_path / "rt.dcm")


def in_pixels(contour, image):
  """A contour's points as columns and rows of an image, and their distance from its plane."""
  points = np.array(contour.ContourData, float).reshape(-1, 3) - np.array(image.ImagePositionPatient, float)
  row, column = np.array(image.ImageOrientationPatient, float).reshape(2, 3)
  down, across = image.PixelSpacing
  return np.stack([points @ row / across, points @ column / down], 1), points @ np.cross(row, column)


@pytest.mark.parametrize("made", LAYOUTS, indirect=True)
def test_contours_are_the_masks_on_the_sources_slices(made):
  scan, labels, structures = made
  array = labels.painted().array
  images = {}
  for each in scan.source_images:
    image = pydicom.dcmread(each.path)
    images[image.SOPInstanceUID] = (image, array[round(each.place_vox)])
  rows, columns = np.indices(labelled_series.SHAPE[1:])
  centres = np.stack([columns.ravel(), rows.ravel()], 1)
  for region, name in zip(structures.ROIContourSequence, structures.StructureSetROISequence, strict=True):
    found = {uid: np.zeros(labelled_series.SHAPE[1:], bool) for uid in images}
    for contour in region.ContourSequence:
      uid = contour.ContourImageSequence[0].ReferencedSOPInstanceUID
      points, off = in_pixels(contour, images[uid][0])
      assert contour.ContourGeometricType == "CLOSED_PLANAR" and len(points) == contour.NumberOfContourPoints
      assert np.abs(off).max() < 1e-3
      found[uid] ^= Path(np.concatenate([points, points[:1]])).contains_points(centres).reshape(rows.shape)
    for uid, (_, plane) in images.items():
      assert np.array_equal(found[uid], plane == ORGANS[name.ROIName])


def test_patient_series_and_organs_are_named(made):
  scan, _, structures = made
  for name in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
    assert getattr(structures, name) == labelled_series.IDENTITY[name]
  assert [region.ROIName for region in structures.StructureSetROISequence] == PRESENT
  study = structures.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
  images = study.RTReferencedSeriesSequence[0].ContourImageSequence
  expected = {pydicom.dcmread(each.path).SOPInstanceUID for each in scan.source_images}
  assert {item.ReferencedSOPInstanceUID for item in images} == expected
  codes = [item.RTROIIdentificationCodeSequence[0] for item in structures.RTROIObservationsSequence]
  assert [code.CodeMeaning for code in codes] == ["Liver", "Kidney", "Kidney"]
  assert [code.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning for code in codes[1:]] == ["Right", "Left"]


def test_one_contour_may_be_longer_than_64_kb(tmp_path):
  scan = read(write_labelled(tmp_path / "ct", plane=(130, 120)))
  array = (np.random.default_rng(1).random(scan.grid.shape) < 0.7).astype(np.uint8)
  array[:4] = array[5:] = 0
  LabelMap(array, scan.grid, {"liver": 1}, None, scan.source_images).save(tmp_path / "rt.dcm", "rtstruct")
  (region,) = pydicom.dcmread(tmp_path / "rt.dcm").ROIContourSequence
  image = pydicom.dcmread(scan.source_images[4].path)
  contours = [in_pixels(contour, image)[0] for contour in region.ContourSequence]
  assert max(len("\\".join(map(str, contour.ContourData))) for contour in region.ContourSequence) > 65536
  assert np.array_equal(mask_of(contours, (130, 120)), array[4] > 0)


def test_scan_of_another_format_is_refused_in_one_line(tmp_path):
  grid = Grid((3, 4, 5), np.eye(4))
  with pytest.raises(InputError, match="DICOM series, and the scan is of none"):
    LabelMap(np.ones(grid.shape, np.uint8), grid, {"liver": 1}).save(tmp_path / "rt.dcm", "rtstruct")
