"""Segmentations lie on the frames of the source, and an independent reader (dcmqi) finds organs and sides there."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import labelled_series
import nibabel
import numpy as np
import pydicom
import pytest
from labelled_series import LAYOUTS, ORGANS, PATIENT, labels_of, read, world_voxels, write_labelled
from scipy.spatial import cKDTree

from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Grid, Volume
from medlsam_jax.io.labels import LabelMap

PRESENT = [organ for organ in sorted(ORGANS, key=ORGANS.get) if organ != "spleen"]
DCMQI = shutil.which("segimage2itkimage", path=str(Path(sys.executable).parent))


def on_frames(labels, scan):
  """Label values of each source image, by its place."""
  array = labels.painted().array
  return {image.path: array[round(image.place_vox)] for image in scan.source_images}


@pytest.mark.parametrize("kind", ["dicom-seg", "dicom-seg-labelmap"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_frames_are_the_sources_own(tmp_path, layout, kind):
  scan = read(write_labelled(tmp_path / "ct", layout))
  labels = labels_of(scan)
  labels.save(tmp_path / "seg.dcm", kind)
  seg = pydicom.dcmread(tmp_path / "seg.dcm")
  sources = {pydicom.dcmread(image.path).SOPInstanceUID: image.path for image in scan.source_images}
  values = {int(item.SegmentNumber): ORGANS.get(item.SegmentLabel, 0) for item in seg.SegmentSequence}
  expected, found = (
    on_frames(labels, scan),
    {path: np.zeros(labelled_series.SHAPE[1:], int) for path in sources.values()},
  )
  for frame, pixels in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True):
    (source,) = frame.DerivationImageSequence[0].SourceImageSequence
    path = sources[source.ReferencedSOPInstanceUID]
    own = pydicom.dcmread(path)
    np.testing.assert_allclose(frame.PlanePositionSequence[0].ImagePositionPatient, own.ImagePositionPatient)
    shared = seg.SharedFunctionalGroupsSequence[0]
    stated = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    np.testing.assert_allclose(stated, own.ImageOrientationPatient)
    assert shared.PixelMeasuresSequence[0].PixelSpacing == own.PixelSpacing
    if kind == "dicom-seg":
      found[path][pixels > 0] = values[int(frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber)]
      assert pixels.any()
    else:
      found[path] = np.vectorize(values.get)(pixels)
  assert all(np.array_equal(found[path], expected[path]) for path in expected)


def test_every_slice_is_referred_to_and_the_patient_is_the_sources(tmp_path):
  scan = read(write_labelled(tmp_path / "ct"))
  labels_of(scan).save(tmp_path / "seg.dcm")
  seg = pydicom.dcmread(tmp_path / "seg.dcm")
  (series,) = seg.ReferencedSeriesSequence
  uids = {pydicom.dcmread(image.path).SOPInstanceUID for image in scan.source_images}
  assert {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence} == uids
  own = pydicom.dcmread(scan.source_images[0].path)
  assert series.SeriesInstanceUID == own.SeriesInstanceUID != seg.SeriesInstanceUID
  for name in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "FrameOfReferenceUID", "StudyDate"):
    assert getattr(seg, name) == labelled_series.IDENTITY[name]
  assert seg.SegmentationType == "BINARY" and seg.Modality == "SEG"


def test_organs_have_codes_and_sides_and_empty_ones_are_left_out(tmp_path):
  scan = read(write_labelled(tmp_path / "ct"))
  labels_of(scan).save(tmp_path / "seg.dcm")
  segments = pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence
  assert [segment.SegmentLabel for segment in segments] == PRESENT
  codes = [segment.SegmentedPropertyTypeCodeSequence[0] for segment in segments]
  assert [code.CodeValue for code in codes] == ["10200004", "64033007", "64033007"]
  sides = [code.get("SegmentedPropertyTypeModifierCodeSequence") for code in codes]
  assert sides[0] is None and [side[0].CodeMeaning for side in sides[1:]] == ["Right", "Left"]


def test_enhanced_file_is_referred_to_frame_by_frame(tmp_path):
  scan = read(labelled_series.write_labelled_enhanced(tmp_path / "ct.dcm"))
  labels = labels_of(scan)
  labels.save(tmp_path / "seg.dcm")
  seg, own = pydicom.dcmread(tmp_path / "seg.dcm"), pydicom.dcmread(tmp_path / "ct.dcm")
  planes = {image.frame: labels.painted().array[round(image.place_vox)] for image in scan.source_images}
  for frame, pixels in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True):
    number = int(frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber) - 1
    position = own.PerFrameFunctionalGroupsSequence[number].PlanePositionSequence[0].ImagePositionPatient
    assert frame.PlanePositionSequence[0].ImagePositionPatient == position
    organ = PRESENT[int(frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber) - 1]
    assert np.array_equal(pixels > 0, planes[number] == ORGANS[organ])


@pytest.mark.skipif(DCMQI is None, reason="dcmqi has no package for this platform")
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name not in ("a slice missing", "tilted gantry")])
def test_an_independent_reader_finds_every_voxel_and_side(tmp_path, layout):
  scan = read(write_labelled(tmp_path / "ct", layout))
  labels = labels_of(scan)
  labels.save(tmp_path / "seg.dcm")
  words = ["--inputDICOM", tmp_path / "seg.dcm", "--outputDirectory", tmp_path]
  words += ["--outputType", "nifti", "--prefix", "q"]
  subprocess.run([DCMQI, *map(str, words)], check=True, capture_output=True)
  said = [item for group in json.loads((tmp_path / "q-meta.json").read_text())["segmentAttributes"] for item in group]
  assert [item["SegmentLabel"] for item in said] == PRESENT
  for item in said:
    organ = item["SegmentLabel"]
    image = nibabel.load(tmp_path / f"q-{item['labelID']}.nii.gz")
    theirs = np.asarray(image.dataobj).T
    where = world_voxels(theirs > 0, Grid(theirs.shape, image.affine))
    ours = world_voxels(labels.painted().array == ORGANS[organ], labels.painted().grid)
    assert len(where) == len(ours) and cKDTree(ours).query(where)[0].max() < 0.02
    side = item.get("SegmentedPropertyTypeModifierCodeSequence", {}).get("CodeMeaning", "")
    assert side == {"kidney_left": "Left", "kidney_right": "Right"}.get(organ, "")


def test_scan_of_another_format_is_refused_in_one_line(tmp_path):
  grid = Grid((3, 4, 5), np.eye(4))
  labels = LabelMap(np.ones(grid.shape, np.uint8), grid, {"liver": 1})
  with pytest.raises(InputError, match="DICOM series, and the scan is of none"):
    labels.save(tmp_path / "seg.dcm")
  assert not list(tmp_path.iterdir())


def test_files_that_are_gone_are_named(tmp_path):
  scan = read(write_labelled(tmp_path / "ct"))
  shutil.rmtree(tmp_path / "ct")
  with pytest.raises(InputError, match=r"\.dcm: cannot be opened.*must still be there"):
    labels_of(scan).save(tmp_path / "seg.dcm")


def test_emptied_identifiers_are_made_up_and_said(tmp_path):
  folder = write_labelled(tmp_path / "ct", StudyInstanceUID="", FrameOfReferenceUID="")
  scan = read(folder)
  with pytest.warns(UserWarning, match="no StudyInstanceUID, FrameOfReferenceUID in the files"):
    labels_of(scan).save(tmp_path / "seg.dcm")
  seg = pydicom.dcmread(tmp_path / "seg.dcm")
  assert seg.StudyInstanceUID and seg.FrameOfReferenceUID


def test_odd_fields_of_the_patient_do_no_harm(tmp_path):
  scan = read(
    write_labelled(tmp_path / "ct", PatientSex="female", drop=["PatientBirthDate", "StudyDate", "SliceThickness"])
  )
  labels_of(scan).save(tmp_path / "seg.dcm")
  assert pydicom.dcmread(tmp_path / "seg.dcm").PatientName == PATIENT


@pytest.mark.parametrize("form", ["dicom-seg", "rtstruct"])
@pytest.mark.parametrize(
  ("letters", "patient"),
  [("ISO_IR 100", "Müller^Jörg"), (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"), ("ISO_IR 9999", "Plain^Name")],
)
def test_names_keep_letters_that_the_source_cannot_spell(tmp_path, form, letters, patient):
  scan = read(write_labelled(tmp_path / "ct", SpecificCharacterSet=letters, PatientName=patient))
  array = np.ones(scan.grid.shape, np.uint8)
  LabelMap(array, scan.grid, {"肝脏": 1}, None, scan.source_images).save(tmp_path / "out.dcm", form)
  found = pydicom.dcmread(tmp_path / "out.dcm")
  organ = found.SegmentSequence[0].SegmentLabel if form == "dicom-seg" else found.StructureSetROISequence[0].ROIName
  assert organ == "肝脏" and str(found.PatientName) == patient


def test_label_map_in_memory_that_is_empty_is_no_segmentation(tmp_path):
  scan = read(write_labelled(tmp_path / "ct"))
  labels = LabelMap(np.zeros(scan.grid.shape, np.uint8), scan.grid, ORGANS, None, scan.source_images)
  with pytest.raises(InputError, match="nothing was painted"):
    labels.save(tmp_path / "seg.dcm")
  assert isinstance(scan, Volume)
