"""The small pre-training run: batches, settings, learning, resuming."""

import dataclasses

import jax
import numpy as np
import pytest

from medlsam_jax.data import ct, pairs
from medlsam_jax.errors import ConfigError, InputError
from medlsam_jax.training import loop, step
from medlsam_jax.training.settings import PretrainSettings, from_mapping


def scan(seed=0, shape=(50, 60, 70), weight=1.0):
  values = np.random.default_rng(seed).random(shape, dtype=np.float32)
  values[:10] = 0
  return pairs.TrainingScan.of(f"scan{seed}", values, weight)


def test_cubes_show_the_scan_around_their_centre_and_centres_are_never_air():
  source = scan()
  batch = pairs.draw(np.random.default_rng(0), [source], 1, 16)
  original = source.padded[40:-40, 40:-40, 40:-40]
  for cube, origin in zip(batch.cubes[0], batch.origins_mm[0], strict=True):
    z, y, x = (origin / 3 + 40).round().astype(int)
    assert cube[40, 40, 40] == original[z, y, x] >= ct.AIR_INTENSITY


def test_scans_are_drawn_by_weight():
  heavy, light = scan(0, weight=9.0), scan(1, weight=1.0)
  batch = pairs.draw(np.random.default_rng(0), [heavy, light], 200, 1)
  from_light = sum(np.isin(cube, light.padded).all() for cube in batch.cubes[:, 0])
  assert 5 <= from_light <= 40


def test_a_scan_of_air_is_refused_by_name():
  with pytest.raises(InputError, match="empty_scan"):
    pairs.TrainingScan.of("empty_scan", np.zeros((4, 4, 4)))


def test_an_unknown_field_and_a_wrong_type_are_errors():
  with pytest.raises(ConfigError, match="no_such"):
    from_mapping(PretrainSettings, {"network": {"no_such": 1}})
  with pytest.raises(ConfigError, match="base_channels"):
    from_mapping(PretrainSettings, {"network": {"base_channels": "24"}})
  with pytest.raises(ConfigError, match="decay"):
    from_mapping(PretrainSettings, {"optimizer": {"decay": "linear"}})


def test_settings_survive_the_way_through_plain_mappings():
  settings = PretrainSettings()
  assert from_mapping(PretrainSettings, dataclasses.asdict(settings)) == settings


def test_points_avoid_air_shared_by_most_of_the_batch():
  plain = np.zeros((3, 64, 64, 64), np.float32)
  plain[:2, 32:] = 1.0
  points = step.choose_points(jax.random.key(0), plain, 50)
  assert (points[:, 0] >= 32).all()


def small_settings(**optimizer):
  return from_mapping(
    PretrainSettings,
    {
      "network": {"base_channels": 2, "feature_scales": [4], "dropout": 0.0},
      "data": {"phantoms": 1, "scans_per_step": 1, "dense_patches": 1, "position_views": "both"},
      "optimizer": {"learning_rate": 1e-2, "l2": 0.0} | optimizer,
      "objectives": {"uam": 1e-3, "mss": 1.0},
      "log_every_steps": 1,
      "checkpoint_every_steps": 2,
    },
  )


@pytest.mark.slow
def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path):
  losses = {}

  def report(step_number, metrics):
    losses.setdefault(step_number, []).append(metrics["loss"])

  whole = loop.run(small_settings(total_steps=4), tmp_path / "whole", report)
  loop.run(small_settings(total_steps=2), tmp_path / "broken", report)
  resumed = loop.run(small_settings(total_steps=4), tmp_path / "broken", report)
  assert sorted(losses) == [1, 2, 3, 4] and all(len(v) == 2 for v in losses.values())
  for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_checkpoint_of_another_network_is_refused(tmp_path):
  settings = small_settings(total_steps=1)
  loop.run(settings, tmp_path)
  wider = dataclasses.replace(settings, network=dataclasses.replace(settings.network, base_channels=3))
  with pytest.raises(ConfigError, match="does not fit"):
    loop.run(wider, tmp_path)


@pytest.mark.slow
def test_training_lowers_the_position_error(tmp_path):
  errors = []
  loop.run(small_settings(total_steps=25), tmp_path, lambda _, m: errors.append(m["uam_error_mm"]))
  assert np.mean(errors[-5:]) < 0.8 * np.mean(errors[:5])
