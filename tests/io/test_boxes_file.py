"""`NAME_boxes.json`: what it says, and how a box that was corrected in it is read back."""

import copy
import dataclasses
import json

import numpy as np
import pytest

from medlsam_jax.errors import InputError
from medlsam_jax.finding import Finding
from medlsam_jax.geometry import Box, Grid, Volume
from medlsam_jax.io import boxes_file, oblique

ORIENTATIONS = {
  "LPS": [[-1, 0, 0], [0, -1, 0], [0, 0, 1]],
  "RAS": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
  "RPI": [[1, 0, 0], [0, -1, 0], [0, 0, -1]],
  "SAR": [[0, 0, 1], [0, 1, 0], [1, 0, 0]],
}
PARTS = (Box((2, 3, 4), (5, 9, 10)), Box((6, 4, 4), (9, 8, 12)))


def scan(codes="LPS", origin=(10.0, -20.0, 30.0), shape=(16, 20, 24)):
  affine = np.eye(4)
  affine[:3, :3] = np.array(ORIENTATIONS[codes]) * [2.0, 3.0, 5.0]
  affine[:3, 3] = origin
  return Volume(np.zeros(shape, np.float32), Grid(shape, affine), "scan.nii.gz")


def turned_scan():
  """The same in another axis order."""
  grid = scan().grid
  affine = grid.affine[:, [2, 0, 1, 3]] @ np.diag([1.0, -1.0, 1.0, 1.0])
  affine[:3, 3] = grid.world_from_voxel(np.array([0, 0, 23]))
  return Volume(np.zeros((20, 24, 16), np.float32), Grid((20, 24, 16), affine), "turned.nii.gz")


@pytest.fixture
def written():
  found = {
    "liver": Finding.of_boxes("liver", 5, PARTS, "found"),
    "brain": Finding.of_boxes("brain", 7, PARTS[:1], "uncertain"),
  }
  content = boxes_file.to_dict("scan", scan(), found, {"liver": 1.5, "brain": 0.0}, {"seed": 1})
  return json.loads(boxes_file.to_text(content))


def read(content, codes="LPS"):
  return boxes_file.from_dict(content, scan(codes), "x_boxes.json")


@pytest.mark.parametrize(("key", "axis", "value"), [("box_vox", "y", [[2, 30, 4], [9, 3, 12]])])
def test_swapped_corners_are_sorted_with_a_word(key, axis, value):
  with pytest.warns(UserWarning, match=rf"x_boxes.json: liver: .*swapped along {axis} \(30 above 3\); taken sorted"):
    found = read({"organs": {"liver": {key: value}}})["liver"]
  assert found.box.array().tolist() == [[2, 3, 4], [9, 30, 12]]


def test_swapped_corners_in_millimetres_and_of_parts_are_told_by_their_axes():
  with pytest.warns(UserWarning, match=r"swapped along x \(10 above -10\), z \(60 above 40\)"):
    found = read({"organs": {"liver": {"box_world_mm": [[10, -50, 60], [-10, -30, 40]]}}})["liver"]
  assert np.all(np.array(found.box.low) < found.box.high)
  with pytest.warns(UserWarning, match=r"x_boxes.json: brain: .*swapped along z"):
    read({"organs": {"brain": {"parts_vox": [[[5, 3, 4], [2, 9, 10]], [[6, 4, 4], [9, 8, 12]]]}}})


@pytest.mark.parametrize(
  ("entry", "message"),
  [
    ({"box_world_mm": [[10, -50, 40], [10, -30, 60]]}, "no extent along x"),
    ({"box_vox": [[2, float("nan"), 4], [9, 3, 12]]}, "is not a box"),
    ({"box_vox": [[2, 10**400, 4], [9, 3, 12]]}, "is not a box"),
    ({"parts_vox": {"a": 1}}, "no list of boxes"),
  ],
)
def test_boxes_that_are_none_are_named(entry, message):
  with pytest.raises(InputError, match=rf"x_boxes.json: liver: .*{message}"):
    read({"organs": {"liver": entry}})


TRUST = {"similarity": 0.9, "right_probability": 0.7, "targets_vox": [[[1.0, 2.0, 3.0]] * 6] * 2}


def test_what_a_search_said_goes_with_a_box_that_nobody_moved(written):
  for entry in written["organs"].values():
    entry["confidence"] = copy.deepcopy(TRUST)
  written["organs"]["brain"]["box_vox"][1][2] += 2
  again = boxes_file.to_dict("scan", scan(), read(written), None, {})["organs"]
  assert again["liver"]["confidence"] == TRUST and "confidence" not in again["brain"]
  turned = turned_scan()
  found = boxes_file.from_dict(written, turned, "x_boxes.json")
  trust = boxes_file.to_dict("scan", turned, found, None, {})["organs"]["liver"]["confidence"]
  targets = [grid.world_from_voxel(np.array(said["targets_vox"][0]))
             for grid, said in ((turned.grid, trust), (scan().grid, TRUST))]  # fmt: skip
  assert np.allclose(*targets) and trust["right_probability"] == 0.7


@pytest.mark.parametrize("said", [{"similarity": float("nan")}, [1], {"targets_vox": "x"}])
def test_what_cannot_be_kept_of_a_search_is_left_out(written, said):
  written["organs"]["liver"]["confidence"] = said
  found = boxes_file.from_dict(written, turned_scan(), "x_boxes.json")
  again = boxes_file.to_dict("scan", turned_scan(), found, None, {})
  assert "confidence" not in again["organs"]["liver"] and boxes_file.to_text(again)


def test_world_box_is_the_outer_faces_in_ras():
  grid = Grid((4, 4, 4), np.diag([-2.0, -3.0, 5.0, 1.0]))
  world = boxes_file.box_to_world(Box((1, 1, 1), (1, 2, 3)), grid)
  assert world.tolist() == [[-7.0, -7.5, 2.5], [-1.0, -1.5, 7.5]]


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_world_box_goes_back_to_the_same_voxels(codes):
  grid = scan(codes).grid
  for box in (*PARTS, Box((-4, 2.5, 3), (30, 2.5, 3))):
    back = boxes_file.box_from_world(boxes_file.box_to_world(box, grid), grid)
    assert np.allclose(back.array(), box.array())


def test_box_thinner_than_a_voxel_is_the_voxel_around_it():
  grid = scan("RAS").grid
  world = grid.world_from_voxel(np.array([[4.1, 5.0, 6.0], [4.2, 7.0, 8.0]]))
  box = boxes_file.box_from_world(world, grid)
  assert box.low[0] == box.high[0] == pytest.approx(4.15)


def test_file_says_voxel_and_world_boxes_points_verdict_label_and_volume(written):
  liver = written["organs"]["liver"]
  assert (liver["label"], liver["verdict"], liver["volume_ml"]) == (5, "found", 1.5)
  assert liver["box_vox"] == [[2, 3, 4], [9, 9, 12]]
  assert np.shape(liver["parts_vox"]) == (2, 2, 3) and np.shape(liver["points_vox"]) == (2, 6, 3)
  grid = scan().grid
  assert np.allclose(grid.world_from_voxel(np.array(liver["extreme_points_vox"])), liver["extreme_points_world_mm"])
  assert np.allclose(boxes_file.box_to_world(Box((2, 3, 4), (9, 9, 12)), grid), liver["box_world_mm"])


def test_numbers_stand_in_rows(written):
  text = boxes_file.to_text(written)
  assert "[2.0, 3.0, 4.0]" in text and json.loads(text) == written


def test_untouched_file_gives_the_parts_back(written):
  found = read(written)["liver"]
  assert [p.array().tolist() for p in found.parts] == [p.array().tolist() for p in PARTS]
  assert (found.value, found.verdict) == (5, "found")


def test_edited_voxel_box_wins(written):
  written["organs"]["liver"]["box_vox"][1][0] = 12
  found = read(written)["liver"]
  assert [p.array().tolist() for p in found.parts] == [[[2, 3, 4], [12, 9, 12]]]
  assert found.verdict == "given"


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_edited_world_box_wins(codes):
  content = boxes_file.to_dict("scan", scan(codes), {"liver": Finding.of_boxes("liver", 5, PARTS)}, None, {})
  target = Box((1, 2, 3), (9, 9, 12))
  content["organs"]["liver"]["box_world_mm"] = boxes_file.box_to_world(target, scan(codes).grid).tolist()
  assert np.allclose(read(content, codes)["liver"].box.array(), target.array())


def test_edited_part_wins(written):
  written["organs"]["liver"]["parts_vox"][1][1][0] = 11
  found = read(written)["liver"]
  assert found.parts[1].high[0] == 11 and len(found.parts) == 2 and found.verdict == "given"


def test_two_different_edits_are_refused(written):
  written["organs"]["liver"]["box_vox"][1][0] = 12
  written["organs"]["liver"]["box_world_mm"][1][0] += 50
  with pytest.raises(InputError, match=r"x_boxes.json: liver: .*say different boxes"):
    read(written)


def test_edited_box_brings_an_organ_back_into_view(written):
  written["organs"]["liver"]["verdict"] = "outside field of view"
  assert read(written)["liver"].verdict == "outside field of view"
  written["organs"]["liver"]["box_vox"][1][0] = 12
  assert read(written)["liver"].verdict == "given"


@pytest.mark.parametrize("key", ["box_vox", "box_world_mm", "parts_vox"])
def test_one_box_by_hand_is_enough(written, key):
  entry = written["organs"]["liver"]
  hand = {"organs": {"liver": {key: entry[key]}}}
  found = read(hand)["liver"]
  assert np.allclose(found.box.array(), entry["box_vox"]) and (found.value, found.verdict) == (1, "given")


def test_file_of_another_scan_is_refused(written):
  for other in (scan(origin=(0.0, 0.0, 0.0)), scan(shape=(18, 20, 24))):
    with pytest.raises(InputError, match=r"another scan.*16x20x24 .*x20x24"):
      boxes_file.from_dict(written, other, "x_boxes.json")


@pytest.mark.parametrize(
  "edit", [{}, {"box_vox": [[1, 2, 3], [9, 9, 12]]}, {"box_world_mm": [[-30, -60, 30], [0, -30, 60]]}]
)
def test_same_scan_in_another_axis_order_has_the_boxes_at_the_same_places(written, edit):
  written["organs"]["liver"] |= edit
  expected = boxes_file.from_dict(written, scan(), "x_boxes.json")["liver"]
  grid, turned = scan().grid, turned_scan()
  found = boxes_file.from_dict(written, turned, "x_boxes.json")["liver"]
  assert found.verdict == expected.verdict and len(found.parts) == len(expected.parts)
  for got, want in zip(found.parts, expected.parts, strict=True):
    world = boxes_file.box_to_world(got, turned.grid)
    np.testing.assert_allclose(world, boxes_file.box_to_world(want, grid), atol=1e-6)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda e: e.update(box_vox="here"), "not a box"),
    (lambda e: e.update(box_vox=[[0, 0, 0], [1, 1, float("nan")]]), "not a box"),
    (lambda e: e.update(label=0), "label 0"),
    (lambda e: [e.pop(key) for key in ("box_vox", "box_world_mm", "parts_vox")], "has no box"),
  ],
)
def test_faulty_entry_names_file_and_organ(written, change, message):
  change(written["organs"]["brain"])
  with pytest.raises(InputError, match="x_boxes.json: brain: .*" + message):
    read(written)


def test_file_without_organs_is_refused(written):
  with pytest.raises(InputError, match="no organs"):
    read({**copy.deepcopy(written), "organs": {}})


def test_evaluation_reads_what_is_written(written):
  from medlsam_jax.evaluation.saved import findings_from_dict

  found = findings_from_dict(written)["liver"]
  assert found.verdict == "found" and found.box.array().tolist() == [[2, 3, 4], [9, 9, 12]]


def tilted_scan():
  turn = np.eye(4)
  turn[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
  grid = scan("LPS").grid
  volume = Volume(np.zeros(grid.shape, np.float32), Grid(grid.shape, turn @ grid.affine), "scan.nii.gz")
  with pytest.warns(UserWarning, match="tilted"):
    return oblique.straighten(volume)


@pytest.fixture
def written_tilted():
  volume = tilted_scan()
  found = {"liver": Finding.of_boxes("liver", 5, PARTS, "found")}
  return volume, json.loads(boxes_file.to_text(boxes_file.to_dict("scan", volume, found, None, {})))


def test_tilted_scan_is_told_on_the_files_grid_and_upright_in_the_world(written_tilted):
  volume, content = written_tilted
  entry = content["organs"]["liver"]
  np.testing.assert_allclose(content["scan"]["affine"], volume.file_grid.affine, atol=1e-6)
  assert content["scan"]["shape"] == list(volume.file_grid.shape)
  whole = Box.around(list(PARTS))
  np.testing.assert_allclose(entry["box_world_mm"], boxes_file.box_to_world(whole, volume.grid), atol=1e-3)
  np.testing.assert_allclose(entry["box_vox"], oblique.box_to_file(whole, volume).array(), atol=1e-3)
  world = volume.file_grid.world_from_voxel(np.array(entry["extreme_points_vox"]))
  np.testing.assert_allclose(world, entry["extreme_points_world_mm"], atol=5e-3)


def test_untouched_file_of_a_tilted_scan_gives_the_parts_back(written_tilted):
  volume, content = written_tilted
  found = boxes_file.from_dict(content, volume, "x_boxes.json")["liver"]
  np.testing.assert_allclose([p.array() for p in found.parts], [p.array() for p in PARTS], atol=1e-3)
  assert found.verdict == "found"


def test_edited_box_of_a_tilted_scan_wins(written_tilted):
  volume, content = written_tilted
  entry = content["organs"]["liver"]
  target = Box((1, 2, 3), (9, 9, 12))
  for key, value, expected in (
    ("box_world_mm", boxes_file.box_to_world(target, volume.grid).tolist(), target),
    ("box_vox", target.array().tolist(), oblique.box_from_file(target, volume)),
  ):
    changed = {**content, "organs": {"liver": {**entry, key: value}}}
    found = boxes_file.from_dict(changed, volume, "x_boxes.json")["liver"]
    np.testing.assert_allclose(found.box.array(), expected.array(), atol=1e-3)
    assert found.verdict == "given"


def test_evaluation_of_a_tilted_scan_reads_points_on_the_grid_of_the_truth(written_tilted, tmp_path):
  from medlsam_jax.evaluation.saved import SavedFiles, evaluate_saved

  volume, content = written_tilted
  truth = np.zeros(volume.grid.shape, np.uint8)
  truth[2:10, 3:10, 4:13] = 5
  (tmp_path / "scan_boxes.json").write_text(json.dumps(content))
  labels = Volume(truth, volume.grid, "scan_seg.nii.gz", volume.file_grid)
  (row,) = evaluate_saved(SavedFiles("scan", tmp_path / "scan_boxes.json", None), labels, {"liver": 5})
  assert row.box_iou == pytest.approx(1.0, abs=1e-3) and row.wall_distance_mm == pytest.approx(0.0, abs=0.01)


REASONS = ("similarity 0.20 is below 0.5", "one template alone")


def doubtful_file():
  volume = dataclasses.replace(scan(), doubts=("its values are no HU",), notes=("left out a slice",))
  found = {"liver": Finding.of_boxes("liver", 5, PARTS, "found", doubts=REASONS).in_doubtful_scan(volume.doubts)}
  return volume, json.loads(boxes_file.to_text(boxes_file.to_dict("scan", volume, found, None, {})))


def test_file_says_what_reading_settled_and_why_results_may_be_wrong():
  volume, content = doubtful_file()
  assert content["scan"]["doubts"] == list(volume.doubts) and content["scan"]["notes"] == list(volume.notes)
  assert content["organs"]["liver"]["doubts"] == [*volume.doubts, *REASONS]
  assert content["organs"]["liver"]["verdict"] == "uncertain"


def test_reading_a_file_back_keeps_its_doubts():
  _, content = doubtful_file()
  found = boxes_file.from_dict(content, scan(), "x_boxes.json")["liver"]
  assert found.verdict == "uncertain" and found.doubts == ("its values are no HU", *REASONS)


def test_a_box_put_elsewhere_loses_the_doubts_of_the_search_but_not_those_of_the_scan(tmp_path):
  from medlsam_jax.io.box_input import read_boxes

  volume, content = doubtful_file()
  content["organs"]["liver"]["box_vox"][1][0] = 12
  (tmp_path / "x_boxes.json").write_text(json.dumps(content))
  found = read_boxes(tmp_path / "x_boxes.json", volume)["liver"]
  assert found.verdict == "given" and found.doubts == volume.doubts


def test_a_file_that_says_found_is_not_believed_of_a_doubtful_scan(tmp_path, written):
  from medlsam_jax.io.box_input import read_boxes

  for entry in written["organs"].values():
    del entry["doubts"]  # as the first release wrote it
  del written["scan"]["doubts"], written["scan"]["notes"]
  (tmp_path / "x_boxes.json").write_text(json.dumps(written))
  volume = dataclasses.replace(scan(), doubts=("its values are no HU",))
  assert read_boxes(tmp_path / "x_boxes.json", scan())["liver"].verdict == "found"
  assert read_boxes(tmp_path / "x_boxes.json", volume)["liver"].verdict == "uncertain"
