"""Similarity on nodes that stand for whole moves, so that no place is favoured, and its peak between the nodes.

A correlation at stride `s` has a node for every move of a multiple of `s` voxels, the middle node being no move. The
published program resizes such a map to the patch and takes "minus half an edge plus one" off, by which moves of -2, -4
and -8 voxels come out as -1, -3 and -7. Here the coarser maps are brought to the nodes of the finest one, all of which
keep their meaning. Volumes are (z, y, x, channel) of one patch, taps as in `correlation`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from medlsam_jax.medlam.search import correlation

_NOWHERE = -2.0
"""Below every similarity: where no node is."""

Features = dict[int, Float[Array, "_z _y _x _c"]]
"""Of one patch by stride, unit length over channels."""


def whole_similarity(
  features: Features, taps: dict[int, Float[Array, "_k _k _k _c"]], dtype: jnp.dtype = jnp.float32
) -> Float[Array, "g g g"]:
  """Mean over scales of the correlation per tap, for every move within the patch, in nodes of the finest stride."""
  finest, total = min(features), jnp.float32(0)
  for stride, volume in features.items():
    correlated = correlation.correlate(volume, taps[stride], dtype) / taps[stride].shape[0] ** 3
    total = total + _between(correlated, stride // finest)
  return total / len(features)


def near_similarity(
  features: Features,
  taps: dict[int, Float[Array, "t _k _k _k _c"]],
  node: Int[Array, "3"],
  reach: int,
  dtype: jnp.dtype = jnp.float32,
) -> tuple[Float[Array, "t w w w"], Int[Array, "3"]]:
  """The same for several taps, around one node alone, and the node that the result begins at.

  Args:
    features: of the query patch.
    taps: of `t` templates.
    node: the middle, in nodes of the finest stride; moved to the nearest one that all strides have.
    reach: moves looked at to each side, voxels; rounded down to the coarsest stride.
    dtype: of the products' operands.
  """
  finest, coarsest = min(features), max(features)
  middle = jnp.round(node * jnp.float32(finest / coarsest)).astype(jnp.int32)
  total = jnp.float32(0)
  for stride, volume in features.items():
    aside = reach // coarsest * coarsest // stride
    correlated = _correlate_around(volume, taps[stride], middle * (coarsest // stride), aside, dtype)
    total = total + jax.vmap(_between, (0, None))(correlated / taps[stride].shape[1] ** 3, stride // finest)
  aside = reach // coarsest * coarsest // finest
  first = middle * (coarsest // finest) - aside
  nodes = features[finest].shape[0] + 1
  along = first[:, None] + jnp.arange(2 * aside + 1)
  is_node = (along >= 0) & (along < nodes)
  inside = is_node[0][:, None, None] & is_node[1][:, None] & is_node[2]
  return jnp.where(inside, total / len(features), _NOWHERE), first


def peak(scores: Float[Array, "z y x"]) -> tuple[Float[Array, "3"], Float[Array, ""]]:
  """Where the score is greatest, between nodes, and the greatest node's score.

  Along each axis the top of the parabola through the greatest node and its two neighbours, at most half a node away; at
  the end of the map the node itself.
  """
  node, score = correlation.best_voxel(scores)
  aside = []
  for axis in range(3):
    step = jnp.zeros(3, jnp.int32).at[axis].set(1)
    before, after = (_at(scores, node + sign * step) for sign in (-1, 1))
    bend = 2 * score - before - after
    is_top = (bend > 0) & (before > _NOWHERE) & (after > _NOWHERE)
    aside.append(jnp.where(is_top, (after - before) / (2 * jnp.where(is_top, bend, 1)), 0))
  return node + jnp.clip(jnp.stack(aside), -0.5, 0.5), score


def _at(scores: Float[Array, "z y x"], node: Int[Array, "3"]) -> Float[Array, ""]:
  inside = jnp.all((node >= 0) & (node < np.array(scores.shape)))
  return jnp.where(inside, scores[tuple(jnp.clip(node, 0, np.array(scores.shape) - 1))], _NOWHERE)


def _correlate_around(
  volume: Float[Array, "z y x c"], taps: Float[Array, "t k k k c"], node: Int[Array, "3"], aside: int, dtype: jnp.dtype
) -> Float[Array, "t w w w"]:
  """Correlations at the nodes `[node - aside, node + aside]`; the patch is surrounded by zeros."""
  half = taps.shape[1] // 2
  rim = ((aside + half, aside + half),) * 3
  edge = 2 * (aside + half)
  window = lax.dynamic_slice(jnp.pad(volume, (*rim, (0, 0))), jnp.append(node, 0), (edge,) * 3 + volume.shape[3:])
  correlated = jax.vmap(correlation.correlate, (None, 0, None))(window, taps, dtype)
  inner = slice(half, half + 2 * aside + 1)
  return correlated[:, inner, inner, inner]


def _between(scores: Float[Array, "n n n"], parts: int) -> Float[Array, "m m m"]:
  """Nodes and, linearly, `parts - 1` places between each two of them."""
  if parts == 1:
    return scores
  count = scores.shape[0]
  places = np.arange((count - 1) * parts + 1)[:, None] / parts
  weights = np.maximum(1 - np.abs(places - np.arange(count)), 0).astype(np.float32)
  return jnp.einsum("ai,bj,ck,ijk->abc", weights, weights, weights, scores, precision=lax.Precision.HIGHEST)
