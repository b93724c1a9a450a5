"""NRRD and Slicer's segmentations: what pynrrd reads of ours, and what we read of others."""

import nrrd
import numpy as np
import pytest

from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Grid
from medlsam_jax.io.labels import LabelMap
from medlsam_jax.io.nrrd_file import read_nrrd

NAMES = {"liver": 5, "kidney_left": 2}


@pytest.fixture(params=["straight", "tilted"])
def labels(request):
  affine = np.diag([-2.0, -2.5, 3.0, 1.0])
  affine[:3, 3] = (10, -20, 30)
  if request.param == "tilted":
    affine[1, 2] = 0.7
  grid = Grid((5, 6, 7), affine)
  array = np.zeros(grid.shape, np.uint8)
  array[1, 2:4], array[3:5, 1, 2:5] = 5, 2
  return LabelMap(array, grid, NAMES)


@pytest.mark.parametrize("ending", [".seg.nrrd", ".nrrd"])
def test_label_map_comes_back_at_its_place(tmp_path, labels, ending):
  labels.save(tmp_path / f"a{ending}")
  array, grid, names = read_nrrd(tmp_path / f"a{ending}")
  assert np.array_equal(array, labels.array) and grid.is_same(labels.grid)
  assert names == (NAMES if ending == ".seg.nrrd" else {})


def test_names_may_have_any_letters(tmp_path, labels):
  named = {"Ohrspeicheldrüse_links": 5, "肝臓": 2}
  LabelMap(labels.array, labels.grid, named).save(tmp_path / "a.seg.nrrd")
  assert "Segment1_Name:=肝臓\n".encode() in (tmp_path / "a.seg.nrrd").read_bytes()
  array, _, names = read_nrrd(tmp_path / "a.seg.nrrd")
  assert names == named and np.array_equal(array, labels.array)


def test_segments_have_names_colours_codes_and_sides(tmp_path, labels):
  labels.save(tmp_path / "a.seg.nrrd")
  data, header = nrrd.read(str(tmp_path / "a.seg.nrrd"))
  assert data.shape == (7, 6, 5) and header["space"] == "left-posterior-superior"
  np.testing.assert_allclose(header["space origin"], (-10, 20, 30))
  assert [header[f"Segment{n}_Name"] for n in (0, 1)] == list(NAMES)
  assert [int(header[f"Segment{n}_LabelValue"]) for n in (0, 1)] == [5, 2]
  assert header["Segment1_Extent"] == "2 4 1 1 3 4"
  assert "~SCT^64033007^Kidney~SCT^7771000^Left~" in header["Segment1_Tags"]
  assert len(header["Segment0_Color"].split()) == 3


def test_layers_of_slicer_become_one_and_the_smaller_organ_counts(tmp_path):
  data = np.zeros((2, 7, 6, 5), np.uint8)
  data[0, 1:6, 1:5, 1:4] = 1
  data[1, 2:4, 2:4, 2] = 1
  header = {"space": "left-posterior-superior", "space origin": [0, 0, 0], "kinds": ["list", *["domain"] * 3]}
  header["space directions"] = np.array([[np.nan] * 3, [2, 0, 0], [0, 2, 0], [0, 0, 3.0]])
  for number, name in enumerate(("big", "small")):
    header |= {f"Segment{number}_Name": name, f"Segment{number}_LabelValue": "1", f"Segment{number}_Layer": str(number)}
  nrrd.write(str(tmp_path / "a.seg.nrrd"), data, header)
  array, grid, names = read_nrrd(tmp_path / "a.seg.nrrd")
  assert grid.shape == (5, 6, 7) and grid.axis_codes == "LPS"
  assert np.array_equal(array == names["small"], data[1].T == 1)
  assert np.array_equal(array == names["big"], (data[0].T == 1) & (data[1].T == 0))


@pytest.mark.parametrize("cut", [20, 200])
def test_damaged_file_is_told_in_one_line(tmp_path, labels, cut):
  labels.save(tmp_path / "a.nrrd")
  (tmp_path / "a.nrrd").write_bytes((tmp_path / "a.nrrd").read_bytes()[:cut])
  with pytest.raises(InputError, match=r"a\.nrrd: (truncated or damaged|says nothing)"):
    read_nrrd(tmp_path / "a.nrrd")


@pytest.mark.parametrize(
  ("more", "said"),
  [
    ({}, "4D of"),
    ({"Segment0_Name": "liver", "Segment0_Layer": "7"}, "damaged.*layer 7 of 2"),
    ({"Segment0_Name": "liver", "Segment0_LabelValue": "x"}, "damaged"),
  ],
)
def test_layers_that_no_segment_explains_are_refused_in_a_line(tmp_path, more, said):
  header = {"space": "left-posterior-superior", "space origin": [0, 0, 0], "kinds": ["list", *["domain"] * 3]}
  header["space directions"] = np.array([[np.nan] * 3, [2, 0, 0], [0, 2, 0], [0, 0, 3.0]])
  nrrd.write(str(tmp_path / "a.seg.nrrd"), np.ones((2, 7, 6, 5), np.uint8), header | more)
  with pytest.raises(InputError, match=said):
    read_nrrd(tmp_path / "a.seg.nrrd")


def test_volume_whose_origin_is_no_place_is_refused(tmp_path):
  header = {"space": "left-posterior-superior", "space origin": [0, np.nan, 0], "space directions": np.eye(3)}
  nrrd.write(str(tmp_path / "a.nrrd"), np.ones((7, 6, 5), np.int16), header)
  with pytest.raises(InputError, match=r"a\.nrrd: its origin is"):
    read_nrrd(tmp_path / "a.nrrd")
