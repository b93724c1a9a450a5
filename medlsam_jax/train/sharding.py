"""Which device holds what: the mesh, rules from a parameter's name to its layout, and batches onto devices.

Rules are data. What no rule names, or what does not divide, is replicated. Optimizer state and averaged weights follow
the parameter whose name they end in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from medlsam_jax.errors import ConfigError
from medlsam_jax.train.settings import MeshSettings

AnyBatch = TypeVar("AnyBatch", bound=NamedTuple)

RULES: tuple[tuple[str, PartitionSpec], ...] = (
  # two thirds of the parameters; the rest is below a megabyte a tensor at the published width
  (r"network/fc1/kernel$", PartitionSpec("model", None)),
  (r"network/conv[345]/\w+/kernel$", PartitionSpec(None, None, None, None, "model")),
)


def make_mesh(settings: MeshSettings, devices: Sequence[Any] | None = None) -> Mesh:
  """The mesh of axes `data` and `model` over all devices.

  Raises:
    ConfigError: the devices cannot be laid out so.
  """
  devices = jax.devices() if devices is None else devices
  data = settings.data or len(devices) // max(settings.model, 1)
  if settings.model < 1 or data < 1 or data * settings.model != len(devices):
    raise ConfigError(
      f"mesh.data {settings.data} and mesh.model {settings.model} do not lay out {len(devices)} devices; "
      "their product must be that number (mesh.data 0 takes all that mesh.model leaves)"
    )
  types = (jax.sharding.AxisType.Auto,) * 2
  return jax.make_mesh((data, settings.model), ("data", "model"), axis_types=types, devices=list(devices))


def check_batch(groups: int, accumulate: int, mesh: Mesh, field: str = "data.scans_per_step") -> None:
  """Refuses a batch that the mesh cannot split evenly.

  Raises:
    ConfigError: `field` is no multiple of parts times devices.
  """
  parts = accumulate * mesh.shape["data"]
  if groups % parts:
    raise ConfigError(
      f"{field} {groups} cannot be split over {mesh.shape['data']} devices in {accumulate} part(s) each; "
      f"make it a multiple of {parts}, or change mesh.data or optimizer.accumulate"
    )


def shardings(tree: Any, mesh: Mesh, rules: Sequence[tuple[str, PartitionSpec]] = RULES) -> Any:
  """A sharding for each array (or shape) of a tree, by the first rule whose pattern is found in its path a/b/c."""

  def of(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
    name = "/".join(str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path)
    spec = next((spec for pattern, spec in rules if re.search(pattern, name)), PartitionSpec())
    return NamedSharding(mesh, spec if _divides(spec, leaf.shape, mesh) else PartitionSpec())

  return jax.tree_util.tree_map_with_path(of, tree)


def _divides(spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh) -> bool:
  if len(spec) > len(shape):
    return False
  return all(axis is None or size % mesh.shape[axis] == 0 for size, axis in zip(shape, spec, strict=False))


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Scans of a batch along `data`."""
  return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
  """The same on every device."""
  return NamedSharding(mesh, PartitionSpec())


def local_rows(groups: int, mesh: Mesh) -> range:
  """Scans of a batch that this process has to provide.

  Raises:
    ConfigError: they are not next to each other, which a mesh over hosts of several sizes may cause.
  """
  cuts = batch_sharding(mesh).addressable_devices_indices_map((groups,)).values()
  rows = sorted({row for cut in cuts if cut is not None for row in range(groups)[cut[0]]})
  if rows != list(range(rows[0], rows[-1] + 1)):
    raise ConfigError("the devices of this process are not neighbours along mesh.data; change mesh.model")
  return range(rows[0], rows[-1] + 1)


def put_batch(local: AnyBatch, groups: int, mesh: Mesh) -> AnyBatch:
  """This process's rows of a batch, a named tuple of arrays, as arrays over all devices."""
  place = batch_sharding(mesh)
  return type(local)(*(jax.make_array_from_process_local_data(place, a, (groups, *a.shape[1:])) for a in local))


def put_replicated(tree: Any, mesh: Mesh) -> Any:
  """Host arrays, equal in all processes, on every device."""
  place = replicated(mesh)
  return jax.tree.map(lambda a: jax.make_array_from_callback(np.shape(a), place, lambda cut: np.asarray(a)[cut]), tree)


def to_host(tree: Any) -> Any:
  """Arrays that may lie over many processes as host arrays, in every process."""
  if jax.process_count() == 1:
    return jax.device_get(tree)
  from jax.experimental import multihost_utils

  return multihost_utils.process_allgather(tree, tiled=True)
