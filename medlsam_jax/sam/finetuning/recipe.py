"""Fine-tuning as a recipe: labelled slices -> a network of the SAM family that fills boxes as their masks do."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
from etils import epath
from jaxtyping import Array, PyTree

from medlsam_jax.errors import ConfigError, WeightsError
from medlsam_jax.network import Network
from medlsam_jax.progress import Progress
from medlsam_jax.sam.finetuning.distillation import EmbeddingSource, as_seen_by, check_pair
from medlsam_jax.sam.finetuning.embeddings import embeddings_of, make_encoder
from medlsam_jax.sam.finetuning.mask_batches import MaskSource, slices_to_learn, slices_to_validate
from medlsam_jax.sam.finetuning.mask_validation import MaskValidation, means_of
from medlsam_jax.sam.finetuning.scores_file import VALIDATION_FILE, forget_scores, read_scores, write_scores
from medlsam_jax.sam.finetuning.setting_checks import check_finetuning
from medlsam_jax.sam.finetuning.settings import FinetuneSettings
from medlsam_jax.sam.finetuning.step import Batch, FineTuning, TuneState
from medlsam_jax.sam.finetuning.template_questions import FOLDER as VOTES
from medlsam_jax.sam.finetuning.template_questions import (
  TemplateQuestions,
  questions_to_learn,
  questions_to_validate,
)
from medlsam_jax.sam.finetuning.trained_parts import EMBEDDED
from medlsam_jax.sam.labelled_slices import LabelledSlices
from medlsam_jax.sam.network.sam import Sam
from medlsam_jax.train import loop, sharding
from medlsam_jax.train.cluster import is_main
from medlsam_jax.train.loading import Batches, Source
from medlsam_jax.train.recipe import Identity, Json, Measurement, Recipe


def run(
  settings: FinetuneSettings,
  network: Network,
  directory: epath.PathLike,
  report: loop.Report = lambda step, metrics: None,
  progress: Callable[[str], None] = lambda text: None,
  bar: Progress = lambda done, total: None,
  teacher: Network | None = None,
) -> tuple[dict[str, PyTree], dict[str, str]]:
  """Trains to `total_steps`, resuming from the newest checkpoint in `directory`.

  Every step's batch follows from the seed and the step alone. Validation happens before the first step, each
  `validate_every_steps` and at the end; `directory/validation.json` keeps Dice by step, scan and organ. The network as
  it was given, step 0, is a candidate like every other.

  Args:
    settings: the run; `settings.network` is where `network` was loaded from.
    network: of the SAM family, batch norm kept (`load(..., for_training=True)`).
    directory: for checkpoints, embeddings and scores; made if missing.
    report: called with a step and its metrics.
    progress: called with a word on what is being done before the first step.
    bar: called with images encoded and in all.
    teacher: with `train="distill"`, what was loaded from `settings.teacher`.

  Returns:
    Variables of the whole network and the header for its weights file, of the same kind as before: those of the best
    step by `checkpoint.best_metric` where it was measured (the header then has that metric), else the last. Where no
    step was better than step 0, the variables are those that were given, and `trained_steps` is 0.

  Raises:
    WeightsError: a network is not of the SAM family, or has batch norm folded.
    ConfigError: settings that do not go together, or a checkpoint in `directory` of another run.
    InputError: a scan cannot be used, or no slice shows an organ that was asked for.
    NotFinite: the loss is no number; its batch is in `directory`.
    Stopped: SIGTERM came; the state is kept.
    OutputError: a file cannot be written.
  """
  began = time.perf_counter()
  check_finetuning(settings)
  mesh = loop.begin(settings)
  sharding.check_batch(settings.data.images_per_step, 1, mesh, "data.images_per_step")
  tuning = FineTuning(settings, network, _module(network, settings, teacher), mesh, teacher)
  recipe = make_recipe(tuning, epath.Path(directory), progress, bar)
  trained = loop.train(recipe, directory, report, progress, began=began)
  return sharding.to_host(tuning.variables(trained.state)), _header(tuning, trained)


def make_recipe(
  tuning: FineTuning, directory: epath.Path, progress: Callable[[str], None], bar: Progress
) -> Recipe[TuneState, Batch]:
  """Fine-tuning on scans that are read here; embeddings that stay as they are get computed, or read, too."""
  settings, module = tuning.settings, tuning.module
  progress("reading scans")
  learnt = slices_to_learn(settings.data, module.variant)
  held_out = slices_to_validate(settings.data, module.variant, learnt)
  questions = held_out_questions = None
  if settings.data.prompts == "templates":
    progress("reading the templates' votes")
    folder = epath.Path(settings.data.votes) if settings.data.votes else directory / VOTES
    questions, learnt = questions_to_learn(learnt, folder)
    if held_out is not None:
      held_out_questions, held_out = questions_to_validate(held_out, folder)
  source = _source(tuning, learnt, questions, directory, progress, bar)
  validate = None if held_out is None else _validation(tuning, held_out, held_out_questions, directory, progress, bar)
  return Recipe(
    settings,
    tuning.mesh,
    shapes=tuning.shapes(),
    init=tuning.start,
    step=tuning.step(),
    batches=Batches(source, settings.data.images_per_step, "images", settings.data.threads, ahead=0),
    identity=_identity(tuning, learnt),
    validate=[] if validate is None else [Measurement(settings.validate_every_steps, validate)],
    gives_best=True,
    goes_on=lambda done: forget_scores(directory / VALIDATION_FILE, done if done else -1),
  )


def _source(
  tuning: FineTuning,
  learnt: LabelledSlices,
  questions: TemplateQuestions | None,
  directory: epath.Path,
  progress: Callable[[str], None],
  bar: Progress,
) -> Source[Batch]:
  """Batches to learn from; embeddings that stay as they are get computed, or read, first."""
  settings, network, module, teacher = tuning.settings, tuning.network, tuning.module, tuning.teacher
  rows, steps = sharding.local_rows(settings.data.images_per_step, tuning.mesh), settings.optimizer.total_steps
  if settings.train == "distill":
    theirs = check_pair(module, teacher, settings.teacher)
    variables, sha256 = cast(Network, teacher).variables, cast(Network, teacher).sha256
    seen = as_seen_by(learnt, theirs.variant)
    progress("encoding slices by the teacher")
    wanted = embeddings_of(theirs, variables, sha256, seen, directory, bar)
    per_step = settings.data.images_per_step
    return EmbeddingSource(learnt, module.variant, seen, wanted, per_step, settings.seed, rows, steps)
  embeddings = None
  if settings.train in EMBEDDED:
    progress("encoding slices")
    embeddings = embeddings_of(module, network.variables, network.sha256, learnt, directory, bar)
  return MaskSource(learnt, embeddings, settings.data, settings.seed, rows, steps, questions)


def _module(network: Network, settings: FinetuneSettings, teacher: Network | None) -> Sam:
  if not isinstance(network.module, Sam):
    raise WeightsError(f"{network.source}: a {network.kind} network has no masks to train; give one such as litemedsam")
  if network.module.folded:
    raise WeightsError(f"{network.source}: its batch norm is folded; load it with for_training=True")
  module = network.module.clone(dtype=jnp.dtype(settings.dtype), remat=settings.train not in EMBEDDED)
  if settings.train == "distill":
    check_pair(module, teacher, settings.teacher)
  elif teacher is not None or settings.teacher:
    raise ConfigError(f"teacher {settings.teacher!r} is for train distill, not {settings.train}; leave it out")
  return module


def _identity(tuning: FineTuning, learnt: LabelledSlices) -> Identity:
  networks, train = {"network": tuning.network, "teacher": tuning.teacher}, tuning.settings.train
  origin = {name: each.sha256 for name, each in networks.items() if each is not None}

  def differs(config: Json, position: Json) -> str:
    if config.get("train") == train and all(position.get(name) == sha256 for name, sha256 in origin.items()):
      return ""
    return f"comes from another network or trains another part ({config.get('train')}); choose another --workdir"

  drawn_from = json.dumps([[scan.name for scan in learnt.scans], len(learnt), sorted(learnt.organs)])
  return Identity(drawn_from, "slices", origin, differs)


def _header(tuning: FineTuning, trained: loop.Trained[TuneState]) -> dict[str, str]:
  settings, network, teacher = tuning.settings, tuning.network, tuning.teacher
  return {
    **{name: value for name, value in network.header.items() if name != "format"},
    "kind": network.kind,
    "finetuned_from": network.sha256,
    "trained_as": settings.name,
    "trained_part": settings.train,
    "trained_steps": str(trained.step),
    **({} if teacher is None else {"distilled_from": teacher.sha256}),
    **({"window_cells": str(settings.data.window_cells)} if settings.data.window_cells else {}),
    **{name: f"{value:.6g}" for name, value in trained.metrics.items()},
  }


def _validation(
  tuning: FineTuning,
  slices: LabelledSlices,
  questions: TemplateQuestions | None,
  directory: epath.Path,
  progress: Callable[[str], None],
  bar: Progress,
) -> Callable[[int, TuneState], dict[str, float]]:
  """Scores a state, and keeps every score in `VALIDATION_FILE`."""
  data = tuning.settings.data
  if tuning.settings.train in EMBEDDED:
    progress("encoding held-out slices")
    network = tuning.network
    kept = embeddings_of(tuning.module, network.variables, network.sha256, slices, directory, bar)
    scorer = MaskValidation(
      tuning.module, slices, lambda variables, number: kept[number], questions, data.vote_share, data.window_cells
    )
  else:
    encode = make_encoder(tuning.module)

    def embedding_of(variables: PyTree, number: int) -> Array:
      return encode(variables, jnp.asarray(slices.image(slices.items[number]))[None])[0]

    scorer = MaskValidation(tuning.module, slices, embedding_of, questions, data.vote_share, data.window_cells)
  path = directory / VALIDATION_FILE

  def validate(step: int, state: TuneState) -> dict[str, float]:
    scores = scorer(jax.device_put(sharding.to_host(tuning.variables(state))))
    if is_main():
      write_scores(path, read_scores(path) | {str(step): scores})
    return means_of(scores)

  return validate
