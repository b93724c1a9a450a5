"""Distillation: a small image encoder learns to give a large one's embeddings, which are computed once.

"Faster segment anything" (MobileSAM): the student's embedding is regressed on the teacher's alone, mean squared error;
neither prompts nor masks take part. Both see the same slices, each prepared as its own family was.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from medlsam_jax.errors import ConfigError, WeightsError
from medlsam_jax.network import Network
from medlsam_jax.sam.finetuning.slice_order import SliceOrder
from medlsam_jax.sam.labelled_slices import LabelledSlices
from medlsam_jax.sam.network.sam import Sam, SamVariant
from medlsam_jax.sam.network.tiny_vit import TinyViTSizes
from medlsam_jax.sam.slices import ImageFit


class EmbeddingBatch(NamedTuple):
  """`n` images with the embeddings that are wanted for them."""

  inputs: Float32[np.ndarray, "n s s 3"]
  wanted: Float32[np.ndarray, "n g g c"]
  """The teacher's, cell for cell where the student has its own."""
  weights: Float32[np.ndarray, "n g g"]
  """1 where the teacher saw what lies at that cell, else 0."""


class EmbeddingSource:
  """This process's rows of any step's batch: slices in shuffled order, epoch after epoch.

  Args:
    slices: as the student sees them.
    variant: the student's.
    seen_by_teacher: the same slices as the teacher sees them.
    embeddings: the teacher's, of all slices.
    images_per_step: over all processes.
    seed: of the order.
    rows: of this process.
    steps: of the run.
  """

  def __init__(
    self,
    slices: LabelledSlices,
    variant: SamVariant,
    seen_by_teacher: LabelledSlices,
    embeddings: Float[np.ndarray, "n t t c"],
    images_per_step: int,
    seed: int,
    rows: range,
    steps: int,
  ):
    self._slices, self._grid, self._teachers = slices, variant.grid, seen_by_teacher
    self._embeddings, self._steps = embeddings, steps
    self._order = SliceOrder(len(slices), images_per_step, seed, rows)

  def __len__(self) -> int:
    return self._steps

  def __getitem__(self, step: int) -> EmbeddingBatch:
    inputs, wanted, weights = [], [], []
    for _, chosen in self._order.of_step(step):
      item, embedding = self._slices.items[chosen], np.asarray(self._embeddings[chosen], np.float32)
      ours, theirs = self._slices.fit_of(item), self._teachers.fit_of(item)
      (rows, seen_rows), (columns, seen_columns) = (
        cell_matrix(ours, theirs, self._grid, len(embedding), a) for a in "yx"
      )
      inputs.append(self._slices.image(item))
      wanted.append(np.einsum("ys,stc,xt->yxc", rows, embedding, columns, optimize=True))
      weights.append(np.outer(seen_rows, seen_columns).astype(np.float32))
    return EmbeddingBatch(np.stack(inputs), np.stack(wanted), np.stack(weights))


@lru_cache(maxsize=32)
def cell_matrix(
  student: ImageFit, teacher: ImageFit, cells: int, teachers_cells: int, axis: str
) -> tuple[Float32[np.ndarray, "cells teachers_cells"], Float32[np.ndarray, " cells"]]:
  """Along one axis, how a teacher's cells are mixed to lie where a student's are, and which of those it saw at all.

  Linear between the centres of cells; the identity where both look at slices alike and have as many cells. Cells of the
  padding are seen where both pad alike.
  """
  which = "xy".index(axis)
  centres = (np.arange(cells) + 0.5) * student.image_size / cells / student.scale_xy[which]
  place = centres * teacher.scale_xy[which] * teachers_cells / teacher.image_size
  seen = (place < teachers_cells).astype(np.float32)
  place = np.clip(place - 0.5, 0, teachers_cells - 1)
  weights = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(teachers_cells)))
  return weights.astype(np.float32), seen


def as_seen_by(slices: LabelledSlices, variant: SamVariant) -> LabelledSlices:
  """The same items, prepared for another member of the family."""
  other = copy.copy(slices)
  other.pixels, other.low_size = variant.pixels, 4 * variant.grid
  other.fits = [
    ImageFit(fit.rows, fit.columns, variant.image_size, variant.scaling, variant.resampling) for fit in slices.fits
  ]
  return other


def embedding_loss(found: Float[Array, "n g g c"], batch: EmbeddingBatch) -> tuple[Array, dict[str, Array]]:
  """Squared error of each channel, averaged over the cells that count, and the cosine between both embeddings."""
  wanted, weights = jnp.asarray(batch.wanted), jnp.asarray(batch.weights)
  share = weights / jnp.maximum(weights.sum(), 1)
  error = jnp.sum(share * jnp.square(found - wanted).mean(-1))
  lengths = jnp.sqrt(jnp.square(found).sum(-1) * jnp.square(wanted).sum(-1))
  cosine = jnp.sum(share * (found * wanted).sum(-1) / jnp.maximum(lengths, 1e-6))
  return error, {"loss": error, "cosine": cosine}


def check_pair(student: Sam, teacher: Network | None, name: str) -> Sam:
  """The teacher's module, if the student can learn from it.

  Raises:
    ConfigError: the student is no TinyViT, no teacher is given, or embeddings have other numbers of channels.
    WeightsError: the teacher is not of the SAM family.
  """
  ours = student.variant
  if not isinstance(ours.encoder, TinyViTSizes):
    raise ConfigError(
      f"train distill: network {ours.name} is no TinyViT; give litemedsam or mobilesam as network, the ViT as teacher"
    )
  if teacher is None:
    raise ConfigError(f"train distill: teacher {name!r}; name the network to learn from, such as medsam")
  if not isinstance(teacher.module, Sam):
    raise WeightsError(
      f"{teacher.source}: a {teacher.kind} network has no image embedding to learn; give one such as medsam"
    )
  theirs = teacher.module.variant
  if theirs.encoder.neck != ours.encoder.neck:
    raise ConfigError(
      f"train distill: teacher {theirs.name} has {theirs.encoder.neck} channels in its embedding, network {ours.name} "
      f"{ours.encoder.neck}; they must agree"
    )
  return teacher.module.clone(dtype=student.dtype)
