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

from medlsam_jax import platform
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

  Worked as matrix products, plane by plane on a CPU, and as a single one elsewhere. As a convolution with one output
  channel the same sum runs tens of times slower on both (`bench/` measures it).

  Args:
    features: of the query patch.
    taps: of the template point, `k` even.
    dtype: of the products' operands; sums are float32 whatever it is.
  """
  return platform.by_backend(
    features,
    taps,
    cpu=functools.partial(_correlate_planes, dtype=dtype),
    accelerator=functools.partial(_correlate_blocks, dtype=dtype),
  )


def _correlate_planes(
  features: Float[Array, "z y x c"], taps: Float[Array, "k k k c"], dtype: jnp.dtype
) -> Float[Array, "z+1 y+1 x+1"]:
  """A plane of features times all `k^3` taps gives as many maps, which are shifted and added along x, then y, then z.

  The last into a rolling buffer of the `k` output planes that an input plane touches, so that little memory is used.
  """
  edge = taps.shape[0]
  height, width, channels = features.shape[1:]
  rows = taps.reshape(edge**3, channels).astype(dtype)

  def add_plane(upcoming: Array, plane: Array) -> tuple[Array, Array]:
    columns = plane.reshape(height * width, channels).astype(dtype)
    products = lax.dot_general(rows, columns, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
    sums = _add_shifted(_add_shifted(products.reshape(edge, edge, edge, height, width), 2, 4), 1, 2)
    # the plane at z takes part in the outputs z - k/2 + 1 .. z + k/2, the tap index running down as the output runs up
    upcoming = upcoming + sums[::-1]
    return jnp.concatenate([upcoming[1:], jnp.zeros_like(upcoming[:1])]), upcoming[0]

  start = jnp.zeros((edge, height + 1, width + 1), jnp.float32)
  remaining, complete = lax.scan(add_plane, start, features)
  return jnp.concatenate([complete[edge // 2 - 1 :], remaining[: edge // 2]])


def _correlate_blocks(
  features: Float[Array, "z y x c"], taps: Float[Array, "k k k c"], dtype: jnp.dtype
) -> Float[Array, "z+1 y+1 x+1"]:
  """One product of all voxels, `k/2` along x together, with all taps; then shifted and added along y, z and x.

  Together such a block meets `3k/2 - 1` outputs along x, so that `(3 - 2/k) k^2` maps are written for a voxel instead
  of `k^3`: a chip is bound by writing and reading them. The product grows by half, of zeros, and is no more than that.
  """
  edge, half = taps.shape[0], taps.shape[0] // 2
  depth, height, width, channels = features.shape
  blocks = -(-width // half)
  padded = jnp.pad(features.astype(dtype), ((0, 0), (0, 0), (0, blocks * half - width), (0, 0)))
  rows, columns = _block_taps(taps.astype(dtype)), padded.reshape(-1, half * channels)
  maps = lax.dot_general(rows, columns, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
  maps = maps.reshape(3 * half - 1, edge, edge, depth, height, blocks)
  sums = _add_shifted(_add_shifted(maps, 2, 4), 1, 2)
  # the output at the r-th of the block j is the voxel j * half + r - (half - 1)
  thirds = jnp.pad(sums, ((0, 1), (0, 0), (0, 0), (0, 0))).reshape(3, half, depth + 1, height + 1, blocks)
  spread = [jnp.pad(third, ((0, 0),) * 3 + ((ahead, 2 - ahead),)) for ahead, third in enumerate(thirds)]
  along = jnp.moveaxis(functools.reduce(jnp.add, spread), 0, -1).reshape(depth + 1, height + 1, -1)
  return along[..., half - 1 : half + width]


def _block_taps(taps: Float[Array, "k k k c"]) -> Float[Array, "maps block"]:
  """Taps as a block of `k/2` voxels along x meets them: a row for each output along x, and each tap of z and y."""
  edge, half = taps.shape[0], taps.shape[0] // 2
  falling = jnp.flip(jnp.pad(taps, ((0, 0), (0, 0), (half, half), (0, 0))), 2)
  outputs = 3 * half - 1
  by_voxel = jnp.stack([falling[:, :, half - voxel : half - voxel + outputs] for voxel in range(half)], 3)
  return jnp.moveaxis(by_voxel, 2, 0).reshape(outputs * edge**2, -1)


def numbers_held(patch_edge: int, stride: int, edge: int) -> int:
  """Maps that `correlate` of a patch with the taps of one point holds at once on an accelerator, in numbers.

  Args:
    patch_edge: of the patch, voxels.
    stride: of the features.
    edge: of the taps.
  """
  half = edge // 2
  return (3 * half - 1) * edge**2 * (patch_edge // stride) ** 3 // half


def _add_shifted(maps: Float[Array, "*maps"], taps: int, along: int) -> Float[Array, "*sums"]:
  """Sum over the axis of taps, each tap's maps moved along another axis to the output voxels that they belong to."""
  edge, size = maps.shape[taps], maps.shape[along]
  padded = jnp.pad(maps, [(edge // 2, edge // 2) if axis == along else (0, 0) for axis in range(maps.ndim)])
  parts = [lax.index_in_dim(padded, tap, taps) for tap in range(edge)]
  return functools.reduce(
    jnp.add, [lax.slice_in_dim(part, tap, tap + size + 1, axis=along) for tap, part in enumerate(parts)]
  ).squeeze(taps)


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
