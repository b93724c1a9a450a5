"""Views of cubes: image and masks moved alike, prompts that belong to what is seen, and a loss of what counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medlsam_jax.sam3d.cube_settings import to_pixels
from medlsam_jax.sam3d.network.prompts import ABSENT, FACES, NEGATIVE, POSITIVE, points_of_box
from medlsam_jax.sam3d.training.settings import CubeLossSettings, CubeViewSettings
from medlsam_jax.sam3d.training.step import cube_loss
from medlsam_jax.sam3d.training.views import view

SOURCE, EDGE = 20, 16
PLAIN = {"zoom": (1.0, 1.0), "shift_hu": 0.0, "flips": (), "turns": False, "jitter_mm": 0.0, "points": 0.0}
LABELS = np.zeros((SOURCE,) * 3, np.uint8)
LABELS[6:10, 7:14, 5:15] = 1
LABELS[6, 7, 5:9] = 0
LABELS[12:16, 4:9, 10:13] = 2
HU = np.where(LABELS == 1, 1000, -500).astype(np.int16)
QUICK = {"xla_backend_optimization_level": 0}


@functools.cache
def drawing(asked, **changes):
  settings = CubeViewSettings(**{**PLAIN, **changes})

  def draw(key):
    return view(key, jnp.asarray(HU), jnp.asarray(LABELS), jnp.array(asked, jnp.uint8), EDGE, 2.0, settings)

  return jax.jit(jax.vmap(draw), compiler_options=QUICK)


def views(count=24, asked=(1,), **changes):
  return jax.device_get(drawing(asked, **changes)(jax.random.split(jax.random.key(5), count)))


def extent(mask):
  where = np.argwhere(mask)
  return np.stack([where.min(0), where.max(0)])


def test_nothing_drawn_is_the_middle_of_the_cube():
  seen = views(1, (1, 2, 0))
  inner = (slice(2, 18),) * 3
  np.testing.assert_allclose(seen.hu[0], HU[inner], atol=1e-3)
  np.testing.assert_array_equal(seen.masks[0, :2], [LABELS[inner] == 1, LABELS[inner] == 2])
  assert not seen.masks[0, 2].any() and seen.counts[0].tolist() == [True, True, False]


def test_image_and_masks_are_zoomed_turned_and_flipped_alike():
  seen = views(zoom=(0.85, 1.25), flips=("z", "y", "x"), turns=True)
  for hu, mask in zip(seen.hu, seen.masks[:, 0], strict=True):
    clear = np.abs(hu - 250) > 1
    np.testing.assert_array_equal(mask[clear], (hu > 250)[clear])
  assert len({mask.tobytes() for mask in seen.masks[:, 0]}) > 20


def test_flips_and_quarter_turns_are_all_drawn_and_no_other():
  """The organ has a corner missing, so that all sixteen differ."""
  mask = LABELS[2:18, 2:18, 2:18] == 1
  turned = [np.rot90(np.flip(mask, 0) if flip else mask, quarter, (1, 2)) for flip in (0, 1) for quarter in range(4)]
  known = {np.flip(each, 2).tobytes() if mirror else each.tobytes() for each in turned for mirror in (0, 1)}
  assert len(known) == 16
  drawn = {each.tobytes() for each in views(200, flips=("z", "y", "x"), turns=True).masks[:, 0]}
  assert drawn == known
  along_z = {each.tobytes() for each in views(flips=("z",)).masks[:, 0]}
  assert along_z == {mask.tobytes(), np.flip(mask, 0).tobytes()}


@pytest.mark.parametrize("zoom", [0.8, 1.0, 1.25])
def test_zoom_is_how_much_larger_things_look(zoom):
  size = views(1, zoom=(zoom, zoom)).masks[0, 0].sum()
  assert size == pytest.approx((LABELS == 1).sum() * zoom**3, rel=0.2)


def test_hu_are_shifted_as_a_whole_within_the_limit():
  shifts = views(shift_hu=20.0).hu - views(1).hu
  assert np.ptp(shifts, (1, 2, 3)).max() < 1e-3
  assert np.abs(shifts).max() <= 20 and np.ptp(shifts) > 20


def test_boxes_are_those_of_the_masks_that_are_seen():
  seen = views(asked=(1, 2), zoom=(0.85, 1.25), flips=("z", "y", "x"), turns=True)
  for masks, points, labels in zip(seen.masks, seen.points, seen.labels, strict=True):
    for mask, places, kinds in zip(masks, points, labels, strict=True):
      np.testing.assert_allclose(places[:6], points_of_box(extent(mask).astype(float)))
      assert tuple(kinds[:6]) == FACES and (kinds[6:] == ABSENT).all()


def test_jitter_moves_faces_by_millimetres_and_never_out_of_the_cube():
  still, seen = views(1), views(400, jitter_mm=4.0)
  faces, exact = seen.points[:, 0, :6], still.points[0, 0, :6]
  moved = np.concatenate([faces[:, [0, 1, 2], [0, 1, 2]] - exact[[0, 1, 2], [0, 1, 2]],
                          faces[:, [3, 4, 5], [0, 1, 2]] - exact[[3, 4, 5], [0, 1, 2]]], 1)  # fmt: skip
  assert (faces >= 0).all() and (faces <= EDGE - 1).all()
  assert (faces[:, [3, 4, 5], [0, 1, 2]] >= faces[:, [0, 1, 2], [0, 1, 2]]).all()
  # 4 mm are 2 voxels; a standard deviation drawn evenly up to s gives s / sqrt(3) over all cubes
  assert moved.std() == pytest.approx(2 / np.sqrt(3), rel=0.2)
  assert np.abs(moved).max(1).min() < 0.1, "some boxes are nearly right"
  np.testing.assert_array_equal(seen.masks[:, 0], np.repeat(still.masks[:1, 0], 400, 0))


def test_points_lie_inside_and_beside_the_organ():
  seen = views(100, points=1.0)
  (low, high), mask = extent(seen.masks[0, 0]), seen.masks[0, 0]
  assert (seen.labels[:, 0, 6] == POSITIVE).all() and (seen.labels[:, 0, 7] == NEGATIVE).all()
  inside, beside = (seen.points[:, 0, k].astype(int) for k in (6, 7))
  assert mask[tuple(inside.T)].all() and not mask[tuple(beside.T)].any()
  assert ((beside >= low) & (beside <= high)).all()
  assert len({tuple(each) for each in inside}) > 50 and len({tuple(each) for each in beside}) == 4
  few = views(400, points=0.25).labels[:, 0, 6:8] == ABSENT
  assert 0.15 < 1 - few[:, 0].mean() < 0.35


def test_an_organ_that_fills_its_box_is_given_no_point_outside():
  """Its first voxel would be taken for one, and may be in the organ."""
  seen = views(8, asked=(2,), points=1.0)
  assert (seen.labels[:, 0, 6] == POSITIVE).all() and (seen.labels[:, 0, 7:] == ABSENT).all()


def test_an_organ_out_of_view_asks_nothing():
  seen = views(4, asked=(3, 1), points=1.0, jitter_mm=3.0)
  assert not seen.counts[:, 0].any() and seen.counts[:, 1].all()
  assert (seen.labels[:, 0] == ABSENT).all() and np.isfinite(seen.points).all()


def test_what_does_not_count_changes_neither_loss_nor_gradient():
  rng = np.random.default_rng(0)
  logits, masks = rng.normal(size=(2, 2, 4, 4, 4)).astype(np.float32), rng.random((2, 2, 4, 4, 4)) < 0.3
  masks[1, 1] = False
  settings = CubeLossSettings(dice=0.7, bce=0.2)

  def loss(logits, counts):
    return cube_loss(jnp.asarray(logits), jnp.asarray(masks), jnp.asarray(counts), settings)

  counts = np.array([[True, True], [True, False]])
  (total, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(logits, counts)
  other = logits.copy()
  other[1, 1] = 99.0
  assert loss(other, counts)[0] == pytest.approx(float(total)) and (gradient[1, 1] == 0).all()
  assert (np.abs(gradient).max((2, 3, 4)) > 0)[counts].all()

  def by_hand(own, truth):
    p = 1 / (1 + np.exp(-own.astype(float)))
    dice = 1 - (2 * (p * truth).sum() + 1e-5) / ((p**2).sum() + truth.sum() + 1e-5)
    return 0.7 * dice - 0.2 * (truth * np.log(p) + (1 - truth) * np.log(1 - p)).mean()

  expected = np.mean([by_hand(own, truth) for own, truth in zip(logits[counts], masks[counts], strict=True)])
  assert float(total) == pytest.approx(expected, rel=1e-4)
  overlap = [
    2 * ((a > 0) & b).sum() / ((a > 0).sum() + b.sum()) for a, b in zip(logits[counts], masks[counts], strict=True)
  ]
  assert float(metrics["mask_dice"]) == pytest.approx(np.mean(overlap), rel=1e-5)

  (none, _), still = jax.value_and_grad(loss, has_aux=True)(logits, np.zeros((2, 2), bool))
  assert float(none) == 0 and (still == 0).all()


def test_pixels_are_those_that_the_base_has_learned_on():
  hu = np.array([-1000.0, -160.0, 40.0, 240.0, 3000.0], np.float32)
  np.testing.assert_allclose(to_pixels(hu, (-160.0, 240.0), "unit"), [0, 0, 0.5, 1, 1])
  grey = np.array([0, 0, 127.5, 255, 255])
  sam = ((grey[:, None] - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]).mean(1)
  np.testing.assert_allclose(to_pixels(hu, (-160.0, 240.0), "imagenet"), sam, atol=0.02)
