"""A batch of cubes -> plain and augmented views, their true places, and what the network says of them.

All of it on the device, inside the training step.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from medlsam_jax.geometry import WORKING_SPACING_MM
from medlsam_jax.medlam.objectives.contract import Features, Views
from medlsam_jax.medlam.pretraining.augment import augmented_view
from medlsam_jax.medlam.pretraining.crops import STORED_MAX, Batch
from medlsam_jax.medlam.pretraining.settings import PretrainSettings
from medlsam_jax.working_grid import AIR_INTENSITY

_POINT_TRIES = 20
_POINT_AIR = AIR_INTENSITY / 10

RunNetwork = Callable[[Array, tuple[int, ...], Array, int], tuple[Array, Features]]
"""Images `(g, k, e, e, e)`, strides, dropout key, m -> head outputs `(g, k, 3)`, and by stride the features of the
first m of each scan's images, float32."""


def as_intensity(cubes: Num[Array, "g m e e e"]) -> Float[Array, "g m e e e"]:
  """Cubes as they are stored -> intensity: what dividing by the largest of the type gives on a host, to the bit."""
  if cubes.dtype == jnp.float32:
    return cubes
  wide = cubes.astype(jnp.float32) * (STORED_MAX // jnp.iinfo(cubes.dtype).max)
  # x / (2**16 - 1) as a series in 2**-16. A division by a constant XLA turns into a product with its reciprocal, which
  # rounds 1 of 128 values otherwise.
  part = wide * 2.0**-16
  return part + part * (2.0**-16 + 2.0**-32)


def choose_points(key: Array, plain: Float[Array, "g e e e"], count: int) -> Int[Array, "count 3"]:
  """Voxels of a patch, shared by the scans of the batch, where more than half of them are not air.

  Each point has 20 tries; where all fail the last one stands (as published).
  """
  tries = jax.random.randint(key, (count, _POINT_TRIES, 3), 0, plain.shape[-1])
  good = (plain[:, tries[..., 0], tries[..., 1], tries[..., 2]] >= _POINT_AIR).mean(0) > 0.5
  chosen = jnp.where(good.any(1), good.argmax(1), _POINT_TRIES - 1)
  return jnp.take_along_axis(tries, chosen[:, None, None], 1)[:, 0]


def plain_views(key: Array, batch: Batch, edge: int) -> tuple[Float[Array, "g m v v v"], Float[Array, "g m 3"]]:
  """Views at one random offset a scan, the same for all its patches; with the place of their voxel (0, 0, 0)."""
  groups, _, cube_edge = batch.cubes.shape[:3]
  offsets = jax.random.randint(key, (groups, 3), 0, cube_edge - edge + 1)

  def cut(cubes: Array, offset: Array) -> Array:
    return jax.lax.dynamic_slice(cubes, (0, *offset), (cubes.shape[0], edge, edge, edge))

  origins_mm = jnp.asarray(batch.origins_mm) + WORKING_SPACING_MM * offsets[:, None]
  return jax.vmap(cut)(jnp.asarray(batch.cubes), offsets), origins_mm


def augmented_views(key: Array, batch: Batch, settings: PretrainSettings) -> tuple[Array, Array]:
  """Augmented views `(g, m, v, v, v)` and the true place of each of their voxels in mm.

  A scan's patches are made one after the other to save memory; scans side by side, as they may lie on many devices.
  """
  groups, patches = batch.cubes.shape[:2]
  keys = jax.random.split(key, groups * patches).reshape(groups, patches)
  edge = settings.network.patch_edge

  def of_scan(scan_keys: Array, cubes: Array) -> tuple[Array, Array]:
    return jax.lax.map(lambda kc: augmented_view(kc[0], kc[1], settings.augment, edge), (scan_keys, cubes))

  views, places = jax.vmap(of_scan)(keys, jnp.asarray(batch.cubes))
  return views, jnp.asarray(batch.origins_mm)[:, :, None, None, None] + WORKING_SPACING_MM * places


def make_views(network: RunNetwork, batch: Batch, key: Array, settings: PretrainSettings) -> Views:
  """All that objectives see of a batch, but for what each has of its own: heads, key, and the network to run again."""
  data, edge = settings.data, settings.network.patch_edge
  dense, middle = data.dense_patches, settings.network.patch_edge // 2
  keys = jax.random.split(key, 6)
  plain, plain_origin = plain_views(keys[0], batch, edge)
  warped, warped_mm = augmented_views(keys[1], batch, settings)
  # plain, augmented and head-only views in one call: a network is compiled once for each call of it
  both = data.position_views == "both"
  images = jnp.concatenate([plain[:, :dense], warped[:, :dense], (warped if both else plain)[:, dense:]], 1)
  positions, features = network(images, tuple(settings.network.feature_scales), keys[2], 2 * dense)
  plain_centres = plain_origin + WORKING_SPACING_MM * middle
  warped_centres = warped_mm[:, :, middle, middle, middle]
  if both:
    centres = jnp.concatenate([plain_centres[:, :dense], warped_centres], 1)
  else:
    positions, centres = jnp.delete(positions, np.arange(dense, 2 * dense), 1), plain_centres
  point_keys = jax.random.split(keys[5], dense)
  points = jnp.stack([choose_points(k, plain[:, i], data.points_per_patch) for i, k in enumerate(point_keys)])
  return Views(
    positions=positions,
    centres_mm=centres,
    plain=plain[:, :dense],
    plain_features={s: f[:, :dense] for s, f in features.items()},
    plain_origin_mm=plain_origin[:, :dense],
    points=points,
    augmented=warped[:, :dense],
    augmented_features={s: f[:, dense:] for s, f in features.items()},
    augmented_mm=warped_mm[:, :dense],
  )
