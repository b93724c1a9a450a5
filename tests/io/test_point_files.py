import json

import numpy as np
import pytest

from medlsam_jax import working_grid
from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Volume
from medlsam_jax.io import point_files

SIX = [[1.0, 2.0, 30.0], [1.0, 20.0, 3.0], [-10.0, 2.0, 3.0], [1.0, 2.5, -3.0], [1.5, -2.0, 3.0], [10.0, 2.0, 3.5]]
LPS = np.array([-1, -1, 1])


def write(path, content):
  path.write_text(content if isinstance(content, str) else json.dumps(content))
  return path


def markups(*lists):
  return {"@schema": "https://...markups-schema-v1.0.3.json#", "markups": list(lists)}


def fiducials(labels, points, **extra):
  controls = [
    {"id": str(i), "label": label, "position": list(map(float, point)), "positionStatus": "defined"}
    for i, (label, point) in enumerate(zip(labels, points, strict=True), 1)
  ]
  return {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": controls, **extra}


@pytest.mark.parametrize(("system", "sign"), [(None, 1), ("RAS", 1), ("LPS", LPS)])
def test_table_is_ras_unless_it_says_lps(tmp_path, system, sign):
  content = {"liver": SIX, "spleen": SIX[::-1]} | ({"coordinate_system": system} if system else {})
  found = point_files.read_points(write(tmp_path / "p.json", content))
  assert list(found) == ["liver", "spleen"]
  np.testing.assert_allclose(found["liver"], np.array(SIX) * sign)


@pytest.mark.parametrize(("system", "sign"), [("LPS", LPS), ("RAS", 1), (None, LPS)])
def test_slicer_list_named_for_the_organ(tmp_path, system, sign):
  one = fiducials([f"liver-{i}" for i in range(1, 7)], SIX, coordinateSystem=system)
  if system is None:
    del one["coordinateSystem"]
  found = point_files.read_points(write(tmp_path / "a.mrk.json", markups(one)))
  np.testing.assert_allclose(found["liver"], np.array(SIX) * sign)


def test_slicer_points_may_be_labelled_by_organ_in_one_list(tmp_path):
  labels = [name for pair in zip(["liver"] * 6, [f"rib_left_1-{i}" for i in range(6)], strict=True) for name in pair]
  one = fiducials(labels, [p for p in SIX for _ in range(2)])
  found = point_files.read_points(write(tmp_path / "a.mrk.json", markups(one)))
  assert list(found) == ["liver", "rib_left_1"]


def test_units_and_systems_are_those_of_slicer_lists(tmp_path):
  metres = {"coordinate_system": "lps", "coordinate_units": "m", "liver": (np.array(SIX) * LPS / 1000).tolist()}
  np.testing.assert_allclose(point_files.read_points(write(tmp_path / "p.json", metres))["liver"], SIX)


def test_undefined_points_are_skipped_and_boxes_left_out_with_a_word(tmp_path):
  one = fiducials(["liver"] * 7, [*SIX, [0, 0, 0]])
  one["controlPoints"][6]["positionStatus"] = "undefined"
  box = {"type": "ROI", "coordinateSystem": "LPS", "controlPoints": [{"label": "ROI-1", "position": [0, 0, 0]}]}
  with pytest.warns(UserWarning, match="1 ROI left out"):
    assert list(point_files.read_points(write(tmp_path / "a.mrk.json", markups(box, one)))) == ["liver"]
  with pytest.warns(UserWarning), pytest.raises(InputError, match="no points in it"):
    point_files.read_points(write(tmp_path / "a.mrk.json", markups(box)))


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ("{", "not valid JSON"),
    ("[1, 2]", "expected a JSON object"),
    ("{}", "no points in it"),
    ('{"liver": [], "liver": []}', "'liver' is there twice"),
    ({"liver": SIX[:5]}, "liver: 5 points, needs six"),
    ({"liver": [*SIX, [0, 0, 0]]}, "liver: 7 points, needs six"),
    ({"liver": [SIX[0]] * 6}, r"liver: its six points are one, \(1.0, 2.0, 30.0\) mm RAS"),
    ({"liver": [*SIX[:5], [1, 2]]}, r"liver: \[1, 2\] is not a point"),
    ({"liver": [*SIX[:5], [1, 2, "3"]]}, "is not a point"),
    ({"liver": [*SIX[:5], [1, 2, True]]}, "is not a point"),
    ({"liver": [*SIX[:5], None]}, "liver: None is not a point"),
    ('{"liver": [[1, 2, NaN]]}', r"liver: \[1, 2, nan\] is not a point"),
    ({"liver": "here"}, "liver: expected a list of six"),
    ({"liver": SIX, "coordinate_system": "SCANNER"}, "coordinate system 'SCANNER'"),
    ({"markups": {}}, "'markups' is not a list"),
    ({"markups": [{"type": "Fiducial", "controlPoints": 3}]}, "'controlPoints' is not a list"),
    ({"markups": [{"controlPoints": [{"label": "liver-1"}]}]}, "liver: None is not a point"),
    ({"markups": [{"coordinateUnits": "inch", "controlPoints": []}]}, "coordinates in 'inch'"),
    ({"liver": SIX, "coordinate_units": "voxel"}, "coordinates in 'voxel'"),
    ({"liver": [*SIX[:5], [1, 2, 10**400]]}, "is not a point"),
    ({" ": SIX}, "an organ without a name"),
    ({"markups": [{"coordinateSystem": "IJK", "controlPoints": []}]}, "coordinate system 'IJK'"),
  ],
)
def test_malformed_files_are_refused_by_name_and_organ(tmp_path, content, message):
  with pytest.raises(InputError, match=rf"p.json: .*{message}"):
    point_files.read_points(write(tmp_path / "p.json", content))


def test_missing_and_binary_files_are_refused(tmp_path):
  with pytest.raises(InputError, match="no such file"):
    point_files.read_points(tmp_path / "gone.json")
  (tmp_path / "p.json").write_bytes(b"\xff\xfe\x00\x81")
  with pytest.raises(InputError, match="not valid JSON"):
    point_files.read_points(tmp_path / "p.json")


def test_points_take_the_faces_of_the_working_grid_whatever_the_scan(make_grid, codes):
  grid = make_grid(codes, (40, 44, 48), (3.0, 2.0, 1.5))
  centre = grid.world_from_voxel(np.array([20, 22, 24]))
  # The lowest, the most posterior, the furthest right; the highest, the most anterior, the furthest left (RAS mm).
  steps = np.array([[0, 1, -20], [1, -15, 2], [12, 2, 1], [1, 0, 20], [-1, 14, 0], [-13, 0, 2]], float)
  world = centre + steps
  for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 2, 4]):
    found = point_files.points_in_scan(world[order], grid, "liver", "p.json")
    np.testing.assert_allclose(grid.world_from_voxel(found), world, atol=1e-6)
  working = working_grid.to_working_grid(Volume(np.zeros(grid.shape, np.float32), grid)).grid.from_scan(found)
  for axis in range(3):
    assert working[axis, axis] == working[:, axis].min()
    assert working[axis + 3, axis] == working[:, axis].max()


def test_point_outside_the_scan_is_refused_naming_organ_and_point(make_grid):
  grid = make_grid("LPS", (20, 20, 20), (2.0, 2.0, 2.0))
  world = grid.world_from_voxel(np.array([[0, 5, 5], [5, 0, 5], [5, 5, 0], [19, 5, 5], [5, 19, 5], [5, 5, 22]]))
  with pytest.raises(InputError, match=r"p.json: liver: point 6 at .* outside the scan, at voxel \[5.0, 5.0, 22.0\]"):
    point_files.points_in_scan(world, grid, "liver", "p.json")


def test_click_on_the_edge_of_the_scan_counts_as_inside(make_grid):
  grid = make_grid("LPS", (20, 20, 20), (2.0, 2.0, 2.0))
  voxels = np.array([[-0.9, 5, 5], [5, 0, 5], [5, 5, 0], [19.9, 5, 5], [5, 19, 5], [5, 5, 19]])
  found = point_files.points_in_scan(grid.world_from_voxel(voxels), grid, "liver", "p.json")
  assert found.min() >= -1e-9
  assert found.max() <= 19 + 1e-9


def test_points_may_coincide_where_one_is_extreme_on_two_faces(tmp_path, make_grid, codes):
  """An organ in one slice: its lowest and highest point are the same as two of the others."""
  grid = make_grid(codes, (40, 44, 48), (3.0, 2.0, 1.5))
  centre = grid.world_from_voxel(np.array([20, 22, 24]))
  flat = centre + np.array([[0, -15, 0], [0, -15, 0], [12, 2, 0], [0, 14, 0], [0, 14, 0], [-13, 0, 0]], float)
  path = write(tmp_path / "p.json", {"liver": flat.tolist()})
  found = point_files.points_in_scan(point_files.read_points(path)["liver"], grid, "liver", "p.json")
  world = grid.world_from_voxel(found)
  np.testing.assert_allclose([world.min(0), world.max(0)], [flat.min(0), flat.max(0)], atol=1e-6)
  working = working_grid.to_working_grid(Volume(np.zeros(grid.shape, np.float32), grid)).grid.from_scan(found)
  for axis in range(3):
    assert working[axis, axis] == pytest.approx(working[:, axis].min())
    assert working[axis + 3, axis] == pytest.approx(working[:, axis].max())
