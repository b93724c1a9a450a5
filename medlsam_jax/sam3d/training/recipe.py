"""Training of adapters as a recipe: labelled scans -> parameters beside a base that stays as it is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from etils import epath

from medlsam_jax.network import Network
from medlsam_jax.sam.finetuning.mask_validation import means_of
from medlsam_jax.sam.finetuning.scores_file import VALIDATION_FILE, forget_scores, read_scores, write_scores
from medlsam_jax.sam3d.adapter_file import Adapted
from medlsam_jax.sam3d.cube_predictor import CubePredictor
from medlsam_jax.sam3d.cube_settings import CubeSettings
from medlsam_jax.sam3d.network.sam3d import Sam3D
from medlsam_jax.sam3d.network.variants import VARIANTS
from medlsam_jax.sam3d.training.cube_validation import HeldOut, validated
from medlsam_jax.sam3d.training.labelled_cubes import CubeBatch, CubeSource, reach
from medlsam_jax.sam3d.training.scans import ScansToLearn, scans_to_learn, scans_to_validate
from medlsam_jax.sam3d.training.setting_checks import check_adapting
from medlsam_jax.sam3d.training.settings import AdaptSettings
from medlsam_jax.sam3d.training.step import Adapting, AdaptState, source_edge
from medlsam_jax.train import loop, sharding
from medlsam_jax.train.cluster import is_main
from medlsam_jax.train.loading import Batches
from medlsam_jax.train.recipe import Identity, Json, Measurement, Recipe


def run(
  settings: AdaptSettings,
  base: Network | None,
  directory: epath.PathLike,
  report: loop.Report = lambda step, metrics: None,
  progress: Callable[[str], None] = lambda text: None,
) -> Adapted:
  """Trains to `total_steps`, resuming from the newest checkpoint in `directory`.

  Every step's batch follows from the seed and the step alone. Held-out scans are painted before the first step, each
  `validate_every_steps` and at the end; `directory/validation.json` keeps Dice by step, scan and organ.

  Args:
    settings: the run; `settings.network` is where `base` was loaded from.
    base: of the SAM family, batch norm kept (`load(..., for_training=True)`); None with `start="scratch"`.
    directory: for checkpoints and scores; made if missing.
    report: called with a step and its metrics.
    progress: called with a word on what is being done.

  Returns:
    The network with the best parameters by `checkpoint.best_metric` where it was measured, else the last, and the
    header for its file.

  Raises:
    WeightsError: the base is of another kind than `settings.model` adapts.
    ConfigError: settings that do not go together, or a checkpoint in `directory` of another run.
    InputError: a scan cannot be used, or shows none of the organs.
    NotFinite: the loss is no number; its batch is in `directory`.
    Stopped: SIGTERM came; the state is kept.
    OutputError: a file cannot be written.
  """
  began = time.perf_counter()
  check_adapting(settings)
  mesh = loop.begin(settings)
  sharding.check_batch(settings.data.cubes_per_step, 1, mesh, "data.cubes_per_step")
  adapting = Adapting(settings, Sam3D(VARIANTS[settings.model], settings.dtype, settings.remat), base, mesh)
  progress("reading scans")
  learnt = scans_to_learn(settings.data, reach(source_edge(adapting.module.variant.cube_edge, settings)))
  held_out = scans_to_validate(settings.data, learnt)
  recipe = make_recipe(adapting, learnt, held_out, epath.Path(directory))
  trained = loop.train(recipe, directory, report, progress, began=began)
  header = {
    **cube_settings(settings, learnt.organs).entry(),
    "trained_as": settings.name,
    "trained_steps": str(trained.step),
    "start": settings.start,
    **{name: f"{value:.6g}" for name, value in trained.metrics.items()},
  }
  return adapting.adapted(trained.state)._replace(header=header)


def cube_settings(settings: AdaptSettings, organs: tuple[str, ...]) -> CubeSettings:
  """How cubes are to be cut for what the run trains."""
  data = settings.data
  return CubeSettings(data.spacing_mm, data.window_hu, data.margin, organs)


def make_recipe(
  adapting: Adapting, learnt: ScansToLearn, held_out: list[HeldOut], directory: epath.Path
) -> Recipe[AdaptState, CubeBatch]:
  """Training on scans that were read, measured on those held out."""
  settings = adapting.settings
  rows = sharding.local_rows(settings.data.cubes_per_step, adapting.mesh)
  edge = source_edge(adapting.module.variant.cube_edge, settings)
  source = CubeSource(learnt.scans, edge, settings.data, settings.seed, rows, settings.optimizer.total_steps)
  validate = _validation(adapting, cube_settings(settings, learnt.organs), held_out, directory)
  return Recipe(
    settings,
    adapting.mesh,
    shapes=adapting.shapes(),
    init=adapting.start,
    step=adapting.step(),
    batches=Batches(source, settings.data.cubes_per_step, "cubes", settings.data.threads),
    identity=_identity(adapting, learnt),
    validate=[Measurement(settings.validate_every_steps, validate)] if held_out else [],
    gives_best=bool(held_out),
    goes_on=lambda done: forget_scores(directory / VALIDATION_FILE, done if done else -1),
  )


def _validation(
  adapting: Adapting, cubes: CubeSettings, held_out: list[HeldOut], directory: epath.Path
) -> Callable[[int, AdaptState], dict[str, float]]:
  path = directory / VALIDATION_FILE

  def validate(step: int, state: AdaptState) -> dict[str, float]:
    scores = validated(held_out, CubePredictor(adapting.adapted(state), cubes, adapting.settings.dtype))
    if is_main():
      write_scores(path, read_scores(path) | {str(step): scores})
    return means_of(scores)

  return validate


def _identity(adapting: Adapting, learnt: ScansToLearn) -> Identity:
  settings = adapting.settings
  origin = {} if adapting.base is None else {"network": adapting.base.sha256}

  def differs(config: Json, position: Json) -> str:
    same = all(config.get(name) == getattr(settings, name) for name in ("model", "start"))
    if same and all(position.get(name) == sha256 for name, sha256 in origin.items()):
      return ""
    return f"adapts another network or starts otherwise ({config.get('model')}, {config.get('start')}); choose another"

  drawn_from = json.dumps([[scan.name for scan in learnt.scans], list(learnt.organs)])
  return Identity(drawn_from, "cubes", origin, differs)
