"""One run of any recipe: steps, measurements, records, checkpoints that a later start goes on from."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, NamedTuple

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from medlsam_jax import notices, platform
from medlsam_jax.errors import ConfigError
from medlsam_jax.train import checkpoint, cluster, sharding
from medlsam_jax.train.clock import Clock
from medlsam_jax.train.goodput import Goodput
from medlsam_jax.train.late_metrics import LateMetrics
from medlsam_jax.train.recipe import Batch, Json, Recipe, State
from medlsam_jax.train.records import Pace
from medlsam_jax.train.setting_checks import check_start
from medlsam_jax.train.settings import RunSettings
from medlsam_jax.train.sigterm import Stopped, stops_on_sigterm
from medlsam_jax.train.trace import Trace
from medlsam_jax.train.work import flop_of

Report = Callable[[int, Mapping[str, float]], None]


class Trained(NamedTuple, Generic[State]):
  """What a run gives."""

  state: State
  step: int
  """That it is of: the last, or the best; 0 is the state before training."""
  metrics: dict[str, float]
  """Of the best state, by the name of `checkpoint.best_metric`; empty where the last is given."""


def begin(settings: RunSettings) -> Mesh:
  """Joins the other processes of a run and lays out the devices; must come before anything else asks JAX for these.

  Raises:
    ConfigError: processes that do not find each other, or devices that cannot be laid out so.
  """
  cluster.connect(settings.cluster)
  return sharding.make_mesh(settings.mesh)


def train(
  recipe: Recipe[State, Batch],
  directory: epath.PathLike,
  report: Report = lambda step, metrics: None,
  progress: Callable[[str], None] = lambda text: None,
  profile: Path | None = None,
  ended: Callable[[dict[str, float]], None] = lambda shares: None,
  began: float | None = None,
) -> Trained[State]:
  """Trains to `total_steps`, going on from the newest checkpoint in `directory`.

  Args:
    recipe: what is trained.
    directory: for checkpoints, and for the batch of a step whose loss is no number; made if missing. May be an address
      such as gs://bucket/run.
    report: called with a step and its metrics each `log_every_steps`, and with what was measured.
    progress: called with a word on what is being done.
    profile: folder for a trace of a few steps.
    ended: called after the last step, or when the run is stopped, with what its time went into (`goodput`).
    began: when the run did, by `time.perf_counter`; None: now.

  Raises:
    NotFinite: the loss is NaN or infinite; its batch is in `directory`, and the last checkpoint stays.
    Stopped: SIGTERM came; the state is kept.
    ConfigError: the checkpoint in `directory` is of another run or a later step.
    InputError: a batch cannot be made, or every checkpoint is damaged.
    OutputError: a checkpoint cannot be written.
  """
  directory, goodput = epath.Path(directory), Goodput(time.perf_counter() if began is None else began)
  checkpoints = checkpoint.Checkpoints(directory / checkpoint.FOLDER, recipe.settings.checkpoint)
  with contextlib.closing(checkpoints), stops_on_sigterm() as asked_to_stop:
    run = _Run(recipe, directory, checkpoints, report, asked_to_stop, Trace(profile), goodput)
    try:
      return run.train(progress)
    finally:
      ended(goodput.shares())


@dataclasses.dataclass
class _Run(Generic[State, Batch]):
  """The steps of one program."""

  recipe: Recipe[State, Batch]
  directory: epath.Path
  checkpoints: checkpoint.Checkpoints
  report: Report
  asked_to_stop: Callable[[int], bool]
  trace: Trace
  goodput: Goodput

  def train(self, progress: Callable[[str], None]) -> Trained[State]:
    """All steps that are left, or those that there is time for."""
    recipe, settings, mesh, spent = self.recipe, self.recipe.settings, self.recipe.mesh, self.goodput.spent
    state, position = self._start()
    first, clock = int(position["next_step"]), Clock(settings.optimizer, self.goodput.began, position.get("done", 0.0))
    last = self._last(first, clock)
    progress("training")
    kept = self._kept(position, first, state)
    pace, late = Pace(recipe.batches.per_step, recipe.batches.items), LateMetrics(self.directory)
    batches = recipe.batches.from_step(first, mesh)
    self.goodput.prepared()
    for step in range(first, last):
      self.trace.before(step - first, last - first)
      began = time.perf_counter()
      with spent("waiting for data"):
        batch = next(batches)
      pace.step(time.perf_counter() - began)
      share = (sharding.put_replicated(np.float32(clock.share(step)), mesh),) if clock.runs else ()
      with jax.transfer_guard("disallow"), spent("compiling" if step == first else None):
        if step == first and (peak := platform.peak_flop_s(mesh.devices.flat[0])):
          pace.works(flop_of(recipe.step, state, batch, *share), peak * mesh.devices.size)
        state, metrics = recipe.step(state, batch, *share)
      done = step + 1
      # some steps late, so that the device does not stand still while its numbers are looked at
      late.push(done, batch, metrics)
      if step == first:
        clock.compiled(done)
      if clock.share(done) >= 1:
        last = done
      stop = self.asked_to_stop(done)
      if done % settings.log_every_steps == 0 or done == last:
        timed = {"run_share": clock.share(done)} if clock.runs else {}
        self.report(done, late.all() | pace.report() | timed)
      measured = self._measured(done, last, state)
      if done % settings.checkpoint.every_steps == 0 or done == last or stop or (measured and recipe.gives_best):
        late.all()
        with spent("saving"):
          timed = {"done": clock.share(done)} if clock.runs else {}
          self.checkpoints.save(done, state, settings, {"next_step": done, **kept, **timed}, measured)
      if stop and done < last:
        raise Stopped(f"stopped by SIGTERM after step {done}; the same command goes on from there")
      if done == last:
        break
    batches.close()
    self.trace.end()
    return self._best(state, last, kept["before"]) if recipe.gives_best else Trained(state, last, {})

  def _start(self) -> tuple[State, Json]:
    """State to go on from, and its position."""
    recipe, identity = self.recipe, self.recipe.identity
    restored = self.checkpoints.restore(recipe.shapes)
    if restored is None:
      return recipe.init(), {"next_step": 0}
    state, config, position = restored
    if reason := identity.differs(config, position):
      raise ConfigError(f"{self.checkpoints.directory}: {reason}")
    if position.get("drawn_from") != identity.drawn_from:
      notices.warn(f"resuming at step {position['next_step']} with other {identity.data} than before")
    return state, position

  def _last(self, first: int, clock: Clock) -> int:
    """The step to end with: none more where the time is up."""
    last = self.recipe.settings.optimizer.total_steps
    check_start(first, last, self.checkpoints.directory)
    if clock.runs and clock.share(first) >= 1 and first < last:
      notices.warn(f"the time of this run was up after step {first}; go on with --start-from in another --workdir")
      last = first
    if self.trace.wanted and first == last:
      notices.warn(f"step {last} is the last of this run and done: there is nothing to trace")
    return last

  def _kept(self, position: Json, first: int, state: State) -> Json:
    """What every checkpoint of the run keeps; with `gives_best` the figures of the state before training, too."""
    recipe = self.recipe
    if cluster.is_main():
      recipe.goes_on(first)
    kept: Json = {"drawn_from": recipe.identity.drawn_from, **recipe.identity.origin}
    if recipe.gives_best:
      before = position.get("before")
      kept["before"] = self._measured(0, 0, recipe.init() if first else state) if before is None else before
    return kept

  def _measured(self, done: int, last: int, state: State) -> dict[str, float]:
    """What is due after a step."""
    measured = dict[str, float]()
    with self.goodput.spent("measuring"):
      for each in self.recipe.validate:
        if each.every_steps and (done % each.every_steps == 0 or done == last):
          measured |= each.of(done, state)
    if measured:
      self.report(done, measured)
    return measured

  def _best(self, state: State, step: int, before: Mapping[str, float]) -> Trained[State]:
    """The best state and its metric; that before training where none is better, the last where none was measured."""
    best, name = self.checkpoints.best(), self.recipe.settings.checkpoint.best_metric
    if best is None:
      return Trained(state, step, {})
    best_step, value = best
    if name in before and not checkpoint.better(name, value, before[name]):
      return Trained(self.recipe.init(), 0, {name: before[name]})
    if best_step != step and (restored := self.checkpoints.restore(self.recipe.shapes, best_step)):
      state = restored.state
    return Trained(state, best_step, {name: value})
