"""Everything mode against the published generator with the small random network, and its parts by hand."""

import json

import jax
import numpy as np
import pytest
from PIL import Image
from sam_weights import GOLDEN, picture, tiny_network

from medlsam_jax.errors import ConfigError, InputError
from medlsam_jax.io.weights.fetch import cached_weights
from medlsam_jax.loading import load
from medlsam_jax.sam import everything
from medlsam_jax.sam.everything import (
  EverythingSettings,
  FoundMask,
  crops_of,
  distinct,
  point_grid,
  segment_everything,
  without_small_regions,
)
from medlsam_jax.sam.predictor import Predictor
from medlsam_jax.sam.run_lengths import RunLengths, encode

OURS = {
  "points_per_side": "points_per_side",
  "pred_iou_thresh": "predicted_iou",
  "stability_score_thresh": "stability",
  "stability_score_offset": "stability_offset",
  "box_nms_thresh": "box_iou",
  "crop_nms_thresh": "crop_box_iou",
  "crop_n_layers": "crop_layers",
  "crop_n_points_downscale_factor": "crop_points_divisor",
  "min_mask_region_area": "least_region_px",
}


@pytest.fixture(scope="module")
def predictor():
  return Predictor(tiny_network())


def ct_slice():
  unit = np.load(GOLDEN / "litemedsam_forward.npz")["image_z6"]
  return (unit * 255).astype(np.uint8)[::2, ::2][20:110]


@pytest.mark.parametrize("name", ["picture", "ct"])
def test_the_kept_masks_are_those_of_the_published_generator(predictor, name):
  """A photograph's stand-in, and a CT slice with crops and small regions taken away."""
  golden = json.loads((GOLDEN / "sam_tiny_everything.json").read_text())[name]
  image = picture((120, 160), 3) if name == "picture" else ct_slice()
  settings = EverythingSettings(**{OURS[key]: value for key, value in golden["settings"].items()})
  told = []
  found = segment_everything(image, predictor, settings, progress=lambda *done: told.append(done))
  ours = sorted((mask.as_record() for mask in found), key=place_of)
  expected = sorted(golden["masks"], key=place_of)
  assert len(expected) > 5 and [place_of(mask)[:2] for mask in ours] == [place_of(mask)[:2] for mask in expected]
  assert told == ([(1, 1)] if name == "picture" else [(done, 5) for done in range(1, 6)])
  for mine, theirs in zip(ours, expected, strict=True):
    assert mine["area"] == mine["segmentation"].sum() == pytest.approx(theirs["area"], rel=0.01, abs=3)
    assert mine["predicted_iou"] == pytest.approx(theirs["predicted_iou"], abs=1e-4)
    assert mine["stability_score"] == pytest.approx(theirs["stability_score"], abs=0.01)
    np.testing.assert_allclose(mine["bbox"], theirs["bbox"], atol=2)


@pytest.fixture(scope="module")
def litemedsam():
  """Ready for inference, if its weights were fetched on this machine; tests never fetch."""
  path = cached_weights("litemedsam")
  if not path.is_file():
    pytest.skip("LiteMedSAM's weights are not here: medlsam weights get litemedsam")
  return Predictor(load(path))


@pytest.mark.parametrize("name", ["ct", "photo"])
def test_litemedsam_keeps_the_masks_that_the_published_generator_keeps(litemedsam, name):
  """Its masks of single points are scraps, being untrained for them: the hardest to agree on, hence the tolerances."""
  if name == "ct":
    image = (np.load(GOLDEN / "litemedsam_forward.npz")["image_z6"] * 255).astype(np.uint8)
  else:
    image = np.asarray(Image.open(GOLDEN / "coffee.png"))
  golden = json.loads((GOLDEN / "litemedsam_everything.json").read_text())[name]
  settings = EverythingSettings(**{OURS[key]: value for key, value in golden["settings"].items()})
  ours = sorted((mask.as_record() for mask in segment_everything(image, litemedsam, settings)), key=place_of)
  expected = sorted(golden["masks"], key=place_of)
  assert len(ours) == len(expected) > 15
  for mine, theirs in zip(ours, expected, strict=True):
    assert place_of(mine)[:2] == place_of(theirs)[:2]
    assert mine["area"] == pytest.approx(theirs["area"], rel=0.005, abs=2)
    assert mine["predicted_iou"] == pytest.approx(theirs["predicted_iou"], abs=1e-4)
    assert mine["stability_score"] == pytest.approx(theirs["stability_score"], abs=0.01)
    np.testing.assert_allclose(mine["bbox"], theirs["bbox"], atol=2)


def place_of(record):
  """Crop and point that a mask answers, and which of the point's answers it is, by its predicted IoU."""
  return tuple(record["crop_box"]), tuple(np.round(record["point_coords"][0], 4).tolist()), record["predicted_iou"]


def test_crops_cover_the_image_and_overlap():
  crops = list(crops_of(90, 120, 2, 512 / 1500))
  assert [layer for _, layer in crops] == [0] + [1] * 4 + [2] * 16 and crops[0][0] == (0, 0, 120, 90)
  for wanted in (1, 2):
    seen = np.zeros((90, 120), int)
    for (x0, y0, x1, y1), layer in crops:
      if layer == wanted:
        seen[y0:y1, x0:x1] += 1
    assert seen.min() == 1 and seen.max() > 1


def test_a_grid_of_points_lies_at_the_centres_of_its_cells():
  np.testing.assert_allclose(point_grid(2), [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]])


def test_of_boxes_that_overlap_the_better_one_stays():
  boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [0, 0, 5, 5], [7, 7, 7, 7], [7, 7, 7, 7]])
  scores = np.array([0.5, 0.9, 0.1, 0.7, 0.2, 0.2])
  assert distinct(boxes, scores, 0.7).tolist() == [1, 3, 4, 5, 2]
  assert distinct(boxes, scores, 0.2).tolist() == [1, 4, 5, 2]
  assert distinct(np.zeros((0, 4)), np.zeros(0), 0.5).tolist() == []


def test_small_holes_are_filled_and_small_islands_dropped():
  mask = np.zeros((12, 12), bool)
  mask[1:8, 1:8] = True
  mask[3, 3] = mask[4, 4] = False  # one hole of two pixels that touch by a corner
  mask[10, 10] = True
  cleaned, changed = without_small_regions(mask, 3)
  assert changed and cleaned[3, 3] and cleaned[4, 4] and not cleaned[10, 10] and cleaned.sum() == 49
  assert not without_small_regions(cleaned, 3)[1]
  only_small = np.zeros((12, 12), bool)
  only_small[2, 2:4] = only_small[8, 8] = True
  kept, _ = without_small_regions(only_small, 5)
  assert kept[2, 2:4].all() and kept.sum() == 2


@pytest.mark.parametrize("first", [False, True])
def test_run_lengths_go_down_the_columns_and_begin_outside(first):
  mask = np.array([[first, True, False], [False, True, True]])
  lengths = encode(mask)
  assert lengths.counts == ((0, 1, 1, 2, 1, 1) if first else (2, 2, 1, 1))
  assert lengths.area == mask.sum() and lengths.size == (2, 3)
  np.testing.assert_array_equal(lengths.decode(), mask)


@pytest.mark.parametrize("value", [False, True])
def test_full_and_empty_masks_have_run_lengths(value):
  mask = np.full((3, 4), value)
  assert encode(mask).counts == ((0, 12) if value else (12,))
  np.testing.assert_array_equal(encode(mask).decode(), mask)


def test_compressed_run_lengths_need_pycocotools():
  lengths = RunLengths((2, 3), (2, 2, 1, 1))
  try:
    import pycocotools.mask as coco
  except ImportError:
    with pytest.raises(ConfigError, match="pip install pycocotools"):
      lengths.compressed()
  else:
    np.testing.assert_array_equal(coco.decode(lengths.compressed()), lengths.decode())


def test_records_are_those_of_the_published_generator():
  found = FoundMask(encode(np.eye(4, dtype=bool)), (0, 0, 3, 3), 0.9, 0.95, (1.5, 2.5), (0, 0, 4, 4))
  record = found.as_record("uncompressed_rle")
  assert record["bbox"] == [0, 0, 3, 3] and record["crop_box"] == [0, 0, 4, 4] and record["area"] == 4
  assert record["point_coords"] == [[1.5, 2.5]] and record["segmentation"]["size"] == [4, 4]
  assert found.as_record()["segmentation"].sum() == 4
  with pytest.raises(ConfigError, match="binary_mask"):
    found.as_record("png")


@pytest.mark.parametrize(
  "settings", [{"points_per_side": 0}, {"crop_layers": -1}, {"box_iou": 1.5}, {"prompts_at_once": 0}]
)
def test_settings_out_of_range_are_refused(settings):
  with pytest.raises(ConfigError, match=next(iter(settings))):
    EverythingSettings(**settings)


def test_an_image_of_air_is_refused(predictor):
  with pytest.raises(InputError, match="one value"):
    segment_everything(np.zeros((20, 30), np.uint8), predictor)


def test_an_image_smaller_than_its_crops_and_one_in_which_nothing_is_found_give_what_there_is(predictor):
  all_of_it = EverythingSettings(points_per_side=2, crop_layers=2, predicted_iou=0, stability=0)
  assert all(each.mask.shape == (3, 5) for each in segment_everything(picture((3, 5), 1), predictor, all_of_it))
  nothing = EverythingSettings(points_per_side=2, predicted_iou=1.0, stability=1.0, crop_layers=1, least_region_px=9)
  assert segment_everything(picture((60, 80), 1), predictor, nothing) == []


@pytest.mark.parametrize(("stability", "with_masks"), [(1.1, False), (0.0, True)])
def test_masks_that_pass_no_filter_stay_on_the_device(predictor, monkeypatch, stability, with_masks):
  """And the others come as eight pixels to a byte; logits at low resolution never leave it."""
  fetched = []

  class Counted:
    """NumPy, as the module sees it."""

    def __getattr__(self, name):
      return getattr(np, name)

    def asarray(self, array, *rest):
      if isinstance(array, jax.Array):
        fetched.append((array.dtype.name, array.shape))
      return np.asarray(array, *rest)

  monkeypatch.setattr(everything, "np", Counted())
  settings = EverythingSettings(points_per_side=2, predicted_iou=0, stability=stability)
  masks = segment_everything(picture((50, 61), 0), predictor, settings)
  assert bool(masks) == with_masks
  assert (("uint8", (everything.MASKS_AT_ONCE, 50, 8)) in fetched) == with_masks
  allowed = {("float32", (4, 3)), ("float32", (16,)), ("int32", (16, 4)), ("uint8", (16, 50, 8))}
  assert set(fetched) <= allowed and len(fetched) <= 4
