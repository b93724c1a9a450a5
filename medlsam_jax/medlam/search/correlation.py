"""Features of a query patch and of a template point to a similarity for every voxel of the patch.

Multi-scale similarity (MSS) of MedLSAM, section 3.2: at each scale the query's features are cross-correlated with the
`k x k x k` features around a template point (the taps), the maps are brought to full resolution and averaged.
Volumes are (z, y, x, channel) of one patch.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from medlsam_jax.volume_layers import ops

_SMALLEST_NORM = 1e-12


def normalise_channels(features: Float[Array, "*n c"]) -> Float[Array, "*n c"]:
  """Each voxel's feature vector to length 1, in float32; a vector of zeros stays one."""
  features = features.astype(jnp.float32)
  norm = jnp.sqrt(jnp.square(features).sum(-1, keepdims=True))
  return features / jnp.maximum(norm, _SMALLEST_NORM)


def centre_cube(features: Float[Array, "n z y x c"], stride: int, edge: int) -> Float[Array, "n k k k c"]:
  """The taps of template patches: normalised features of the patch's middle, `edge` full-resolution voxels wide."""
  half = edge // stride // 2
  middle = tuple(slice(size // 2 - half, size // 2 + half) for size in features.shape[1:4])
  return normalise_channels(features[(slice(None), *middle)])


def correlate(
  features: Float[Array, "z y x c"], taps: Float[Array, "k k k c"], dtype: jnp.dtype = jnp.float32
) -> Float[Array, "z+1 y+1 x+1"]:
  """Cross-correlation with zero padding `k // 2`, so that for even `k` the map is one voxel larger per axis.

  `out[z, y, x] = sum over a, b, c of <features[z+a-k/2, y+b-k/2, x+c-k/2], taps[a, b, c]>`, summed in float32.

  Worked as matrix products: a plane of features times all `k^3` taps gives as many maps, which are shifted and added
  along x, then y, then z, the last into a rolling buffer of the `k` output planes that an input plane touches.
  As a convolution with one output channel the same sum runs tens of times slower on a CPU (`bench/` measures both).

  Args:
    features: of the query patch.
    taps: of the template point, `k` even.
    dtype: of the products' operands; sums are float32 whatever it is.
  """
  edge = taps.shape[0]
  height, width, channels = features.shape[1:]
  rows = taps.reshape(edge**3, channels).astype(dtype)

  def add_plane(upcoming: Array, plane: Array) -> tuple[Array, Array]:
    columns = plane.reshape(height * width, channels).astype(dtype)
    products = lax.dot_general(rows, columns, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
    sums = _shift_and_add(products.reshape(edge, edge, edge, height, width))
    # the plane at z takes part in the outputs z - k/2 + 1 .. z + k/2, the tap index running down as the output runs up
    upcoming = upcoming + sums[::-1]
    return jnp.concatenate([upcoming[1:], jnp.zeros_like(upcoming[:1])]), upcoming[0]

  start = jnp.zeros((edge, height + 1, width + 1), jnp.float32)
  remaining, complete = lax.scan(add_plane, start, features)
  return jnp.concatenate([complete[edge // 2 - 1 :], remaining[: edge // 2]])


def _shift_and_add(products: Float[Array, "a b c y x"]) -> Float[Array, "a y+1 x+1"]:
  """Maps per tap to maps per z tap: those of x, then those of y, each moved to the output voxel it belongs to."""
  edge, height, width = products.shape[-3:]
  around = (edge // 2, edge // 2)
  padded = jnp.pad(products, ((0, 0),) * 4 + (around,))
  rows = functools.reduce(jnp.add, [padded[:, :, tap, :, tap : tap + width + 1] for tap in range(edge)])
  padded = jnp.pad(rows, ((0, 0), (0, 0), around, (0, 0)))
  return functools.reduce(jnp.add, [padded[:, tap, tap : tap + height + 1] for tap in range(edge)])


def similarity(
  features: dict[int, Float[Array, "z y x c"]],
  taps: dict[int, Float[Array, "k k k c"]],
  patch_edge: int,
  dtype: jnp.dtype = jnp.float32,
) -> Float[Array, "e e e"]:
  """Mean over scales of the correlation per tap, resized trilinearly to the patch; within [-1, 1] for unit taps.

  The published program adds scales and templates where this takes means: the place of the maximum is the same.

  Args:
    features: of the query by stride, as the network gives them.
    taps: of the template point by stride, mean over templates.
    patch_edge: edge of the result.
    dtype: of the products' operands.
  """
  total = jnp.zeros((patch_edge,) * 3, jnp.float32)
  for stride, volume in features.items():
    correlated = correlate(normalise_channels(volume), taps[stride], dtype) / taps[stride].shape[0] ** 3
    total = total + ops.resize_linear(correlated, (patch_edge,) * 3, axes=(0, 1, 2))
  return total / len(features)


def best_voxel(scores: Float[Array, "z y x"]) -> tuple[Array, Array]:
  """Voxel (z, y, x) of the greatest score, the first in C order among equals, and that score."""
  first = jnp.argmax(scores)
  place = jnp.stack(jnp.unravel_index(first, scores.shape)).astype(jnp.int32)
  return place, scores.reshape(-1)[first]
