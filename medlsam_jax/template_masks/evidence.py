"""What speaks for an organ at a node, put together: a product of experts whose few weights serve every organ.

Three say how likely a node is the organ's, as log-odds: the vote of the registered templates (local weighted voting:
Artaechevarria, Munoz-Barrutia and Ortiz-de-Solorzano, IEEE TMI 28 (2009), 1266-1277), the templates merely scaled into
the box, and the node's intensity, by what the templates show inside and around the organ. Each counts by how much it is
worth for this organ: the first two by how far the templates agree, the third by how far the intensities differ.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from medlsam_jax.template_masks.registration import NODES, gaussian, smooth

WEIGHTS = (0.49, 0.36, 0.96, 0.12, 0.64, 0.53, 0.30)
"""Of 1; of the vote, plain and times agreement; of the scaled masks, likewise; of the intensity, plain and times how
far it tells apart. Fitted on `headneck/tuning` (mean soft Dice and cross-entropy over organs, five templates)."""
_SURE = 0.02
"""No expert is surer than that: log-odds within 3.9."""
_NOISE = 0.03
"""Intensity: differences below it do not tell templates apart."""
_BINS = 40
_NEAR_MM, _NEAR = 6.0, 0.05
"""Surroundings in which intensities are counted: where the mean mask, smoothed by so much, is above that."""
_ALONE = 0.6
"""Agreement of a single template with itself, which says nothing: about what five templates of one organ have."""

Cubes = Float[Array, "t n n n"]
Cube = Float[Array, "n n n"]


def local_vote(query: Cube, images: Cubes, masks: Cubes, kernels: Float[Array, "3 n n"], sharpness: Array) -> Cube:
  """Mean of the masks, each weighing at a node by the power `-sharpness` of how unlike the query it looks around it."""
  unlike = smooth(jnp.square(images - query), kernels) + _NOISE**2
  # relative to the most alike, so that no power leaves single precision
  weights = (unlike / unlike.min(0)) ** -sharpness
  return (weights * masks).sum(0) / weights.sum(0)


def log_odds(share: Cube) -> Cube:
  """Of a share between 0 and 1, held within `_SURE`."""
  share = jnp.clip(share, _SURE, 1 - _SURE)
  return jnp.log(share / (1 - share))


def agreement(masks: Cubes) -> Array:
  """Mean Dice of the masks' pairs."""
  pairs = list(itertools.combinations(range(len(masks)), 2))
  if not pairs:
    return jnp.float32(_ALONE)
  sizes = masks.sum((1, 2, 3))
  shared = [2 * jnp.minimum(masks[a], masks[b]).sum() / jnp.maximum(sizes[a] + sizes[b], 1e-6) for a, b in pairs]
  return jnp.mean(jnp.stack(shared))


def intensity_odds(query: Cube, images: Cubes, masks: Cubes, near: Cube) -> tuple[Cube, Array]:
  """Log-odds of each node's intensity, and how far it tells apart what is inside from what is around, from 0 to 1."""
  soft = jnp.asarray(gaussian(_BINS, 1.0))

  def spread(weights: Cubes) -> Float[Array, " bins"]:
    counts = jnp.zeros(_BINS).at[_bin(images).reshape(-1)].add((weights * near).reshape(-1))
    return soft @ (counts / jnp.maximum(counts.sum(), 1e-6))

  inside, around = spread(masks), spread(1 - masks)
  odds = jnp.log((inside + 1e-3) / (around + 1e-3))
  return odds[_bin(query)], 1 - jnp.minimum(inside, around).sum()


def _bin(intensity: Array) -> Array:
  return jnp.clip((intensity * _BINS).astype(jnp.int32), 0, _BINS - 1)


@jax.jit
def combined(
  query: Cube, images: Cubes, masks: Cubes, scaled: Cubes, likeness: Array, around: Array, sharpness: Array
) -> Cube:
  """Probability of the organ at each node.

  Args:
    query: intensity.
    images, masks: of the registered templates.
    scaled: their masks as the box alone places them.
    likeness, around: smoothing matrices of `local_vote`, and by `_NEAR_MM`.
    sharpness: of `local_vote`.
  """
  vote = log_odds(local_vote(query, images, masks, likeness, sharpness))
  box = log_odds(scaled.mean(0))
  near = (smooth(masks.mean(0), around) > _NEAR).astype(jnp.float32)
  grey, apart = intensity_odds(query, images, masks, near)
  experts = (jnp.ones_like(vote), vote, vote * agreement(masks), box, box * agreement(scaled), grey, grey * apart)
  return jax.nn.sigmoid(sum(weight * expert for weight, expert in zip(WEIGHTS, experts, strict=True)))


def around_kernels(step_mm: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 n n"]:
  """What `combined` takes as `around`, for nodes so far apart."""
  return gaussian(NODES, _NEAR_MM / step_mm)
