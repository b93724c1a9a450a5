"""Slices painted on an accelerator: 8-bit images go to it, label slices come back, and nothing of what lies between.

A batch of slices is encoded in one program; their boxes, of all organs, are decoded `BOXES_AT_ONCE` at a time; each of
these masks is brought to the scan's size and laid where it is larger than those before it. No program depends on the
scan but the last, which is small and compiles quickly, and that only on its size in steps of `PIXEL_STEP`.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, Num, UInt8

from medlsam_jax import platform
from medlsam_jax.geometry import Box
from medlsam_jax.progress import Progress
from medlsam_jax.rehearsal import Rehearsal
from medlsam_jax.sam.fixed_sizes import BOX_COUNTS
from medlsam_jax.sam.predictor import Predictor
from medlsam_jax.sam.sliced_scan import SlicedScan

BOXES_AT_ONCE = BOX_COUNTS[-1]
"""That one run of the decoder takes here, whatever slices of the batch they belong to."""
BATCHES_AHEAD = 2
"""Batches that the device has been given before the first of them is asked for."""
PIXEL_STEP = 128
"""Sides of a slice are filled up to multiples of this, so that scans of about one size share a program."""


def rehearse(predictor: Predictor) -> Rehearsal:
  """Begins to compile the two large programs of `paint_slices`, beside each other. On a CPU nothing is done."""
  if not platform.slices_together():
    return Rehearsal()
  edge, grid = predictor.image_size, predictor.variant.grid
  fit = predictor.fit_of(edge, edge)

  def encode() -> None:
    jax.block_until_ready(predictor.encode_levels(np.zeros((1, edge, edge), np.uint8), fit))

  def decode() -> None:
    embeddings = jnp.zeros((predictor.encode_batch, grid, grid, predictor.variant.encoder.neck), jnp.float32)
    box = np.array([[0, 0, edge, edge]], np.float32)
    jax.block_until_ready(predictor.decode_among(embeddings, np.zeros(1, np.int32), box, BOXES_AT_ONCE))

  return Rehearsal(encode, decode)


def paint_slices(
  scan: SlicedScan,
  boxes: Mapping[str, Sequence[Box]],
  values: Mapping[str, int],
  labels: Integer[np.ndarray, "slice row column"],
  progress: Progress | None,
) -> None:
  """Paints each slice by its boxes alone, as `volume` does on a CPU but for rounding.

  Where the device's memory does not suffice for a batch, all begins anew with batches of half as many slices.

  Raises:
    InputError: as `volume.paint_volume`.
    DeviceError: it does not suffice for a single slice.
  """
  while True:
    try:
      return _paint_batches(scan, boxes, values, labels, progress)
    except jax.errors.JaxRuntimeError as error:
      scan.predictor.less_at_once(error)


def _paint_batches(
  scan: SlicedScan,
  boxes: Mapping[str, Sequence[Box]],
  values: Mapping[str, int],
  labels: Integer[np.ndarray, "slice row column"],
  progress: Progress | None,
) -> None:
  plan, done = scan.plan(boxes), 0
  back = filled_up(scan.fit.back_matrices(scan.predictor.low_size, scan.predictor.low_size))
  waiting: collections.deque[tuple[list[int], Array]] = collections.deque()

  def fetch() -> None:
    indices, painted = waiting.popleft()
    labels[indices] = np.asarray(painted)[: len(indices), : labels.shape[1], : labels.shape[2]]

  with ThreadPoolExecutor(1, "slices") as beside:
    for batch in scan.level_batches(sorted(plan), beside):
      real = [(index, levels) for index, levels in batch if levels is not None]
      if real:
        indices = [index for index, _ in real]
        prompts = [(place, organ, edges) for place, index in enumerate(indices) for organ, edges in plan[index]]
        images = np.stack([levels for _, levels in real])
        waiting.append((indices, _painted(scan, images, prompts, values, back, labels.dtype)))
      if len(waiting) > BATCHES_AHEAD:
        fetch()
      done += len(batch)
      if progress is not None:
        progress(done, len(plan))
    while waiting:
      fetch()


def _painted(
  scan: SlicedScan,
  levels: UInt8[np.ndarray, "n s s"],
  prompts: Sequence[tuple[int, str, Float[np.ndarray, "4"]]],
  values: Mapping[str, int],
  back: tuple[Float[Array, "row low"], Float[Array, "column low"]],
  dtype: np.dtype,
) -> Integer[Array, "batch row column"]:
  """Label slices on the device, computed or not yet; `prompts`: place in the batch, organ and box, organs in order."""
  embeddings = scan.predictor.encode_levels(levels, scan.fit)
  shape = (len(embeddings), len(back[0]), len(back[1]))
  best, painted = jnp.zeros(shape, jnp.float32), jnp.zeros(shape, dtype)
  edges = scan.prompts(np.stack([each[2] for each in prompts]))
  for start in range(0, len(prompts), BOXES_AT_ONCE):
    some = slice(start, start + BOXES_AT_ONCE)
    places = np.array([place for place, _, _ in prompts[some]], np.int32)
    given = np.array([values[organ] for _, organ, _ in prompts[some]], dtype)
    logits = scan.predictor.decode_among(embeddings, places, edges[some], BOXES_AT_ONCE)
    missing = BOXES_AT_ONCE - len(places)
    # a place beyond the batch is one that nothing is laid on
    places = np.pad(places, (0, missing), constant_values=len(embeddings))
    best, painted = lay(best, painted, logits, places, np.pad(given, (0, missing)), *back)
  return painted


@functools.partial(jax.jit, donate_argnums=(0, 1))
def lay(
  best: Float[Array, "n row column"],
  labels: Integer[Array, "n row column"],
  logits: Float[Array, "k low low"],
  places: Integer[Array, " k"],
  values: Num[Array, " k"],
  rows: Float[Array, "row low"],
  columns: Float[Array, "column low"],
) -> tuple[Float[Array, "n row column"], Integer[Array, "n row column"]]:
  """Lays masks over slices, one after the other: a pixel takes a mask's value where its logit is the largest so far.

  Args:
    best: largest logit of each pixel, 0 where nothing was laid.
    labels: its value.
    logits: at low resolution.
    places: slice that each belongs to; `n` for none.
    values: label value of each.
    rows: weights that bring them to the slice's size, and so are `columns`.
  """
  exact = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
  full = exact(exact(rows, logits), columns.T)

  def one(state: tuple[Array, Array], each: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], None]:
    best, labels = state
    full, place, value = each
    at = jnp.minimum(place, len(best) - 1)
    better = (full > best[at]) & (place < len(best))
    best = best.at[at].set(jnp.where(better, full, best[at]))
    return (best, labels.at[at].set(jnp.where(better, value, labels[at]))), None

  return jax.lax.scan(one, (best, labels), (full, places, values))[0]


def filled_up(
  matrices: tuple[Float[np.ndarray, "row low"], Float[np.ndarray, "column low"]],
) -> tuple[Float[Array, "more_rows low"], Float[Array, "more_columns low"]]:
  """On the device, with rows of zeros, to whose pixels no mask reaches."""
  rows, columns = (jnp.asarray(np.pad(each, ((0, -len(each) % PIXEL_STEP), (0, 0)))) for each in matrices)
  return rows, columns
