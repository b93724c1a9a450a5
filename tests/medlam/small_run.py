"""A pre-training run around a network of two layers and random scans, to try the loop without waiting for compilers.

As a program: `python small_run.py DIRECTORY JSON_OVERRIDES` prints the reported metrics, a JSON line a step.
"""

import dataclasses
import json
import sys
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

EDGE = 16


class SmallNetwork(nn.Module):
  """The interface of MedLAM with one layer for the head and one for features of stride 4."""

  patch_edge: int = EDGE
  feature_scales: tuple[int, ...] = (4,)
  dropout: float = 0.1

  @nn.compact
  def __call__(self, patches, *, feature_scales=None, featured=(1, 1), classify=False, train=False):
    from medlsam_jax.medlam.network.medlam import MedLAMOutput

    n, cells = patches.shape[0], patches.shape[1] // 4
    pooled = patches.reshape(n, cells, 4, cells, 4, cells, 4).mean((2, 4, 6))
    pooled = nn.Dropout(self.dropout, deterministic=not train)(pooled)
    position = nn.Dense(3, name="fc3")(nn.Dense(8, name="fc1")(pooled.reshape(n, -1)))
    scales = self.feature_scales if feature_scales is None else feature_scales
    kept = pooled.reshape(-1, featured[1], *pooled.shape[1:])[:, : featured[0]].reshape(-1, *pooled.shape[1:], 1)
    return MedLAMOutput(position, {s: nn.Dense(4, name="conv6")(kept) for s in scales}, None)

  def init_all(self, key):
    return self.init(key, jnp.zeros((1, EDGE, EDGE, EDGE, 1)))


def scans(spoilt=False):
  from medlsam_jax.medlam.pretraining.crops import TrainingScan

  made = []
  for seed in range(4):
    values = np.random.default_rng(seed).random((20, 24, 28), dtype=np.float32)
    values[:8] = 0
    made.append(TrainingScan.of(f"scan{seed}", values))
  if spoilt:
    for scan in made:
      scan.intensity[8:] = np.nan
  return made


def settings(**sections):
  from medlsam_jax.medlam.pretraining.settings import PretrainSettings
  from medlsam_jax.typed_settings import from_mapping

  values = {
    "network": {"patch_edge": EDGE, "feature_scales": [4]},
    "data": {"scans_per_step": 8, "patches_per_scan": 2, "dense_patches": 1, "position_views": "both", "threads": 1},
    "optimizer": {"total_steps": 6, "learning_rate": 1e-2, "decay": "constant", "l2": 0.0},
    "objectives": {"uam": {"weight": 1e-3}, "vicreg": {"weight": 0.1, "width": 8}},
    "checkpoint": {"every_steps": 100},
    "log_every_steps": 1,
  }
  for name, fields in sections.items():
    values[name] = {**values.get(name, {}), **fields} if isinstance(fields, dict) and name != "objectives" else fields
  return from_mapping(PretrainSettings, values)


_STEPS = {}
"""Jitted steps by their settings: runs of one test session that differ in nothing else share a compiled program."""


def replace_network_and_scans(set_attribute, spoilt=False):
  """Puts the stand-ins where the recipe looks for the real ones."""
  from medlsam_jax.medlam.pretraining import recipe, step
  from medlsam_jax.train.loading import InMemory

  set_attribute(step, "make_module", lambda s: SmallNetwork(feature_scales=tuple(s.network.feature_scales)))

  def make_step(settings, mesh):
    kept = dataclasses.asdict(settings)
    del kept["checkpoint"]
    if settings.optimizer.decay == "constant":
      del kept["optimizer"]["total_steps"]
    name = json.dumps(kept)
    if name not in _STEPS:
      _STEPS[name] = step.make_step(settings, mesh)
    return _STEPS[name]

  set_attribute(recipe, "make_step", make_step)
  set_attribute(recipe, "data_sets", lambda data, progress: [InMemory(tuple(scans(spoilt)), 1.0)])


if __name__ == "__main__":
  replace_network_and_scans(setattr)
  from medlsam_jax.medlam.pretraining import recipe

  recipe.run(
    settings(**json.loads(sys.argv[2])),
    Path(sys.argv[1]),
    lambda step, metrics: print(json.dumps({"step": step, **metrics}), flush=True),
  )
