"""Slices take the plane that they lie in: none twice, none lost, and gaps between pieces stay gaps."""

import numpy as np
import pytest

from medlsam_jax.io.plane_slices import own_distance, planes_of_slices, usual_distance


@pytest.mark.parametrize(
  ("planes", "slices", "distance", "expected"),
  [
    ([2, 3, 4], [0, 1, 2, 3, 4, 5], 1, [-1, -1, 0, 1, 2, -1]),
    ([0, 3, 6], range(-2, 9), 3, [-1, 0, 0, 0, 1, 1, 1, 2, 2, 2, -1]),  # finer: nine slices of three planes
    ([0, 2, 4], range(-2, 7), 2, [-1, 0, 0, 1, 1, 2, 2, -1, -1]),  # in the middle: one of the two, and once
    ([0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2], [-1, 0, 1, 2], 0.2, [-1, 0, 5, -1]),  # coarser: the nearest
    ([0.5, 1.5, 2.5], [0, 1, 2, 3], 1, [0, 1, 2, -1]),
    ([0, 1, 3, 4], range(5), 1, [0, 1, -1, 2, 3]),  # two pieces
    ([0, 3, 9], range(10), 3, [0, 0, 1, 1, 1, -1, -1, -1, 2, 2]),
    ([0, 1.02, 1.98], [0, 0.5, 1, 1.5, 2], 0.9, [0, 0, 1, 2, 2]),  # no cracks where distances are uneven
    ([5], [4, 5, 6], 1, [-1, 0, -1]),
  ],
)
def test_planes_of_slices(planes, slices, distance, expected):
  found = planes_of_slices(np.array(planes, float), np.array(slices, float), distance)
  assert found.tolist() == expected


def test_distance_is_that_of_most_planes_and_of_an_organ_drawn_on_every_second_its_own():
  every, second, pieces = np.arange(10.0), np.arange(0, 10, 2.0), np.array([1, 3, 4, 6.0])
  assert usual_distance([every, second, pieces], 10) == 1
  assert usual_distance([np.array([0.0, 30]), np.array([7.0])], 10) is None
  assert own_distance(every, 1, 10) == own_distance(pieces, 1, 10) == own_distance(second[:3], 1, 10) == 1
  assert own_distance(second, 1, 10) == 2
