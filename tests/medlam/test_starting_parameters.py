"""A run that starts from a trained network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from medlam_weights import drawn
from quick_programs import QUICK

from medlsam_jax.errors import ConfigError
from medlsam_jax.medlam.pretraining import starting_parameters
from medlsam_jax.medlam.pretraining.settings import NetworkSettings, PretrainSettings
from medlsam_jax.medlam.pretraining.step import init_state, make_module
from medlsam_jax.train.sharding import make_mesh


def _settings(width: int, scales: tuple[int, ...] = (4,), edge: int = 32) -> PretrainSettings:
  network = NetworkSettings(base_channels=width, feature_scales=scales, patch_edge=edge, dropout=0.0)
  return dataclasses.replace(PretrainSettings(), network=network)


@pytest.fixture(scope="module")
def narrow():
  settings = _settings(2)
  module = make_module(settings)
  params = drawn(module, jax.random.key(3))["params"]
  # biases as after training, so that a lost one shows
  rng = np.random.default_rng(4)
  return module, jax.tree.map(lambda a: np.float32(a + 0.1 * rng.standard_normal(a.shape)), params)


def _run(settings, params):
  patches = np.random.default_rng(5).random((1, *(settings.network.patch_edge,) * 3, 1), np.float32)
  out = jax.jit(make_module(settings).apply, compiler_options=QUICK)({"params": params}, patches)
  return np.asarray(out.position), np.asarray(out.features[4])


@pytest.mark.slow
def test_a_wider_network_computes_what_the_narrow_one_did(narrow, monkeypatch):
  monkeypatch.setattr(starting_parameters, "_NOISE", 0.0)
  position, features = _run(_settings(2), narrow[1])
  wide_position, wide_features = _run(_settings(6), starting_parameters.starting_parameters(*narrow, _settings(6)))
  np.testing.assert_allclose(wide_position, position, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(wide_features, np.repeat(features, 3, -1), rtol=1e-4, atol=2e-4)


def test_copies_differ_so_that_they_can_learn_different_things(narrow):
  kernel = np.asarray(starting_parameters.starting_parameters(*narrow, _settings(4))["conv1"]["first"]["kernel"])
  assert 0.01 < np.abs(kernel[..., ::2] - kernel[..., 1::2]).mean() / np.abs(kernel).mean() < 0.3


def test_the_same_width_starts_with_the_same_numbers_in_the_state(narrow):
  settings = dataclasses.replace(
    _settings(2), optimizer=dataclasses.replace(PretrainSettings().optimizer, ema_decay=0.9)
  )
  state = init_state(settings, make_mesh(settings.mesh), starting_parameters.starting_parameters(*narrow, settings))
  for tree in (state.params["network"], state.ema):
    jax.tree.map(np.testing.assert_array_equal, tree, narrow[1])
  assert int(state.step) == 0
  assert state.params["network"]["fc1"]["bias"] is not state.ema["fc1"]["bias"]


@pytest.mark.parametrize(
  ("settings", "word"),
  [(_settings(3), "multiple"), (_settings(4, edge=64), "edge"), (_settings(4, (4, 2)), "coarser")],
)
def test_a_network_that_cannot_be_the_start_is_refused(narrow, settings, word):
  with pytest.raises(ConfigError, match=word):
    starting_parameters.starting_parameters(*narrow, settings)


def test_finer_stages_are_left_out():
  settings = _settings(2, (4, 2))
  params = drawn(make_module(settings), jax.random.key(0))["params"]
  started = starting_parameters.starting_parameters(make_module(settings), params, _settings(2))
  assert "conv6" in started
  assert "conv7" not in started
  assert jnp.array_equal(started["conv6"]["first"]["kernel"], params["conv6"]["first"]["kernel"])
