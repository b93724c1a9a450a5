"""Where an organ lies is one class, whoever said so: a search, a file, or a box of the user's own."""

import numpy as np
import pytest

from medlsam_jax.finding import GIVEN, Finding, doubted, part_boxes, whole_points
from medlsam_jax.geometry import Box


def _points(low, high) -> np.ndarray:
  """Six points on the faces of a box, at its middle otherwise."""
  middle = (np.array(low, float) + high) / 2
  points = np.tile(middle, (6, 1))
  for axis in range(3):
    points[axis, axis], points[3 + axis, axis] = low[axis], high[axis]
  return points


def test_the_whole_organ_takes_the_outermost_point_of_its_parts():
  parts = np.stack([_points((0, 5, 5), (3, 9, 8)), _points((3, 4, 6), (7, 8, 10))])
  whole = whole_points(parts)
  assert whole[0].tolist() == parts[0, 0].tolist()
  assert whole[1].tolist() == parts[1, 1].tolist()
  assert whole[3].tolist() == parts[1, 3].tolist()
  assert Box.of_points(whole) == Box.around(part_boxes(parts))


@pytest.mark.parametrize(
  ("verdict", "in_doubt"),
  [
    ("found", "uncertain"),
    ("partly outside", "uncertain"),
    ("uncertain", "uncertain"),
    ("outside field of view", "outside field of view"),
    ("given", "given"),
  ],
)
def test_a_doubtful_scan_finds_nothing_for_certain(verdict, in_doubt):
  assert doubted(verdict, ("no HU",)) == in_doubt
  assert doubted(verdict, ()) == verdict


def test_parts_are_the_boxes_of_the_points_unless_boxes_were_given():
  points = np.stack([_points((0, 5, 5), (3, 9, 8)), _points((3, 4, 6), (7, 8, 10))])
  searched = Finding("liver", 3, points, "found")
  assert searched.parts == [Box((0, 5, 5), (3, 9, 8)), Box((3, 4, 6), (7, 8, 10))]
  assert searched.box == Box((0, 4, 5), (7, 9, 10))
  given = Finding.of_boxes("liver", 3, searched.parts)
  assert given.verdict == GIVEN and given.parts == searched.parts and given.box == searched.box
  np.testing.assert_array_equal(given.points, points)
  np.testing.assert_array_equal(given.whole_points, searched.whole_points)


def test_a_box_that_came_from_points_keeps_both():
  marked = _points((0.4, 5.2, 5), (3.3, 9.4, 8))
  each = Finding.of_boxes("liver", 3, [Box((0, 5, 5), (3, 9, 8))], points=marked)
  assert each.box == Box((0, 5, 5), (3, 9, 8))
  np.testing.assert_array_equal(each.points, marked[None])


def test_corners_of_a_given_box_stay_as_they_are():
  assert Finding.of_boxes("liver", 3, [Box((5, 4, 9), (2, 9, 4))]).parts == [Box((5, 4, 9), (2, 9, 4))]


def test_doubts_of_the_scan_stand_first_and_once():
  each = Finding("liver", 3, _points((0, 5, 5), (3, 9, 8))[None], "found", doubts=("no HU", "few slices"))
  doubtful = each.in_doubtful_scan(("thin", "no HU"))
  assert doubtful.doubts == ("thin", "no HU", "few slices") and doubtful.verdict == "uncertain"
  assert repr(doubtful) == "Finding liver: uncertain (thin; no HU; few slices), box z 0 to 3, y 5 to 9, x 5 to 8"
