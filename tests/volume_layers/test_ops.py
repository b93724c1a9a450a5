"""Pooling and doubling: values and hand-written gradients against plain definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medlsam_jax.volume_layers import ops

SHAPE = (2, 4, 6, 8, 3)


@pytest.fixture(scope="module")
def x():
  # few distinct values, so that largest ones are equal in many cells
  return jnp.asarray(np.random.default_rng(0).integers(-2, 3, SHAPE), jnp.float32)


def _plain_pool(x):
  n, z, y, x_, c = x.shape
  return x.reshape(n, z // 2, 2, y // 2, 2, x_ // 2, 2, c).max((2, 4, 6))


def _plain_double(x):
  return ops.resize_linear(x, tuple(2 * edge for edge in x.shape[1:4]))


@pytest.mark.parametrize(("fast", "plain"), [(ops.max_pool2, _plain_pool), (ops.upsample2, _plain_double)])
def test_values_and_gradient_are_those_of_the_definition(x, fast, plain):
  expected, transpose = jax.vjp(plain, x)
  found, fast_transpose = jax.vjp(fast, x)
  np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
  weights = jnp.asarray(np.random.default_rng(1).standard_normal(expected.shape), jnp.float32)
  np.testing.assert_allclose(fast_transpose(weights)[0], transpose(weights)[0], rtol=1e-5, atol=1e-6)


def test_joined_channels_are_the_first_then_the_second(x):
  joined = ops.join_channels(x, 2 * x[..., :2])
  np.testing.assert_array_equal(joined, jnp.concatenate([x, 2 * x[..., :2]], -1))


def test_instance_norm_has_mean_0_and_variance_1_also_far_from_0(x):
  y = np.asarray(ops.instance_norm(1.5 * x + 20.0))
  np.testing.assert_allclose(y.mean((1, 2, 3)), 0.0, atol=2e-5)
  np.testing.assert_allclose(y.var((1, 2, 3)), 1.0, rtol=1e-4)


def test_norm_and_relu_of_bfloat16_are_those_of_its_numbers_in_float32_also_far_from_0():
  wide = 0.5 * np.random.default_rng(2).standard_normal(SHAPE, np.float32) + 20.0
  x = jnp.asarray(wide, jnp.bfloat16)
  weights = jnp.asarray(np.random.default_rng(3).standard_normal(SHAPE), jnp.bfloat16)

  def plain(x):
    return jax.nn.relu(ops.instance_norm(x))

  expected, transpose = jax.vjp(plain, x.astype(jnp.float32))
  result, narrow_transpose = jax.vjp(ops.instance_norm_relu, x)
  (gradient,), (wanted,) = narrow_transpose(weights), transpose(weights.astype(jnp.float32))
  assert result.dtype == gradient.dtype == jnp.bfloat16
  # half a unit in the last of its 8 bits
  np.testing.assert_allclose(result.astype(jnp.float32), expected, rtol=2**-8, atol=1e-4)
  np.testing.assert_allclose(gradient.astype(jnp.float32), wanted, rtol=2**-8, atol=1e-3 * float(abs(wanted).max()))


def test_norm_and_relu_of_float32_are_to_the_bit_those_of_the_two(x):
  np.testing.assert_array_equal(ops.instance_norm_relu(x), jax.nn.relu(ops.instance_norm(x)))
