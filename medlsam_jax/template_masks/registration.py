"""A crop of a template laid over a crop of the query: demons with falling smoothness.

Both are cubes of `NODES` an edge, in which the organ's box is at the same place; they differ by how the organ lies in
it and by how well the box was found. Thirion, "Image matching as a diffusion process" (Med. Image Anal. 1998), with the
force of a local least-squares fit: at each step the displacement that explains the difference best around a node,
`d = S(w (q - t) g) / (S(w |g|^2) + noise)`, where `S` smooths, `g` is the mean gradient of both and `w` says which
nodes lie in both scans.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

NODES = 48
STAGES = ((2, 20.0, 10), (2, 10.0, 10), (2, 6.0, 10), (1, 5.0, 4))
"""Nodes taken together along an axis, standard deviation of the smoothing in mm, steps."""
LONGEST_STEP_MM = 2.0
_NOISE_PER_MM = 0.003
"""Gradients of the intensity below this say nothing."""

Cube = Float[Array, "n n n"]


def gaussian(count: int, std: Float[np.ndarray, "*k"] | float) -> Float32[np.ndarray, "*k n n"]:
  """Smoothing along an axis of `count` nodes as a matrix, for each standard deviation (in nodes)."""
  distance = np.arange(count)[:, None] - np.arange(count)
  kernel = np.exp(-0.5 * (distance / np.maximum(np.asarray(std, float)[..., None, None], 1e-3)) ** 2)
  return (kernel / kernel.sum(-1, keepdims=True)).astype(np.float32)


def smooth(values: Float[Array, "*k n n n"], kernels: Float[Array, "3 n n"]) -> Float[Array, "*k n n n"]:
  """Along each axis by its matrix."""
  product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
  values = product("ai,...ibc->...abc", kernels[0], values)
  values = product("bi,...aic->...abc", kernels[1], values)
  return product("ci,...abi->...abc", kernels[2], values)


def moved(values: Cube, by: Float[Array, "3 n n n"]) -> Cube:
  """Values at nodes that are `by` nodes away, linear; beyond the cube its border."""
  count = values.shape[0]
  nodes = jnp.stack(jnp.meshgrid(*[jnp.arange(count, dtype=jnp.float32)] * 3, indexing="ij"))
  place = jnp.clip(nodes + by, 0, count - 1.001)
  low = jnp.floor(place)
  part, index = place - low, low.astype(jnp.int32)
  flat, first = values.reshape(-1), (index[0] * count + index[1]) * count + index[2]
  total = jnp.zeros_like(values)
  for corner in np.ndindex(2, 2, 2):
    weight = jnp.ones_like(values)
    for axis, far in enumerate(corner):
      weight = weight * (part[axis] if far else 1 - part[axis])
    z, y, x = corner
    total = total + weight * flat[first + (z * count + y) * count + x]
  return total


def _gradient(values: Cube, step_mm: Float[Array, "3"]) -> Float[Array, "3 n n n"]:
  along = [jnp.asarray(jnp.gradient(values, axis=axis)) for axis in range(3)]
  return jnp.stack(along) / step_mm[:, None, None, None]


def _pooled(values: Float[Array, "*k n n n"], by: int) -> Float[Array, "*k m m m"]:
  *lead, count, _, _ = values.shape
  small = count // by
  return values.reshape(*lead, small, by, small, by, small, by).mean((-5, -3, -1))


def _demons(
  query: Cube,
  template: Cube,
  weight: Cube,
  start_mm: Float[Array, "3 n n n"],
  kernels: Float[Array, "3 n n"],
  step_mm: Float[Array, "3"],
  steps: int,
) -> Float[Array, "3 n n n"]:
  of_query = _gradient(query, step_mm)

  def step(displacement: Array, _: None) -> tuple[Array, None]:
    shown = moved(template, displacement / step_mm[:, None, None, None])
    gradient = (_gradient(shown, step_mm) + of_query) / 2
    force = smooth(weight * (query - shown) * gradient, kernels)
    stiffness = smooth(weight * (gradient * gradient).sum(0), kernels) + _NOISE_PER_MM**2
    update = force / stiffness
    length = jnp.sqrt((update * update).sum(0))
    return displacement + update * jnp.minimum(1, LONGEST_STEP_MM / jnp.maximum(length, 1e-6)), None

  return jax.lax.scan(step, start_mm, None, length=steps)[0]


@functools.partial(jax.jit, static_argnames="stages")
def _register(
  query: Cube, template: Cube, weight: Cube, kernels: tuple[Array, ...], step_mm: Array, stages: tuple
) -> Float[Array, "3 n n n"]:
  size, displacement = query.shape[0], jnp.zeros((3, 2, 2, 2), jnp.float32)
  for (by, _, steps), own in zip(stages, kernels, strict=True):
    count = size // by
    displacement = jax.image.resize(displacement, (3, count, count, count), "linear")
    q, t, w = (_pooled(each, by) for each in (query, template, weight))
    displacement = _demons(q, t, w, displacement, own, step_mm * by, steps)
  return jax.image.resize(displacement, (3, size, size, size), "linear")


def register(
  query: Float[np.ndarray, "n n n"],
  template: Float[np.ndarray, "n n n"],
  weight: Float[np.ndarray, "n n n"],
  step_mm: Float[np.ndarray, "3"],
  stages: tuple[tuple[int, float, int], ...] = STAGES,
) -> Float[Array, "3 n n n"]:
  """Where in the template each node of the query is shown: displacements in mm, left on the device.

  Args:
    query, template: intensities from 0 to 1.
    weight: 1 where a node lies in both scans, else 0.
    step_mm: between nodes.
    stages: as `STAGES`.
  """
  kernels = tuple(gaussian(NODES // by, std_mm / (step_mm * by)) for by, std_mm, _ in stages)
  return _register(query, template, weight, kernels, np.asarray(step_mm, np.float32), stages)
