"""Slices with organs as the SAM family is asked about them."""

import numpy as np
import pytest

from medlsam_jax.errors import ConfigError, InputError
from medlsam_jax.geometry import Grid, Volume
from medlsam_jax.sam.labelled_slices import LabelledScan, LabelledSlices
from medlsam_jax.sam.slices import ImageFit

VALUES = {"large": 1, "small": 2, "nowhere": 7}


def volumes(codes_affine=(-1, -1, 1)):
  """Two slices of 30 x 40: a large organ in both, a small one in the upper."""
  labels = np.zeros((2, 30, 40), np.uint8)
  labels[:, 5:15, 10:30] = 1
  labels[1, 20:22, 3:5] = 2
  hu = np.random.default_rng(0).normal(0, 100, labels.shape).astype(np.float32)
  affine = np.diag([*map(float, codes_affine), 1.0])
  return Volume(hu, Grid(labels.shape, affine)), Volume(labels, Grid(labels.shape, affine))


def fit(rows, columns):
  return ImageFit(rows, columns, 256)


def slices(**options):
  return LabelledSlices([LabelledScan.of("a", *volumes(), VALUES)], fit, "unit", 64, **options)


def test_small_organs_are_dropped_where_they_are_small():
  assert [item.organs for item in slices().items] == [("large",), ("large", "small")]
  # 4 pixels of 40 across are 164 of 256 across
  assert [item.organs for item in slices(least_pixels=160).items] == [("large",), ("large", "small")]
  assert [item.organs for item in slices(least_pixels=170).items] == [("large",), ("large",)]
  assert slices().organs == {"large": 2, "small": 1}


def test_every_step_th_slice_through_every_window():
  assert [item.index for item in slices(step=2).items] == [0]
  assert len({item.window_hu for item in slices(step=2, windows=("soft_tissue", "bone")).items}) == 2
  with pytest.raises(ConfigError, match="soft_tissue"):
    slices(windows=("purple",))


def test_box_holds_the_organ_and_jitter_only_widens_it():
  made = slices()
  item, rng = made.items[1], np.random.default_rng(3)
  scale = 256 / 40
  tight = made.box(item, "large")
  assert tight.tolist() == np.floor(np.array([10, 5, 30, 15]) * scale).tolist()
  reach = np.array([made.box(item, "large", rng, 5) - tight for _ in range(50)])
  assert (reach[:, :2] <= 0).all() and (reach[:, 2:] >= 0).all()
  assert np.abs(reach).max() == 5 and np.abs(reach).min() == 0


def test_box_stays_in_the_part_that_the_slice_fills():
  made = slices()
  boxes = [made.box(made.items[1], "small", np.random.default_rng(n), 400) for n in range(20)]
  assert np.min(boxes) >= 0 and np.max(boxes, 0).tolist()[2:] == [256, 192]


def test_low_mask_shows_the_organ_where_the_image_does():
  low = slices().low_mask(slices().items[0], "large")
  rows, columns = np.flatnonzero(low.any(1)), np.flatnonzero(low.any(0))
  assert low.shape == (64, 64) and not low[48:].any()
  assert (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) == (8, 24, 16, 48)


def test_scans_of_any_orientation_show_the_same_slices():
  scan, labels = volumes()
  turned = [Volume(v.array[::-1, ::-1], Grid(v.grid.shape, np.diag([-1.0, 1, -1, 1]))) for v in (scan, labels)]
  first, second = (LabelledScan.of("a", *pair, VALUES) for pair in ((scan, labels), turned))
  np.testing.assert_array_equal(first.hu, second.hu)
  np.testing.assert_array_equal(first.labels, second.labels)
  assert first.values == {"large": 1, "small": 2}


def test_nan_voxels_are_refused():
  scan, labels = volumes()
  scan.array[0, 0, 0] = np.nan
  with pytest.raises(InputError, match="NaN"):
    LabelledScan.of("a", scan, labels, VALUES)


def test_labels_are_laid_on_the_voxels_of_their_scan():
  scan, labels = volumes()
  affine = labels.affine @ np.diag([1.0, -1, 1, 1])
  affine[:3, 3] = labels.grid.world_from_voxel(np.array([0, 29, 0]))
  turned = Volume(labels.array[:, ::-1], Grid(labels.grid.shape, affine), "a_seg")
  shown = LabelledScan.of("a", scan, turned, VALUES)
  np.testing.assert_array_equal(shown.labels, LabelledScan.of("a", scan, labels, VALUES).labels)
  shifted = Volume(labels.array, Grid(labels.grid.shape, labels.affine + np.eye(4)[3] * 0.5), "a_seg")
  with pytest.raises(InputError, match="a_seg: the label map is on another grid"):
    LabelledScan.of("a", scan, shifted, VALUES)


def test_other_organs_can_be_asked_for_than_those_that_are_there():
  made = slices()
  asked = made.asking(lambda scan, index: ["small", "no such organ"] if index == 0 else [])
  assert [(item.index, item.organs) for item in asked.items] == [(0, ("small",))]
  assert len(made) == 2 and made.asking(made._large).items == made.items
  margin = made.prompt(made.items[1], np.array([10.0, 5, 30, 15]), margin_px=3) - made.box(made.items[1], "large")
  assert margin.tolist() == [-3, -3, 3, 3]
