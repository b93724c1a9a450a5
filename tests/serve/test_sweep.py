"""How far a mask goes on from the slices that are marked, with a network that fills boxes."""

import numpy as np
import pytest
from box_painter import BoxPainter

import medlsam_jax as ml
from medlsam_jax.geometry import Box
from medlsam_jax.sam.segmentation_settings import SegmentationSettings
from medlsam_jax.serve.kept_slices import KeptSlices
from medlsam_jax.serve.marks import Marks
from medlsam_jax.serve.sweep import Sweep

PLAIN = SegmentationSettings(margin_px=0.0)
HALF = slice(8, 24)


class Painter(BoxPainter):
  """Fills a box's part that is bright in the slice, so that a mask ends where the organ does."""

  def decode(self, embedding, boxes, masks=None):
    logits, quality = super().decode(embedding, boxes)
    bright = embedding[..., 0] > 0.5
    low = bright.reshape(64, 64)
    return np.where(low, logits, -1.0), quality


@pytest.fixture
def painter():
  return Painter()


@pytest.fixture
def image():
  """Bright from slice 3 to 8 of 12, 32 x 32 voxels; a small bright thing above."""
  array = np.full((12, 32, 32), -500, np.int16)
  array[3:9, HALF, HALF] = 200
  array[9:11, 8:11, 8:11] = 200
  return array


@pytest.fixture
def kept(image, painter):
  grid = ml.Grid(image.shape, np.diag([-1.0, -1.0, 1.0, 1.0]))
  return KeptSlices(ml.Volume(image, grid), painter, PLAIN)


def flat(index, low=8, high=23):
  return Box((index, low, low), (index, high, high))


def slices_of(mask):
  return np.flatnonzero(mask.any((1, 2))).tolist()


def test_it_ends_where_little_of_the_mask_goes_on(kept):
  mask = Sweep(kept, 0, True).paint(Marks().with_box(flat(5)))
  assert slices_of(mask) == [3, 4, 5, 6, 7, 8]


def test_only_what_is_marked(kept):
  assert slices_of(Sweep(kept, 0, False).paint(Marks().with_box(flat(5)))) == [5]


def test_a_box_across_says_how_far(kept):
  across = Box((4, 16, 8), (10, 16, 23))
  assert slices_of(Sweep(kept, 0, True).paint(Marks().with_box(flat(5)).with_box(across))) == [4, 5, 6, 7, 8, 9, 10]


def test_what_was_erased_ends_it(kept):
  marks = Marks().with_box(flat(5)).with_erased((7, 0, 0), np.ones((1, 32, 32), bool))
  assert slices_of(Sweep(kept, 0, True).paint(marks)) == [3, 4, 5, 6]


def test_slices_are_encoded_once(kept, painter):
  sweep = Sweep(kept, 0, True)
  marks = Marks().with_box(flat(5))
  sweep.paint(marks)
  before = painter.slices
  sweep.paint(marks.with_box(flat(6, 10, 20)))
  # 3 to 8, and 2 and 9, where it was seen to end; slices of one grey are not sent
  assert before == 7 and painter.slices == before


def test_without_time_it_gives_what_is_there_and_goes_on_later(kept):
  late = Sweep(kept, 0, True, patience_s=-1.0)
  marks = Marks().with_box(flat(5))
  assert slices_of(late.paint(marks)) == [5] and late.left_out == 2
  Sweep(kept, 0, True).paint(marks)
  assert slices_of(late.paint(marks)) == [3, 4, 5, 6, 7, 8] and late.left_out == 0


def test_slices_used_longest_ago_go_first(image, painter):
  grid = ml.Grid(image.shape, np.diag([-1.0, -1.0, 1.0, 1.0]))
  size = 64 * 64 * 3 * 4
  kept = KeptSlices(ml.Volume(image, grid), painter, PLAIN, max_bytes=2 * size)
  for index in (3, 4, 3, 5):
    kept.get("axial", index)
  assert painter.slices == 3 and [kept.has("axial", i) for i in (3, 4, 5)] == [True, False, True]
  assert kept.is_full
