"""The jitted programs of bank and search: fixed shapes, so that each compiles once for all scans, organs and templates.

They take the network as `prepare` gives it, whose module is static: modules with equal settings share a program. A
module of float32 operands is worked out in float32 on every platform (`platform`). What goes into them, and when their
results are waited for, is said in `patches` and `calls`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TypeVar, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from medlsam_jax import platform
from medlsam_jax.errors import WeightsError
from medlsam_jax.geometry import PATCH_EDGE
from medlsam_jax.medlam.network.medlam import MedLAM, MedLAMOutput
from medlsam_jax.medlam.search import correlation, nodes
from medlsam_jax.network import Network, Variables

POINTS_PER_CALL = 6
"""Patches per call of the programs, where the device's memory suffices; shorter batches are padded, and on a CPU the
padding is skipped.

On every platform: the points of an organ, so that little of a call is padding. At full resolution they are 1.6 million
voxels, of which a GPU with 132 processors has twelve thousand for each.
"""
MAPS_HELD = 2**28
"""Numbers of the maps that are compared at once on an accelerator, 1 GiB, as far as points share patches: one point of
each patch is always compared."""

A = TypeVar("A")
B = TypeVar("B")


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=("variables",),
  meta_fields=("module", "patches_together", "patches_per_call"),
)
@dataclasses.dataclass(frozen=True)
class Prepared:
  """A network as the programs take it; all but its variables is static."""

  module: MedLAM
  variables: Variables
  """On the device."""
  patches_together: bool
  """The patches of a call go through the network together, not one after the other."""
  patches_per_call: int = POINTS_PER_CALL

  @property
  def dtype(self) -> jax.typing.DTypeLike:
    """Of the operands of products."""
    return self.module.dtype

  def run(self, patch: Float[Array, "z y x 1"], scales: tuple[int, ...]) -> MedLAMOutput:
    """The network's outputs for one patch."""
    return cast(MedLAMOutput, self.module.apply(self.variables, patch[None], feature_scales=scales))


def prepare(network: Network, dtype: str = "float32") -> Prepared:
  """The network with products of `dtype`, its variables on the device.

  Raises:
    WeightsError: the network is no MedLAM, or one for patches of another edge.
  """
  module = network.module
  if not isinstance(module, MedLAM) or module.patch_edge != PATCH_EDGE:
    raise WeightsError(
      f"{network.source}: {network.kind} cannot localize; it takes a MedLAM network for patches of {PATCH_EDGE} voxels"
    )
  device = platform.device()
  name = f"search: variables on {device}"
  if name not in network.ready:
    # named, because arrays that are on another device already would stay there
    network.ready[name] = jax.device_put(network.variables, device)
  at_once = network.ready.get(_at_once_on(device), POINTS_PER_CALL)
  return Prepared(module.clone(dtype=jnp.dtype(dtype)), network.ready[name], platform.patches_together(), at_once)


def less_at_once(network: Network, error: Exception) -> None:
  """After a call for which the device's memory did not suffice: `prepare` gives half the patches a call from now on.

  Raises:
    DeviceError: it was a single patch.
    Exception: `error` itself, where it says something else.
  """
  name = _at_once_on(platform.device())
  network.ready[name] = platform.fewer(error, network.ready.get(name, POINTS_PER_CALL), "patches")


def _at_once_on(device: jax.Device) -> str:
  return f"search: patches a call on {device}"


@jax.jit
@platform.at_its_precision
def positions(network: Prepared, patches: Float[Array, "n z y x 1"]) -> Float[Array, "n 3"]:
  """Anatomical coordinates of patches: encoder and head only."""
  return each(lambda patch: network.run(patch, ()).position[0], patches, network.patches_together)


@functools.partial(jax.jit, static_argnames=("scales", "edge"))
@platform.at_its_precision
def template_outputs(
  network: Prepared,
  patches: Float[Array, "n z y x 1"],
  used: Bool[Array, " n"],
  scales: tuple[int, ...],
  edge: int,
) -> tuple[Float[Array, "n 3"], dict[int, Float[Array, "n k k k c"]]]:
  """What a bank keeps of patches around template points: coordinates, and taps of every scale, `edge` voxels wide."""

  def run(patch: Array) -> tuple[Array, dict[int, Array]]:
    out = network.run(patch, scales)
    taps = {stride: correlation.centre_cube(volume, stride, edge)[0] for stride, volume in out.features.items()}
    return out.position[0], taps

  return _each_used(network, run, used, patches)


@jax.jit
@platform.at_its_precision
def best_moves(
  network: Prepared,
  patches: Float[Array, "n z y x 1"],
  used: Bool[Array, "n q"],
  taps: dict[int, Float[Array, "n q k k k c"]],
) -> tuple[Int[Array, "n q 3"], Float[Array, "n q"]]:
  """From each patch's centre to the places most similar to its `q` template points, in voxels, and how similar.

  A patch's features are computed once for all its points. The move is the place minus half an edge plus one, as
  published.
  """
  scales, operands = tuple(sorted(taps, reverse=True)), jnp.dtype(network.dtype)

  def run(patch: Array, own_used: Array, own_taps: dict[int, Array]) -> tuple[Array, Array]:
    features = {stride: volume[0] for stride, volume in network.run(patch, scales).features.items()}

    def place(_: Array, point_taps: dict[int, Array]) -> tuple[Array, Array]:
      voxel, score = correlation.best_voxel(correlation.similarity(features, point_taps, PATCH_EDGE, operands))
      return voxel - PATCH_EDGE // 2 + 1, score

    return _each_used(network, place, own_used, own_used, own_taps, at_once=_points_at_once(own_used, taps))

  return _each_used(network, run, used.any(1), patches, used, taps)


@functools.partial(jax.jit, static_argnames="reach")
@platform.at_its_precision
def template_moves(
  network: Prepared,
  patches: Float[Array, "n z y x 1"],
  shown: Bool[Array, "n q t"],
  taps: dict[int, Float[Array, "n q t k k k c"]],
  reach: int,
) -> tuple[Float[Array, "n q t 3"], Float[Array, "n q t"], Float[Array, "n q"]]:
  """From each patch's centre to the places most similar to `q` points of `t` templates, each on its own; in voxels.

  The mean of a point's templates is looked for in the whole patch, and each template within `reach` voxels of where
  that is found. Moves are unbiased and between voxels (`nodes`).

  Args:
    network: of `prepare`.
    patches: around the targets.
    shown: which templates have the point; none in padding, which is skipped.
    taps: by stride.
    reach: voxels to each side.

  Returns:
    Moves, the similarity to each template there, and the greatest similarity to their mean.
  """
  scales = tuple(sorted(taps, reverse=True))
  finest, operands = min(scales), jnp.dtype(network.dtype)
  middle = PATCH_EDGE // finest // 2

  def place(own: Array, own_taps: dict[int, Array], features: dict[int, Array]) -> tuple[Array, Array, Array]:
    weights = own.astype(jnp.float32) / own.sum(dtype=jnp.float32)
    mean = {stride: jnp.tensordot(weights, each, 1, precision="highest") for stride, each in own_taps.items()}
    whole = nodes.whole_similarity(features, mean, operands)
    node, best = correlation.best_voxel(whole)
    if len(own) == 1:
      top, score = nodes.peak(whole)
      return (top - middle)[None] * finest, score[None], best
    near, first = nodes.near_similarity(features, own_taps, node, reach, operands)
    top, score = jax.vmap(nodes.peak)(near)
    return (top + first - middle) * finest, score, best

  def run(patch: Array, own_shown: Array, own_taps: dict[int, Array]) -> tuple[Array, Array, Array]:
    out = network.run(patch, scales).features
    features = {stride: correlation.normalise_channels(volume[0]) for stride, volume in out.items()}
    near = functools.partial(place, features=features)
    at_once = _points_at_once(own_shown, taps)
    return _each_used(network, near, own_shown.any(-1), own_shown, own_taps, at_once=at_once)

  return _each_used(network, run, shown.any((1, 2)), patches, shown, taps)


def each(function: Callable[[A], B], batch: A, together: bool) -> B:
  """`function` of each row of a batch: of all at once, or of one after the other."""
  return jax.vmap(function)(batch) if together else jax.lax.map(function, batch)


def _each_used(
  network: Prepared, run: Callable[..., B], used: Bool[Array, " n"], *batched: PyTree, at_once: int | None = None
) -> B:
  """`run` of each row of `batched`, and zeros where `used` is false: those rows are skipped where patches go singly.

  Where they go together nothing is skipped, and a condition in each row would only make JAX repeat the weights for
  every row and convolve by group.

  Args:
    network: which says whether patches go together.
    run: takes a row.
    used: which rows count.
    batched: arrays by row.
    at_once: rows that go together, a divisor of all; None takes all.
  """
  if not network.patches_together:
    first, *rest = batched
    return each(_unless_padding(run, *batched), (first, used, *rest), together=False)
  size = at_once or len(used)
  groups = jax.tree.map(lambda a: a.reshape(-1, size, *a.shape[1:]), batched)
  result = each(lambda group: jax.vmap(run)(*group), groups, together=size == len(used))
  result = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), result)
  return jax.tree.map(lambda a: jnp.where(jnp.expand_dims(used, tuple(range(1, a.ndim))), a, 0), result)


def _points_at_once(used: Array, taps: dict[int, Array]) -> int:
  """How many points of each patch are compared at once, so that their maps stay within `MAPS_HELD`.

  Args:
    used: of the points of one patch.
    taps: of all patches of the call, by stride.
  """
  patches, points = len(next(iter(taps.values()))), len(used)
  held = max(correlation.numbers_held(PATCH_EDGE, stride, each.shape[-2]) for stride, each in taps.items())
  fitting = min(max(MAPS_HELD // (patches * held), 1), points)
  return next(count for count in range(fitting, 0, -1) if points % count == 0)


def _unless_padding(run: Callable[..., B], *batched: PyTree) -> Callable[[tuple], B]:
  """`run` over `(first, used, ...)`, which gives zeros without running where `used` is false."""
  one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), batched)
  result = jax.eval_shape(run, *one)

  def guarded(arguments: tuple) -> B:
    patch, used, *rest = arguments

    def skip(*_: PyTree) -> B:
      return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), result)

    return jax.lax.cond(used, run, skip, patch, *rest)

  return guarded
