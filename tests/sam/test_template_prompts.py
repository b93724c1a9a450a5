"""Votes as prompts: where an organ is asked for, with which box and mask, and what vote and network make of it."""

import numpy as np
import pytest
from test_segment_volume import PLAIN, BoxFiller, scan

from medlsam_jax.geometry import WORKING_AXIS_CODES, reorient
from medlsam_jax.sam.prompted_volume import paint_from_votes, planes_by_slice
from medlsam_jax.sam.slices import ImageFit
from medlsam_jax.sam.template_prompts import Window, asked, blended, edges_of, mask_of, plane_of
from medlsam_jax.template_masks.votes import Vote


class VoteFiller(BoxFiller):
  """Fills its box, and keeps the masks that it was given."""

  low_size, window_cells = 64, 0

  def decode(self, embedding, boxes, masks):
    self.masks = [*getattr(self, "masks", ()), *masks]
    return super().decode(embedding, boxes)


def test_an_organ_is_asked_for_where_it_is_likely():
  share = np.zeros((3, 4, 5), np.float32)
  share[0, 1, 1], share[1, 1:3, 2:4], share[2] = 0.5, 0.9, 0.2
  vote = Vote((6, 2, 3), share)
  asked = [index for index in range(12) if plane_of(vote, index, 10, 12) is not None]
  assert asked == [7]
  np.testing.assert_array_equal(edges_of(plane_of(vote, 7, 10, 12)), [5, 3, 7, 5])


@pytest.mark.parametrize("scaling", ["pad", "stretch"])
def test_a_mask_lies_where_the_network_sees_the_slice(scaling):
  """Brought there and back a smooth mask is what it was; beyond the slice nothing is."""
  fit = ImageFit(24, 16, 64, scaling)
  y, x = np.mgrid[:24, :16]
  plane = 1 / (1 + np.exp(((y - 10) ** 2 + (x - 7) ** 2) / 16 - 2))
  low = mask_of(plane.astype(np.float32), fit, 32)
  assert low.min() == pytest.approx(np.log(0.02 / 0.98))
  np.testing.assert_array_equal(low[:, 22:] < -3.8, np.ones((32, 10), bool) if scaling == "pad" else low[:, 22:] < -3.8)
  back = fit.from_logits(low)
  held = np.clip(plane, 0.02, 0.98)
  np.testing.assert_allclose(back[2:-2, 2:-2], np.log(held / (1 - held))[2:-2, 2:-2], atol=0.6)
  assert np.mean((back > 0) == (plane > 0.5)) > 0.97


def test_a_window_holds_a_box_that_is_not_too_large():
  """Of 16 cells of 4 pixels: whatever is at most 5 cells large lies in a window of 8 with a cell around it."""
  rng = np.random.default_rng(0)
  for _ in range(200):
    low = rng.uniform(0, 50, 2)
    box = np.float32([*low, *np.minimum(low + rng.uniform(1, 20, 2), 64)])
    window = Window.around(box, 8, 16, 4)
    assert window.holds(box)
    pixels = np.zeros((64, 64), bool)
    x0, y0, x1, y1 = np.rint(box).astype(int)
    pixels[y0:y1, x0:x1] = True
    assert window.low(pixels).sum() == pixels.sum()
    x0, y0, x1, y1 = np.rint(window.box(box)).astype(int)
    assert window.low(pixels)[y0:y1, x0:x1].all()
  assert not Window.around(np.float32([2, 10, 40, 14]), 8, 16, 4).holds(np.float32([2, 10, 40, 14]))


def test_what_a_network_answers_in_a_window_is_put_where_it_belongs():
  seen = []

  def decode(embedding, box, mask):
    seen.append(embedding.shape)
    return mask + embedding[..., 0].repeat(4, 0).repeat(4, 1)

  rng = np.random.default_rng(0)
  embedding, mask = (rng.random(shape).astype(np.float32) for shape in ((16, 16, 3), (64, 64)))
  whole = mask + embedding[..., 0].repeat(4, 0).repeat(4, 1)
  small, large = np.float32([20, 44, 30, 60]), np.float32([2, 10, 40, 14])
  np.testing.assert_allclose(asked(decode, embedding, (large, mask), 8, 4), whole)
  np.testing.assert_allclose(asked(decode, embedding, (small, mask), 0, 4), whole)
  inside = asked(decode, embedding, (small, mask), 8, 4)
  np.testing.assert_allclose(inside[32:64, 8:40], whole[32:64, 8:40], rtol=1e-6)
  assert (inside == -20).sum() == 64 * 64 - 32 * 32
  assert seen == [(16, 16, 3), (16, 16, 3), (8, 8, 3)]


def test_both_have_their_say():
  plane, logits = np.float32([[0.9, 0.2]]), np.float32([[-np.log(3), 50.0]])  # .25 and 1
  np.testing.assert_allclose(blended(plane, logits, 1.0), plane)
  np.testing.assert_allclose(blended(plane, logits, 0.0), [[0.25, 1]], atol=1e-6)
  np.testing.assert_allclose(blended(plane, logits, 0.5), [[0.575, 0.6]], atol=1e-6)


@pytest.mark.parametrize("codes", ["LPS", "RAS", "RPI", "SAR"])
def test_a_scan_is_painted_by_the_network_that_its_votes_prompt(codes):
  """An L whose box the network fills: its mask where it alone has a say, the L where the vote outweighs it."""
  volume, filler, told = scan(codes), VoteFiller(), []
  turned = np.zeros(volume.array.shape, np.float32)
  reorient(turned, volume.grid, WORKING_AXIS_CODES)[4:7, 3:9, 5:7] = 0.9
  reorient(turned, volume.grid, WORKING_AXIS_CODES)[4:7, 3:5, 5:11] = 0.9
  view = reorient(turned, volume.grid, WORKING_AXIS_CODES)
  vote = Vote((3, 2, 4), view[3:9, 2:12, 4:12])
  labels = paint_from_votes(volume, {"organ": vote}, {"organ": 7}, filler, 0.0, PLAIN, lambda *a: told.append(a))
  expected = np.zeros(volume.array.shape, bool)
  reorient(expected, volume.grid, WORKING_AXIS_CODES)[4:7, 3:9, 5:11] = True
  np.testing.assert_array_equal(labels == 7, expected)
  assert set(np.unique(labels)) == {0, 7} and labels.dtype == np.uint8
  assert told == [(1, 3), (2, 3), (3, 3)] and filler.encoded == 3
  assert len(filler.masks) == 3 and filler.masks[0].shape == (64, 64) and filler.masks[0].max() > 2
  mostly = paint_from_votes(volume, {"organ": vote}, {"organ": 7}, filler, 0.9, PLAIN)
  np.testing.assert_array_equal(mostly == 7, turned > 0.5)


def test_a_voxel_goes_to_the_likelier_organ_and_a_slice_of_one_grey_to_the_vote():
  volume = scan()
  volume.array[5] = -1000
  votes = {
    "weak": Vote((4, 2, 2), np.full((2, 6, 6), 0.7, np.float32)),
    "strong": Vote((4, 6, 6), np.full((2, 6, 6), 0.9, np.float32)),
  }
  filler = VoteFiller()
  labels = paint_from_votes(volume, votes, {"weak": 1, "strong": 2}, filler, 0.5, PLAIN)
  assert filler.encoded == 1
  one_grey = reorient(labels, volume.grid, WORKING_AXIS_CODES)[5]
  assert (one_grey[6:8, 6:8] == 2).all() and (one_grey[2:6, 2:6] == 1).all() and (one_grey[8:12, 8:12] == 2).all()
  assert set(planes_by_slice({"strong": votes["strong"]}, (5, 16, 16))) == {4}
