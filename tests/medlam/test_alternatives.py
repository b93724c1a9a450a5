"""The objectives beside UAM and MSS: small cases by hand, and learning on a tiny problem."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medlsam_jax.errors import ConfigError
from medlsam_jax.medlam.objectives import masked_volume, relative_position, vicreg, voxel_infonce
from medlsam_jax.medlam.objectives.contract import Views

EDGE, STRIDE, CELLS = 16, 4, 4


def views(scans=2, channels=6, points=5, moved_mm=0.0, seed=0):
  """Random features; the augmented view shows the plain one's place, or one `moved_mm` away."""
  rng = np.random.default_rng(seed)
  origin = rng.uniform(-100, 100, (scans, 1, 3)).astype(np.float32)
  lattice = np.moveaxis(np.indices((EDGE,) * 3), 0, -1) * 3.0
  shape = (scans, 1, CELLS, CELLS, CELLS, channels)
  return Views(
    positions=jnp.asarray(rng.normal(size=(scans, 3, 3)).astype(np.float32)),
    centres_mm=jnp.asarray(rng.uniform(-200, 200, (scans, 3, 3)).astype(np.float32)),
    plain=jnp.asarray(rng.random((scans, 1, EDGE, EDGE, EDGE), dtype=np.float32)),
    plain_features={STRIDE: jnp.asarray(rng.normal(size=shape).astype(np.float32))},
    plain_origin_mm=jnp.asarray(origin),
    points=jnp.asarray(rng.integers(2, EDGE - 2, (1, points, 3))),
    augmented=jnp.asarray(rng.random((scans, 1, EDGE, EDGE, EDGE), dtype=np.float32)),
    augmented_features={STRIDE: jnp.asarray(rng.normal(size=shape).astype(np.float32))},
    augmented_mm=jnp.asarray(origin[:, :, None, None, None] + lattice + moved_mm),
    heads={"expander": lambda x: x, "voxels": lambda x: jnp.tile(x[..., :1], STRIDE**3)},
    network=lambda images, strides: (None, {STRIDE: images[:, :, ::4, ::4, ::4, None]}),
    key=jax.random.key(0),
  )


def lowers(loss, start, steps=30, rate=0.1):
  """Loss before and after some steps of Adam on whatever `loss` takes."""
  optimizer = optax.adam(rate)

  @jax.jit
  def step(values, state):
    value, gradient = jax.value_and_grad(loss)(values)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(values, updates), state, value

  state, values, losses = optimizer.init(start), start, []
  for _ in range(steps):
    values, state, value = step(values, state)
    losses.append(float(value))
  return losses[0], losses[-1]


def test_relative_position_is_zero_for_true_offsets_and_counts_in_ranges():
  source = views(scans=1)
  scale = np.array([1500.0, 600.0, 600.0])
  centres = np.array([[[0.0, 0, 0], [150, 60, 60], [300, 0, -60]]])
  exact = source._replace(positions=jnp.asarray(centres / scale), centres_mm=jnp.asarray(centres))
  settings = relative_position.Settings(bounded=False)
  value, metrics = relative_position.loss(exact, settings)
  np.testing.assert_allclose([value, metrics["relative_position_error_mm"]], 0, atol=1e-5)
  # every pair off by a tenth of the range on each axis of the second patch: 2 of 3 pairs, 0.01 each
  off = exact._replace(positions=exact.positions.at[:, 1].add(0.1))
  np.testing.assert_allclose(relative_position.loss(off, settings)[0], 0.01 * 2 / 3, rtol=1e-4)


@pytest.mark.parametrize("patches", [1, 3])
def test_relative_position_is_finite_without_a_pair(patches):
  source = views()
  value, _ = relative_position.loss(
    source._replace(positions=source.positions[:, :patches], centres_mm=source.centres_mm[:, :patches]),
    relative_position.Settings(),
  )
  assert np.isfinite(value) and (value == 0) == (patches == 1)


def test_relative_position_learns():
  source = views()
  settings = relative_position.Settings()
  first, last = lowers(lambda p: relative_position.loss(source._replace(positions=p), settings)[0], source.positions)
  assert last < 0.1 * first


def test_infonce_of_one_point_by_hand():
  """Positive with similarity 1, hard negative 0.6, and one random negative 0: all over the temperature."""
  wanted = jnp.array([[[1.0, 0.0]]])
  found = jnp.array([[[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [1.0, 0.0]]])
  distance = jnp.array([[[1.0, 30.0, 40.0, 5.0]]])  # the last is near: neither positive nor negative
  settings = voxel_infonce.Settings(temperature=0.5, hard_negatives=1)
  value, count = voxel_infonce.term(wanted, found, distance, jnp.array([2, 3]), (3.0, 6.0), settings)
  expected = -2.0 + np.log(np.exp(2.0) + np.exp(1.2) + np.exp(0.0))
  np.testing.assert_allclose([value, count], [expected, 1], rtol=1e-5)


def test_infonce_of_another_scan_uses_near_voxels_as_negatives():
  wanted = jnp.array([[[1.0, 0.0]], [[0.0, 1.0]]])
  found = jnp.array([[[1.0, 0.0]], [[0.0, 1.0]]])
  distance = jnp.zeros((2, 1, 1))
  value, count = voxel_infonce.term(wanted, found, distance, jnp.array([0]), (3.0, 6.0), voxel_infonce.Settings())
  np.testing.assert_allclose([value, count], [2 * np.log(1 + np.exp(-2.0)), 2], rtol=1e-5)


def test_infonce_is_zero_with_zero_gradient_when_all_points_left_the_view():
  lost = views(moved_mm=1e4)

  def loss(features):
    return voxel_infonce.loss(lost._replace(augmented_features=features), voxel_infonce.Settings())[0]

  value, gradient = jax.value_and_grad(loss)(lost.augmented_features)
  assert value == 0 and not np.abs(gradient[STRIDE]).any()


def test_infonce_learns():
  source, settings = views(), voxel_infonce.Settings(random_negatives=8)
  first, last = lowers(
    lambda f: voxel_infonce.loss(source._replace(augmented_features=f), settings)[0], source.augmented_features
  )
  assert last < 0.9 * first


def test_vicreg_terms_by_hand():
  first = jnp.array([[1.0, 0.0], [-1.0, 0.0], [9.0, 9.0]])
  second = jnp.array([[1.0, 2.0], [-1.0, -2.0], [9.0, 9.0]])
  valid = jnp.array([True, True, False])
  invariance, variance, covariance = vicreg.terms(first, second, valid)
  np.testing.assert_allclose(invariance, (4 + 4) / 2 / 2, rtol=1e-5)
  # spreads: first (sqrt 2, 0), second (sqrt 2, sqrt 8); only the 0 is below 1
  np.testing.assert_allclose(variance, (1 - 0.01) / 2 / 2, rtol=1e-4)
  # second view: covariance of its columns is 4, both off-diagonals, over two dimensions
  np.testing.assert_allclose(covariance, 2 * 16 / 2, rtol=1e-5)


def test_vicreg_is_zero_and_finite_when_all_points_left_the_view():
  lost = views(moved_mm=1e4)

  def loss(features):
    return vicreg.loss(lost._replace(augmented_features=features), vicreg.Settings())[0]

  value, gradient = jax.value_and_grad(loss)(lost.augmented_features)
  assert value == 0 and np.isfinite(gradient[STRIDE]).all()


def test_vicreg_learns():
  source = views()

  def loss(features):
    return vicreg.loss(source._replace(plain_features=features[0], augmented_features=features[1]), vicreg.Settings())[
      0
    ]

  first, last = lowers(loss, (source.plain_features, source.augmented_features))
  assert last < 0.3 * first


def test_voxels_unfold_into_the_cell_they_came_from():
  image = np.arange(8**3).reshape(8, 8, 8)
  cells = image.reshape(2, 4, 2, 4, 2, 4).transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, 2, 64)
  np.testing.assert_array_equal(masked_volume.unfold(jnp.asarray(cells), 4), image)


def test_masked_volume_counts_hidden_voxels_only():
  """A network that says 0.5 everywhere and an image of 0.8: the error is 0.09, whatever is hidden."""
  source = views()._replace(plain=jnp.full((2, 1, EDGE, EDGE, EDGE), 0.8))
  seen = []

  def network(images, strides):
    seen.append(images)
    return None, {STRIDE: jnp.full((2, 1, CELLS, CELLS, CELLS, 1), 0.5)}

  value, _ = masked_volume.loss(source._replace(network=network), masked_volume.Settings(share=0.5))
  np.testing.assert_allclose(value, 0.09, rtol=1e-5)
  cells = np.asarray(seen[0]).reshape(2, 2, 8, 2, 8, 2, 8)
  assert set(np.unique(cells.min((2, 4, 6)))) == set(np.unique(cells.max((2, 4, 6)))) <= {0.0, np.float32(0.8)}


def test_masked_volume_without_a_hidden_cell_is_zero():
  assert masked_volume.loss(views(), masked_volume.Settings(share=0.0))[0] == 0


def test_masked_volume_learns():
  source, settings = views(), masked_volume.Settings()
  head = masked_volume.heads(settings)["voxels"]
  params = head.init(jax.random.key(0), jnp.zeros((1, 1)))
  first, last = lowers(
    lambda p: masked_volume.loss(source._replace(heads={"voxels": lambda x: head.apply(p, x)}), settings)[0], params
  )
  assert last < 0.7 * first


@pytest.mark.parametrize("module", [vicreg, masked_volume])
def test_a_stride_that_the_network_lacks_is_refused(module):
  with pytest.raises(ConfigError, match="stride is 2"):
    module.loss(views(), dataclasses.replace(module.Settings(), stride=2))
