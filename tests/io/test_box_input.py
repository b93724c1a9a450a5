"""Whichever file of boxes a user brings."""

import json

import numpy as np
import pytest

from medlsam_jax.errors import InputError
from medlsam_jax.finding import Finding
from medlsam_jax.geometry import Box, Grid, Volume
from medlsam_jax.io import box_input, markups
from medlsam_jax.sam.slice_boxes import boxes_by_slice

GRID = Grid((20, 20, 20), np.diag([-2.0, 3.0, 5.0, 1.0]))
SCAN = Volume(np.zeros((20, 20, 20), np.float32), GRID, "scan.nii.gz")
FACES = np.array([[2, 8, 8], [8, 3, 8], [8, 8, 4], [12, 8, 8], [8, 13, 8], [8, 8, 14]], float)


def save(path, content):
  path.write_text(json.dumps(content))
  return path


def points_file(tmp_path, **organs):
  worlds = {name: GRID.world_from_voxel(voxels).tolist() for name, voxels in organs.items()}
  return save(tmp_path / "p.json", worlds)


def test_six_points_in_any_order_span_a_box(tmp_path):
  found = box_input.read_boxes(points_file(tmp_path, liver=FACES[[3, 0, 5, 2, 4, 1]]), SCAN)["liver"]
  assert found.box.array().tolist() == [[2, 3, 4], [12, 13, 14]]
  assert np.allclose(found.whole_points, FACES) and found.verdict == "given"


def test_organ_seen_in_one_slice_has_a_box_of_one_slice(tmp_path):
  flat = np.array([[8, 3, 8], [8, 3, 8], [8, 8, 4], [8, 13, 8], [8, 13, 8], [8, 8, 14]], float)
  found = box_input.read_boxes(points_file(tmp_path, liver=flat), SCAN)["liver"]
  assert found.box.array().tolist() == [[8, 3, 4], [8, 13, 14]]
  assert list(boxes_by_slice(found.parts, GRID)) == [8]


def test_values_come_from_labels_json_else_count_on(tmp_path):
  path = points_file(tmp_path, liver=FACES, spleen=FACES + 1)
  assert [each.value for each in box_input.read_boxes(path, SCAN).values()] == [1, 2]
  save(tmp_path / "labels.json", {"spleen": 9})
  assert {o: each.value for o, each in box_input.read_boxes(path, SCAN).items()} == {"liver": 10, "spleen": 9}


def test_rois_and_points_may_share_a_file(tmp_path):
  content = markups.rois({"liver": Finding.of_boxes("liver", 1, (Box((1, 2, 3), (4, 5, 6)),))}, GRID)
  lps = GRID.world_from_voxel(FACES) * [-1, -1, 1]
  controls = [{"label": f"spleen-{i}", "position": p.tolist()} for i, p in enumerate(lps, 1)]
  content["markups"].append({"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": controls})
  found = box_input.read_boxes(save(tmp_path / "both.mrk.json", content), SCAN)
  assert found["liver"].box.array().tolist() == [[1, 2, 3], [4, 5, 6]]
  assert found["spleen"].box.array().tolist() == [[2, 3, 4], [12, 13, 14]]


def test_box_outside_the_scan_is_refused(tmp_path):
  content = markups.rois({"liver": Finding.of_boxes("liver", 1, (Box((1, 2, 30), (4, 5, 36)),))}, GRID)
  with pytest.raises(InputError, match=r"far.mrk.json: liver: its box lies outside the scan scan.nii.gz"):
    box_input.read_boxes(save(tmp_path / "far.mrk.json", content), SCAN)


def test_box_partly_outside_is_taken(tmp_path):
  content = markups.rois({"liver": Finding.of_boxes("liver", 1, (Box((1, 2, -5), (4, 5, 6)),))}, GRID)
  assert box_input.read_boxes(save(tmp_path / "a.mrk.json", content), SCAN)["liver"].box.low[2] == -5


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ("{", "not valid JSON"),
    ("[]", "expected a JSON object"),
    ('{"markups": []}', "no ROI and no points"),
    ('{"liver": [[0, 0, 0]]}', "liver: 1 points, needs six"),
  ],
)
def test_faulty_file_is_named(tmp_path, content, message):
  path = tmp_path / "bad.json"
  path.write_text(content)
  with pytest.raises(InputError, match=f"bad.json: .*{message}"):
    box_input.read_boxes(path, SCAN)


def test_missing_file_is_named(tmp_path):
  with pytest.raises(InputError, match=r"gone.json: no such file"):
    box_input.read_boxes(tmp_path / "gone.json", SCAN)


def test_older_point_lists_of_slicer_are_boxes_too(tmp_path):
  rows = [f"{i},{x},{y},{z},0,0,0,1,1,1,0,F-{i},," for i, (x, y, z) in enumerate(GRID.world_from_voxel(FACES))]
  path = tmp_path / "liver.fcsv"
  path.write_text("\n".join(["# CoordinateSystem = RAS", *rows]))
  with pytest.warns(UserWarning, match="taken as liver"):
    assert box_input.read_boxes(path, SCAN)["liver"].box.array().tolist() == [[2, 3, 4], [12, 13, 14]]
  with pytest.raises(InputError, match=r"x.acsv: an annotation of Slicer 4"):
    box_input.read_boxes(tmp_path / "x.acsv", SCAN)


def test_a_list_called_as_its_scan_names_no_organ(tmp_path):
  controls = [{"label": f"F-{i}", "position": p.tolist()} for i, p in enumerate(GRID.world_from_voxel(FACES))]
  content = {"markups": [{"type": "Fiducial", "coordinateSystem": "RAS", "controlPoints": controls}]}
  with pytest.raises(InputError, match="names no organ"):
    box_input.read_boxes(save(tmp_path / "scan_boxes.mrk.json", content), SCAN)


def test_rulers_beside_boxes_are_left_out_once(tmp_path):
  content = markups.rois({"liver": Finding.of_boxes("liver", 1, (Box((1, 2, 3), (4, 5, 6)),))}, GRID)
  content["markups"].append({"type": "Line", "name": "L", "controlPoints": []})
  with pytest.warns(UserWarning, match="the Line L is left out") as said:
    assert list(box_input.read_boxes(save(tmp_path / "a.mrk.json", content), SCAN)) == ["liver"]
  assert len(said) == 1
