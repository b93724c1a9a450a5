"""Prompts in a cube: labelled points and boxes, of several organs at once -> one embedding for each organ.

Points are `(z, y, x)` voxels of the cube, voxel centres at whole numbers. A box is six points, one on each face, in the
order of MedLAM's extreme points, which may be given as they are. The relative samples features at points, whatever
their kind; labels, faces and positions are ours.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Num
from scipy.special import ndtri

from medlsam_jax.sam.network.prompt_encoder import ABSENT, NEGATIVE, POSITIVE
from medlsam_jax.sam.network.two_way import TwoWayBlock
from medlsam_jax.sam3d.network.variants import Sam3DVariant

FACES = (2, 3, 4, 5, 6, 7)
"""Labels of points on the faces of a box: low z, y, x, then high z, y, x."""
LABELS = (NEGATIVE, POSITIVE, *FACES)
"""Every label that has an embedding, numbered from zero; `ABSENT` fills up and takes no part."""
_PLASTIC = 1.2207440846057596
"""Root of x^4 = x + 1, on which the evenly spread sequence of three axes is built (Roberts, 2018)."""


def points_of_box(box: Num[np.ndarray, "2 3"]) -> Num[np.ndarray, "6 3"]:
  """The middles of a box's faces, in the order of `FACES`; low and high corner are inclusive voxels."""
  box = np.asarray(box)
  middle = np.tile(box.mean(0), (6, 1))
  axes = np.arange(3)
  middle[axes, axes], middle[3 + axes, axes] = box[0], box[1]
  return middle


def frequencies(count: int) -> Float[np.ndarray, "3 count"]:
  """Frequencies of the position code along z, y and x, normally distributed as SAM's, but the same for everybody."""
  steps = _PLASTIC ** -np.arange(1.0, 4.0)[:, None]
  return ndtri((0.5 + np.arange(1, count + 1) * steps) % 1).astype(np.float32)


def position_code(unit: Float[Array, "*n 3"], width: int) -> Float[Array, "*n c"]:
  """Sines and cosines of places in [0, 1], in float32; a matrix product of depth three would be rounded on TPU."""
  table = frequencies(width // 2)
  centred = 2 * unit - 1
  angle = 2 * jnp.pi * sum(centred[..., axis : axis + 1] * table[axis] for axis in range(3))
  return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)


def sample(tokens: Float[Array, "n g g g c"], unit: Float[Array, "n t 3"]) -> Float[Array, "n t c"]:
  """Tokens at places in [0, 1], linearly between their centres; places outside take the nearest edge.

  A product with weights that are zero but at eight tokens: gathers of single rows are slow on TPU.
  """
  n, grid = tokens.shape[:2]
  place = jnp.clip(unit * grid - 0.5, 0, grid - 1)
  near = jnp.maximum(0, 1 - jnp.abs(place[..., None] - jnp.arange(grid)))
  weights = jnp.einsum("ntz,nty,ntx->ntzyx", *(near[:, :, axis] for axis in range(3)))
  flat = tokens.reshape(n, -1, tokens.shape[-1])
  return jnp.matmul(weights.reshape(n, unit.shape[1], -1), flat, preferred_element_type=jnp.float32)


class PromptModule(nn.Module):
  """Learned queries and prompts attend to the deepest tokens and these to them: blocks of SAM's two-way transformer.

  As published each block has learned queries of its own, which take the place of those before. There the tokens of the
  image see the queries alone and these see the prompts alone (its attention from tokens to the image has weights that
  are never used); here both see both, as in SAM.
  """

  variant: Sam3DVariant
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self, deepest: Float[Array, "n g g g c"], points: Float[Array, "n k t 3"], labels: Int[Array, "n k t"]
  ) -> Float[Array, "nk g g g c"]:
    """Tokens as each organ's prompts see them; `k` organs in each of `n` cubes."""
    variant, (n, organs, _) = self.variant, labels.shape
    grid, width = deepest.shape[1], deepest.shape[-1]
    unit = ((points + 0.5) / variant.cube_edge).reshape(n, -1, 3)
    embeddings = self.param("labels", nn.initializers.normal(0.1), (len(LABELS), width))
    tokens = sample(deepest, unit).reshape(n * organs, -1, width)
    flat = labels.reshape(n * organs, -1)
    tokens = tokens + embeddings[jnp.clip(flat, 0)]
    places = position_code(unit, width).reshape(tokens.shape)

    own = (variant.queries, width)
    places = jnp.pad(places, ((0, 0), (variant.queries, 0), (0, 0)))
    present = jnp.pad(flat != ABSENT, ((0, 0), (variant.queries, 0)), constant_values=True)
    centres = (jnp.stack(jnp.meshgrid(*(jnp.arange(grid, dtype=jnp.float32),) * 3, indexing="ij"), -1) + 0.5) / grid
    image_places = position_code(centres.reshape(1, -1, 3), width)
    image = deepest.reshape(n, -1, width)
    # With one cube the first block's work on the image is shared by all organs.
    image = jnp.repeat(image, organs, 0) if n > 1 else image
    for index in range(variant.prompt_blocks):
      queries = self.param(f"queries{index}", nn.initializers.normal(0.1), own)
      seen = jnp.concatenate([jnp.broadcast_to(queries, (n * organs, *own)), tokens], 1)
      block = TwoWayBlock(variant.heads, variant.mlp_width, False, self.dtype, name=f"block{index}")
      seen, image = block(seen, image, places, image_places, present)
      tokens = seen[:, variant.queries :]
    return image.reshape(n * organs, grid, grid, grid, width)
