"""Which device holds what: the mesh, rules from a parameter's name to its layout, and batches onto devices.

Rules are data. What no rule names, or what does not divide, is replicated. Optimizer state and averaged weights follow
the parameter whose name they end in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from medlsam_jax import platform
from medlsam_jax.errors import ConfigError
from medlsam_jax.train.settings import MeshSettings

AnyBatch = TypeVar("AnyBatch", bound=NamedTuple)
State = TypeVar("State")

Rules = Sequence[tuple[str, PartitionSpec]]
"""Pattern of a parameter's path a/b/c and how it is laid out, the first that is found."""


def make_mesh(settings: MeshSettings, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """The mesh of axes `data` and `model` over all devices.

  Raises:
    ConfigError: the devices cannot be laid out so.
    DeviceError: none of those that the environment asks for can be used.
  """
  platform.require_devices()
  devices = jax.devices() if devices is None else devices
  data = settings.data or len(devices) // max(settings.model, 1)
  if settings.model < 1 or data < 1 or data * settings.model != len(devices):
    raise ConfigError(
      f"mesh.data {settings.data} and mesh.model {settings.model} do not lay out {len(devices)} devices; "
      "their product must be that number (mesh.data 0 takes all that mesh.model leaves)"
    )
  types = (jax.sharding.AxisType.Auto,) * 2
  return jax.make_mesh((data, settings.model), ("data", "model"), axis_types=types, devices=list(devices))


def check_batch(groups: int, accumulate: int, mesh: Mesh, field: str) -> None:
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


def shardings(tree: PyTree, mesh: Mesh, rules: Rules = ()) -> PyTree:
  """A sharding for each array (or shape) of a tree, by the first rule whose pattern is found in its path a/b/c."""

  def of(path: jax.tree_util.KeyPath, leaf: jax.ShapeDtypeStruct | jax.Array) -> NamedSharding:
    spec = next((spec for pattern, spec in rules if re.search(pattern, path_name(path))), PartitionSpec())
    return NamedSharding(mesh, spec if _divides(spec, leaf.shape, mesh) else PartitionSpec())

  return jax.tree_util.tree_map_with_path(of, tree)


def path_name(path: jax.tree_util.KeyPath) -> str:
  """Place of a leaf in a tree as a/b/c."""
  return "/".join(str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path)


def laid_out(shapes: State, mesh: Mesh, rules: Rules = ()) -> State:
  """Shapes and dtypes of a state with their shardings, for what is to be restored."""
  return jax.tree.map(
    lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), shapes, shardings(shapes, mesh, rules)
  )


def _divides(spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh) -> bool:
  if len(spec) > len(shape):
    return False
  return all(axis is None or size % mesh.shape[axis] == 0 for size, axis in zip(shape, spec, strict=False))


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Items of a batch along `data`."""
  return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
  """The same on every device."""
  return NamedSharding(mesh, PartitionSpec())


def local_rows(groups: int, mesh: Mesh) -> range:
  """Items of a batch that this process has to provide.

  Raises:
    ConfigError: they are not next to each other, which a mesh over hosts of several sizes may cause.
  """
  cuts = batch_sharding(mesh).addressable_devices_indices_map((groups,)).values()
  rows = sorted({row for cut in cuts if cut is not None for row in range(groups)[cut[0]]})
  if rows != list(range(rows[0], rows[-1] + 1)):
    raise ConfigError("the devices of this process are not neighbours along mesh.data; change mesh.model")
  return range(rows[0], rows[-1] + 1)


def put_batch(local: AnyBatch, groups: int, mesh: Mesh) -> AnyBatch:
  """This process's rows of a batch, a named tuple of arrays, as arrays over all devices; a field may be None."""
  place = batch_sharding(mesh)
  rows = jax.tree.map(lambda a: jax.make_array_from_process_local_data(place, a, (groups, *a.shape[1:])), tuple(local))
  return type(local)(*rows)


def put_replicated(tree: PyTree, mesh: Mesh) -> PyTree:
  """Host arrays, equal in all processes, on every device."""
  place = replicated(mesh)
  return jax.tree.map(lambda a: jax.make_array_from_callback(np.shape(a), place, lambda cut: np.asarray(a)[cut]), tree)


def to_host(tree: PyTree) -> PyTree:
  """Arrays that may lie over many processes as host arrays, in every process."""
  if jax.process_count() == 1:
    return jax.device_get(tree)
  from jax.experimental import multihost_utils

  return multihost_utils.process_allgather(tree, tiled=True)
