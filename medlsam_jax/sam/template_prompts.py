"""What templates say of an organ in a slice, as a prompt of the SAM family: a box around it and its mask's logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Array, Float, Float32

from medlsam_jax.sam.slices import ImageFit, tight_edges
from medlsam_jax.template_masks.votes import Vote

LIKELY = 0.5
"""An organ is asked for in the slices in which a voxel is likelier than that to be its; the box holds such voxels."""
_SURE = 0.02
"""Shares count as no surer than that: log-odds within 3.9."""

_NOWHERE = -20.0
"""Logit of what a network was not shown."""
Decode = Callable[
  [Float[Array, "h w c"] | Float[np.ndarray, "h w c"], Float[np.ndarray, "1 4"], Float[np.ndarray, "1 4*h 4*w"]],
  Float[np.ndarray, "1 4*h 4*w"],
]
"""Embedding, box and mask -> logits."""


@dataclasses.dataclass(frozen=True)
class Window:
  """A square of an embedding's cells, shown as if it were the upper left one; boxes and masks move with it."""

  row: int
  column: int
  cells: int
  pixels: int
  """Of the network's image along a cell's edge."""

  @classmethod
  def around(cls, box: Float[np.ndarray, "4"], cells: int, grid: int, pixels: int) -> Window:
    """So many cells with a box in their middle, as far as the embedding of `grid` cells an edge reaches."""
    x, y = (box[:2] + box[2:]) / 2 / pixels - cells / 2
    column, row = (int(np.clip(np.rint(at), 0, grid - cells)) for at in (x, y))
    return cls(row, column, cells, pixels)

  def holds(self, box: Float[np.ndarray, "4"]) -> bool:
    """Whether a box lies in it, and a cell more on each side that is not the image's end."""
    low = (self.column, self.row, self.column, self.row)
    inside = self.box(box) / self.pixels + np.where(np.array(low) > 0, (-1, -1, 0, 0), 0) + (0, 0, 1, 1)
    return bool((inside[:2] >= 0).all() and (inside[2:] <= self.cells + 1).all())

  def box(self, box: Float[np.ndarray, "4"]) -> Float[np.ndarray, "4"]:
    """A box in pixels of the network's image."""
    return box - self.pixels * np.array((self.column, self.row) * 2, np.float32)

  def cell(self, embedding: Array | np.ndarray) -> Array | np.ndarray:
    """An embedding's part."""
    return embedding[self.row : self.row + self.cells, self.column : self.column + self.cells]

  def low(self, low: np.ndarray) -> np.ndarray:
    """A low-resolution mask's part."""
    return low[4 * self.row : 4 * (self.row + self.cells), 4 * self.column : 4 * (self.column + self.cells)]


def asked(
  decode: Decode,
  embedding: Float[Array, "g g c"] | Float[np.ndarray, "g g c"],
  question: tuple[Float[np.ndarray, "4"], Float[np.ndarray, "low low"]],
  cells: int,
  pixels: int,
) -> Float[np.ndarray, "low low"]:
  """Logits of a box and a mask; with `cells` from a window of so many around the box, if it holds the box.

  Args:
    decode: the network.
    embedding: whole.
    question: box in pixels of the network's image, and mask.
    cells: edge of the window; 0: the network always sees the whole embedding.
    pixels: of the network's image along a cell's edge.
  """
  box, mask = question
  grid = embedding.shape[0]
  window = Window.around(box, min(cells, grid), grid, pixels)
  if not cells or cells >= grid or not window.holds(box):
    return np.asarray(decode(embedding, box[None], mask[None]))[0]
  logits = np.full(mask.shape, _NOWHERE, np.float32)
  window.low(logits)[:] = decode(window.cell(embedding), window.box(box)[None], window.low(mask)[None])[0]
  return logits


def plane_of(vote: Vote, index: int, rows: int, columns: int) -> Float32[np.ndarray, "row column"] | None:
  """How likely an organ is in each pixel of a slice; None where it is likely nowhere in it.

  Args:
    vote: in the order of the slices (`Vote.shown`).
    index: of the slice.
    rows, columns: of the whole slice.
  """
  slices, down, across = vote.window
  if not slices.start <= index < slices.stop:
    return None
  share = vote.share[index - slices.start]
  if not share.max(initial=0) > LIKELY:
    return None
  plane = np.zeros((rows, columns), np.float32)
  plane[down, across] = share
  return plane


def edges_of(plane: Float[np.ndarray, "row column"]) -> Float[np.ndarray, "4"]:
  """Edges of the box around the likely pixels of a slice, as `plane_of` gives it."""
  return tight_edges(plane > LIKELY)


def mask_of(plane: Float[np.ndarray, "row column"], fit: ImageFit, low: int) -> Float32[np.ndarray, "low low"]:
  """Log-odds of a slice's pixels at the size of a mask prompt."""
  share = np.clip(np.asarray(plane, np.float32), _SURE, 1 - _SURE)
  return fit.to_low(np.log(share / (1 - share)), low, float(np.log(_SURE / (1 - _SURE))))


def blended(
  plane: Float[np.ndarray, "row column"], logits: Float[np.ndarray, "row column"], vote_share: float
) -> Float32[np.ndarray, "row column"]:
  """Probability of each pixel: the templates' by `vote_share`, the network's by the rest."""
  network = 0.5 * (1 + np.tanh(np.asarray(logits, np.float32) / 2))
  return np.float32(vote_share) * plane + np.float32(1 - vote_share) * network
