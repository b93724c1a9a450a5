"""3D Slicer ROIs: where they lie, and how they are read."""

import json
from pathlib import Path

import numpy as np
import pytest

from medlsam_jax.errors import InputError
from medlsam_jax.finding import Finding
from medlsam_jax.geometry import Box, Grid
from medlsam_jax.io import markups, slicer_files

GRID = Grid((10, 10, 10), np.diag([-2.0, 3.0, 5.0, 1.0]))
FOUND = {"liver": Finding.of_boxes("liver", 1, (Box((1, 2, 3), (4, 5, 6)),), "uncertain")}
FILE = Path("x.mrk.json")


@pytest.fixture
def content():
  return json.loads(json.dumps(markups.rois(FOUND, GRID)))


def test_one_roi_per_organ_as_slicers_schema_wants_it(content):
  """The schema's required entries, types and enumerations (markups-schema-v1.0.3)."""
  assert content["@schema"].endswith("markups-schema-v1.0.3.json#")
  (roi,) = content["markups"]
  assert roi["type"] == "ROI" and roi["roiType"] == "Box" and roi["name"] == "liver"
  assert roi["coordinateSystem"] in ("LPS", "RAS") and roi["coordinateUnits"] == "mm"
  assert [len(roi[key]) for key in ("center", "size", "orientation")] == [3, 3, 9]
  assert all(isinstance(roi[key], bool) for key in ("locked", "insideOut", "fixedNumberOfControlPoints"))
  (point,) = roi["controlPoints"]
  assert isinstance(point["id"], str) and point["positionStatus"] == "defined" and point["label"] == "liver"
  assert point["description"] == "uncertain" and point["position"] == roi["center"]
  assert len(roi["display"]["color"]) == 3


def test_roi_covers_whole_voxels_in_lps(content):
  (roi,) = content["markups"]
  # voxels x 3..6 of -2 mm: RAS -13..-5; y 2..5 of 3 mm: 4.5..16.5; z 1..4 of 5 mm: 2.5..22.5; LPS turns x and y round
  assert roi["coordinateSystem"] == "LPS"
  assert roi["center"] == [9.0, -10.5, 12.5] and roi["size"] == [8.0, 12.0, 20.0]


def test_what_was_written_is_read_back(content):
  assert np.allclose(slicer_files.read_rois(content, FILE)["liver"], [[-13, 4.5, 2.5], [-5, 16.5, 22.5]])


def test_ras_is_honoured(content):
  roi = content["markups"][0]
  roi["coordinateSystem"] = "RAS"
  assert np.allclose(slicer_files.read_rois(content, FILE)["liver"].mean(0), [9.0, -10.5, 12.5])


def test_missing_name_is_taken_from_the_point_or_the_file(content):
  roi = content["markups"][0]
  del roi["name"]
  assert list(slicer_files.read_rois(content, FILE)) == ["liver"]
  roi["controlPoints"][0]["label"] = "spleen-1"
  assert list(slicer_files.read_rois(content, FILE)) == ["spleen"]
  roi["controlPoints"][0]["label"] = "R-1"
  with pytest.warns(UserWarning, match="taken as pancreas, as its file is called"):
    assert list(slicer_files.read_rois(content, Path("pancreas.mrk.json"))) == ["pancreas"]


@pytest.mark.parametrize("organ", ["R", "R_1", "P", "ROI", "F"])
def test_an_organ_that_is_called_as_slicer_calls_boxes_is_read_back_as_written(organ):
  one = Finding.of_boxes(organ, 1, (Box((1, 2, 3), (4, 5, 6)),))
  assert list(slicer_files.read_rois(markups.rois({organ: one}, GRID), FILE)) == [organ]


def test_negative_size_is_said(content):
  roi = content["markups"][0]
  before = slicer_files.read_rois(content, FILE)["liver"]
  roi["size"][1] *= -1
  with pytest.warns(UserWarning, match=r"x.mrk.json: liver: the ROI has a negative size along y"):
    np.testing.assert_allclose(slicer_files.read_rois(content, FILE)["liver"], before)


def test_rois_have_the_units_and_systems_of_point_lists(content):
  """One set of rules: centimetres, coded, and an older system by its number."""
  before = slicer_files.read_rois(content, FILE)["liver"]
  roi = content["markups"][0]
  roi["coordinateUnits"] = ["cm", "UCUM", "centimeter"]
  roi["coordinateSystem"] = 0
  roi["center"] = (np.array(roi["center"]) * [-0.1, -0.1, 0.1]).tolist()
  roi["size"] = (np.array(roi["size"]) * 0.1).tolist()
  np.testing.assert_allclose(slicer_files.read_rois(content, FILE)["liver"], before)


def test_rotated_roi_is_the_box_around_it_with_a_warning(content):
  c, s = np.cos(0.5), np.sin(0.5)
  content["markups"][0]["orientation"] = [c, -s, 0, s, c, 0, 0, 0, 1]
  with pytest.warns(UserWarning, match="x.mrk.json: liver: the ROI is rotated"):
    corners = slicer_files.read_rois(content, FILE)["liver"]
  assert np.allclose(corners[1] - corners[0], [8 * c + 12 * s, 8 * s + 12 * c, 20])


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"size": [1, 2]}, "size"),
    ({"center": [0, 0, None]}, "center"),
    ({"size": [0, 2, 3]}, "draw a box"),
    ({"size": [10**400, 2, 3]}, "size"),
    ({"orientation": [0] * 9}, "no rotation"),
    ({"orientation": None}, "orientation"),
    ({"coordinateUnits": "inch"}, "mm"),
    ({"coordinateSystem": "XYZ"}, "RAS"),
  ],
)
def test_faulty_roi_names_file_and_organ(content, change, message):
  content["markups"][0].update(change)
  with pytest.raises(InputError, match=f"x.mrk.json: liver: .*{message}"):
    slicer_files.read_rois(content, FILE)


def test_two_rois_of_one_name_are_refused(content):
  content["markups"] *= 2
  with pytest.raises(InputError, match="two ROIs are called liver"):
    slicer_files.read_rois(content, FILE)
