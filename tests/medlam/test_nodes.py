import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medlsam_jax.medlam.search import correlation, nodes

EDGE = 32
"""Of the patches here, voxels."""


def _smooth(seed: int, channels: int = 4) -> np.ndarray:
  """A field twice the patch's edge, smooth enough to be looked at with any stride."""
  size = 2 * EDGE
  rng = np.random.default_rng(seed)
  spectrum = np.fft.rfftn(rng.standard_normal((size,) * 3 + (channels,)), axes=(0, 1, 2))
  along = [np.fft.fftfreq(size), np.fft.fftfreq(size), np.fft.rfftfreq(size)]
  squared = sum(np.square(f) for f in np.meshgrid(*along, indexing="ij"))
  field = np.fft.irfftn(spectrum * np.exp(-squared / (2 * 0.06**2))[..., None], (size,) * 3, axes=(0, 1, 2))
  return (field / field.std()).astype(np.float32)


def _features(field: np.ndarray, centre: int, stride: int) -> jnp.ndarray:
  """Means over cells of the patch around a voxel, as a network with features of that stride would cut them."""
  patch = field[(slice(centre - EDGE // 2, centre + EDGE // 2),) * 3]
  cells = EDGE // stride
  means = patch.reshape(cells, stride, cells, stride, cells, stride, -1).mean((1, 3, 5))
  return correlation.normalise_channels(jnp.asarray(means))


def _pair(move: int, strides: tuple[int, ...]) -> tuple[dict, dict]:
  """Features of a patch, and taps of the point that lies `move` voxels from its centre along every axis."""
  field = _smooth(0)
  there = {stride: _features(field, EDGE, stride) for stride in strides}
  point = {stride: _features(field, EDGE + move, stride)[None] for stride in strides}
  return there, {stride: correlation.centre_cube(volume, stride, 8)[0] for stride, volume in point.items()}


@pytest.mark.parametrize("move", [-8, -4, 0, 4, 8])
def test_moves_of_whole_nodes_come_out_as_they_are(move):
  features, taps = _pair(move, (4, 2))
  top, score = nodes.peak(nodes.whole_similarity(features, taps))
  np.testing.assert_allclose((np.asarray(top) - EDGE // 4) * 2, move, atol=0.35)
  assert float(score) == pytest.approx(1, abs=1e-3)


def test_a_move_between_nodes_is_found_there():
  features, taps = _pair(3, (2,))
  top, _ = nodes.peak(nodes.whole_similarity(features, taps))
  np.testing.assert_allclose((np.asarray(top) - EDGE // 4) * 2, 3, atol=0.5)


@pytest.mark.parametrize("node", [(8, 8, 8), (6, 9, 12), (0, 16, 8)])
def test_a_window_says_what_the_whole_map_says_there_and_nothing_beyond_it(node):
  features, taps = _pair(2, (4, 2))
  whole = np.asarray(nodes.whole_similarity(features, taps))
  several = {stride: jnp.stack([each, -each]) for stride, each in taps.items()}
  near, first = nodes.near_similarity(features, several, jnp.array(node), 6)
  assert near.shape == (2, 5, 5, 5)
  assert np.abs(np.asarray(first) + 2 - node).max() <= 1
  padded = np.pad(whole, 4, constant_values=np.nan)
  expected = padded[tuple(slice(a + 4, a + 9) for a in np.asarray(first).tolist())]
  is_node = ~np.isnan(expected)
  np.testing.assert_allclose(near[0][is_node], expected[is_node], atol=1e-6)
  np.testing.assert_allclose(near[1][is_node], -expected[is_node], atol=1e-6)
  assert np.all(np.asarray(near)[:, ~is_node] < -1)


def test_the_top_of_a_parabola_is_found_and_the_end_of_a_map_is_kept():
  at = np.stack(np.meshgrid(*[np.arange(7.0)] * 3, indexing="ij"), -1)
  top, _ = jax.jit(nodes.peak)(jnp.asarray(-0.01 * np.square(at - [2.3, 4.0, 3.6]).sum(-1), jnp.float32))
  np.testing.assert_allclose(top, [2.3, 4.0, 3.6], atol=1e-4)
  at_end, score = nodes.peak(jnp.asarray(-0.1 * at.sum(-1), jnp.float32))
  np.testing.assert_array_equal(at_end, [0, 0, 0])
  assert float(score) == 0
  flat, _ = nodes.peak(jnp.zeros((3, 3, 3)))
  assert np.all(np.isfinite(flat))
