"""Augmented views: image and places move together, strengths are the stated ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from medlsam_jax.medlam.pretraining import augment

EDGE = 80


@pytest.fixture(scope="module")
def cube():
  noise = np.random.default_rng(0).random((EDGE,) * 3, dtype=np.float32)
  return jnp.asarray(ndimage.gaussian_filter(noise, 2))


@pytest.fixture(scope="module")
def warp():
  return jax.jit(augment.augmented_view, static_argnums=2)


def only(**settings):
  off = dict(intensity_probability=0.0, noise_probability=0.0, affine_probability=0.0, elastic_probability=0.0)
  return augment.AugmentSettings(**(off | settings))


def test_without_augmentation_the_view_is_the_middle_of_the_cube(cube, warp):
  view, places = warp(jax.random.key(0), cube, only())
  np.testing.assert_allclose(view, cube[8:72, 8:72, 8:72], atol=1e-6)
  np.testing.assert_allclose(places[0, 0, 0], [8, 8, 8], atol=1e-5)
  np.testing.assert_allclose(places[-1, -1, -1], [71, 71, 71], atol=1e-4)


def test_a_warped_view_shows_what_scipy_reads_at_its_places(cube, warp):
  view, places = warp(jax.random.key(3), cube, only(affine_probability=1.0, elastic_probability=1.0))
  expected = ndimage.map_coordinates(np.asarray(cube), np.moveaxis(np.asarray(places), -1, 0), order=1)
  inside = ((places >= 0) & (places <= EDGE - 1)).all(-1)
  assert inside.mean() > 0.9
  assert np.abs(places - np.moveaxis(np.indices((64,) * 3) + 8, 0, -1)).max() > 1
  np.testing.assert_allclose(np.asarray(view)[inside], expected[inside], atol=1e-4)


def test_published_elastic_field_peaks_under_a_voxel(warp, cube):
  settings = only(elastic_probability=1.0)
  shifts = []
  for seed in range(5):
    _, places = warp(jax.random.key(seed), cube, settings)
    shifts.append(np.abs(places - np.moveaxis(np.indices((64,) * 3) + 8, 0, -1)).max())
  assert 0 < max(shifts) < 1


def test_spline_weights_sum_to_one_everywhere():
  basis = augment.spline_basis(np.arange(EDGE, dtype=float), EDGE, 7)
  np.testing.assert_allclose(basis.sum(1), 1, rtol=1e-5)


def test_affine_turns_and_stretches_within_its_bounds():
  for seed in range(20):
    matrix = np.asarray(augment.affine_matrix(jax.random.key(seed), 0.1, 15.0))
    stretch = np.linalg.svd(matrix, compute_uv=False)
    assert (stretch > 0.899).all() and (stretch < 1.101).all()
    rotation = matrix / np.linalg.norm(matrix, axis=0)
    assert np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))) < 45


def test_intensity_remap_is_the_mean_of_three_sigmoids_within_their_bands():
  image = jnp.linspace(0, 1, 11)
  ours = np.asarray(augment.remap_intensity(jax.random.key(0), image))

  def mean_of(centres):
    return np.mean([1 / (1 + np.exp(-(np.asarray(image) - c) / 0.1)) for c in centres], 0)

  assert (ours <= mean_of([0.2, 0.4, 0.6]) + 1e-6).all()
  assert (ours >= mean_of([0.4, 0.6, 0.8]) - 1e-6).all()
  assert (np.diff(ours) > 0).all()


def test_noise_stays_under_its_largest_strength():
  flat = jnp.zeros((40, 40, 40))
  strengths = [float(augment.add_noise(jax.random.key(s), flat, 0.2).std()) for s in range(10)]
  assert min(strengths) > 0 and max(strengths) < 0.205 and np.ptp(strengths) > 0.05


def test_blur_is_the_mean_of_neighbours_along_chosen_axes_and_keeps_constants(cube):
  key = jax.random.key(1)
  blurred = augment.blur(key, cube, 1.0)
  weights = jax.random.uniform(jax.random.split(key)[1], (3,)) / 3
  expected = np.asarray(cube)
  for axis, weight in enumerate(np.asarray(weights)):
    expected = ndimage.convolve1d(expected, [weight, 1 - 2 * weight, weight], axis, mode="nearest")
  np.testing.assert_allclose(blurred, expected, atol=1e-5)
  np.testing.assert_allclose(augment.blur(key, jnp.full((9, 9, 9), 0.3), 1.0), 0.3, rtol=1e-5)
  np.testing.assert_array_equal(augment.blur(key, cube, 0.0), cube)


def test_a_cut_view_shows_nothing_beyond_its_plane_and_claims_no_place_there(cube, warp):
  directions = set()
  for seed in range(12):
    view, places = warp(jax.random.key(seed), cube, only(cut_probability=1.0))
    hidden = np.asarray((places > 1e4).all(-1))
    assert (np.asarray(view)[hidden] == 0).all() and not hidden[24:40, 24:40, 24:40].any()
    np.testing.assert_allclose(np.asarray(view)[~hidden], np.asarray(cube)[8:72, 8:72, 8:72][~hidden], atol=1e-5)
    layers = [hidden.mean(tuple({0, 1, 2} - {axis})) for axis in range(3)]
    flat = [axis for axis in range(3) if set(layers[axis].tolist()) == {0.0, 1.0}]
    assert len(flat) == 1 or not hidden.any()
    directions |= {(axis, bool(layers[axis][0])) for axis in flat}
  assert len(directions) >= 4


def test_without_cuts_every_place_is_shown(cube, warp):
  for seed in range(5):
    assert float(warp(jax.random.key(seed), cube, only(cut_probability=0.0))[1].max()) < EDGE
