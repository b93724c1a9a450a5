"""Prompts of several organs: labels, faces of boxes, places, and what fills up."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_sam3d import ON_VIT, made_up

from medlsam_jax.sam3d import parameters
from medlsam_jax.sam3d.network.prompts import (
  ABSENT,
  FACES,
  LABELS,
  NEGATIVE,
  POSITIVE,
  frequencies,
  points_of_box,
  position_code,
  sample,
)

EDGE = ON_VIT.variant.cube_edge


@functools.cache
def network():
  return parameters.split(made_up(parameters.shapes(ON_VIT), 5))


@functools.cache
def volume(cubes=1):
  return np.random.default_rng(0).normal(size=(cubes, EDGE, EDGE, EDGE)).astype(np.float32)


run = jax.jit(functools.partial(parameters.apply, ON_VIT), compiler_options={"xla_backend_optimization_level": 0})


def masks(points, labels, cubes=1):
  """Of the organs of one cube, or of each."""
  points, labels = np.asarray(points, np.float32), np.asarray(labels, np.int32)
  points, labels = points.reshape(cubes, -1, *points.shape[-2:]), labels.reshape(cubes, -1, labels.shape[-1])
  return np.asarray(run(*network(), volume(cubes), points, labels))


BOX = points_of_box(np.array([[2, 3, 4], [10, 9, 12]]))
POINTS = np.array([[5, 6, 7], [1, 2, 14], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]])
POINT_LABELS = [POSITIVE, NEGATIVE, ABSENT, ABSENT, ABSENT, ABSENT]


def test_a_boxs_points_lie_in_the_middles_of_its_faces():
  assert BOX.tolist() == [[2, 6, 8], [6, 3, 8], [6, 6, 4], [10, 6, 8], [6, 9, 8], [6, 6, 12]]


def test_several_organs_at_once_equal_each_alone():
  """A box, and points that fill up an array as large."""
  both = masks([BOX, POINTS], [FACES, POINT_LABELS])
  assert both.shape == (1, 2, EDGE, EDGE, EDGE)
  one, other = masks([BOX, BOX], [FACES, FACES])[0, 0], masks([POINTS, POINTS], [POINT_LABELS, POINT_LABELS])[0, 1]
  np.testing.assert_allclose(both[0, 0], one, atol=1e-4)
  np.testing.assert_allclose(both[0, 1], other, atol=1e-4)
  assert np.abs(one - other).max() > 0.01


def test_points_that_fill_up_change_nothing():
  moved = POINTS.copy()
  moved[2:] = 11
  labels = [POINT_LABELS, FACES]
  np.testing.assert_allclose(masks([POINTS, BOX], labels), masks([moved, BOX], labels), atol=1e-5)


@pytest.mark.parametrize("number", range(len(LABELS)))
def test_every_label_has_a_meaning_of_its_own(number):
  """The same point with another label gives another mask."""
  labels = [POINT_LABELS, [LABELS[number], *POINT_LABELS[1:]]]
  result = masks([POINTS, POINTS], labels)[0]
  differs = np.abs(result[0] - result[1]).max() > 1e-3
  assert differs == (LABELS[number] != POSITIVE)


def test_cubes_of_a_batch_do_not_see_each_other():
  points = np.stack([[BOX, POINTS], [POINTS, BOX]]).astype(np.float32)
  labels = np.array([[FACES, POINT_LABELS], [POINT_LABELS, FACES]], np.int32)
  both = run(*network(), volume(2), points, labels)
  for cube in range(2):
    alone = run(*network(), volume(2)[cube][None], points[cube][None], labels[cube][None])
    np.testing.assert_allclose(both[cube], alone[0], atol=1e-4)


def test_a_sample_is_the_token_at_its_centre_and_the_mean_between_two():
  tokens = np.random.default_rng(1).normal(size=(1, 4, 4, 4, 3)).astype(np.float32)
  places = np.array([[[0.125, 0.375, 0.875], [0.25, 0.375, 0.875], [-3, 0.375, 9]]], np.float32)
  result = np.asarray(sample(tokens, places))[0]
  np.testing.assert_allclose(result[0], tokens[0, 0, 1, 3], atol=1e-6)
  np.testing.assert_allclose(result[1], (tokens[0, 0, 1, 3] + tokens[0, 1, 1, 3]) / 2, atol=1e-6)
  np.testing.assert_allclose(result[2], tokens[0, 0, 1, 3], atol=1e-6)


def test_frequencies_spread_as_a_normal_distribution_and_axes_differ():
  table = frequencies(128)
  np.testing.assert_allclose(table.mean(1), 0, atol=0.1)
  np.testing.assert_allclose(table.std(1), 1, atol=0.1)
  assert np.abs(np.corrcoef(table) - np.eye(3)).max() < 0.2


def test_codes_of_all_cells_differ():
  cells = np.stack(np.meshgrid(*(np.arange(4) / 4,) * 3, indexing="ij"), -1).reshape(-1, 3)
  codes = np.asarray(position_code(jnp.asarray(cells, jnp.float32), 32))
  apart = np.linalg.norm(codes[:, None] - codes[None], axis=-1) + 9 * np.eye(64)
  assert apart.min() > 0.5
