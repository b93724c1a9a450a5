"""The jitted programs of bank and search: fixed shapes, so that each compiles once for all scans, organs and templates.

The network's module is a static argument: modules with equal settings share a program. Patches go through one at a
time on a CPU, where one fills the machine already and memory stays that of a single patch, and together elsewhere.
A module of float32 operands is worked out in float32 on every platform (`platform`).
"""

from __future__ import annotations

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int

from medlsam_jax import platform
from medlsam_jax.errors import WeightsError
from medlsam_jax.geometry import PATCH_EDGE
from medlsam_jax.medlam.network.medlam import MedLAM, MedLAMOutput
from medlsam_jax.medlam.search import correlation, nodes
from medlsam_jax.network import Network

POINTS_PER_CALL = 6
"""Patches per call of the programs; shorter batches are padded and the padding is skipped."""


def prepare(network: Network, dtype: str = "float32") -> tuple[MedLAM, Any]:
  """The module that computes in `dtype`, and its variables on the device.

  Raises:
    WeightsError: the network is no MedLAM, or one for patches of another edge.
  """
  module = network.module
  if not isinstance(module, MedLAM) or module.patch_edge != PATCH_EDGE:
    raise WeightsError(
      f"{network.source}: {network.kind} cannot localize; it takes a MedLAM network for patches of {PATCH_EDGE} voxels"
    )
  return module.clone(dtype=jnp.dtype(dtype)), jax.device_put(network.variables)


def _each(function: Any, batch: Any, count: int) -> Any:
  together = None if jax.default_backend() == "cpu" else count
  return jax.lax.map(function, batch, batch_size=together)


def _run(module: MedLAM, variables: Any, patch: Float[Array, "z y x 1"], scales: tuple[int, ...]) -> MedLAMOutput:
  """The network's outputs for one patch."""
  return cast(MedLAMOutput, module.apply(variables, patch[None], feature_scales=scales))


@functools.partial(jax.jit, static_argnames="module")
@platform.of_module
def positions(module: MedLAM, variables: Any, patches: Float[Array, "n z y x 1"]) -> Float[Array, "n 3"]:
  """Anatomical coordinates of patches: encoder and head only."""
  return _each(lambda patch: _run(module, variables, patch, ()).position[0], patches, len(patches))


@functools.partial(jax.jit, static_argnames=("module", "scales", "edge"))
@platform.of_module
def template_outputs(
  module: MedLAM,
  variables: Any,
  patches: Float[Array, "n z y x 1"],
  used: Bool[Array, " n"],
  scales: tuple[int, ...],
  edge: int,
) -> tuple[Float[Array, "n 3"], dict[int, Float[Array, "n k k k c"]]]:
  """What a bank keeps of patches around template points: coordinates, and taps of every scale, `edge` voxels wide."""

  def run(patch: Array) -> tuple[Array, dict[int, Array]]:
    out = _run(module, variables, patch, scales)
    taps = {stride: correlation.centre_cube(volume, stride, edge)[0] for stride, volume in out.features.items()}
    return out.position[0], taps

  return _each(_unless_padding(run, patches), (patches, used), len(patches))


@functools.partial(jax.jit, static_argnames=("module", "dtype"))
@platform.of_module
def best_moves(
  module: MedLAM,
  variables: Any,
  patches: Float[Array, "n z y x 1"],
  used: Bool[Array, "n q"],
  taps: dict[int, Float[Array, "n q k k k c"]],
  dtype: str,
) -> tuple[Int[Array, "n q 3"], Float[Array, "n q"]]:
  """From each patch's centre to the places most similar to its `q` template points, in voxels, and how similar.

  A patch's features are computed once for all its points. The move is the place minus half an edge plus one, as
  published.
  """
  scales = tuple(sorted(taps, reverse=True))

  def run(patch: Array, own_used: Array, own_taps: dict[int, Array]) -> tuple[Array, Array]:
    features = {stride: volume[0] for stride, volume in _run(module, variables, patch, scales).features.items()}

    def place(_: Array, point_taps: dict[int, Array]) -> tuple[Array, Array]:
      found = correlation.similarity(features, point_taps, PATCH_EDGE, jnp.dtype(dtype))
      voxel, score = correlation.best_voxel(found)
      return voxel - PATCH_EDGE // 2 + 1, score

    return jax.lax.map(_unless_padding(place, own_used, own_taps), (own_used, own_used, own_taps))

  return _each(_unless_padding(run, patches, used, taps), (patches, used.any(1), used, taps), len(patches))


@functools.partial(jax.jit, static_argnames=("module", "reach", "dtype"))
@platform.of_module
def template_moves(
  module: MedLAM,
  variables: Any,
  patches: Float[Array, "n z y x 1"],
  shown: Bool[Array, "n q t"],
  taps: dict[int, Float[Array, "n q t k k k c"]],
  reach: int,
  dtype: str,
) -> tuple[Float[Array, "n q t 3"], Float[Array, "n q t"], Float[Array, "n q"]]:
  """From each patch's centre to the places most similar to `q` points of `t` templates, each on its own; in voxels.

  The mean of a point's templates is looked for in the whole patch, and each template within `reach` voxels of where
  that is found. Moves are unbiased and between voxels (`nodes`).

  Args:
    module, variables: the network.
    patches: around the targets.
    shown: which templates have the point; none in padding, which is skipped.
    taps: by stride.
    reach: voxels to each side.
    dtype: of the products' operands.

  Returns:
    Moves, the similarity to each template there, and the greatest similarity to their mean.
  """
  scales = tuple(sorted(taps, reverse=True))
  finest, operands = min(scales), jnp.dtype(dtype)
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
    out = _run(module, variables, patch, scales).features
    features = {stride: correlation.normalise_channels(volume[0]) for stride, volume in out.items()}
    guarded = _unless_padding(lambda own, point_taps: place(own, point_taps, features), own_shown, own_taps)
    return jax.lax.map(guarded, (own_shown, own_shown.any(-1), own_taps))

  return _each(_unless_padding(run, patches, shown, taps), (patches, shown.any((1, 2)), shown, taps), len(patches))


def _unless_padding(run: Any, *batched: Any) -> Any:
  """`run` over `(first, used, ...)`, which gives zeros without running where `used` is false."""
  one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), batched)
  result = jax.eval_shape(run, *one)

  def guarded(arguments: tuple) -> Any:
    patch, used, *rest = arguments

    def skip(*_: Any) -> Any:
      return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), result)

    return jax.lax.cond(used, run, skip, patch, *rest)

  return guarded


def crop_patches(
  padded: Float32[np.ndarray, "z y x"], centres: Int[np.ndarray, "n 3"]
) -> Float32[np.ndarray, "n e e e 1"]:
  """Cubes `[c - e/2, c + e/2)` around voxels of the padded working grid; 0 where a cube reaches beyond it."""
  patches = np.zeros((len(centres), *(PATCH_EDGE,) * 3, 1), np.float32)
  for patch, centre in zip(patches, centres, strict=True):
    low = np.asarray(centre) - PATCH_EDGE // 2
    start = np.maximum(low, 0)
    stop = np.maximum(np.minimum(low + PATCH_EDGE, padded.shape), start)
    source = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    into = tuple(slice(a, b) for a, b in zip(start - low, stop - low, strict=True))
    patch[..., 0][into] = padded[source]
  return patches


def pad_batch(array: np.ndarray, count: int = POINTS_PER_CALL) -> np.ndarray:
  """Zeros after the last row until there are `count`."""
  return np.pad(array, [(0, count - len(array)), *[(0, 0)] * (array.ndim - 1)])
