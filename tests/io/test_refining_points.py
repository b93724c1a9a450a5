"""Places that mend masks: files of point lists to scan voxels, inside and outside by name."""

import json

import numpy as np
import pytest

from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Grid, Volume
from medlsam_jax.io.refining_points import read_refining_points

SCAN = Volume(np.zeros((4, 6, 8), np.float32), Grid((4, 6, 8), np.diag([-2.0, -2.0, 3.0, 1.0])), "a_ct.nii.gz")


def markups(name, *points):
  controls = [{"label": f"{name}-{i}", "position": point} for i, point in enumerate(points, 1)]
  return {"type": "Fiducial", "coordinateSystem": "RAS", "name": name, "controlPoints": controls}


def test_lists_of_slicer_hold_places_in_an_organ_and_places_that_are_not(tmp_path):
  path = tmp_path / "clicks.mrk.json"
  lists = [markups("liver", [-2, -4, 6]), markups("not liver", [-14, -10, 9], [0, 0, 0]), markups("spleen", [-4, 0, 3])]
  path.write_text(json.dumps({"markups": lists}))
  found = read_refining_points(path, SCAN)
  assert found == {
    "liver": [((2, 2, 1), True), ((3, 5, 7), False), ((0, 0, 0), False)],
    "spleen": [((1, 0, 2), True)],
  }


def test_our_own_format_and_clicks_on_the_edge(tmp_path):
  path = tmp_path / "clicks.json"
  path.write_text(json.dumps({"coordinate_system": "LPS", "not liver": [[2, 4, -1]]}))
  assert read_refining_points(path, SCAN) == {"liver": [((0, 2, 1), False)]}


@pytest.mark.parametrize(
  ("content", "said"),
  [({"liver": [[50, 0, 0]]}, "liver.*outside the scan"), ({}, "no points in it"), ({"liver": [[1, 2]]}, "not a point")],
)
def test_what_is_no_place_in_the_scan_is_refused(tmp_path, content, said):
  path = tmp_path / "clicks.json"
  path.write_text(json.dumps(content))
  with pytest.raises(InputError, match=said):
    read_refining_points(path, SCAN)
