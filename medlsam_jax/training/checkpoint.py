"""States on disk: written in the background, whole or not at all, the last and the best kept; read on any devices.

Beside the state a checkpoint holds the run's settings and the loader's position.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from orbax.checkpoint import checkpoint_managers as policies

from medlsam_jax.errors import ConfigError, OutputError, WeightsError
from medlsam_jax.training.finetune_settings import FinetuneSettings
from medlsam_jax.training.settings import CheckpointSettings, PretrainSettings, from_mapping
from medlsam_jax.training.step import TrainState, abstract_state

HIGHER_IS_BETTER = ("_iou", "_dice")
"""Endings of metrics of which more is better."""
_STATE, _CONFIG, _LOADER = "state", "config", "loader"


class Checkpoints:
  """The checkpoints of one run."""

  def __init__(self, directory: Path, settings: CheckpointSettings):
    higher = settings.best_metric.endswith(HIGHER_IS_BETTER)

    def rank(metrics: Any) -> float:
      # policies compare upwards; what was not measured at its step is worse than all that was
      return (1 if higher else -1) * metrics.get(settings.best_metric, -np.inf if higher else np.inf)

    keep: list[Any] = [policies.LatestN(settings.keep_last)]
    if settings.keep_best:
      keep.append(policies.BestN(get_metric_fn=rank, n=settings.keep_best, keep_checkpoints_without_metrics=False))
    # without `best_fn` metrics are not written, and a resumed run knows none of the earlier ones
    options = ocp.CheckpointManagerOptions(
      create=True, preservation_policy=policies.AnyPreservationPolicy(keep), best_fn=rank
    )
    names = (_STATE, _CONFIG, _LOADER)
    try:
      self._manager = ocp.CheckpointManager(directory.resolve(), options=options, item_names=names)
    except OSError as error:
      raise OutputError(f"{directory}: cannot be written ({error})") from error
    self.directory, self._settings = directory, settings

  def save(
    self,
    step: int,
    state: NamedTuple,
    settings: PretrainSettings | FinetuneSettings,
    loader: Mapping[str, Any],
    metrics: Mapping[str, float],
  ) -> None:
    """Starts writing; what went wrong with an earlier one is raised here or by `close`.

    Raises:
      OutputError: a checkpoint could not be written; earlier ones stay usable.
    """
    if step == self._manager.latest_step():
      return
    items = ocp.args.Composite(
      state=ocp.args.StandardSave(_saved(state)),
      config=ocp.args.JsonSave(json.loads(json.dumps(dataclasses.asdict(settings)))),
      loader=ocp.args.JsonSave(dict(loader)),
    )
    try:
      self._manager.save(step, args=items, metrics=dict(metrics))
    except (OSError, ValueError, RuntimeError) as error:
      raise _not_written(self.directory, error) from error

  def restore(self, settings: PretrainSettings, mesh: Mesh) -> tuple[TrainState, dict[str, Any]] | None:
    """The newest state, laid out over this mesh whatever wrote it, and the loader's position; None if there is none.

    Raises:
      ConfigError: the checkpoint belongs to another network, objectives or optimizer.
    """
    found = self.read(_saved(abstract_state(settings, mesh)))
    if found is None:
      return None
    state, config, loader = found
    before = from_mapping(PretrainSettings, config, str(self.directory))
    if _shape(before) != _shape(settings):
      raise ConfigError(f"{self.directory}: does not fit this config: it was trained with {before.network}")
    return TrainState(**{"ema": None, **state}), loader

  def best(self) -> tuple[int, float] | None:
    """Step and value of the best metric that was measured, of the checkpoints that are kept; None without any."""
    self._manager.wait_until_finished()
    name = self._settings.best_metric
    found = [(step, self._manager.metrics(step) or {}) for step in self._manager.all_steps()]
    known = [(step, float(metrics[name])) for step, metrics in found if name in metrics]
    higher = name.endswith(HIGHER_IS_BETTER)
    return max(known, key=lambda each: each[1] if higher else -each[1], default=None)

  def read(
    self, wanted: Mapping[str, Any], step: int | None = None
  ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]] | None:
    """Fields of a step's state (or the newest), shaped and laid out as `wanted`, its settings, the loader's position.

    Raises:
      ConfigError: the checkpoint has other fields or shapes.
    """
    newest = self._manager.latest_step() if step is None else step
    if newest is None:
      return None
    place = self._manager.directory / str(newest)
    try:
      found = self._manager.restore(
        newest,
        args=ocp.args.Composite(
          state=ocp.args.StandardRestore(wanted), config=ocp.args.JsonRestore(), loader=ocp.args.JsonRestore()
        ),
      )
    except (ValueError, KeyError, TypeError) as error:
      raise ConfigError(f"{place}: does not fit this config ({_first_line(error)})") from error
    except FileNotFoundError as error:
      raise ConfigError(f"{place}: not a checkpoint of this version ({error}); choose another --workdir") from error
    return found[_STATE], found[_CONFIG], found[_LOADER]

  def close(self) -> None:
    """Waits for what is being written.

    Raises:
      OutputError: as `save`.
    """
    try:
      self._manager.wait_until_finished()
    except (OSError, ValueError, RuntimeError) as error:
      raise _not_written(self.directory, error) from error
    finally:
      self._manager.close()


def _shape(settings: PretrainSettings) -> tuple[object, ...]:
  """What makes two networks the same; precision and memory may change in a resumed run."""
  network = settings.network
  return network.base_channels, network.patch_edge, tuple(network.feature_scales)


def _saved(state: NamedTuple) -> dict[str, Any]:
  return {name: value for name, value in state._asdict().items() if value is not None}


def _not_written(directory: Path, error: Exception) -> OutputError:
  return OutputError(
    f"{directory}: a checkpoint could not be written ({_first_line(error)}); the earlier ones stay usable: make room "
    "and start the same command again"
  )


def _first_line(error: Exception) -> str:
  return str(error).strip().partition("\n")[0][:300]


def steps_in(directory: Path) -> list[int]:
  """Steps of the whole checkpoints in a run's folder, rising."""
  if not directory.is_dir():
    return []
  return sorted(int(p.name) for p in directory.iterdir() if p.name.isdecimal() and (p / _STATE).is_dir())


def read_network(directory: Path, step: int | None = None) -> tuple[Any, PretrainSettings, int]:
  """Network parameters of a run as host arrays (the averaged ones if it keeps them), its settings, and the step.

  Args:
    directory: the run's `checkpoints/`.
    step: one of those kept; None takes the newest.

  Raises:
    WeightsError: no such checkpoint, or one that cannot be read.
  """
  steps = steps_in(directory)
  if not steps or (step is not None and step not in steps):
    raise WeightsError(f"{directory}: no checkpoint{'' if step is None else f' of step {step}'}; there are {steps}")
  step = steps[-1] if step is None else step
  folder = directory.resolve() / str(step)
  try:
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
      settings = from_mapping(PretrainSettings, reader.restore(folder / _CONFIG), str(folder))
    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    with ocp.StandardCheckpointer() as reader:
      shapes = reader.metadata(folder / _STATE).item_metadata.tree
      place = jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=one), shapes)
      state = reader.restore(folder / _STATE, place)
  except (OSError, ValueError, KeyError) as error:
    raise WeightsError(f"{folder}: cannot be read as a checkpoint ({_first_line(error)})") from error
  return jax.device_get(state.get("ema") or state["params"]["network"]), settings, step
