"""Point lists of 3D Slicer, as its versions and its users really write them."""

import json
import warnings

import numpy as np
import pytest

from medlsam_jax.errors import InputError
from medlsam_jax.io.point_files import read_points

SIX = [[1.0, 2.0, 30.0], [1.0, 20.0, 3.0], [-10.0, 2.0, 3.0], [1.0, 2.5, -3.0], [1.5, -2.0, 3.0], [10.0, 2.0, 3.5]]
LPS = np.array([-1, -1, 1])
COLUMNS = "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"


def numbered(stem):
  return [f"{stem}-{i}" for i in range(1, 7)]


def point_list(labels, name=None, points=SIX, **extra):
  controls = [{"label": label, "position": list(p)} for label, p in zip(labels, points, strict=True)]
  named = {} if name is None else {"name": name}
  return {"type": "Fiducial", "coordinateSystem": "RAS", "controlPoints": controls, **named, **extra}


def save(path, *lists):
  path.write_text(json.dumps({"markups": list(lists)}))
  return path


def table(path, lines, newline="\n"):
  path.write_bytes(newline.join(lines).encode())
  return path


def rows(labels, points=SIX):
  return [
    f"{i},{x},{y},{z},0,0,0,1,1,1,0,{label},," for i, (label, (x, y, z)) in enumerate(zip(labels, points, strict=True))
  ]


def silent(path, **options):
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    return read_points(path, **options)


# --- names


@pytest.mark.parametrize(
  "stem",
  ["F", "F_1", "F_2", "P", "MarkupsFiducial", "MarkupsFiducial_3", "Point List", "PointList_1", "List", "Fiducials_2",
   "Landmarks", "Punkt", "Lista de puntos", "点", "F Copy", "F_1_1"],
)  # fmt: skip
def test_a_renamed_list_names_the_organ_of_points_that_kept_default_labels(tmp_path, stem):
  assert list(silent(save(tmp_path / "F_1.mrk.json", point_list(numbered(stem), "spleen")))) == ["spleen"]


@pytest.mark.parametrize("labels", [[""] * 6, [str(i) for i in range(6)], [None] * 6])
def test_labels_without_a_name_take_the_lists(tmp_path, labels):
  assert list(silent(save(tmp_path / "a.mrk.json", point_list(labels, "spleen")))) == ["spleen"]


@pytest.mark.parametrize("name", [None, "", "F", "F_1"])
def test_a_list_without_a_name_of_its_own_takes_the_files_with_a_word(tmp_path, name):
  path = save(tmp_path / "left kidney.mrk.json", point_list(numbered("F"), name))
  with pytest.warns(UserWarning, match=r"left kidney.mrk.json: .*taken as left kidney, as its file is called") as said:
    assert list(read_points(path)) == ["left kidney"]
  assert len(said) == 1


@pytest.mark.parametrize("file", ["case_7.mrk.json", "case_7_points.mrk.json", "F.mrk.json", "markups.json"])
def test_a_file_called_as_its_scan_or_by_default_names_no_organ(tmp_path, file):
  with pytest.raises(InputError, match=r"point 'F-1' names no organ, .*call the point list or ROI liver"):
    read_points(save(tmp_path / file, point_list(numbered("F"), "F")), scan="case_7")


def test_several_organs_share_a_list_by_label_silently(tmp_path):
  labels = [name for pair in zip(numbered("liver"), numbered("rib_left_1"), strict=True) for name in pair]
  points = [p for p in SIX for _ in range(2)]
  assert list(silent(save(tmp_path / "a.mrk.json", point_list(labels, "marks", points)))) == ["liver", "rib_left_1"]


def test_default_labels_beside_an_organs_are_the_lists(tmp_path):
  both = point_list(numbered("F_1") + numbered("spleen"), "liver", SIX + SIX)
  assert list(silent(save(tmp_path / "a.mrk.json", both))) == ["liver", "spleen"]


def test_labels_that_name_another_organ_than_the_list_win_with_a_word(tmp_path):
  path = save(tmp_path / "a.mrk.json", point_list(numbered("spleen"), "liver"))
  with pytest.warns(UserWarning, match="the list is called liver, its points spleen-1 and so on; taken as spleen"):
    assert list(read_points(path)) == ["spleen"]


@pytest.mark.parametrize(
  "labels", [["top", "bottom", "front", "back", "left", "right"], [f"liver {i}" for i in range(6)], list("SIAPLR")]
)
def test_six_points_of_six_names_are_the_lists_organ_with_a_word(tmp_path, labels):
  with pytest.warns(UserWarning, match=r"the six points of the list liver are called .*; taken as liver") as said:
    assert list(read_points(save(tmp_path / "a.mrk.json", point_list(labels, "liver")))) == ["liver"]
  assert len(said) == 1
  if labels[0] == "top":
    with pytest.raises(InputError, match="top: 1 points, needs six"):
      read_points(save(tmp_path / "a.mrk.json", point_list(labels, "F")))


def test_an_organ_whose_name_looks_like_a_default_is_kept_where_someone_wrote_it(tmp_path):
  assert list(silent(save(tmp_path / "a.mrk.json", point_list(["F-1"] * 6, "liver")))) == ["liver"]
  six_times = point_list(["L-1"] * 6 + ["L-2"] * 6, "spine", SIX + SIX)
  assert list(silent(save(tmp_path / "a.mrk.json", six_times))) == ["L-1", "L-2"]
  for labels in (numbered("F"), ["P"] * 6):  # a list of Slicer's would label its points P-1
    with pytest.warns(UserWarning, match="taken to be called P"):
      assert list(read_points(save(tmp_path / "a.mrk.json", point_list(labels, "P")))) == ["P"]


def test_an_organ_split_over_lists_is_put_together_and_too_many_are_told(tmp_path):
  halves = [point_list(["liver"] * 3, points=SIX[:3]), point_list(["liver"] * 3, points=SIX[3:])]
  np.testing.assert_allclose(silent(save(tmp_path / "a.mrk.json", *halves))["liver"], SIX)
  with pytest.raises(InputError, match="liver: 12 points in 2 lists of that organ, needs six"):
    read_points(save(tmp_path / "a.mrk.json", point_list(["liver"] * 6), point_list(["liver"] * 6)))


@pytest.mark.parametrize("kind", ["Curve", "ClosedCurve", "Plane", "Line", "Angle", "SomethingNew"])
def test_other_markups_are_left_out_by_name(tmp_path, kind):
  other = point_list(["L-1", "L-2"], "ruler", SIX[:2]) | {"type": kind}
  path = save(tmp_path / "a.mrk.json", other, point_list(numbered("liver"), "liver"))
  with pytest.warns(UserWarning, match=rf"a.mrk.json: the {kind} ruler is left out"):
    assert list(read_points(path)) == ["liver"]


# --- units and coordinate systems


@pytest.mark.parametrize(
  ("units", "per_mm"),
  [("mm", 1), (None, 1), (["mm", "UCUM", "millimeter"], 1), ("cm", 0.1), (["cm", "UCUM", "centimeter"], 0.1),
   ("m", 1e-3), ("um", 1e3), ("µm", 1e3), ("millimeters", 1), ("centimetre", 0.1)],
)  # fmt: skip
def test_metric_units_are_millimetres_in_the_end(tmp_path, units, per_mm):
  one = point_list(["liver"] * 6, points=(np.array(SIX) * per_mm).tolist(), coordinateUnits=units)
  np.testing.assert_allclose(silent(save(tmp_path / "a.mrk.json", one))["liver"], SIX)


@pytest.mark.parametrize("units", ["inch", "voxel", ["[in_i]", "UCUM", "inch"], 5, [], {"mm": 1}])
def test_other_units_are_refused_by_name(tmp_path, units):
  with pytest.raises(InputError, match=r"a.mrk.json: coordinates in .*; save them in mm"):
    read_points(save(tmp_path / "a.mrk.json", point_list(["liver"] * 6, coordinateUnits=units)))


@pytest.mark.parametrize(("system", "sign"), [("LPS", LPS), ("lps", LPS), (1, LPS), ("1", LPS), ("RAS", 1), (0, 1)])
def test_coordinate_systems_by_name_and_by_older_number(tmp_path, system, sign):
  one = point_list(["liver"] * 6, coordinateSystem=system)
  np.testing.assert_allclose(silent(save(tmp_path / "a.mrk.json", one))["liver"], np.array(SIX) * sign)
  path = table(tmp_path / "a.fcsv", [f"# CoordinateSystem = {system}", COLUMNS, *rows(["liver"] * 6)])
  np.testing.assert_allclose(silent(path)["liver"], np.array(SIX) * sign)


@pytest.mark.parametrize("system", ["IJK", 2, True, "SCANNER"])
def test_other_coordinate_systems_are_refused(tmp_path, system):
  with pytest.raises(InputError, match="coordinate system"):
    read_points(save(tmp_path / "a.mrk.json", point_list(["liver"] * 6, coordinateSystem=system)))


# --- tables of older versions


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_table_is_read_by_its_columns_with_comments_quotes_and_commas(tmp_path, newline):
  lines = [
    "\ufeff# Markups fiducial file version = 4.11",
    "# CoordinateSystem = LPS",
    "# columns = label,desc,z,y,x",
    "",
  ]
  for name, (x, y, z) in zip(['"liver, left-1"', '"liver, left-2"', *['"liver, left-3"'] * 4], SIX, strict=True):
    lines += [f'{name},"said: ""here"", there",{z},{y},{x}', "# a remark"]
  found = silent(table(tmp_path / "a.fcsv", lines, newline))
  assert list(found) == ["liver, left"]
  np.testing.assert_allclose(found["liver, left"], np.array(SIX) * LPS)


def test_several_organs_share_a_table_and_default_labels_take_its_files_name(tmp_path):
  both = rows(numbered("liver") + numbered("spleen"), SIX + SIX)
  assert list(silent(table(tmp_path / "a.fcsv", ["# CoordinateSystem = 0", *both]))) == ["liver", "spleen"]
  path = table(tmp_path / "aorta.fcsv", ["# CoordinateSystem = 0", COLUMNS, *rows(numbered("F"))])
  with pytest.warns(UserWarning, match="taken as aorta, as its file is called"):
    assert list(read_points(path)) == ["aorta"]


def test_a_table_of_the_oldest_versions_has_a_name_and_is_ras(tmp_path):
  lines = ["# Fiducial List file /home/me/x.fcsv", "# version = 2", "# name = aorta", "# numPoints = 6"]
  lines += [f"F-{i},{x},{y},{z},1,1" for i, (x, y, z) in enumerate(SIX)]
  np.testing.assert_allclose(silent(table(tmp_path / "x.fcsv", lines))["aorta"], SIX)


def test_a_table_without_a_coordinate_system_is_ras_with_a_word(tmp_path):
  with pytest.warns(UserWarning, match=r"a.fcsv: states no coordinate system; taken as RAS"):
    found = read_points(table(tmp_path / "a.fcsv", [COLUMNS, *rows(["liver"] * 6)]))
  np.testing.assert_allclose(found["liver"], SIX)


@pytest.mark.parametrize(("ending", "separator"), [("csv", ","), ("tsv", "\t")])
def test_a_table_of_control_points_says_its_directions_in_its_columns(tmp_path, ending, separator):
  lines = [separator.join(["label", "l", "p", "s", "defined"])]
  lines += [separator.join(map(str, ("liver", *p, 1))) for p in SIX] + [separator.join(["liver", "0", "0", "0", "0"])]
  np.testing.assert_allclose(silent(table(tmp_path / f"a.{ending}", lines))["liver"], np.array(SIX) * LPS)


@pytest.mark.parametrize(
  ("lines", "message"),
  [
    ([], "no points in it"),
    ([COLUMNS], "no points in it"),
    (["# CoordinateSystem = RAS", *rows(["liver"] * 5, SIX[:5])], "liver: 5 points, needs six"),
    (["# CoordinateSystem = RAS", "1,2"], "line 2: '1,2' does not have the columns"),
    (["# CoordinateSystem = RAS", *rows(["liver"] * 6, [*SIX[:5], ["a", 1, 2]])], r"liver: \['a', 1.0, 2.0\] is not"),
    (["# CoordinateSystem = RAS", *rows(["liver"] * 6, [*SIX[:5], ["nan", 1, 2]])], "is not a point"),
    (["# CoordinateSystem = IJK", *rows(["liver"] * 6)], "coordinate system 'IJK'"),
    (["# columns = label,i,j,k", "liver,1,2,3"], "no columns x, y and z"),
  ],
)
@pytest.mark.filterwarnings("ignore:.*states no coordinate system")
def test_faulty_tables_are_named(tmp_path, lines, message):
  with pytest.raises(InputError, match=f"a.fcsv.*{message}"):
    read_points(table(tmp_path / "a.fcsv", lines))


def test_a_table_in_the_letters_of_windows_is_read_with_a_word(tmp_path):
  path = tmp_path / "a.fcsv"
  path.write_bytes("\r\n".join(["# CoordinateSystem = RAS", *rows(["Längsmuskel"] * 6)]).encode("cp1252"))
  with pytest.warns(UserWarning, match="not UTF-8"):
    assert list(read_points(path)) == ["Längsmuskel"]


def test_an_annotation_of_slicer_4_says_what_to_do(tmp_path):
  path = table(tmp_path / "a.acsv", ["# pointColumns = type|x|y|z|sel|vis", "point|1|2|3|1|1"])
  with pytest.raises(InputError, match=r"a.acsv: an annotation of Slicer 4, .*\.mrk\.json"):
    read_points(path)
