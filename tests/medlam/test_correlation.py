import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medlsam_jax import platform
from medlsam_jax.medlam.search import correlation


@pytest.fixture(params=["cpu", "accelerator"])
def lowering(request, monkeypatch):
  """Both ways to correlate, whatever runs here."""

  def chosen(*arrays, cpu, accelerator):
    return {"cpu": cpu, "accelerator": accelerator}[request.param](*arrays)

  monkeypatch.setattr(platform, "by_backend", chosen)
  return request.param


def _direct(features: np.ndarray, taps: np.ndarray) -> np.ndarray:
  """The definition, one tap at a time, in float64."""
  half = taps.shape[0] // 2
  size = [n + 1 for n in features.shape[:3]]
  padded = np.pad(features.astype(float), [(half, half)] * 3 + [(0, 0)])
  out = np.zeros(size)
  for a, b, c in np.ndindex(*taps.shape[:3]):
    window = padded[a : a + size[0], b : b + size[1], c : c + size[2]]
    out += window @ taps[a, b, c].astype(float)
  return out


def _volume(shape: tuple[int, ...], seed: int) -> np.ndarray:
  values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
  return values / np.linalg.norm(values, axis=-1, keepdims=True)


@pytest.mark.parametrize(("edge", "shape"), [(8, (13, 11, 12)), (4, (6, 9, 7)), (2, (4, 3, 5)), (6, (7, 6, 8))])
def test_correlation_equals_its_definition_on_unequal_axes(edge, shape, lowering):
  features, taps = _volume((*shape, 6), 0), _volume((edge, edge, edge, 6), 1)
  expected = _direct(features, taps)
  got = np.asarray(correlation.correlate(jnp.asarray(features), jnp.asarray(taps)))
  assert got.shape == expected.shape == tuple(n + 1 for n in shape)
  assert np.abs(got - expected).max() <= 1e-6 * np.abs(expected).max()


def test_bfloat16_operands_still_sum_in_float32(lowering):
  features, taps = _volume((12, 12, 12, 16), 0), _volume((8, 8, 8, 16), 1)
  exact = _direct(features, taps)
  got = np.asarray(correlation.correlate(jnp.asarray(features), jnp.asarray(taps), jnp.bfloat16))
  assert got.dtype == np.float32
  error = np.abs(got - exact).max() / np.abs(exact).max()
  assert 1e-6 < error < 1e-2


def test_correlation_is_not_lowered_to_a_convolution():
  program = jax.jit(correlation.correlate).lower(jnp.zeros((16, 16, 16, 4)), jnp.zeros((8, 8, 8, 4))).as_text()
  assert "convolution" not in program
  assert "dot_general" in program


@pytest.mark.parametrize("target", ["cuda", "tpu"])
@pytest.mark.parametrize(("edge", "stride"), [(8, 1), (4, 2), (2, 4)])
def test_on_an_accelerator_all_points_are_one_product_without_a_loop(edge, stride, target):
  size, points = 16 // stride, 3
  given = (jnp.zeros((points, *(size,) * 3, 4)), jnp.zeros((points, *(edge,) * 3, 4)))
  text = jax.jit(jax.vmap(correlation.correlate)).trace(*given).lower(lowering_platforms=(target,)).as_text()
  (product,) = [line for line in text.splitlines() if "dot_general" in line]
  maps = [int(number) for number in product.split("-> tensor<")[1].split("xf32")[0].split("x")]
  assert maps[0] == points and np.prod(maps[1:]) == correlation.numbers_held(16, stride, edge)
  assert np.prod(maps[1:]) < size**3 * edge**3 or edge == 2
  assert not any(word in text for word in ("stablehlo.while", "convolution", "gather", "scatter"))


@pytest.mark.parametrize("edge", [8, 16])
def test_taps_cut_from_a_patch_find_its_middle_one_voxel_on(edge):
  """The even taps put the centre of a patch at its own index minus nothing: 64 / 2 = 32, map voxel 32."""
  features = {s: _volume((64 // s,) * 3 + (4,), s) for s in (4, 2)}
  taps = {s: np.asarray(correlation.centre_cube(v[None], s, edge)[0]) for s, v in features.items()}
  found = correlation.similarity(
    {s: jnp.asarray(v) for s, v in features.items()}, {s: jnp.asarray(t) for s, t in taps.items()}, 64
  )
  place, score = correlation.best_voxel(found)
  assert np.abs(np.asarray(place) - 32).max() <= 2
  assert 0.5 < float(score) <= 1


def test_a_patch_is_wholly_similar_to_itself_in_the_middle():
  features = jnp.ones((64, 64, 64, 3))
  taps = {1: correlation.centre_cube(features[None], 1, 8)[0]}
  scores = np.asarray(correlation.similarity({1: features}, taps, 64))
  assert np.isclose(scores[32, 32, 32], 1, atol=1e-5)
  assert scores.max() <= 1 + 1e-5
  assert scores[0, 0, 0] < 0.2


def test_zero_features_stay_zero_instead_of_nan():
  assert np.array_equal(np.asarray(correlation.normalise_channels(jnp.zeros((2, 3)))), np.zeros((2, 3)))


def test_the_first_of_equal_maxima_in_c_order_is_taken():
  scores = jnp.zeros((3, 4, 5)).at[1, 3, 2].set(7.0).at[2, 0, 0].set(7.0)
  place, score = correlation.best_voxel(scores)
  assert np.asarray(place).tolist() == [1, 3, 2]
  assert float(score) == 7


def test_resizing_the_larger_map_is_half_pixel_linear():
  """65 -> 64 by hand along one axis: output i samples (i + .5) * 65 / 64 - .5."""
  ramp = np.broadcast_to(np.arange(65.0, dtype=np.float32)[:, None, None], (65, 65, 65))
  from medlsam_jax.volume_layers import ops

  got = np.asarray(ops.resize_linear(jnp.asarray(ramp), (64, 64, 64), axes=(0, 1, 2)))[:, 0, 0]
  assert np.allclose(got, (np.arange(64) + 0.5) * 65 / 64 - 0.5, atol=1e-4)
