"""Boxes as volumes: how much of each cell of a cube lies in the box that an organ's prompts draw.

SAM tells its image of a mask by an embedding that is added to every pixel. A box is told likewise here, since six
points on its faces alone leave it to attention to find out what is inside (ours).
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from medlsam_jax.sam3d.network.prompts import FACES


def filled_boxes(
  points: Float[Array, "n k t 3"], labels: Int[Array, "n k t"], edge: int, cells: int
) -> Float[Array, "nk {cells} {cells} {cells} 1"]:
  """Share of each cell in the box, 0 to 1; zero throughout where the prompts have not all six faces.

  Args:
    points: (z, y, x) voxels of the cube; of a face only the coordinate across it counts, so that extreme points do as
      well as middles of faces. Corners are inclusive voxels.
    labels: of each point, `prompts.LABELS` or `ABSENT`.
    edge: voxels an edge of the cube.
    cells: an edge of the result.
  """
  points, labels = points.reshape(-1, *points.shape[2:]), labels.reshape(-1, labels.shape[-1])
  is_face = labels[..., None] == jnp.array(FACES)
  across = jnp.tile(points, 2)
  low = jnp.where(is_face, across, jnp.inf).min(1)[:, :3] - 0.5
  high = jnp.where(is_face, across, -jnp.inf).max(1)[:, 3:] + 0.5
  size = edge / cells
  start = jnp.arange(cells) * size - 0.5
  inside = jnp.minimum(high[..., None], start + size) - jnp.maximum(low[..., None], start)
  share = jnp.where(is_face.any(1).all(-1)[:, None, None], jnp.clip(inside, 0, size) / size, 0)
  z, y, x = share[:, 0], share[:, 1], share[:, 2]
  return (z[:, :, None, None] * y[:, None, :, None] * x[:, None, None, :])[..., None]
