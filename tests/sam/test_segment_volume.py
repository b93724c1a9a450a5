"""Volume segmentation with a stand-in network that fills its box, so that every voxel of the answer is known."""

import dataclasses
import json
import types
from pathlib import Path

import numpy as np
import pytest
from painted import segment_volume

from medlsam_jax.errors import ConfigError, InputError
from medlsam_jax.geometry import Box, Grid, Volume
from medlsam_jax.sam.predictor import Predictor
from medlsam_jax.sam.segmentation_settings import LITEMEDSAM, MEDLSAM, SegmentationSettings
from medlsam_jax.sam.slice_boxes import tight_boxes
from medlsam_jax.sam.slices import ImageFit

TORSO = Path(__file__).parents[3] / "shared" / "data" / "torso"
PLAIN = dataclasses.replace(LITEMEDSAM, margin_px=0)
ORIENTATIONS = {
  "LPS": [[-1, 0, 0], [0, -1, 0], [0, 0, 1]],
  "RAS": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
  "RPI": [[1, 0, 0], [0, -1, 0], [0, 0, -1]],
  "SAR": [[0, 0, 1], [0, 1, 0], [1, 0, 0]],
}


class BoxFiller:
  """Answers each box with logits that fall with the distance beyond its edges; counts what it is asked."""

  image_size = 64
  variant = types.SimpleNamespace(pixels="unit")
  scaling = "pad"

  def fit_of(self, rows, columns):
    return ImageFit(rows, columns, self.image_size, self.scaling)

  def __init__(self, encode_batch=3, strength=None):
    self.encode_batch, self.strength = encode_batch, strength or (lambda box: 1.0)
    self.encoded, self.decoded = 0, []

  def encode(self, images):
    assert images.shape[1:] == (64, 64, 3) and np.isfinite(images).all()
    self.encoded += len(images)
    return list(images)

  def decode(self, embedding, boxes):
    self.decoded.append(len(boxes))
    centre = np.arange(64) + 0.5
    inside = [
      np.minimum(np.minimum(centre - x0, x1 - centre)[None], np.minimum(centre - y0, y1 - centre)[:, None])
      for x0, y0, x1, y1 in boxes
    ]
    logits = [self.strength(box) * np.clip(i, -0.5, 0.5) for box, i in zip(boxes, inside, strict=True)]
    return np.stack(logits), np.ones(len(boxes))


def scan(codes="LPS", shape=(16, 16, 16), seed=0):
  affine = np.eye(4)
  affine[:3, :3] = np.array(ORIENTATIONS[codes]) * 2.0
  array = np.random.default_rng(seed).uniform(-200, 300, shape).astype(np.float32)
  return Volume(array, Grid(shape, affine), "scan.nii.gz")


def test_slices_fill_the_image_as_the_network_was_trained_unless_told_otherwise():
  """Oblong slices: a stretched box reaches the image's lower edge, a padded one only its half."""
  volume, boxes = scan(shape=(2, 8, 16)), {"organ": [Box((0, 0, 0), (1, 7, 15))]}

  def lower_edge(settings):
    filler, seen = BoxFiller(), []
    filler.scaling = "stretch"
    filler.strength = lambda box: seen.append(float(box[3])) or 1.0
    segment_volume(volume, boxes, filler, settings)
    return set(seen)

  assert lower_edge(PLAIN) == {64.0}
  assert lower_edge(dataclasses.replace(PLAIN, scaling="pad")) == {32.0}


@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("settings", [PLAIN, dataclasses.replace(MEDLSAM, margin_px=0)], ids=["pad", "stretch"])
def test_a_box_is_filled_in_its_own_voxels_whatever_the_axes(codes, settings):
  volume = scan(codes)
  labels = segment_volume(volume, {"organ": [Box((2, 4, 3), (5, 10, 12))]}, BoxFiller(), settings)
  expected = np.zeros(volume.array.shape, bool)
  expected[2:6, 4:11, 3:13] = True
  np.testing.assert_array_equal(labels["organ"], expected)
  assert labels.grid is volume.grid and labels.array.dtype == np.uint8


def test_oblong_slices_keep_rows_and_columns_apart():
  volume = scan(shape=(4, 16, 32))
  labels = segment_volume(volume, {"organ": [Box((1, 2, 20), (2, 6, 29))]}, BoxFiller(), PLAIN)
  expected = np.zeros(volume.array.shape, bool)
  expected[1:3, 2:7, 20:30] = True
  np.testing.assert_array_equal(labels["organ"], expected)


def test_each_slice_is_encoded_once_and_all_its_boxes_decoded_in_one_call():
  filler, steps = BoxFiller(), []
  boxes = {"a": [Box((2, 4, 3), (5, 10, 12)), Box((6, 4, 3), (8, 9, 12))], "b": [Box((4, 1, 1), (9, 6, 6))], "c": []}
  with pytest.warns(UserWarning, match="c stays empty: it has no box"):
    segment_volume(scan(), boxes, filler, PLAIN, progress=lambda done, total: steps.append((done, total)))
  assert filler.encoded == 8 and filler.decoded == [1, 1, 2, 2, 2, 2, 2, 1]
  assert steps == [(i, 8) for i in range(1, 9)]


def test_a_voxel_of_two_organs_goes_to_the_more_probable():
  boxes = {"weak": [Box((2, 2, 2), (4, 9, 9))], "strong": [Box((2, 6, 6), (4, 13, 13))]}
  both = {"weak": 1.0, "strong": 3.0}
  filler = BoxFiller(strength=lambda box: both["weak"] if box[0] < 16 else both["strong"])
  for order in (("weak", "strong"), ("strong", "weak")):
    labels = segment_volume(scan(), {o: boxes[o] for o in order}, filler, PLAIN)
    assert labels["strong"][3, 7, 7] and labels["weak"][3, 3, 3]
    assert labels["strong"][2:5, 6:14, 6:14].mean() == 1


def test_label_values_are_kept_and_choose_the_type():
  boxes = {"a": [Box((2, 2, 2), (4, 4, 4))], "b": [Box((2, 8, 8), (4, 12, 12))]}
  labels = segment_volume(scan(), boxes, BoxFiller(), PLAIN, values={"a": 7, "b": 300, "other": 1})
  assert labels.names == {"a": 7, "b": 300} and labels.array.dtype == np.uint16
  assert set(np.unique(labels.array)) == {0, 7, 300}


def test_the_margin_is_counted_in_pixels_of_its_frame():
  """8 px at 64 are 2 voxels of a 16-voxel slice, and the box stays in the image."""
  settings = dataclasses.replace(LITEMEDSAM, margin_px=8, margin_frame=64)
  labels = segment_volume(scan(), {"a": [Box((3, 5, 0), (3, 8, 6))]}, BoxFiller(), settings)
  assert Box.of_mask(labels["a"]) == Box((3, 3, 0), (3, 10, 8))


def test_boxes_outside_the_scan_warn_and_leave_the_organ_empty():
  with pytest.warns(UserWarning, match=r"scan.nii.gz: gone stays empty: its boxes lie outside"):
    labels = segment_volume(scan(), {"gone": [Box((40, 2, 2), (50, 4, 4))]}, BoxFiller(), PLAIN)
  assert not labels["gone"].any() and "gone" in labels.names


def test_no_organs_give_an_empty_map():
  assert not segment_volume(scan(), {}, BoxFiller(), PLAIN).array.any()


def test_a_box_with_nan_names_file_and_organ():
  with pytest.raises(InputError, match=r"scan.nii.gz: liver: .*not a finite number"):
    segment_volume(scan(), {"liver": [Box((2, float("nan"), 2), (4, 4, 4))]}, BoxFiller(), PLAIN)


def test_nan_in_a_needed_slice_names_file_and_slice():
  volume = scan()
  volume.array[4, 3, 3] = np.nan
  with pytest.raises(InputError, match=r"scan.nii.gz: slice 4"):
    segment_volume(volume, {"a": [Box((2, 2, 2), (6, 6, 6))]}, BoxFiller(), PLAIN)


@pytest.mark.parametrize("settings", [PLAIN, MEDLSAM])
def test_air_and_constant_slices_hold_nothing_and_are_not_encoded(settings):
  volume = scan()
  volume.array[3:6] = -1000
  filler = BoxFiller()
  labels = segment_volume(volume, {"a": [Box((2, 2, 2), (6, 6, 6))]}, filler, settings)
  assert not labels["a"][3:6].any() and labels["a"][2].any() and labels["a"][6].any()
  assert filler.encoded == 2
  flat = dataclasses.replace(volume, array=np.full((16, 16, 16), 40, np.float32))
  assert not segment_volume(flat, {"a": [Box((2, 2, 2), (6, 6, 6))]}, BoxFiller(), settings).array.any()


def test_a_box_thinner_than_an_image_pixel_still_prompts():
  volume = scan(shape=(3, 200, 200))
  filler = BoxFiller()
  segment_volume(volume, {"a": [Box((1, 199, 199), (1, 199, 199))]}, filler, PLAIN)
  assert filler.decoded == [1]


def test_clean_up_removes_stray_pieces():
  parts = [Box((1, 1, 1), (4, 8, 8)), Box((10, 1, 1), (10, 3, 3))]
  settings = dataclasses.replace(PLAIN, fill_gaps=False)
  assert segment_volume(scan(), {"a": parts}, BoxFiller(), settings)["a"][10].any()
  cleaned = dataclasses.replace(settings, largest_component=True)
  labels = segment_volume(scan(), {"a": parts}, BoxFiller(), cleaned)
  assert not labels["a"][10].any() and labels["a"][3].any()


@pytest.mark.parametrize(
  "change",
  [
    {"window_hu": (100, 100)},
    {"window_hu": (0, float("nan"))},
    {"margin_px": -1},
    {"scaling": "fit"},
    {"rounding": ""},
  ],
)
def test_settings_out_of_range_are_refused(change):
  with pytest.raises(ConfigError, match=next(iter(change))):
    SegmentationSettings(**change)


@pytest.mark.slow
@pytest.mark.parametrize(("organ", "published_dice"), [("urinary_bladder", 0.914), ("pancreas", 0.692)])
def test_real_organ_from_boxes_of_its_labels_reaches_the_published_dice(organ, published_dice):
  from medlsam_jax.io.nifti import read_label_nifti, read_nifti
  from medlsam_jax.io.weights.fetch import cached_weights
  from medlsam_jax.loading import load

  if not TORSO.is_dir():
    pytest.skip("../shared is missing")
  if not cached_weights("litemedsam").is_file():
    pytest.skip("LiteMedSAM is not in the cache; run: medlsam weights get litemedsam")
  volume, truth = read_nifti(TORSO / "real_ct.nii.gz"), read_label_nifti(TORSO / "real_seg.nii.gz")
  mask = truth.array == json.loads((TORSO / "labels.json").read_text())[organ]
  settings = dataclasses.replace(LITEMEDSAM, margin_px=0, fill_gaps=False)
  labels = segment_volume(volume, {organ: tight_boxes(mask, truth.grid)}, Predictor(load("litemedsam")), settings)
  found = labels[organ]
  dice = 2 * (found & mask).sum() / (found.sum() + mask.sum())
  assert abs(dice - published_dice) <= 0.005


class Spiller(BoxFiller):
  """Paints a piece far outside every box, too, as a network may."""

  def decode(self, embedding, boxes):
    logits, quality = super().decode(embedding, boxes)
    logits[:, 1:7, 49:63] = 0.3
    return logits, quality


def test_pieces_far_from_the_box_are_kept_as_before_windows():
  boxes = {"liver": [Box((2, 3, 4), (9, 8, 7))], "spleen": [Box((4, 6, 6), (12, 12, 10))]}
  volume, painter = scan(), Spiller(encode_batch=1)
  found = segment_volume(volume, boxes, painter, PLAIN)
  fit = ImageFit(16, 16, 64)
  for index in (3, 6, 11):
    inside = [organ for organ, (box,) in boxes.items() if box.low[0] <= index <= box.high[0]]
    edges = np.array([[b.low[2], b.low[1], b.high[2] + 1, b.high[1] + 1] for o in inside for b in boxes[o]]) * 4
    logits, _ = painter.decode(None, edges)
    whole = np.stack([np.zeros((16, 16)), *(fit.from_logits(each) for each in logits)])
    expected = np.array([0, *(found.names[organ] for organ in inside)])[whole.argmax(0)]
    np.testing.assert_array_equal(found.array[index], expected)
  assert (found.array[6, :2, 13:15] > 0).all()


def test_error_in_a_slice_ahead_is_raised():
  volume = scan()
  volume.array[7, 3, 3] = np.nan
  with pytest.raises(InputError, match="slice 7"):
    segment_volume(volume, {"liver": [Box((2, 3, 4), (9, 8, 7))]}, BoxFiller(encode_batch=1), PLAIN)
