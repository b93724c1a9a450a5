"""Propagation, markers and axes around a stand-in whose masks drift from slice to slice in a known way."""

import dataclasses
import types

import numpy as np
import pytest
from painted import segment_volume

from medlsam_jax.errors import ConfigError
from medlsam_jax.geometry import Box, Grid, Volume
from medlsam_jax.sam.propagation import AXES, PropagationSettings
from medlsam_jax.sam.segmentation_settings import LITEMEDSAM
from medlsam_jax.sam.slice_boxes import boxes_by_slice
from medlsam_jax.sam.sliced_scan import SlicedScan
from medlsam_jax.sam.slices import ImageFit, tight_edges
from medlsam_jax.sam.volume import majority

PLAIN = dataclasses.replace(LITEMEDSAM, margin_px=0)
EDGE = 16
LED = PropagationSettings("middle-out", margin_px=16)  # one pixel of a slice of 16


class ThresholdInBox:
  """Everything bright inside the box is the organ. An image's pixels are its embedding."""

  image_size, encode_batch = 64, 2
  variant = types.SimpleNamespace(pixels="unit")

  def __init__(self):
    self.encoded, self.boxes = 0, []

  def fit_of(self, rows, columns):
    return ImageFit(rows, columns, self.image_size, "pad")

  def encode(self, images):
    self.encoded += len(images)
    return [image[..., 0] for image in images]

  def decode(self, embedding, boxes):
    answers = []
    for x0, y0, x1, y1 in np.round(boxes).astype(int):
      self.boxes.append((x0, y0, x1, y1))
      logits = np.full(embedding.shape, -1.0)
      logits[y0:y1, x0:x1] = np.where(embedding[y0:y1, x0:x1] > 0.5, 1.0, -1.0)
      answers.append(logits)
    return np.stack(answers), np.ones(len(boxes))


def slanted(codes_affine=(-1.0, -1.0, 1.0)):
  """A bright bar of 4 x 4 that moves by one column with each slice, in display order."""
  array = np.full((EDGE, EDGE, EDGE), -1000.0, np.float32)
  for index in range(EDGE - 4):
    array[index, 6:10, index : index + 4] = 500
  grid = Grid(array.shape, np.diag([*codes_affine, 1.0]))
  return Volume(array, grid), array > 0


def test_box_of_the_middle_slice_follows_the_organ_up_and_down():
  scan, truth = slanted()
  # right in the middle slice alone: the organ leaves this box on both sides
  box = Box((2.0, 6.0, 6.0), (10.0, 9.0, 9.0))
  network = ThresholdInBox()
  plain = segment_volume(scan, {"bar": [box]}, network, PLAIN)["bar"]
  asked = network.encoded
  led = segment_volume(scan, {"bar": [box]}, network, PLAIN, propagation=LED)["bar"]
  assert network.encoded == 2 * asked == 18  # each slice once
  np.testing.assert_array_equal(led[2:11], truth[2:11])
  assert not led[:2].any() and not led[11:].any()
  assert (plain & truth).sum() < 0.7 * truth[2:11].sum()


def test_first_box_is_taken_again_after_an_empty_mask():
  scan, _ = slanted()
  scan.array[7] = -1000
  scan.array[7, 0, 0] = 500
  scan.array[8] = -1000
  scan.array[8, 6:10, 6:10] = 500
  box = Box((5.0, 6.0, 6.0), (8.0, 9.0, 9.0))
  network = ThresholdInBox()
  led = segment_volume(scan, {"bar": [box]}, network, PLAIN, propagation=LED)["bar"]
  assert not led[7].any() and led[8].sum() == 16


def test_result_is_on_the_scans_own_grid():
  scan, truth = slanted()
  turned = Volume(scan.array[:, ::-1, ::-1].copy(), Grid(scan.grid.shape, np.diag([1.0, 1, 1, 1])))
  boxes = {"bar": [Box((2.0, 6.0, 6.0), (10.0, 9.0, 9.0))]}
  labels = segment_volume(turned, boxes, ThresholdInBox(), PLAIN, propagation=LED)
  np.testing.assert_array_equal(labels["bar"][2:11], truth[2:11, ::-1, ::-1])


def test_organs_with_other_middles_keep_their_own_way():
  scan, truth = slanted()
  boxes = {"low": [Box((1.0, 6.0, 3.0), (5.0, 9.0, 6.0))], "high": [Box((6.0, 6.0, 8.0), (10.0, 9.0, 11.0))]}
  labels = segment_volume(scan, boxes, ThresholdInBox(), PLAIN, propagation=LED)
  np.testing.assert_array_equal(labels["low"][1:6], truth[1:6])
  np.testing.assert_array_equal(labels["high"][6:11], truth[6:11])


def test_boxes_on_a_few_slices_are_markers_for_those_between():
  scan, truth = slanted()
  markers = [Box((float(z), 6.0, float(z)), (float(z), 9.0, float(z + 3))) for z in (0, 5, 11)]
  assert set(boxes_by_slice(markers, scan.grid)) == set(range(12))
  labels = segment_volume(scan, {"bar": markers}, ThresholdInBox(), PLAIN)
  shared = (labels["bar"] & truth).sum()
  assert 2 * shared / (labels["bar"].sum() + truth.sum()) > 0.95


@pytest.mark.parametrize("axes", ["coronal", "sagittal"])
def test_slices_along_other_axes_fill_the_same_box(axes):
  scan, _ = slanted((2.0, -1.0, -3.0))
  scan.array[...] = np.random.default_rng(0).choice([-1000, 500], scan.array.shape)
  box = Box((2.0, 5.0, 4.0), (9.0, 10.0, 8.0))
  network = ThresholdInBox()
  found = segment_volume(scan, {"a": [box]}, network, PLAIN, propagation=PropagationSettings(axes=axes))["a"]
  assert network.encoded == (6 if axes == "coronal" else 5)
  expected = np.zeros(found.shape, bool)
  expected[2:10, 5:11, 4:9] = scan.array[2:10, 5:11, 4:9] > 0
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("plane", AXES)
def test_slices_of_a_plane_and_boxes_in_them_are_cut_from_the_scan_alike(plane):
  scan, _ = slanted((2.0, -1.0, -3.0))
  slices = SlicedScan(scan, AXES[plane], ThresholdInBox(), PLAIN)
  array, labels = slices.blank({"a": 1})
  assert np.shares_memory(slices.hu, scan.array) and np.shares_memory(labels, array)
  array[1:5, 2:7, 3:9] = 1
  plan = slices.plan({"a": [Box((1.0, 2.0, 3.0), (4.0, 6.0, 8.0))]})
  assert sorted(plan) == np.flatnonzero(labels.any((1, 2))).tolist()
  for index, ((organ, edges),) in plan.items():
    assert organ == "a"
    np.testing.assert_array_equal(edges, tight_edges(labels[index] == 1))


def test_two_of_three_maps_decide():
  maps = np.array([[1, 1, 2, 0, 1], [1, 2, 2, 3, 2], [2, 1, 1, 3, 3]], np.uint8)[:, None, None]
  assert majority(*maps).ravel().tolist() == [1, 1, 2, 3, 0]


def test_settings_out_of_range_are_refused():
  for fields in ({"mode": "outward"}, {"axes": "oblique"}, {"margin_px": -1.0}):
    with pytest.raises(ConfigError):
      PropagationSettings(**fields)
