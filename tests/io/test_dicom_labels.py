"""Segmentations and structure sets are read back as the label maps that were written, on whatever series."""

import copy
import warnings

import numpy as np
import pydicom
import pytest
from labelled_series import LAYOUTS, ORGANS, labels_of, read, write_labelled

from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Grid, Volume
from medlsam_jax.io.dicom_labels import read_drawn
from medlsam_jax.io.labels import LabelMap
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


def drawn_on(tmp_path, contours, spacing_mm=1.0, slices=40):
  """Labels of a structure set on an upright scan; `contours` are organ -> (z in mm, low and high corner in mm)."""
  scan = read(write_labelled(tmp_path / "ct"))
  LabelMap(np.ones(scan.grid.shape, np.uint8), scan.grid, {"stand-in": 1}, None, scan.source_images).save(
    tmp_path / "rt.dcm", "rtstruct"
  )
  file = pydicom.dcmread(tmp_path / "rt.dcm")
  title, region = file.StructureSetROISequence[0], file.ROIContourSequence[0]
  file.StructureSetROISequence, file.ROIContourSequence = [], []
  for number, (organ, planes) in enumerate(contours.items(), 1):
    title, region = copy.deepcopy(title), copy.deepcopy(region)
    title.ROINumber = region.ReferencedROINumber = number
    title.ROIName = organ
    item, region.ContourSequence = region.ContourSequence[0], []
    for z, low, high in planes:
      item = copy.deepcopy(item)
      corners = [(-x, -y, z) for x, y in ((low, low), (high, low), (high, high), (low, high))]
      item.ContourData, item.NumberOfContourPoints = np.ravel(corners).tolist(), 4
      region.ContourSequence.append(item)
    file.StructureSetROISequence.append(title)
    file.ROIContourSequence.append(region)
  file.save_as(tmp_path / "rt.dcm")
  grid = Grid((slices, 20, 20), np.diag([1.0, 1.0, spacing_mm, 1.0]))
  scan = Volume(np.zeros(grid.shape, np.float32), grid, "other.nii.gz")
  with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    drawn = read_drawn(tmp_path / "rt.dcm")
    array = drawn.on(scan).array
  return {organ: (array == value).sum((1, 2)) for organ, value in drawn.names.items()}, [str(s.message) for s in said]


def square(*places, size=5):
  """Planes with a square of `size` by `size` pixels of 1 mm."""
  return [(z, 3.5, 3.5 + size) for z in places]


def test_slices_between_planes_take_the_nearest_and_it_is_said(tmp_path):
  found, said = drawn_on(tmp_path, {"cord": [*square(6, 9), *square(12, size=2)], "dot": square(30)})
  cord = np.zeros(40)
  cord[5:11], cord[11:14] = 25, 4
  assert np.array_equal(found["cord"], cord) and found["dot"].sum() == 3 * 25
  assert any("slices between take the nearest plane of the organ (cord 6, dot 2)" in line for line in said)


def test_planes_between_slices_neither_cancel_nor_add_up(tmp_path):
  planes = {"cord": [*square(0, 1, 2, 3, 4, 5), *square(6, 7, 8, 9, size=3)], "dot": square(20)}
  found, said = drawn_on(tmp_path, planes, spacing_mm=5.0, slices=6)
  assert found["cord"].tolist() == [25, 25, 0, 0, 0, 0] and found["dot"].tolist() == [0, 0, 0, 0, 25, 0]
  assert any("8 of 11 planes are not used" in line for line in said)
  found, _ = drawn_on(tmp_path, {"cord": square(2, 3)}, spacing_mm=5.0, slices=6)  # half a voxel from either slice
  assert found["cord"].max() <= 25


def test_holes_are_of_their_own_plane(tmp_path):
  ring = [(z, low, high) for z in (3, 6) for low, high in ((2.5, 12.5), (4.5, 8.5))]
  found, _ = drawn_on(tmp_path, {"ring": ring}, spacing_mm=2.0)
  assert found["ring"][:5].tolist() == [0, 84, 84, 84, 0]


def test_gaps_as_they_were_drawn_stay_and_an_organ_on_every_second_plane_has_none(tmp_path):
  every, second = square(*range(3, 30)), [(z, 12.5, 15.5) for z in range(3, 30, 2)]
  found, said = drawn_on(tmp_path, {"body": every, "pieces": square(4, 5, 9, size=3), "node": second})
  assert np.flatnonzero(found["pieces"]).tolist() == [4, 5, 9]
  assert found["node"][3:30].all() and any("(node 14)" in line for line in said)


def test_segmentation_on_slices_further_apart_fills_what_lies_between(tmp_path):
  scan = read(write_labelled(tmp_path / "ct"))
  labels_of(scan).save(tmp_path / "labels.dcm")
  affine = scan.grid.affine.copy()
  affine[:3, 2] /= 3
  z, y, x = scan.grid.shape
  finer = Volume(np.zeros((3 * z - 2, y, x), np.float32), Grid((3 * z - 2, y, x), affine), "finer.nii.gz")
  drawn, back = quietly(tmp_path / "labels.dcm", finer)
  _, own = quietly(tmp_path / "labels.dcm", scan)
  nearest = np.rint(np.arange(3 * z - 2) / 3).astype(int)
  assert drawn.names and np.array_equal(back.array, own.array[nearest])


LONG = "a name so long that sixty-four letters are not enough to tell it from "


@pytest.mark.parametrize("kind", KINDS)
def test_names_that_dicom_cannot_hold_are_told_and_stay_apart(tmp_path, kind):
  scan = read(write_labelled(tmp_path / "ct"))
  organs = [LONG + "one", LONG + "other", "left\\right", "left_right", " liver ", "liver"]
  array = np.zeros(scan.grid.shape, np.uint8)
  for value in range(1, 7):
    array[value, 2 * value, 3:6] = value
  names = {organ: value for value, organ in enumerate(organs, 1)}
  labels = LabelMap(array, scan.grid, names, None, scan.source_images)
  with pytest.warns(UserWarning, match="names that DICOM cannot hold .* are changed: .* and 1 more"):
    labels.save(tmp_path / "labels.dcm", kind)
  drawn, back = quietly(tmp_path / "labels.dcm", scan)
  expected = [LONG[:64].strip(), LONG[:62].strip() + "_2", "left_right_2", "left_right", "liver_2", "liver"]
  assert list(drawn.names) == expected
  for value, name in enumerate(expected, 1):
    assert np.array_equal(back.array == drawn.names[name], array == value)


def test_name_that_was_written_with_a_backslash_is_read_as_it_is(tmp_path):
  scan = read(write_labelled(tmp_path / "ct"))
  labels_of(scan).save(tmp_path / "seg.dcm")
  labels_of(scan).save(tmp_path / "rt.dcm", "rtstruct")
  seg, structures = pydicom.dcmread(tmp_path / "seg.dcm"), pydicom.dcmread(tmp_path / "rt.dcm")
  seg.SegmentSequence[0].SegmentLabel = structures.StructureSetROISequence[0].ROIName = ["GTV", "boost"]
  for file in (seg, structures):
    file.save_as(tmp_path / "odd.dcm")
    assert next(iter(read_drawn(tmp_path / "odd.dcm").names)) == "GTV\\boost"
