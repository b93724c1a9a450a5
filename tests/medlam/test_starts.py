"""Where agents start in frames that no patient fills, and what counts as a key."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medlsam_jax.errors import ConfigError, InputError
from medlsam_jax.medlam.search import starts
from medlsam_jax.working_grid import hu_to_intensity

SHAPE = (120, 110, 130)
BODY = (slice(20, 70), slice(25, 45), slice(20, 50))


def intensity(hu):
  return hu_to_intensity(np.array([hu]))[0]


def frame(body=BODY, noise_hu=0.0):
  """Air with a patient off centre, the middle of the frame empty."""
  hu = np.full(SHAPE, -1000.0, np.float32)
  if noise_hu:
    hu += np.random.default_rng(0).normal(0, noise_hu, SHAPE).astype(np.float32)
  if body is not None:
    hu[body] = 40
  return hu_to_intensity(hu)


def inside(places, body=BODY):
  return all(part.start <= place < part.stop for row in places for part, place in zip(body, row, strict=True))


@pytest.mark.parametrize("noise_hu", [0, 40])
def test_a_patient_off_centre_is_started_in_with_a_word(noise_hu):
  """Noise makes part of the air pass for no air; it is no tissue all the same."""
  with pytest.warns(
    UserWarning, match=r"whole_body.nii: nothing but air within 30 mm .*middle of the body, \d+ mm away"
  ):
    found = starts.draw_starts(frame(noise_hu=noise_hu), 0, 50, "whole_body.nii")
  assert inside(found)
  assert np.abs(found - [45, 35, 35]).max() <= starts.START_REACH + 1


def test_the_body_is_started_in_and_not_the_couch():
  padded = frame()
  padded[5:115, 100:103, 5:125] = intensity(-100.0)
  with pytest.warns(UserWarning):
    assert inside(starts.draw_starts(padded, 0, 50))


def test_a_body_around_a_cavity_is_started_in_at_its_nearest_voxel():
  padded = frame((slice(5, 50), slice(5, 50), slice(5, 50)))
  padded[8:47, 8:47, 8:47] = 0
  with pytest.warns(UserWarning):
    found = starts.draw_starts(padded, 0, 20)
  assert np.all(padded[tuple(found.T)] > 0)


@pytest.mark.parametrize("hu", [-850.0, 40.0])
def test_tissue_within_the_published_reach_is_drawn_from_as_published(hu):
  """Number for number, for lung too, and where only a corner of the reach holds any."""
  padded = frame()
  middle = np.array(SHAPE) // 2
  corner = (slice(middle[0] - 10, middle[0] - 4),) * 1 + (slice(middle[1] - 10, middle[1] + 10), slice(middle[2], None))
  padded[corner] = intensity(hu)
  low = middle - 10
  cube = padded[tuple(slice(start, start + 20) for start in low)]
  places = np.argwhere(cube >= 0.001)
  expected = places[np.random.default_rng(5).integers(len(places), size=9)] + low
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    np.testing.assert_array_equal(starts.draw_starts(padded, 5, 9), expected)


def test_a_scan_of_nothing_but_air_is_refused():
  with pytest.raises(InputError, match=r"x.nii: nothing but air, so that no agent can start"):
    starts.draw_starts(frame(None), 0, 5, "x.nii")


@pytest.mark.parametrize("key", [np.int64(3), np.uint8(3), np.array(3), jnp.int32(3), 3])
def test_whole_numbers_of_any_kind_are_the_same_key(key):
  padded = frame((slice(None),) * 3)
  np.testing.assert_array_equal(starts.draw_starts(padded, key, 5), starts.draw_starts(padded, 3, 5))


def test_keys_of_jax_are_keys():
  typed, raw = jax.random.key(3), jax.random.PRNGKey(3)
  assert starts.seed_of(typed) == starts.seed_of(raw) == [0, 3]
  assert starts.seed_of(jax.random.split(typed)[0]) != starts.seed_of(typed)


@pytest.mark.parametrize(
  "key", [True, np.bool_(False), 3.0, np.float32(3), -1, "3", None, [0, 3], np.array([1, 2, 3]), jnp.float32(1)]
)
def test_what_is_no_key_is_refused_by_name(key):
  with pytest.raises(ConfigError, match=r"give a whole number from 0, or one jax\.random key"):
    starts.seed_of(key)


def test_several_keys_are_no_key():
  with pytest.raises(ConfigError, match="give a whole number"):
    starts.seed_of(jax.random.split(jax.random.key(0)))


def test_starts_that_are_no_numbers_are_refused(unchecked_shapes):
  with pytest.raises(InputError, match="not a finite number"):
    starts.given_starts([[np.nan, 1, 1]], np.zeros((9, 9, 9)), "x.nii")


def test_a_start_that_was_moved_is_a_sentence_and_one_in_the_middle_is_none():
  with pytest.warns(UserWarning, match="nothing but air"):
    found = starts.draw_starts(frame(), 0, 50)
  (sentence,) = starts.moved(found, SHAPE)
  away = np.linalg.norm(found.mean(0) - np.array(SHAPE) // 2) * 3
  assert f"started in the body, {away:.0f} mm away" in sentence
  middle = tuple(slice(n // 2 - 30, n // 2 + 30) for n in SHAPE)
  assert starts.moved(starts.draw_starts(frame(middle), 0, 50), SHAPE) == ()
