"""Cubes as they are learned from: zoomed, turned, shifted in HU, with masks and prompts of the organs asked for.

Runs on the device, inside the step. Everything is drawn from one key for each cube.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Integer, Key

from medlsam_jax.sam3d.cube_predictor import POINTS
from medlsam_jax.sam3d.network.prompts import ABSENT, FACES, NEGATIVE, POSITIVE
from medlsam_jax.sam3d.training.settings import CubeViewSettings


class View(NamedTuple):
  """What the network is asked, and the answer; of `n` cubes or of one."""

  hu: Float[Array, "*n z y x"]
  masks: Bool[Array, "*n k z y x"]
  points: Float[Array, "*n k t 3"]
  labels: Int[Array, "*n k t"]
  counts: Bool[Array, "*n k"]
  """Whether the organ was asked for and is in view."""


def view(
  key: Key[Array, ""],
  hu: Integer[Array, "s s s"],
  labels: Integer[Array, "s s s"],
  asked: Integer[Array, " k"],
  edge: int,
  spacing_mm: float,
  settings: CubeViewSettings,
) -> View:
  """One view of a cube; `edge` voxels of the `s` that there are."""
  keys = iter(jax.random.split(key, 8))
  zoom = jax.random.uniform(next(keys), (), minval=settings.zoom[0], maxval=settings.zoom[1])
  weights = _zooming(zoom, hu.shape[0], edge)
  seen = _weighed(weights, hu.astype(jnp.float32))
  inside = (labels == asked[:, None, None, None]) & (asked[:, None, None, None] > 0)
  masks = jax.vmap(lambda each: _weighed(weights, each.astype(jnp.float32)))(inside)
  both = _turned(next(keys), jnp.concatenate([seen[None], masks]), settings)
  shift = jax.random.uniform(next(keys), (), minval=-settings.shift_hu, maxval=settings.shift_hu)
  seen, masks = both[0] + shift, both[1:] >= 0.5
  if settings.noise_hu:
    noise = jax.random.uniform(next(keys), (), maxval=settings.noise_hu)
    seen = seen + noise * jax.random.normal(next(keys), seen.shape)
  counts = masks.any((1, 2, 3))
  ask = jax.vmap(lambda key, mask: _prompts(key, mask, settings.jitter_mm / spacing_mm, settings.points))
  points, kinds = ask(jax.random.split(next(keys), len(asked)), masks)
  return View(seen, masks, points, jnp.where(counts[:, None], kinds, ABSENT), counts)


def _zooming(zoom: Float[Array, ""], source: int, edge: int) -> Float[Array, "edge s"]:
  """Weights of the source's voxels in each of the view's along one axis, linear, middle on middle."""
  place = (source - 1) / 2 + (jnp.arange(edge) - (edge - 1) / 2) / zoom
  return jnp.maximum(0, 1 - jnp.abs(jnp.clip(place, 0, source - 1)[:, None] - jnp.arange(source)))


def _weighed(weights: Float[Array, "edge s"], cube: Float[Array, "s s s"]) -> Float[Array, "edge edge edge"]:
  highest = jax.lax.Precision.HIGHEST
  for _ in range(3):
    # the first axis goes last each time, so that after three all are where they were
    cube = jnp.einsum("es,sab->abe", weights, cube, precision=highest)
  return cube


def _turned(key: Key[Array, ""], cubes: Float[Array, "c z y x"], settings: CubeViewSettings) -> Float[Array, "c z y x"]:
  flip, turn = jax.random.split(key)
  for axis, flips in enumerate(jax.random.bernoulli(flip, shape=(3,))):
    if "zyx"[axis] in settings.flips:
      cubes = jnp.where(flips, jnp.flip(cubes, axis + 1), cubes)
  if settings.turns:
    quarter = jax.random.randint(turn, (), 0, 4)
    cubes = jnp.where(quarter % 2 == 1, jnp.rot90(cubes, 1, (2, 3)), cubes)
    cubes = jnp.where(quarter >= 2, jnp.rot90(cubes, 2, (2, 3)), cubes)
  return cubes


def _prompts(
  key: Key[Array, ""], mask: Bool[Array, "z y x"], jitter: float, share: float
) -> tuple[Float[Array, "t 3"], Int[Array, " t"]]:
  """Middles of the faces of the mask's box, moved, and perhaps a point inside and one outside.

  As many as a `CubePredictor` takes, so that training and use have one shape.
  """
  keys = jax.random.split(key, 6)
  edge = mask.shape[0]
  low, high = _extent(mask)
  wide = jax.random.uniform(keys[0], (), maxval=jitter) if jitter else 0.0
  moved = jnp.stack([low, high]) + wide * jax.random.normal(keys[1], (2, 3))
  # a box is at least one voxel and what a cube shows of it lies inside the cube
  low, high = jnp.clip(moved.min(0), 0, edge - 1), jnp.clip(moved.max(0), 0, edge - 1)
  middle, axes = jnp.tile((low + high) / 2, (6, 1)), jnp.arange(3)
  faces = middle.at[axes, axes].set(low).at[3 + axes, axes].set(high)
  beside = _within(edge, low, high) & ~mask
  extra = jnp.stack([_place(keys[2], mask), _place(keys[3], beside)])
  # a mask that fills its box has no voxel beside it there
  given = jax.random.bernoulli(keys[4], share) & jnp.stack([mask.any(), beside.any()])
  kinds = jnp.where(given, jnp.array([POSITIVE, NEGATIVE]), ABSENT)
  rest = POINTS - len(extra)
  points = jnp.concatenate([faces, extra, jnp.zeros((rest, 3))])
  return points, jnp.concatenate([jnp.array(FACES), kinds, jnp.full(rest, ABSENT)])


def _extent(mask: Bool[Array, "z y x"]) -> tuple[Float[Array, "3"], Float[Array, "3"]]:
  """First and last voxel along each axis; of an empty mask the whole cube."""
  along = [mask.any(tuple(a for a in range(3) if a != axis)) for axis in range(3)]
  low = jnp.stack([jnp.argmax(each) for each in along])
  high = jnp.stack([len(each) - 1 - jnp.argmax(each[::-1]) for each in along])
  return low.astype(jnp.float32), high.astype(jnp.float32)


def _within(edge: int, low: Float[Array, "3"], high: Float[Array, "3"]) -> Bool[Array, "edge edge edge"]:
  along = [(jnp.arange(edge) >= low[axis]) & (jnp.arange(edge) <= high[axis]) for axis in range(3)]
  return along[0][:, None, None] & along[1][None, :, None] & along[2][None, None]


def _place(key: Key[Array, ""], mask: Bool[Array, "z y x"]) -> Float[Array, "3"]:
  """A voxel of a mask, each as likely as any other; of an empty one, any."""
  chosen = jnp.argmax(jnp.where(mask, jax.random.uniform(key, mask.shape), -1.0))
  return jnp.stack(jnp.unravel_index(chosen, mask.shape)).astype(jnp.float32)
