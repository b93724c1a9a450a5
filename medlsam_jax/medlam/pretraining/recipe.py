"""Pre-training as a recipe: MedLAM on crops of unlabelled scans, validated on phantoms and by a probe."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import PyTree

from medlsam_jax.medlam.pretraining.crop_batches import CropBatches, Plan, check_crops
from medlsam_jax.medlam.pretraining.crops import Batch, cut_group, joined
from medlsam_jax.medlam.pretraining.data_sets import data_sets, fingerprint, phantom_scans
from medlsam_jax.medlam.pretraining.setting_checks import check_pretraining
from medlsam_jax.medlam.pretraining.settings import NetworkSettings, PretrainSettings
from medlsam_jax.medlam.pretraining.step import (
  TrainState,
  abstract_state,
  init_state,
  make_step,
  make_validation,
  rehearse,
)
from medlsam_jax.train import loop, sharding
from medlsam_jax.train.loading import Batches
from medlsam_jax.train.recipe import Identity, Json, Measurement, Recipe
from medlsam_jax.typed_settings import from_mapping

VALIDATION_SEED = 10**6
"""First phantom seed of validation; training and probe use others."""
_VALIDATION_PATCHES = 8

Progress = Callable[[str], None]
Probe = Callable[[PyTree, PretrainSettings], Mapping[str, float]]
"""Network parameters (host arrays) and settings -> figures to report; what it runs is not this module's concern."""


def run(
  settings: PretrainSettings,
  directory: epath.PathLike,
  report: loop.Report = lambda step, metrics: None,
  progress: Progress = lambda text: None,
  probe: Probe | None = None,
  profile: Path | None = None,
  network: PyTree = None,
  ended: Callable[[dict[str, float]], None] = lambda shares: None,
) -> PyTree:
  """Trains, or goes on training, and gives the network's parameters: the averaged ones where the run keeps them.

  Every step's batch follows from the seed and the step alone, so a resumed run draws what an unbroken one would, also
  on another number of devices or processes.

  Args:
    settings: the run.
    directory, report, profile, ended: as of `train.loop.train`.
    progress: called with a word on what is being done before the first step.
    probe: called each `probe_every_steps` and at the end.
    network: parameters to start from in place of random ones, where no checkpoint is there to resume from.

  Raises:
    As `train.loop.train`, and:
    ConfigError: settings that do not go together.
    InputError: a scan or shard cannot be used.
  """
  began = time.perf_counter()
  check_pretraining(settings)
  recipe = make_recipe(settings, loop.begin(settings), progress, probe, network)
  trained = loop.train(recipe, directory, report, progress, profile, ended, began)
  return sharding.to_host(trained.state.best_network)


def make_recipe(
  settings: PretrainSettings, mesh: Mesh, progress: Progress, probe: Probe | None, network: PyTree
) -> Recipe[TrainState, Batch]:
  """Pre-training over a mesh; what it learns from is read here."""
  data, edge = settings.data, settings.network.cube_edge
  rows = _rows(settings, mesh)
  rehearse(settings)
  sets = data_sets(data, progress)
  held_out = _validation_batch(settings, progress)
  plan = Plan(settings.seed, data.scans_per_step, data.patches_per_scan, data.crops_per_scan, edge)
  source = CropBatches(sets, plan, rows, settings.optimizer.total_steps)
  return Recipe(
    settings,
    mesh,
    shapes=abstract_state(settings, mesh),
    init=lambda: init_state(settings, mesh, network),
    step=make_step(settings, mesh),
    batches=Batches(source, data.scans_per_step, "scans", data.threads, data.workers),
    identity=Identity(fingerprint(data, sets), differs=lambda config, _: _other_network(config, settings.network)),
    validate=_measurements(settings, mesh, held_out, probe),
  )


def _rows(settings: PretrainSettings, mesh: Mesh) -> range:
  """Scans of a step that this process provides, if the mesh can split them."""
  groups = settings.data.scans_per_step
  sharding.check_batch(groups, settings.optimizer.accumulate, mesh, "data.scans_per_step")
  rows = sharding.local_rows(groups, mesh)
  check_crops(settings.data.crops_per_scan, groups, rows)
  return rows


def _other_network(config: Json, network: NetworkSettings) -> str:
  """Why a checkpoint is of another network; precision and memory may change in a resumed run."""
  before = from_mapping(PretrainSettings, config).network
  names = ("base_channels", "patch_edge", "feature_scales")
  same = all(getattr(before, name) == getattr(network, name) for name in names)
  return "" if same else f"does not fit this config: it was trained with {before}"


def _validation_batch(settings: PretrainSettings, progress: Progress) -> Batch | None:
  """Cubes of phantoms that are not trained on, always the same; the same in every process."""
  scans = phantom_scans(VALIDATION_SEED, settings.data.validation_phantoms, progress)
  if not scans:
    return None
  rng = np.random.default_rng(0)
  return joined([cut_group(rng, scan, _VALIDATION_PATCHES, settings.network.cube_edge) for scan in scans])


def _measurements(
  settings: PretrainSettings, mesh: Mesh, held_out: Batch | None, probe: Probe | None
) -> list[Measurement[TrainState]]:
  """The error on the held-out batch in mm, and the probe."""
  measurements = list[Measurement[TrainState]]()
  if held_out is not None:
    error, batch = make_validation(settings), sharding.put_replicated(held_out, mesh)

    def validate(step: int, state: TrainState) -> dict[str, float]:
      return {"validation_error_mm": float(jax.device_get(error(state.best_network, batch)))}

    measurements.append(Measurement(settings.validate_every_steps, validate))
  if probe is not None:
    measure = probe
    measurements.append(
      Measurement(settings.probe_every_steps, lambda _, state: measure(sharding.to_host(state.best_network), settings))
    )
  return measurements
