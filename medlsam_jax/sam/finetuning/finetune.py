"""A fine-tuning run: labelled slices -> a network of the SAM family that fills boxes as their masks do."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int

from medlsam_jax import notices
from medlsam_jax.errors import ConfigError, OutputError, WeightsError
from medlsam_jax.io.atomic import atomically
from medlsam_jax.medlam.pretraining import loader
from medlsam_jax.network import Network
from medlsam_jax.sam.finetuning import tuned
from medlsam_jax.sam.finetuning.distillation import (
  EmbeddingBatch,
  EmbeddingSource,
  as_seen_by,
  check_pair,
  embedding_loss,
)
from medlsam_jax.sam.finetuning.embeddings import embeddings_of, make_encoder
from medlsam_jax.sam.finetuning.finetune_settings import FinetuneSettings
from medlsam_jax.sam.finetuning.mask_batches import MaskBatch, MaskSource, slices_to_learn, slices_to_validate
from medlsam_jax.sam.finetuning.mask_loss import mask_loss
from medlsam_jax.sam.finetuning.mask_validation import MaskValidation, means_of
from medlsam_jax.sam.labelled_slices import LabelledSlices
from medlsam_jax.sam.network.sam import Sam
from medlsam_jax.train import sharding
from medlsam_jax.train.checkpoint import Checkpoints
from medlsam_jax.train.checks import check_finetuning, check_start
from medlsam_jax.train.cluster import connect, is_main
from medlsam_jax.train.optimizer import make_optimizer
from medlsam_jax.train.records import Pace
from medlsam_jax.train.watch import Stopped, Waiting, stops_on_sigterm

VALIDATION_FILE = "validation.json"
Report = Callable[[int, Mapping[str, float]], None]
Bar = Callable[[int, int], None]
Batch = MaskBatch | EmbeddingBatch
Source = MaskSource | EmbeddingSource
Step = Callable[["TuneState", Batch], tuple["TuneState", dict[str, Array]]]


class TuneState(NamedTuple):
  """All that changes from step to step."""

  step: Int[Array, ""]
  params: Any
  """The trained part, as of `tuned.split`."""
  optimizer: Any
  batch_stats: Any
  """Statistics of batch norm where they are updated, else None."""


def run(
  settings: FinetuneSettings,
  network: Network,
  directory: Path,
  report: Report = lambda step, metrics: None,
  progress: Callable[[str], None] = lambda text: None,
  bar: Bar = lambda done, total: None,
  teacher: Network | None = None,
) -> tuple[dict[str, Any], dict[str, str]]:
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
  check_finetuning(settings)
  connect(settings.cluster)
  mesh = sharding.make_mesh(settings.mesh)
  sharding.check_batch(settings.data.images_per_step, 1, mesh, field="data.images_per_step")
  module = _module(network, settings, teacher)
  tuning = _Tuning(settings, network, module, mesh, teacher)
  progress("reading scans")
  learnt = slices_to_learn(settings.data, module.variant)
  held_out = slices_to_validate(settings.data, module.variant, learnt)
  source = _source(tuning, learnt, directory, progress, bar)
  validate = None if held_out is None else _validation(tuning, held_out, directory, progress, bar)
  checkpoints = Checkpoints(directory / "checkpoints", settings.checkpoint)
  try:
    with stops_on_sigterm() as asked_to_stop:
      progress("training")
      loop = _Loop(tuning, source, directory, checkpoints, report, validate, asked_to_stop)
      state, measured = loop.train(_identity(learnt))
      return sharding.to_host(tuning.variables(state)), _header(tuning, int(state.step), measured)
  finally:
    checkpoints.close()


def _source(
  tuning: _Tuning, learnt: LabelledSlices, directory: Path, progress: Callable[[str], None], bar: Bar
) -> Source:
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
  if settings.train == "decoder":
    progress("encoding slices")
    embeddings = embeddings_of(module, network.variables, network.sha256, learnt, directory, bar)
  return MaskSource(learnt, embeddings, settings.data, settings.seed, rows, steps)


def _module(network: Network, settings: FinetuneSettings, teacher: Network | None) -> Sam:
  if not isinstance(network.module, Sam):
    raise WeightsError(f"{network.source}: a {network.kind} network has no masks to train; give one such as litemedsam")
  if network.module.folded:
    raise WeightsError(f"{network.source}: its batch norm is folded; load it with for_training=True")
  module = network.module.clone(dtype=jnp.dtype(settings.dtype), remat=settings.train != "decoder")
  if settings.train == "distill":
    check_pair(module, teacher, settings.teacher)
  elif teacher is not None or settings.teacher:
    raise ConfigError(f"teacher {settings.teacher!r} is for train distill, not {settings.train}; leave it out")
  return module


def _identity(learnt: LabelledSlices) -> str:
  return json.dumps([[scan.name for scan in learnt.scans], len(learnt), sorted(learnt.organs)])


def _header(tuning: _Tuning, step: int, measured: dict[str, float]) -> dict[str, str]:
  settings, network, teacher = tuning.settings, tuning.network, tuning.teacher
  return {
    **{name: value for name, value in network.header.items() if name != "format"},
    "kind": network.kind,
    "finetuned_from": network.sha256,
    "trained_as": settings.name,
    "trained_part": settings.train,
    "trained_steps": str(step),
    **({} if teacher is None else {"distilled_from": teacher.sha256}),
    **{name: f"{value:.6g}" for name, value in measured.items()},
  }


class _Tuning:
  """What is trained and how: the step, and the whole network at any state."""

  def __init__(
    self, settings: FinetuneSettings, network: Network, module: Sam, mesh: Mesh, teacher: Network | None = None
  ):
    self.settings, self.network, self.module, self.mesh, self.teacher = settings, network, module, mesh, teacher
    key = jax.random.key(settings.seed)
    trained, frozen = tuned.split(network.params, settings.train, settings.lora_rank, key)
    host = jax.device_get((trained, frozen, network.variables.get("batch_stats")))
    self._start, self.frozen, self._stats = (sharding.put_replicated(tree, mesh) for tree in host)
    self.updates_stats = settings.batch_norm == "updated" and settings.train != "decoder" and self._stats is not None
    self._optimizer = make_optimizer(settings.optimizer)

  def start(self) -> TuneState:
    """State before the first step, in arrays of its own: a step uses those that it is given up."""
    place = sharding.replicated(self.mesh)
    moments = jax.jit(self._optimizer.init, out_shardings=place)(self._start)
    count = sharding.put_replicated(np.zeros((), np.int32), self.mesh)
    params, stats = jax.tree.map(jnp.copy, (self._start, self._stats if self.updates_stats else None))
    return TuneState(count, params, moments, stats)

  def variables(self, state: TuneState) -> dict[str, Any]:
    """The whole network's, batch norm kept."""
    stats = state.batch_stats if self.updates_stats else self._stats
    params = tuned.joined(state.params, self.frozen)
    return {"params": params} if stats is None else {"params": params, "batch_stats": stats}

  def step(self) -> Step:
    """The jitted step; the state given to it is donated."""
    compiled, frozen, fixed = _compiled_step(self.settings, self.module), self.frozen, self._stats
    return lambda state, batch: compiled(state, batch, frozen, fixed)


@functools.lru_cache(maxsize=2)
def _compiled_step(settings: FinetuneSettings, module: Sam) -> Callable[..., tuple[TuneState, dict[str, Array]]]:
  """The step; frozen parameters and fixed statistics are arguments. Kept, so that a run resumed here compiles none."""
  optimizer = make_optimizer(settings.optimizer)

  def loss(trained: Any, frozen: Any, stats: Any, updates: bool, batch: Batch) -> tuple[Array, Any]:
    params = tuned.joined(trained, frozen)
    variables = {"params": params} if stats is None else {"params": params, "batch_stats": stats}
    inputs = jnp.asarray(batch.inputs, jnp.float32)
    if settings.train == "decoder":
      embedding = inputs
    elif updates:
      embedding, changed = module.apply(variables, inputs, True, method="encode", mutable=["batch_stats"])
      stats = changed["batch_stats"]
    else:
      embedding = cast(Array, module.apply(variables, inputs, method="encode"))
    if isinstance(batch, EmbeddingBatch):
      total, metrics = embedding_loss(embedding, batch)
      return total, (metrics, stats)
    answer = module.apply({"params": params}, embedding, boxes=batch.boxes, method="decode")
    logits, iou = cast(tuple[Array, Array], answer)
    total, metrics = mask_loss(logits[:, 0], iou[:, 0], jnp.asarray(batch.truth), settings.loss)
    return total, (metrics, stats)

  def step(state: TuneState, batch: Batch, frozen: Any, fixed: Any) -> tuple[TuneState, dict[str, Array]]:
    updates_stats = state.batch_stats is not None
    stats = state.batch_stats if updates_stats else fixed
    gradient, (metrics, stats) = jax.grad(loss, has_aux=True)(state.params, frozen, stats, updates_stats, batch)
    updates, moments = optimizer.update(gradient, state.optimizer, state.params)
    metrics["gradient_norm"] = optax.tree.norm(gradient)
    params = optax.apply_updates(state.params, updates)
    return TuneState(state.step + 1, params, moments, stats if updates_stats else None), metrics

  return jax.jit(step, donate_argnums=0)


Validate = Callable[[int, TuneState], dict[str, float]]


def _validation(
  tuning: _Tuning, slices: LabelledSlices, directory: Path, progress: Callable[[str], None], bar: Bar
) -> Validate:
  """Scores a state, and keeps every score in `VALIDATION_FILE`."""
  if tuning.settings.train == "decoder":
    progress("encoding held-out slices")
    network = tuning.network
    kept = embeddings_of(tuning.module, network.variables, network.sha256, slices, directory, bar)
    scorer = MaskValidation(tuning.module, slices, lambda variables, number: kept[number])
  else:
    encode = make_encoder(tuning.module)

    def embedding_of(variables: Any, number: int) -> Array:
      return encode(variables, jnp.asarray(slices.image(slices.items[number]))[None])[0]

    scorer = MaskValidation(tuning.module, slices, embedding_of)
  path = directory / VALIDATION_FILE

  def validate(step: int, state: TuneState) -> dict[str, float]:
    scores = scorer(jax.device_put(sharding.to_host(tuning.variables(state))))
    if is_main():
      _write_scores(path, _read_scores(path) | {str(step): scores})
    return means_of(scores)

  return validate


def _read_scores(path: Path) -> dict[str, dict[str, dict[str, float]]]:
  """Step -> scan -> organ -> Dice; empty where there is no file, or it cannot be read."""
  try:
    return dict(json.loads(path.read_text()))
  except FileNotFoundError:
    return {}
  except (OSError, ValueError, TypeError) as error:
    notices.warn(f"{path}: cannot be read ({error}); the scores in it are lost")
    return {}


def _write_scores(path: Path, scores: dict[str, dict[str, dict[str, float]]]) -> None:
  try:
    with atomically(path) as part:
      part.write_text(json.dumps(scores, indent=1) + "\n")
  except (OSError, ValueError) as error:
    raise OutputError(f"{path}: cannot be written ({error})") from error


def _forget_scores(path: Path, after: int) -> None:
  """Leaves out what a run that goes on from an earlier step measures anew."""
  scores = _read_scores(path)
  kept = {step: each for step, each in scores.items() if int(step) <= after}
  if kept != scores:
    _write_scores(path, kept)


@dataclasses.dataclass
class _Loop:
  """The steps of one run."""

  tuning: _Tuning
  source: Source
  directory: Path
  checkpoints: Checkpoints
  report: Report
  validate: Validate | None
  asked_to_stop: Callable[[int], bool]

  def train(self, identity: str) -> tuple[TuneState, dict[str, float]]:
    """All steps that are left: the best state that was kept, with its metric, or the last where none was measured."""
    settings, last = self.tuning.settings, self.tuning.settings.optimizer.total_steps
    state, first, before = self._resumed(identity)
    check_start(first, last, self.checkpoints.directory)
    step_function, waiting = self.tuning.step(), Waiting(self.directory)
    if is_main():
      _forget_scores(self.directory / VALIDATION_FILE, first - 1 if first == 0 else first)
    if before is None:
      before = self._score(0, self.tuning.start() if first else state)
    position = {"drawn_from": identity, "before": before, **self._origin}
    pace, batches = Pace(settings.data.images_per_step), self._batches(first)
    for done in range(first + 1, last + 1):
      began = time.perf_counter()
      batch = next(batches)
      pace.step(time.perf_counter() - began)
      with jax.transfer_guard("disallow"):
        state, metrics = step_function(state, batch)
      waiting.push(done, batch, metrics)
      stop = self.asked_to_stop(done)
      if done % settings.log_every_steps == 0 or done == last:
        self.report(done, waiting.all() | _renamed(pace.report()))
      validated: dict[str, float] = {}
      if done % settings.validate_every_steps == 0 or done == last:
        validated = self._score(done, state)
      # what was validated is kept, too: it may be the best
      if done % settings.checkpoint.every_steps == 0 or done == last or stop or validated:
        waiting.all()
        self.checkpoints.save(done, state, settings, {"next_step": done, **position}, validated)
      if stop and done < last:
        raise Stopped(f"stopped by SIGTERM after step {done}; the same command goes on from there")
    return self._best(state, before)

  @property
  def _origin(self) -> dict[str, str]:
    """What a checkpoint must have come from to be gone on with."""
    networks = {"network": self.tuning.network, "teacher": self.tuning.teacher}
    return {name: each.sha256 for name, each in networks.items() if each is not None}

  def _best(self, state: TuneState, before: dict[str, float]) -> tuple[TuneState, dict[str, float]]:
    """The best state and its metric; that of the start where none is better."""
    best, name = self.checkpoints.best(), self.tuning.settings.checkpoint.best_metric
    if best is None:
      return state, {}
    step, value = best
    if name in before and not value > before[name]:
      return self.tuning.start(), {name: before[name]}
    if step != int(state.step):
      values, _, _ = cast(tuple[dict[str, Any], Any, Any], self.checkpoints.read(self._shapes(state), step))
      state = TuneState(**{"batch_stats": None, **values})
    return state, {name: value}

  def _shapes(self, state: TuneState) -> dict[str, Any]:
    fields = {name: value for name, value in state._asdict().items() if value is not None}
    place = sharding.replicated(self.tuning.mesh)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), fields)

  def _resumed(self, identity: str) -> tuple[TuneState, int, dict[str, float] | None]:
    """State to go on from, the steps done, and the scores of the network as it was given, where they are known."""
    state, tuning = self.tuning.start(), self.tuning
    found = self.checkpoints.read(self._shapes(state))
    if found is None:
      return state, 0, None
    values, config, position = found
    if config.get("train") != tuning.settings.train or any(position.get(n) != v for n, v in self._origin.items()):
      raise ConfigError(
        f"{self.directory}: its checkpoint comes from another network or trains another part ({config.get('train')}); "
        "choose another --workdir"
      )
    if position.get("drawn_from") != identity:
      notices.warn(f"resuming at step {position['next_step']} with other slices than before")
    return TuneState(**{"batch_stats": None, **values}), int(position["next_step"]), position.get("before")

  def _score(self, step: int, state: TuneState) -> dict[str, float]:
    if self.validate is None:
      return {}
    found = self.validate(step, state)
    self.report(step, found)
    return found

  def _batches(self, first: int) -> Iterator[Batch]:
    data, mesh = self.tuning.settings.data, self.tuning.mesh
    for local in loader.batches(cast(Any, self.source), first, data.threads):
      yield sharding.put_batch(cast(Batch, local), data.images_per_step, mesh)


def _renamed(pace: dict[str, float]) -> dict[str, float]:
  return {name.replace("scans_per_second", "images_per_second"): value for name, value in pace.items()}
