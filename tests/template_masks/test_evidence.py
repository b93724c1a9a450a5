"""Experts on small cubes, each told apart from doing nothing."""

import jax.numpy as jnp
import numpy as np
import pytest

from medlsam_jax.template_masks import evidence
from medlsam_jax.template_masks.registration import gaussian

EDGE = 8
KERNELS = np.stack([gaussian(EDGE, 0.5)] * 3)


def cubes(*values):
  return jnp.stack([jnp.full((EDGE, EDGE, EDGE), value, jnp.float32) for value in values])


def test_a_template_that_looks_otherwise_counts_less():
  query, images, masks = cubes(0.5)[0], cubes(0.5, 0.8, 0.8), cubes(1.0, 0.0, 0.0)
  alike = evidence.local_vote(query, images, masks, KERNELS, jnp.float32(0))
  weighed = evidence.local_vote(query, images, masks, KERNELS, jnp.float32(4))
  np.testing.assert_allclose(alike, 1 / 3, atol=1e-5)
  assert weighed.min() > 0.99


def test_likeness_is_judged_place_by_place():
  half = jnp.arange(EDGE)[:, None, None] < EDGE // 2
  query = jnp.where(half, 0.2, 0.6) * jnp.ones((EDGE, EDGE, EDGE))
  vote = evidence.local_vote(query, cubes(0.2, 0.6), cubes(1.0, 0.0), KERNELS, jnp.float32(4))
  assert vote[0].min() > 0.9
  assert vote[-1].max() < 0.1


def test_agreement_is_the_mean_dice_of_pairs():
  first = jnp.zeros((EDGE, EDGE, EDGE)).at[:4].set(1)
  second = jnp.zeros((EDGE, EDGE, EDGE)).at[2:6].set(1)
  other = jnp.zeros((EDGE, EDGE, EDGE)).at[6:].set(1)
  assert evidence.agreement(jnp.stack([first, first])) == pytest.approx(1)
  assert evidence.agreement(jnp.stack([first, second])) == pytest.approx(0.5)
  assert evidence.agreement(jnp.stack([first, second, other])) == pytest.approx(0.5 / 3, abs=1e-4)


def test_an_intensity_that_is_only_inside_speaks_for_the_organ():
  mask = jnp.zeros((EDGE, EDGE, EDGE)).at[2:6, 2:6, 2:6].set(1)
  image = 0.3 + 0.4 * mask
  query = jnp.full((EDGE, EDGE, EDGE), 0.7).at[0].set(0.3)
  odds, apart = evidence.intensity_odds(query, image[None], mask[None], jnp.ones_like(mask))
  assert odds[1:].min() > 2
  assert odds[0].max() < -2
  assert apart > 0.95
  _, same = evidence.intensity_odds(query, cubes(0.5), mask[None], jnp.ones_like(mask))
  assert same < 0.05


def test_experts_together_follow_the_one_that_knows():
  mask = jnp.zeros((EDGE, EDGE, EDGE)).at[2:6, 2:6, 2:6].set(1)
  bright = 0.3 + 0.4 * mask
  wide = jnp.zeros_like(mask).at[1:6, 2:6, 2:6].set(0.6).at[2:6, 2:6, 2:6].set(1)
  masks, images = jnp.stack([wide, wide]), jnp.stack([bright, bright])
  likely = evidence.combined(bright, images, masks, masks, KERNELS, KERNELS, jnp.float32(4))
  np.testing.assert_array_equal(likely > 0.5, mask > 0)
