"""Mean boxes relative to the body: orientation, field of view and missing organs."""

import dataclasses

import numpy as np
import pytest

from medlsam_jax.errors import InputError
from medlsam_jax.evaluation.baseline import MeanBoxes, body_box
from medlsam_jax.geometry import Box, Grid, Volume, reorient

RAS = np.diag([3.0, 3.0, 3.0, 1.0])


@dataclasses.dataclass(frozen=True)
class Marked:
  scan: Volume
  labels: Volume | None
  values: dict
  points: dict


def _scan(low, high, shape=(20, 24, 28), affine=RAS):
  array = np.full(shape, -1000, np.float32)
  array[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))] = 40
  return Volume(array, Grid(shape, affine), "body.nii.gz")


def _labels(scan, low, high, value=3):
  array = np.zeros(scan.array.shape, np.uint8)
  array[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))] = value
  return Volume(array, scan.grid)


def test_body_is_the_largest_piece_and_not_the_couch():
  scan = _scan((0, 4, 6), (19, 18, 21))
  scan.array[:, 22, :] = 100
  assert body_box(scan) == Box((0, 4, 6), (19, 18, 21))


def test_body_of_a_fine_scan_is_found_in_steps_of_three_mm():
  scan = _scan((10, 10, 10), (49, 39, 29), (60, 50, 40), np.diag([1.0, 1.0, 1.0, 1.0]))
  found = body_box(scan)
  assert np.abs(found.array() - [[10, 10, 10], [49, 39, 29]]).max() <= 3


def test_a_scan_of_air_is_refused_by_name():
  with pytest.raises(InputError, match="body"):
    body_box(Volume(np.full((4, 4, 4), -1000.0), Grid((4, 4, 4), RAS), "body.nii.gz"))


def test_the_template_itself_gets_its_own_box_back():
  scan = _scan((0, 4, 6), (19, 18, 21))
  template = Marked(scan, _labels(scan, (3, 6, 8), (8, 9, 12)), {"liver": 3}, {})
  box = MeanBoxes.of([template]).place(scan)["liver"]
  np.testing.assert_allclose(box.array(), [[3, 6, 8], [8, 9, 12]])


def test_a_body_twice_as_large_gets_a_box_twice_as_large():
  scan = _scan((0, 4, 6), (19, 13, 15))
  template = Marked(scan, _labels(scan, (0, 4, 6), (9, 8, 10)), {"liver": 3}, {})
  larger = _scan((0, 0, 0), (19, 19, 19), (20, 24, 28))
  box = MeanBoxes.of([template]).place(larger)["liver"]
  np.testing.assert_allclose(box.array(), [[0, 0, 0], [9, 9, 9]])


@pytest.mark.parametrize(
  "affine",
  [
    np.diag([-3.0, -3.0, 3.0, 1.0]),
    np.array([[0, 0, 3.0, 0], [-3.0, 0, 0, 0], [0, -3.0, 0, 0], [0, 0, 0, 1]]),
  ],
)
def test_orientation_of_the_file_does_not_matter(affine):
  scan = _scan((0, 4, 6), (19, 18, 21))
  labels = _labels(scan, (3, 6, 8), (8, 9, 12))
  mean = MeanBoxes.of([Marked(scan, labels, {"liver": 3}, {})])
  codes = Grid((1, 1, 1), affine).axis_codes
  turned = np.ascontiguousarray(reorient(scan.array, scan.grid, codes))
  query = Volume(turned, Grid(turned.shape, affine))
  expected = Box.of_mask(reorient(labels.array, scan.grid, codes) > 0)
  np.testing.assert_allclose(mean.place(query)["liver"].array(), expected.array(), atol=1e-9)


def test_means_are_over_templates_that_have_the_organ_by_mask_or_points():
  scan = _scan((0, 4, 6), (19, 18, 21))
  first = Marked(scan, _labels(scan, (2, 6, 8), (8, 9, 12)), {"liver": 3, "gone": 7}, {})
  points = np.array([[4, 8, 10], [5, 6, 9], [6, 7, 8], [10, 8, 10], [6, 9, 9], [7, 7, 12]], float)
  second = Marked(scan, None, {}, {"liver": points, "spleen": points})
  boxes = MeanBoxes.of([first, second]).place(scan)
  assert set(boxes) == {"liver", "spleen"}
  np.testing.assert_allclose(boxes["liver"].array(), [[3, 6, 8], [9, 9, 12]])
  np.testing.assert_allclose(boxes["spleen"].array(), [[4, 6, 8], [10, 9, 12]])
