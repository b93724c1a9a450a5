"""The interface of segment-anything, against the published predictor with the small random network."""

import jax
import numpy as np
import pytest
from sam_weights import GOLDEN, SAM_MEAN, SAM_SD, picture, tiny_network

from medlsam_jax.errors import InputError
from medlsam_jax.network import Network
from medlsam_jax.sam.network.sam import LITEMEDSAM, MEDSAM, MOBILESAM, SAM_VIT_B, Sam
from medlsam_jax.sam.predictor import Predictor
from medlsam_jax.sam.prompts import Prompt, check_image, stability_score, tokens_of
from medlsam_jax.sam.slices import ImageFit

FIT = ImageFit(120, 160, 240, resampling="bilinear")
POINTS, LABELS = np.array([[40, 30], [100, 80]]), np.array([1, 0])
BOX = np.array([20, 10, 90, 70])


@pytest.fixture(scope="module")
def predictor():
  predictor = Predictor(tiny_network())
  predictor.set_image(picture((120, 160), 3))
  return predictor


@pytest.fixture(scope="module")
def golden():
  return np.load(GOLDEN / "sam_tiny_predict.npz")


def test_points_give_the_published_masks_on_an_oblong_colour_image(predictor, golden):
  masks, iou, low = predictor.predict(POINTS, LABELS)
  assert masks.shape == (3, 120, 160) and masks.dtype == bool and low.shape == (3, 60, 60)
  expected = np.unpackbits(golden["points_masks"])[: masks.size].reshape(masks.shape).astype(bool)
  assert np.mean(masks == expected) > 0.9999
  np.testing.assert_allclose(low[:, ::4, ::4], golden["points_low"], atol=2e-5)
  np.testing.assert_allclose(iou, golden["points_iou"], atol=1e-5)


def test_a_point_a_box_and_an_earlier_mask_refine_as_published(predictor, golden):
  _, _, low = predictor.predict(POINTS, LABELS)
  logits, iou, _ = predictor.predict(POINTS[:1], LABELS[:1], BOX, low[:1], multimask_output=False, return_logits=True)
  np.testing.assert_allclose(logits[0, ::4, ::4], golden["refined_logits"], atol=2e-5)
  np.testing.assert_allclose(iou, golden["refined_iou"], atol=1e-5)


def test_several_boxes_at_once_are_answered_as_if_alone(predictor):
  boxes = np.stack([BOX, BOX + 15, BOX + 30])
  masks, iou, low = predictor.predict(box=boxes, multimask_output=False)
  assert masks.shape == (3, 1, 120, 160) and iou.shape == (3, 1)
  for index, box in enumerate(boxes):
    _, alone_iou, alone = predictor.predict(box=box, multimask_output=False)
    np.testing.assert_allclose(low[index], alone, atol=1e-5)
    np.testing.assert_allclose(iou[index], alone_iou, atol=1e-5)


@pytest.mark.slow
def test_prompts_of_unequal_kinds_share_a_batch_without_touching_each_other(predictor):
  """Absent tokens and prompts with and without a mask: each as if asked alone."""
  image = predictor.encode_images([picture((120, 160), 3)])[0]
  many = np.random.default_rng(0).uniform(0, 120, (7, 2))
  earlier = predictor.answer(image, [Prompt(box=BOX)])[0][0, 0]
  prompts = [
    Prompt(POINTS[:1], LABELS[:1]),
    Prompt(many, np.ones(7, int), BOX),
    Prompt(box=BOX, mask=earlier),
    Prompt(mask=earlier),
    Prompt(np.array([[40, 30], [np.nan, 0]]), np.array([1, -1])),
  ]
  logits, iou = predictor.answer(image, prompts)
  for index, prompt in enumerate(prompts):
    alone, alone_iou = predictor.answer(image, [prompt])
    np.testing.assert_allclose(logits[index], alone[0], atol=1e-5)
    np.testing.assert_allclose(iou[index], alone_iou[0], atol=1e-5)


def test_any_prompts_and_images_compile_a_fixed_number_of_programs(predictor):
  fresh = Predictor(tiny_network())
  images = fresh.encode_images([picture(shape, 1) for shape in ((60, 80), (120, 50))])
  for image in images:
    for count in (1, 2, 5, 17, 20):
      fresh.answer(image, [Prompt(box=np.array([5, 5, 20 + i, 30])) for i in range(count)])
      fresh.answer(image, [Prompt(np.array([[5 + i, 9]]), np.array([1])) for i in range(count)])
  assert fresh.compilations() == 1 + 3  # boxes and single points are two tokens both, in runs of 1, 4 and 16


def test_tokens_are_filled_up_to_a_power_of_two():
  points, labels = tokens_of([Prompt(box=BOX), Prompt(POINTS, LABELS), Prompt(POINTS[:1], LABELS[:1], BOX)], FIT)
  assert labels.tolist() == [[2, 3, -2, -2], [1, 0, -1, -2], [1, 2, 3, -2]]
  np.testing.assert_allclose(points[0, :2], [[30, 15], [135, 105]])


def test_stability_is_the_overlap_of_a_higher_and_a_lower_threshold():
  logits = np.array([[-2.0, -0.5, 0.5, 2.0], [2.0, 2.0, 2.0, -0.5]])
  assert stability_score(logits, 1.0) == 4 / 7
  assert stability_score(np.full((2, 2), -9.0)) == 0


def test_each_member_is_fed_as_it_was_trained():
  image = picture((30, 40), 2)
  for variant, scale in ((SAM_VIT_B, "imagenet"), (MOBILESAM, "imagenet"), (MEDSAM, "unit"), (LITEMEDSAM, "unit")):
    edge = variant.image_size
    fit = ImageFit(30, 40, edge, variant.scaling, variant.resampling)
    fed = fit.to_image(image, variant.pixels)
    assert variant.pixels == scale
    if variant is MEDSAM:  # stretched, by its own range
      assert fed.min() == 0 and fed.max() == 1 and np.ptp(fed[-1]) > 0
    elif variant is LITEMEDSAM:
      assert fed.min() == 0 and fed.max() == 1 and not fed[192:].any()
    else:  # zero-padded after the mean went
      assert not fed[768:].any()
      np.testing.assert_allclose(fed[:768].mean((0, 1)) * SAM_SD + SAM_MEAN, image.mean((0, 1)), atol=0.5)


def test_other_pixels_are_used_only_when_asked_for():
  network = Network(Sam(MEDSAM, folded=True), {"params": {}}, "medsam", "<test>")
  assert Predictor(network).variant.pixels == "unit"
  assert Predictor(network, pixels="imagenet").variant.pixels == "imagenet"


GOOD = picture((8, 8), 0)


@pytest.mark.parametrize(
  ("image", "words"),
  [
    (np.zeros((8, 8, 4), np.uint8), "four channels"),
    (np.zeros((8, 8, 2), np.uint8), "shape"),
    (np.zeros((2, 8, 8, 3), np.uint8), "shape"),
    (GOOD / 255.0, "8-bit"),
    (GOOD.astype(np.int16) - 1000, "8-bit"),
    (np.full((8, 8), np.nan), "NaN"),
    (np.zeros((8, 8), np.uint8), "one value"),
    (np.zeros((0, 8), np.uint8), "shape"),
  ],
)
def test_an_image_that_cannot_be_meant_is_refused(image, words):
  with pytest.raises(InputError, match=words):
    check_image(image)


def test_a_grey_image_is_repeated_in_three_channels():
  for grey in (GOOD[..., 0], GOOD[..., :1]):
    np.testing.assert_array_equal(check_image(grey), np.repeat(GOOD[..., :1], 3, -1))


@pytest.mark.parametrize(
  ("prompt", "words"),
  [
    ({}, "prompt 0: has neither"),
    ({"point_labels": LABELS}, "neither points nor|labels but no points"),
    ({"point_coords": POINTS}, "without labels"),
    ({"point_coords": POINTS, "point_labels": LABELS[:1]}, "2 points but labels"),
    ({"point_coords": POINTS, "point_labels": np.array([1, 7])}, "labels"),
    ({"point_coords": POINTS[0], "point_labels": LABELS}, "give \\(points, 2\\)"),
    ({"point_coords": np.array([[170, 5]]), "point_labels": LABELS[:1]}, "outside"),
    ({"point_coords": np.array([[np.nan, 5]]), "point_labels": LABELS[:1]}, "finite"),
    ({"box": np.array([20, 10, 20, 70])}, "no area"),
    ({"box": np.array([90, 10, 20, 70])}, "no area"),
    ({"box": np.array([165, 10, 190, 70])}, "outside"),
    ({"box": np.array([20, 10, np.inf, 70])}, "finite"),
    ({"box": np.array([20, 10, 30])}, "shape"),
    ({"box": np.stack([BOX, BOX[::-1]])}, "prompt 1: its box"),
    ({"box": np.stack([BOX, BOX]), "point_coords": POINTS[None], "point_labels": LABELS[None]}, "different numbers"),
    ({"mask_input": np.zeros((1, 9, 9))}, "mask of shape"),
    ({"mask_input": np.zeros((60, 60))}, "axis in front"),
    ({"mask_input": np.full((1, 60, 60), np.nan)}, "NaN"),
  ],
)
def test_a_prompt_that_cannot_be_meant_is_refused(predictor, prompt, words, unchecked_shapes):
  with pytest.raises(InputError, match=words):
    predictor.predict(**prompt)


def test_prompts_before_any_image_are_refused():
  with pytest.raises(InputError, match="set_image first"):
    Predictor(Network(Sam(MEDSAM, folded=True), {"params": {}}, "medsam", "<test>")).predict(box=BOX)


def test_bfloat16_masks_stay_near_the_exact_ones(predictor):
  """Largest error of a logit, relative to the largest logit: below 5 percent; the masks nearly all equal."""
  near = Predictor(tiny_network(), dtype=jax.numpy.bfloat16)
  near.set_image(picture((120, 160), 3))
  exact, close = (p.predict(box=BOX, multimask_output=False, return_logits=True)[0] for p in (predictor, near))
  assert 0 < np.abs(exact - close).max() < 0.05 * np.abs(exact).max()
  assert np.mean((exact > 0) == (close > 0)) > 0.99


def test_a_detector_that_found_nothing_gets_no_masks_and_nothing_is_compiled():
  fresh = Predictor(tiny_network())
  fresh.set_image(picture((60, 80), 1))
  before = fresh.compilations()
  for arguments, count in (
    ({"box": np.zeros((0, 4)), "multimask_output": False}, 1),
    ({"box": np.zeros((0, 4))}, 3),
    ({"point_coords": np.zeros((0, 1, 2)), "point_labels": np.zeros((0, 1), int)}, 3),
    ({"point_coords": np.zeros((0, 2, 2)), "point_labels": np.zeros((0, 2), int), "box": BOX}, 3),
    ({"mask_input": np.zeros((0, 60, 60), np.float32), "multimask_output": False}, 1),
  ):
    masks, quality, low = fresh.predict(**arguments)
    assert masks.shape == (0, count, 60, 80) and masks.dtype == bool
    assert quality.shape == (0, count) and low.shape == (0, count, 60, 60)
  assert fresh.predict(box=np.zeros((0, 4)), return_logits=True)[0].dtype == np.float32
  assert fresh.encode_images([]) == [] and fresh.answer(fresh._current, [])[0].shape == (0, 1, 60, 60)
  assert fresh.compilations() == before


def test_no_points_beside_a_box_are_none_and_alone_are_refused(predictor):
  none = {"point_coords": np.zeros((0, 2)), "point_labels": np.zeros(0, int)}
  with_none = predictor.predict(**none, box=BOX, multimask_output=False)
  for one, other in zip(with_none, predictor.predict(box=BOX, multimask_output=False), strict=True):
    np.testing.assert_array_equal(one, other)
  with pytest.raises(InputError, match="prompt 0: has neither points nor a box"):
    predictor.predict(**none)


@pytest.mark.parametrize(
  ("box", "words"),
  [
    (np.zeros((2, 5)), "shape"),
    (np.zeros(0), "shape"),
    (np.array([[20, 10, 90, 70], [90, 70, 20, 10]]), "prompt 1: its box: .* no area"),
    (np.array([[np.nan, 10, 90, 70]]), "not a finite number"),
    (np.array([500, 500, 600, 600]), "outside the image"),
    ([[20, 10, 90, 70], [1, 2]], "box: rows of different lengths"),
    (["20", "10", "90", "70"], "box: values of type"),
    (np.array(None), "box: values of type object"),
  ],
)
def test_boxes_of_a_detector_that_cannot_be_meant_are_named(predictor, box, words, unchecked_shapes):
  with pytest.raises(InputError, match=words):
    predictor.predict(box=box)


@pytest.mark.parametrize("shape", [(1, 80), (80, 1)])
def test_an_image_of_one_row_is_answered(predictor, shape):
  fresh = Predictor(tiny_network())
  fresh.set_image(np.arange(80, dtype=np.uint8).reshape(shape))
  rows, columns = shape
  masks, _, _ = fresh.predict(box=np.array([0, 0, columns, rows]), multimask_output=False)
  assert masks.shape == (1, *shape)
