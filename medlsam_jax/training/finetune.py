"""A fine-tuning run: labelled slices -> a network of the SAM family that fills boxes as their masks do."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int

from medlsam_jax.data import loader
from medlsam_jax.data.labelled_slices import LabelledSlices
from medlsam_jax.errors import ConfigError, OutputError, WeightsError
from medlsam_jax.models.network import Network
from medlsam_jax.models.sam.sam import Sam
from medlsam_jax.training import sharding, tuned
from medlsam_jax.training.checkpoint import Checkpoints
from medlsam_jax.training.cluster import connect, is_main
from medlsam_jax.training.embeddings import embeddings_of, make_encoder
from medlsam_jax.training.finetune_settings import FinetuneSettings
from medlsam_jax.training.mask_batches import MaskBatch, MaskSource, slices_to_learn, slices_to_validate
from medlsam_jax.training.mask_loss import mask_loss
from medlsam_jax.training.mask_validation import MaskValidation, means_of
from medlsam_jax.training.optimizer import make_optimizer
from medlsam_jax.training.records import Pace
from medlsam_jax.training.watch import Stopped, Waiting, stops_on_sigterm

VALIDATION_FILE = "validation.json"
Report = Callable[[int, Mapping[str, float]], None]
Bar = Callable[[int, int], None]
Step = Callable[["TuneState", MaskBatch], tuple["TuneState", dict[str, Array]]]


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
) -> tuple[dict[str, Any], dict[str, str]]:
  """Trains to `total_steps`, resuming from the newest checkpoint in `directory`.

  Every step's batch follows from the seed and the step alone. Validation happens before the first step, each
  `validate_every_steps` and at the end; `directory/validation.json` keeps Dice by step, scan and organ.

  Args:
    settings: the run; `settings.network` is where `network` was loaded from.
    network: of the SAM family, batch norm kept (`load(..., for_training=True)`).
    directory: for checkpoints, embeddings and scores; made if missing.
    report: called with a step and its metrics.
    progress: called with a word on what is being done before the first step.
    bar: called with images encoded and in all.

  Returns:
    Variables of the whole network and the header for its weights file, of the same kind as before.

  Raises:
    WeightsError: the network is not of the SAM family, or has batch norm folded.
    ConfigError: settings that do not go together, or a checkpoint in `directory` of another run.
    InputError: a scan cannot be used, or no slice shows an organ that was asked for.
    NotFinite: the loss is no number; its batch is in `directory`.
    Stopped: SIGTERM came; the state is kept.
    OutputError: a file cannot be written.
  """
  connect(settings.cluster)
  mesh = sharding.make_mesh(settings.mesh)
  sharding.check_batch(settings.data.images_per_step, 1, mesh)
  module = _module(network, settings)
  progress("reading scans")
  learnt = slices_to_learn(settings.data, module.variant)
  held_out = slices_to_validate(settings.data, module.variant, learnt)
  tuning = _Tuning(settings, network, module, mesh)
  embeddings = None
  if settings.train == "decoder":
    progress("encoding slices")
    embeddings = embeddings_of(module, network.variables, network.sha256, learnt, directory, bar)
  validate = None if held_out is None else _validation(tuning, held_out, directory, progress, bar)
  rows = sharding.local_rows(settings.data.images_per_step, mesh)
  source = MaskSource(learnt, embeddings, settings.data, settings.seed, rows, settings.optimizer.total_steps)
  checkpoints = Checkpoints(directory / "checkpoints", settings.checkpoint)
  try:
    with stops_on_sigterm() as asked_to_stop:
      progress("training")
      state = _Loop(tuning, source, directory, checkpoints, report, validate, asked_to_stop).train(_identity(learnt))
      return sharding.to_host(tuning.variables(state)), _header(settings, network)
  finally:
    checkpoints.close()


def _module(network: Network, settings: FinetuneSettings) -> Sam:
  if not isinstance(network.module, Sam):
    raise WeightsError(f"{network.source}: a {network.kind} network has no masks to train; give one such as litemedsam")
  if network.module.folded:
    raise WeightsError(f"{network.source}: its batch norm is folded; load it with for_training=True")
  if settings.optimizer.accumulate != 1 or settings.optimizer.ema_decay:
    raise ConfigError("optimizer.accumulate and optimizer.ema_decay are for pre-training; leave them as they are")
  return network.module.clone(dtype=jnp.dtype(settings.dtype), remat=settings.train != "decoder")


def _identity(learnt: LabelledSlices) -> str:
  return json.dumps([[scan.name for scan in learnt.scans], len(learnt), sorted(learnt.organs)])


def _header(settings: FinetuneSettings, network: Network) -> dict[str, str]:
  return {
    **{name: value for name, value in network.header.items() if name != "format"},
    "kind": network.kind,
    "finetuned_from": network.sha256,
    "trained_as": settings.name,
    "trained_part": settings.train,
    "trained_steps": str(settings.optimizer.total_steps),
  }


class _Tuning:
  """What is trained and how: the step, and the whole network at any state."""

  def __init__(self, settings: FinetuneSettings, network: Network, module: Sam, mesh: Mesh):
    self.settings, self.network, self.module, self.mesh = settings, network, module, mesh
    key = jax.random.key(settings.seed)
    trained, frozen = tuned.split(network.params, settings.train, settings.lora_rank, key)
    host = jax.device_get((trained, frozen, network.variables.get("batch_stats")))
    self._start, self.frozen, self._stats = (sharding.put_replicated(tree, mesh) for tree in host)
    self.updates_stats = settings.batch_norm == "updated" and settings.train != "decoder" and self._stats is not None
    self._optimizer = make_optimizer(settings.optimizer)

  def start(self) -> TuneState:
    """State before the first step."""
    place = sharding.replicated(self.mesh)
    moments = jax.jit(self._optimizer.init, out_shardings=place)(self._start)
    count = sharding.put_replicated(np.zeros((), np.int32), self.mesh)
    return TuneState(count, self._start, moments, self._stats if self.updates_stats else None)

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

  def loss(trained: Any, frozen: Any, stats: Any, updates: bool, batch: MaskBatch) -> tuple[Array, Any]:
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
    answer = module.apply({"params": params}, embedding, boxes=batch.boxes, method="decode")
    logits, iou = cast(tuple[Array, Array], answer)
    total, metrics = mask_loss(logits[:, 0], iou[:, 0], jnp.asarray(batch.truth), settings.loss)
    return total, (metrics, stats)

  def step(state: TuneState, batch: MaskBatch, frozen: Any, fixed: Any) -> tuple[TuneState, dict[str, Array]]:
    updates_stats = state.batch_stats is not None
    stats = state.batch_stats if updates_stats else fixed
    gradient, (metrics, stats) = jax.grad(loss, has_aux=True)(state.params, frozen, stats, updates_stats, batch)
    updates, moments = optimizer.update(gradient, state.optimizer, state.params)
    metrics["gradient_norm"] = optax.global_norm(gradient)
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
      _keep_scores(path, step, scores)
    return means_of(scores)

  return validate


def _keep_scores(path: Path, step: int, scores: dict[str, dict[str, float]]) -> None:
  part = path.with_name(f".{path.name}.{os.getpid()}.part")
  try:
    before = json.loads(path.read_text()) if path.is_file() else {}
    part.write_text(json.dumps(before | {str(step): scores}, indent=1) + "\n")
    os.replace(part, path)
  except (OSError, ValueError) as error:
    raise OutputError(f"{path}: cannot be written ({error})") from error
  finally:
    part.unlink(missing_ok=True)


@dataclasses.dataclass
class _Loop:
  """The steps of one run."""

  tuning: _Tuning
  source: MaskSource
  directory: Path
  checkpoints: Checkpoints
  report: Report
  validate: Validate | None
  asked_to_stop: Callable[[int], bool]

  def train(self, identity: str) -> TuneState:
    """All steps that are left."""
    settings, last = self.tuning.settings, self.tuning.settings.optimizer.total_steps
    state, first = self._resumed(identity)
    step_function, waiting = self.tuning.step(), Waiting(self.directory)
    if first == 0:
      self._score(0, state)
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
      if done % settings.checkpoint.every_steps == 0 or done == last or stop:
        waiting.all()
        position = {"next_step": done, "drawn_from": identity, "network": self.tuning.network.sha256}
        self.checkpoints.save(done, state, settings, position, validated)
      if stop and done < last:
        raise Stopped(f"stopped by SIGTERM after step {done}; the same command goes on from there")
    return state

  def _resumed(self, identity: str) -> tuple[TuneState, int]:
    state, tuning = self.tuning.start(), self.tuning
    fields = {name: value for name, value in state._asdict().items() if value is not None}
    place = sharding.replicated(tuning.mesh)
    wanted = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), fields)
    found = self.checkpoints.read(wanted)
    if found is None:
      return state, 0
    values, config, position = found
    if config.get("train") != tuning.settings.train or position.get("network") != tuning.network.sha256:
      raise ConfigError(
        f"{self.directory}: its checkpoint comes from another network or trains another part ({config.get('train')}); "
        "choose another --workdir"
      )
    if position["drawn_from"] != identity:
      warnings.warn(f"resuming at step {position['next_step']} with other slices than before", stacklevel=2)
    return TuneState(**{"batch_stats": None, **values}), int(position["next_step"])

  def _score(self, step: int, state: TuneState) -> dict[str, float]:
    if self.validate is None:
      return {}
    found = self.validate(step, state)
    self.report(step, found)
    return found

  def _batches(self, first: int) -> Iterator[MaskBatch]:
    data, mesh = self.tuning.settings.data, self.tuning.mesh
    for local in loader.batches(cast(Any, self.source), first, data.threads):
      yield sharding.put_batch(cast(MaskBatch, local), data.images_per_step, mesh)


def _renamed(pace: dict[str, float]) -> dict[str, float]:
  return {name.replace("scans_per_second", "images_per_second"): value for name, value in pace.items()}
