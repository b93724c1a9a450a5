"""Segmentations and structure sets are read back as the label maps that were written, on whatever series."""

import warnings

import numpy as np
import pydicom
import pytest
from labelled_series import LAYOUTS, ORGANS, labels_of, read, write_labelled

from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Volume
from medlsam_jax.io.dicom_labels import read_drawn
from medlsam_jax.io.templates import read_templates

PRESENT = [organ for organ in sorted(ORGANS, key=ORGANS.get) if organ != "spleen"]
KINDS = ("dicom-seg", "dicom-seg-labelmap", "rtstruct")


def quietly(path, scan):
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    drawn = read_drawn(path)
    return drawn, drawn.on(scan)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_was_written_is_read(tmp_path, layout, kind):
  scan = read(write_labelled(tmp_path / "ct", layout))
  labels = labels_of(scan)
  labels.save(tmp_path / "labels.dcm", kind)
  drawn, back = quietly(tmp_path / "labels.dcm", scan)
  assert list(drawn.names) == PRESENT and back.grid.is_same(scan.grid)
  ours = labels.painted().array
  theirs = back.array if back.file_array is None else back.file_array
  for organ in PRESENT:
    found, expected = theirs == drawn.names[organ], ours == ORGANS[organ]
    if layout == "a slice missing":  # the slice that was interpolated has no labels of its own
      found, expected = np.delete(found, 3, 0), np.delete(expected, 3, 0)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_laid_on_the_same_scan_in_another_order_of_axes(tmp_path, kind):
  scan = read(write_labelled(tmp_path / "ct"))
  labels_of(scan).save(tmp_path / "labels.dcm", kind)
  _, back = quietly(tmp_path / "labels.dcm", scan)
  grid = scan.grid
  turned = np.eye(4)  # (x, y, z) of the new file are (z, x, y) of the old one, x running the other way
  turned[:3, :3] = grid.affine[:3, [2, 0, 1]] * (1, -1, 1)
  turned[:3, 3] = grid.affine[:3, 3] + grid.affine[:3, 0] * (grid.shape[2] - 1)
  z, y, x = grid.shape
  other = Volume(np.zeros((y, x, z), np.float32), type(grid)((y, x, z), turned), "turned.nii.gz")
  _, laid = quietly(tmp_path / "labels.dcm", other)
  assert np.array_equal(laid.array, back.array.transpose(1, 2, 0)[:, ::-1])


def test_labels_of_another_scan_are_refused(tmp_path):
  scan = read(write_labelled(tmp_path / "ct"))
  for kind in KINDS:
    labels_of(scan).save(tmp_path / "labels.dcm", kind)
    for shift, words in ((5000, "outside"), (1.5, "between slices")):
      affine = scan.grid.affine.copy()
      affine[2, 3] += shift
      other = Volume(scan.array, type(scan.grid)(scan.grid.shape, affine), "other.nii.gz")
      if (kind, words) != ("rtstruct", "between slices"):  # contours are drawn with other programs' rounding
        with pytest.raises(InputError, match=words):
          quietly(tmp_path / "labels.dcm", other)


def test_smaller_organ_counts_where_segments_overlap(tmp_path):
  scan = read(write_labelled(tmp_path / "ct"))
  labels_of(scan).save(tmp_path / "labels.dcm")
  seg = pydicom.dcmread(tmp_path / "labels.dcm")
  frames = seg.pixel_array.copy()
  numbers = [
    int(f.SegmentIdentificationSequence[0].ReferencedSegmentNumber) for f in seg.PerFrameFunctionalGroupsSequence
  ]
  first = numbers.index(PRESENT.index("kidney_left") + 1)
  frames[first, 4:8, 2:6] = 1  # into the liver
  seg.PixelData = np.packbits(frames.ravel(), bitorder="little").tobytes()
  seg.save_as(tmp_path / "labels.dcm")
  with pytest.warns(UserWarning, match="organs overlap"):
    drawn = read_drawn(tmp_path / "labels.dcm")
    back = drawn.on(scan)
  place = round(
    scan.grid.voxel_from_world(
      np.array(seg.PerFrameFunctionalGroupsSequence[first].PlanePositionSequence[0].ImagePositionPatient, float)
      * (-1, -1, 1)
    )[0]
  )
  assert (back.array[place, 4:8, 2:6] == drawn.names["kidney_left"]).all()


@pytest.mark.parametrize(("change", "words"), [
  (lambda seg: seg.pop("SegmentSequence"), "damaged DICOM label file"),
  (lambda seg: setattr(seg, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.2"), "neither a DICOM SEG nor an RTSTRUCT"),
  (lambda seg: setattr(seg, "PixelData", seg.PixelData[:10]), "cannot be decoded"),
  (lambda seg: seg.pop("PerFrameFunctionalGroupsSequence"), "damaged DICOM label file"),
])  # fmt: skip
def test_damaged_file_is_told_in_one_line(tmp_path, change, words):
  scan = read(write_labelled(tmp_path / "ct"))
  labels_of(scan).save(tmp_path / "labels.dcm")
  seg = pydicom.dcmread(tmp_path / "labels.dcm")
  change(seg)
  seg.save_as(tmp_path / "labels.dcm")
  with pytest.raises(InputError, match=f"labels.dcm: .*{words}"):
    quietly(tmp_path / "labels.dcm", scan)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["axial", "tilted gantry"])
def test_templates_of_dicom_have_dicom_labels(tmp_path, layout, kind):
  folder = write_labelled(tmp_path / "set" / "case", layout)
  scan = read(folder)
  labels = labels_of(scan)
  labels.save(tmp_path / "set" / ("case_rtstruct.dcm" if kind == "rtstruct" else "case_seg.dcm"), kind)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    (template,) = read_templates(tmp_path / "set")
    (chosen,) = read_templates(tmp_path / "set", ["kidney_left"])
  assert set(template.organs) == set(PRESENT) and list(chosen.organs) == ["kidney_left"]
  expected = labels.as_saved().array
  for organ, value in template.values.items():
    assert np.array_equal(template.labels.array == value, expected == ORGANS[organ])
