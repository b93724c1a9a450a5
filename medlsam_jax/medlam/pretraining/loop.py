"""A pre-training run: data, mesh, steps, validation, probe, checkpoints that a later start resumes from."""

from __future__ import annotations

import collections
import dataclasses
import functools
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from medlsam_jax import notices
from medlsam_jax.medlam.pretraining import loader
from medlsam_jax.medlam.pretraining.export import weights_header as weights_header
from medlsam_jax.medlam.pretraining.pairs import Batch, cut_group, joined
from medlsam_jax.medlam.pretraining.step import TrainState, init_state, make_step, make_validation, rehearse
from medlsam_jax.medlam.pretraining.training_scans import data_sets, fingerprint, phantom_scans
from medlsam_jax.train import cluster, sharding
from medlsam_jax.train.checkpoint import Checkpoints
from medlsam_jax.train.checks import check_pretraining, check_start
from medlsam_jax.train.clock import Clock
from medlsam_jax.train.goodput import Goodput
from medlsam_jax.train.records import Pace
from medlsam_jax.train.settings import PretrainSettings
from medlsam_jax.train.watch import NotFinite as NotFinite
from medlsam_jax.train.watch import Stopped, Waiting, stops_on_sigterm

VALIDATION_SEED = 10**6
"""First phantom seed of validation; training and probe use others."""
_VALIDATION_PATCHES = 8
_AHEAD = 2
"""Batches on the device beside the one in use."""
_PROFILED = (10, 13)
"""Steps after the start that `--profile` traces: compiled and warm by then. A shorter run has its last step traced."""

Report = Callable[[int, Mapping[str, float]], None]
Probe = Callable[[Any, PretrainSettings], Mapping[str, float]]
"""Network parameters (host arrays) and settings -> figures to report; what it runs is not this module's concern."""


def run(
  settings: PretrainSettings,
  directory: Path,
  report: Report = lambda step, metrics: None,
  progress: Callable[[str], None] = lambda text: None,
  probe: Probe | None = None,
  profile: Path | None = None,
  network: Any = None,
  ended: Callable[[dict[str, float]], None] = lambda shares: None,
) -> dict[str, Any]:
  """Train to `total_steps`, resuming from the newest checkpoint in `directory`, and return the network's parameters.

  Every step's batch follows from the seed and the step alone, so a resumed run draws what an unbroken one would, also
  on another number of devices or processes.

  Args:
    settings: the run.
    directory: for checkpoints, and for the batch of a step whose loss is no number; made if missing.
    report: called with a step and its metrics each `log_every_steps`, and with validation and probe figures.
    progress: called with a word on what is being done before the first step.
    probe: called each `probe_every_steps` and at the end.
    profile: folder for a trace of a few steps.
    network: parameters to start from in place of random ones, where no checkpoint is there to resume from.
    ended: called after the last step, or when the run is stopped, with what its time went into (`goodput`).

  Raises:
    NotFinite: the loss is NaN or infinite; its batch is in `directory`, and the last checkpoint stays.
    Stopped: SIGTERM came; the state is kept.
    ConfigError: the checkpoint in `directory` belongs to another network or a later step, or settings that do not go
      together.
    InputError: a scan or shard cannot be used.
    OutputError: a checkpoint cannot be written.
  """
  began = time.perf_counter()
  check_pretraining(settings)
  cluster.connect(settings.cluster)
  mesh = sharding.make_mesh(settings.mesh)
  sharding.check_batch(settings.data.scans_per_step, settings.optimizer.accumulate, mesh)
  groups = settings.data.scans_per_step
  loader.check_crops(settings.data.crops_per_scan, groups, sharding.local_rows(groups, mesh))
  rehearse(settings)
  sets = data_sets(settings.data, progress)
  held_out = _validation_batch(settings, progress)
  checkpoints = Checkpoints(directory / "checkpoints", settings.checkpoint)
  try:
    with stops_on_sigterm() as asked_to_stop:
      parts = _Parts(settings, mesh, directory, checkpoints, report, probe, profile, network, asked_to_stop, began)
      try:
        state = parts.train(_source(settings, sets, mesh), fingerprint(settings.data, sets), held_out, progress)
      finally:
        ended(parts.goodput.shares())
      return sharding.to_host(state.best_network)
  finally:
    checkpoints.close()


def _source(settings: PretrainSettings, sets: list[loader.DataSet], mesh: jax.sharding.Mesh) -> loader.BatchSource:
  data = settings.data
  plan = loader.Plan(
    settings.seed, data.scans_per_step, data.patches_per_scan, data.crops_per_scan, settings.network.cube_edge
  )
  return loader.BatchSource(sets, plan, sharding.local_rows(data.scans_per_step, mesh), settings.optimizer.total_steps)


def _validation_batch(settings: PretrainSettings, progress: Callable[[str], None]) -> Batch | None:
  """Cubes of phantoms that are not trained on, always the same; the same in every process."""
  scans = phantom_scans(VALIDATION_SEED, settings.data.validation_phantoms, progress)
  if not scans:
    return None
  rng = np.random.default_rng(0)
  return joined([cut_group(rng, scan, _VALIDATION_PATCHES, settings.network.cube_edge) for scan in scans])


@dataclasses.dataclass
class _Parts:
  """What the steps of one run share."""

  settings: PretrainSettings
  mesh: jax.sharding.Mesh
  directory: Path
  checkpoints: Checkpoints
  report: Report
  probe: Probe | None
  profile: Path | None
  network: Any
  asked_to_stop: Callable[[int], bool]
  began: float
  """When the run did, by `time.perf_counter`."""
  tracing: bool = False

  @functools.cached_property
  def goodput(self) -> Goodput:
    """What the time goes into."""
    return Goodput(self.began)

  def train(
    self, source: loader.BatchSource, drawn_from: str, held_out: Batch | None, progress: Callable[[str], None]
  ) -> TrainState:
    """All steps that are left, or those that there is time for."""
    settings, last = self.settings, self.settings.optimizer.total_steps
    restored = self.checkpoints.restore(settings, self.mesh)
    state = init_state(settings, self.mesh, self.network) if restored is None else restored[0]
    position = {"next_step": 0} if restored is None else restored[1]
    first, clock = int(position["next_step"]), Clock(settings.optimizer, self.began, position.get("done", 0.0))
    check_start(first, last, self.checkpoints.directory)
    if clock.runs and clock.share(first) >= 1 and first < last:
      notices.warn(f"the time of this run was up after step {first}; go on with --start-from in another --workdir")
      last = first
    if self.profile is not None and first == last:
      notices.warn(f"step {last} is the last of this run and done: there is nothing to trace")
    if restored is not None and position.get("drawn_from") != drawn_from:
      notices.warn(f"resuming at step {first} with other data than before")
    step_function, validate = make_step(settings, self.mesh), self._validation(held_out)
    pace, waiting = Pace(settings.data.scans_per_step), Waiting(self.directory)
    progress("training")
    batches, spent = self._batches(source, first), self.goodput.spent
    self.goodput.prepared()
    for step in range(first, last):
      self._trace(step - first, last - first)
      began = time.perf_counter()
      with spent("waiting for data"):
        batch = next(batches)
      pace.step(time.perf_counter() - began)
      share = (sharding.put_replicated(np.float32(clock.share(step)), self.mesh),) if clock.runs else ()
      with jax.transfer_guard("disallow"), spent("compiling" if step == first else None):
        state, metrics = step_function(state, batch, *share)
      # a step behind, so that the device does not stand still while its numbers are looked at
      waiting.push(step + 1, batch, metrics)
      done = step + 1
      if step == first:
        clock.compiled(done)
      if clock.share(done) >= 1:
        last = done
      stop = self.asked_to_stop(done)
      if done % settings.log_every_steps == 0 or done == last:
        timed = {"run_share": clock.share(done)} if clock.runs else {}
        self.report(done, waiting.all() | pace.report() | timed)
      if measured := self._measured(done, last, state.best_network, validate):
        self.report(done, measured)
      if done % settings.checkpoint.every_steps == 0 or done == last or stop:
        waiting.all()
        with spent("saving"):
          self.checkpoints.save(done, state, settings, self._position(done, drawn_from, clock), measured)
      if stop and done < last:
        raise Stopped(f"stopped by SIGTERM after step {done}; the same command goes on from there")
      if done == last:
        break
    batches.close()
    self._trace(None)
    return state

  def _validation(self, held_out: Batch | None) -> Callable[[Any], float] | None:
    """Network parameters -> error in mm on the held-out batch."""
    if held_out is None:
      return None
    error, batch = make_validation(self.settings), sharding.put_replicated(held_out, self.mesh)
    return lambda network: float(jax.device_get(error(network, batch)))

  def _measured(self, done: int, last: int, network: Any, validate: Callable[[Any], float] | None) -> dict[str, float]:
    """What is due after a step, of validation and probe."""
    measured = dict[str, float]()
    with self.goodput.spent("measuring"):
      if validate is not None and (done % self.settings.validate_every_steps == 0 or done == last):
        measured["validation_error_mm"] = validate(network)
      if self.probe is not None and _due(done, self.settings.probe_every_steps, last):
        measured |= self.probe(sharding.to_host(network), self.settings)
    return measured

  @staticmethod
  def _position(done: int, drawn_from: str, clock: Clock) -> dict[str, Any]:
    """Where a checkpoint's run stands."""
    timed = {"done": clock.share(done)} if clock.runs else {}
    return {"next_step": done, "drawn_from": drawn_from, **timed}

  def _batches(self, source: loader.BatchSource, first: int) -> Generator[Batch]:
    """Batches over the devices, a few sent ahead of their use."""
    data, ahead = self.settings.data, collections.deque[Batch]()
    for local in loader.batches(source, first, data.threads, data.workers):
      ahead.append(sharding.put_batch(local, data.scans_per_step, self.mesh))
      if len(ahead) > _AHEAD:
        yield ahead.popleft()
    yield from ahead

  def _trace(self, steps_done: int | None, steps: int = 0) -> None:
    """Starts or ends the trace, before a step or after all."""
    if self.profile is None:
      return
    if steps_done is not None and steps_done == min(_PROFILED[0], steps - 1):
      jax.profiler.start_trace(str(self.profile))
      self.tracing = True
    elif self.tracing and steps_done in (_PROFILED[1], None):
      jax.profiler.stop_trace()
      self.tracing = False


def _due(done: int, every: int, last: int) -> bool:
  return bool(every) and (done % every == 0 or done == last)
