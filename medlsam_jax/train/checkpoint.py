"""States on disk: written in the background, whole or not at all, the last and the best kept; read on any devices.

Beside the state a checkpoint holds the run's settings and its position. One that a power cut or a full disk
has damaged is passed over with a warning: a run goes on from the newest whole one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import json
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Generic, NamedTuple, TypeVar

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from medlsam_jax import notices, platform
from medlsam_jax.errors import ConfigError, InputError, OutputError, WeightsError
from medlsam_jax.train.recipe import Json, State
from medlsam_jax.train.run_folder import folder_of_a_run
from medlsam_jax.train.settings import CheckpointSettings, RunSettings
from medlsam_jax.train.sharding import path_name

FOLDER = "checkpoints"
HIGHER_IS_BETTER = ("_iou", "_dice")
"""Endings of metrics of which more is better."""
_STATE, _CONFIG, _POSITION = "state", "config", "loader"
ASIDE = ".damaged"
"""Ending of the folder of a checkpoint that cannot be read."""
Result = TypeVar("Result")


class Restored(NamedTuple, Generic[State]):
  """What a checkpoint has."""

  state: State
  config: Json
  """The run's settings, as they were written."""
  position: Json
  """`next_step`, and what else the run keeps beside its arrays."""


class Checkpoints:
  """The checkpoints of one run."""

  def __init__(self, directory: epath.PathLike, settings: CheckpointSettings):
    directory = epath.Path(directory)
    name = settings.best_metric

    def rank(metrics: Mapping[str, float]) -> float:
      # policies compare upwards; what was not measured at its step is worse than all that was
      return _rank(name, metrics[name]) if name in metrics else -np.inf

    policies = ocp.training.preservation_policies
    keep = [policies.LatestN(settings.keep_last)]
    if settings.keep_best:
      keep.append(policies.BestN(get_metric_fn=rank, n=settings.keep_best, keep_checkpoints_without_metrics=False))
    self.directory, self._settings = directory, settings
    self._folders = contextlib.ExitStack()
    try:
      self._folders.enter_context(folder_of_a_run(directory))
      # the manager reads all metrics when it starts, and would end with the first that it cannot
      _forget_damaged_metrics(directory)
      preserved = policies.AnyPreservationPolicy(keep)
      self._manager = ocp.training.Checkpointer(directory.resolve(), context=_context(), preservation_policy=preserved)
    except OSError as error:
      self._folders.close()
      raise OutputError(f"{directory}: cannot be written ({error})") from error

  def save(
    self, step: int, state: NamedTuple, settings: RunSettings, position: Json, metrics: Mapping[str, float]
  ) -> None:
    """Starts writing; what went wrong with an earlier one is raised here or by `close`.

    Raises:
      OutputError: a checkpoint could not be written; earlier ones stay usable.
    """
    if step in self._steps():
      return
    config = json.loads(json.dumps(dataclasses.asdict(settings)))
    items = {_STATE: _saved(state), _CONFIG: config, _POSITION: position}
    try:
      # by default a step is left out while an earlier one is being written
      self._manager.save_checkpointables_async(step, items, force=True, metrics=dict(metrics))
    except (OSError, ValueError, RuntimeError) as error:
      raise _not_written(self.directory, error) from error

  def _steps(self) -> list[int]:
    return [each.step for each in self._manager.checkpoints]

  def best(self) -> tuple[int, float] | None:
    """Step and value of the best metric that was measured, of the checkpoints that are kept; None without any."""
    self._manager.wait()
    name = self._settings.best_metric
    measured = [(each.step, each.metrics or {}) for each in self._manager.checkpoints]
    known = [(step, float(metrics[name])) for step, metrics in measured if name in metrics]
    return max(known, key=lambda each: _rank(name, each[1]), default=None)

  def restore(self, shapes: State, step: int | None = None) -> Restored[State] | None:
    """A step's state, shaped and laid out as `shapes` whatever wrote it, its settings, and its position.

    Without a step: of the newest that is whole; those after it are set aside (renamed) with a warning, so that the run
    can write its own of these steps. None if there is none at all.

    Raises:
      ConfigError: the checkpoint has other fields or shapes.
      InputError: it is damaged, or each one is.
    """
    damaged: dict[int, str] = {}
    for number in reversed(self._steps()) if step is None else [step]:
      result, reason = _tried(functools.partial(self._read, number, shapes))
      if result is None:
        if difference := _difference(self.directory / str(number), _saved(shapes)):
          raise ConfigError(f"{self.directory / str(number)}: does not fit this config ({difference})")
        damaged[number] = reason
        continue
      if damaged:
        self._set_aside(damaged, number)
        self._manager.reload()
      return result
    if damaged:
      raise InputError(
        f"{self.directory}: no checkpoint there can be read ({_listed(damaged)}); delete {self.directory} to start "
        "anew, or choose another --workdir"
      )
    return None

  def _read(self, step: int, shapes: State) -> Restored[State]:
    wanted = {_STATE: _saved(shapes), _CONFIG: None, _POSITION: None}
    # one by one: where one is damaged, orbax would leave the others begun, and Python would warn of each
    items = {name: self._manager.load_checkpointables(step, {name: each})[name] for name, each in wanted.items()}
    config, position = items[_CONFIG], items[_POSITION]
    if not isinstance(config, dict) or not isinstance(position, dict) or "next_step" not in position:
      raise ValueError("its settings or its position are missing")
    return Restored(shapes._replace(**items[_STATE]), config, position)

  def _set_aside(self, damaged: Mapping[int, str], whole: int) -> None:
    """Renames damaged checkpoints, so that their steps are free, and says so."""
    names = ", ".join(f"{step}{ASIDE}" for step in damaged)
    notices.warn(
      f"{self.directory}: damaged: {_listed(damaged)}; going on from step {whole}. "
      f"What is damaged is kept as {names}; delete it when you like"
    )
    _together("before damaged checkpoints are renamed")
    if jax.process_index() == 0:
      for step in damaged:
        place = self.directory / f"{step}{ASIDE}"
        try:
          place.rmtree(missing_ok=True)
          (self.directory / str(step)).rename(place)
        except OSError as error:
          raise OutputError(f"{self.directory / str(step)}: cannot be renamed ({error}); delete it") from error
    _together("after damaged checkpoints are renamed")

  def close(self) -> None:
    """Waits for what is being written; a folder that was made for nothing is removed.

    Raises:
      OutputError: as `save`.
    """
    try:
      self._manager.wait()
    except (OSError, ValueError, RuntimeError) as error:
      raise _not_written(self.directory, error) from error
    finally:
      self._manager.close()
      self._folders.close()


def better(metric: str, value: float, other: float) -> bool:
  """Whether a value of a metric is better than another."""
  return _rank(metric, value) > _rank(metric, other)


def _rank(metric: str, value: float) -> float:
  return value if metric.endswith(HIGHER_IS_BETTER) else -value


def _together(where: str) -> None:
  """Waits for the other processes of the run."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(where)


def _tried(read: Callable[[], Result]) -> tuple[Result | None, str]:
  """What reading a checkpoint gives, or None and why that failed.

  Damage raises what the part that stumbles over it raises, a bare Exception among it. Of several arrays that fail one
  is told of; Python would print the others as pages of text when it drops them, and warn of reads never begun.
  """
  before = sys.unraisablehook
  sys.unraisablehook = lambda _: None
  with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    try:
      return read(), ""
    except (MemoryError, ConfigError):
      raise
    except Exception as error:
      if platform.memory_is_full(error):
        raise
      reason = _first_line(error)
    finally:
      gc.collect()
      sys.unraisablehook = before
  return None, reason


def _difference(place: epath.Path, wanted: Mapping[str, PyTree]) -> str:
  """How the state that is stored differs from the one that is wanted; empty where it does not, or nobody can tell."""
  try:
    stored = _shapes_by_path(_stored(place.resolve()))
  except Exception:  # metadata that is damaged, too
    return ""
  needed = _shapes_by_path(wanted)
  for path in sorted(stored.keys() | needed.keys()):
    if stored.get(path) != needed.get(path):
      return f"{path} is {stored.get(path, 'not there')}, this config needs {needed.get(path, 'none of it')}"
  return ""


def _shapes_by_path(tree: PyTree) -> dict[str, tuple[int, ...]]:
  return {path_name(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _forget_damaged_metrics(directory: epath.Path) -> None:
  """Empties files of metrics that cannot be read; the states beside them may be whole."""
  for step in steps_in(directory):
    file = directory / str(step) / "metrics" / "metrics"
    try:
      whole = not file.exists() or isinstance(json.loads(file.read_text()), dict)
    except ValueError:
      whole = False
    if not whole:
      notices.warn(f"{file}: cannot be read; step {step} does not count when the best is chosen")
      file.write_text("{}")


def _listed(damaged: Mapping[int, str]) -> str:
  return "; ".join(f"step {step}: {reason}" for step, reason in damaged.items())


def _saved(state: NamedTuple) -> dict[str, PyTree]:
  return {name: value for name, value in state._asdict().items() if value is not None}


def _not_written(directory: epath.Path, error: Exception) -> OutputError:
  return OutputError(
    f"{directory}: a checkpoint could not be written ({_first_line(error)}); the earlier ones stay usable: make room "
    "and start the same command again"
  )


def _first_line(error: Exception) -> str:
  return (str(error).strip().partition("\n")[0].partition(" See full TensorStore")[0] or type(error).__name__)[:200]


def steps_in(directory: epath.PathLike) -> list[int]:
  """Steps of the whole checkpoints in a run's folder, rising."""
  directory = epath.Path(directory)
  if not directory.is_dir():
    return []
  return sorted(int(p.name) for p in directory.iterdir() if p.name.isdecimal() and (p / _STATE).is_dir())


def read_arrays(directory: epath.PathLike, step: int | None = None) -> tuple[dict[str, PyTree], Json, int]:
  """Fields of a run's state on the first device, its settings as they were written, and the step.

  Args:
    directory: the run's `checkpoints/`.
    step: one of those kept; None takes the newest that is whole, with a warning about those that are not.

  Raises:
    WeightsError: no such checkpoint, or none that can be read.
  """
  steps = steps_in(directory)
  if not steps or (step is not None and step not in steps):
    raise WeightsError(f"{directory}: no checkpoint{'' if step is None else f' of step {step}'}; there are {steps}")
  damaged: dict[int, str] = {}
  for number in reversed(steps) if step is None else [step]:
    result, reason = _tried(functools.partial(_arrays_of, epath.Path(directory).resolve() / str(number)))
    if result is None:
      damaged[number] = reason
      continue
    if damaged:
      notices.warn(f"{directory}: damaged: {_listed(damaged)}; taking step {number}")
    return *result, number
  raise WeightsError(f"{directory}: cannot be read as a checkpoint ({_listed(damaged)}); there are {steps}")


def _arrays_of(folder: epath.Path) -> tuple[dict[str, PyTree], Json]:
  one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  shapes = jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=one), _stored(folder))
  with _context():
    items = ocp.load_checkpointables(folder, {_STATE: shapes, _CONFIG: None})
  return items[_STATE], items[_CONFIG]


def _stored(folder: epath.Path) -> PyTree:
  """Shapes and dtypes of the state in a checkpoint."""
  with _context():
    state = ocp.checkpointables_metadata(folder).metadata[_STATE]
  if state is None:
    raise ValueError("shapes of its state cannot be read")
  return state


def _context() -> ocp.Context:
  """Settings and positions are written as JSON, not as arrays."""
  registry = ocp.handlers.local_registry()
  for name in (_CONFIG, _POSITION):
    registry.add(ocp.handlers.JsonHandler, checkpointable_name=name)
  context = ocp.Context()
  context.checkpointables.registry = registry
  return context
