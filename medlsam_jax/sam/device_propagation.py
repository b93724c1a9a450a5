"""Masks that lead on to the next slice, on an accelerator: nothing is waited for before the last slice.

What `propagation.HostSweep` works out between two slices is part of the program here: a mask at the scan's size, its
tight box, and from that the prompt of the next slice, which never leaves the device.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, Num

from medlsam_jax.sam.device_painting import filled_up
from medlsam_jax.sam.everything import boxes_of
from medlsam_jax.sam.fixed_sizes import BOX_COUNTS
from medlsam_jax.sam.propagation import Organ
from medlsam_jax.sam.sliced_scan import SlicedScan


class Lead(NamedTuple):
  """Boxes (x0, y0, x1, y1) of all organs in pixels of the network's image."""

  first: Float[Array, "organs 4"]
  """Of the middle slice: what prompts after an empty mask."""
  following: Float[Array, "organs 4"]
  """What prompts the next slice."""
  after_middle: Float[Array, "organs 4"]
  """What prompts the one next to an organ's middle."""


class DeviceSweep:
  """Every slice is asked about as soon as it is encoded; label slices come back at the end."""

  def __init__(
    self,
    scan: SlicedScan,
    labels: Integer[np.ndarray, "slice row column"],
    organs: Sequence[Organ],
    margin_px: float,
  ) -> None:
    self._scan, self._labels = scan, labels
    self._row = {organ.name: row for row, organ in enumerate(organs)}
    first = jnp.asarray(scan.prompts(np.stack([organ.box for organ in organs])) if organs else np.zeros((0, 4)))
    self._lead = Lead(*[first.astype(jnp.float32)] * 3)
    low, fit = scan.predictor.low_size, scan.fit
    self._back = filled_up(fit.back_matrices(low, low))
    self._painted: dict[int, tuple[Array, Array]] = {}
    self._widened = functools.partial(
      _widened,
      scale=fit.scale_xy,
      margin=margin_px * fit.image_size / 256,
      fitted=fit.fitted,
      down=scan.settings.rounding == "down",
    )

  def visit(self, index: int, embedding: Array | None, organs: Sequence[Organ]) -> None:
    """As `Sweep`."""
    if embedding is None:
      return
    for start in range(0, len(organs), BOX_COUNTS[-1]):
      self._ask(index, embedding, organs[start : start + BOX_COUNTS[-1]])

  def turn(self) -> None:
    """As `Sweep`."""
    self._lead = self._lead._replace(following=self._lead.after_middle)

  def finish(self) -> None:
    """As `Sweep`."""
    rows, columns = self._labels.shape[1:]
    for index, (_, labels) in self._painted.items():
      self._labels[index] = np.asarray(labels)[:rows, :columns]

  def _ask(self, index: int, embedding: Array, organs: Sequence[Organ]) -> None:
    size = next(size for size in BOX_COUNTS if size >= len(organs))
    spare = (0, size - len(organs))
    # a row beyond the organs is one of none
    rows = np.pad([self._row[organ.name] for organ in organs], spare, constant_values=len(self._row)).astype(np.int32)
    values = np.pad(np.array([organ.value for organ in organs], self._labels.dtype), spare)
    in_middle = np.pad([organ.middle == index for organ in organs], spare)
    boxes = self._lead.following[np.minimum(rows, len(self._row) - 1)]
    logits = self._scan.predictor.decode_among(embedding[None], np.zeros(size, np.int32), boxes, size)
    shape = (len(self._back[0]), len(self._back[1]))
    painted = self._painted.get(index) or (jnp.zeros(shape, jnp.float32), jnp.zeros(shape, self._labels.dtype))
    *slices, edges, empty = _lay_one(*painted, logits, rows < len(self._row), values, *self._back)
    self._painted[index] = (slices[0], slices[1])
    self._lead = _led_on(self._lead, rows, in_middle, self._widened(edges), empty)


@functools.partial(jax.jit, donate_argnums=(0, 1))
def _lay_one(
  best: Float[Array, "row column"],
  labels: Integer[Array, "row column"],
  logits: Float[Array, "k low low"],
  used: Bool[Array, " k"],
  values: Num[Array, " k"],
  rows: Float[Array, "row low"],
  columns: Float[Array, "column low"],
) -> tuple[Float[Array, "row column"], Integer[Array, "row column"], Int[Array, "k 4"], Bool[Array, " k"]]:
  """Masks laid over one slice where their logit is the largest so far, their tight edges, and which are empty."""
  exact = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
  full = jnp.where(used[:, None, None], exact(exact(rows, logits), columns.T), -jnp.inf)
  masks, top = full > 0, full.max(0)
  better = top > best
  labels = jnp.where(better, values[full.argmax(0)], labels)
  edges = boxes_of(masks) + jnp.array([0, 0, 1, 1])
  return jnp.where(better, top, best), labels, edges, ~masks.any((1, 2))


@functools.partial(jax.jit, static_argnames=("scale", "margin", "fitted", "down"))
def _widened(
  edges: Int[Array, "k 4"], scale: tuple[float, float], margin: float, fitted: tuple[int, int], down: bool
) -> Float[Array, "k 4"]:
  """`SlicedScan.prompts` with a margin of its own."""
  scaled = edges.astype(jnp.float32) * jnp.array(scale * 2, jnp.float32)
  whole = jnp.floor(scaled) if down else jnp.rint(scaled)
  rows, columns = fitted
  low = jnp.clip(whole[:, :2] - margin, 0, jnp.array([columns - 1, rows - 1]))
  high = jnp.clip(jnp.maximum(whole[:, 2:] + margin, low + 1), 1, jnp.array([columns, rows]))
  return jnp.concatenate([low, high], 1)


@jax.jit
def _led_on(
  lead: Lead, rows: Int[Array, " k"], in_middle: Bool[Array, " k"], boxes: Float[Array, "k 4"], empty: Bool[Array, " k"]
) -> Lead:
  """What prompts next after masks with these boxes, of the organs in `rows`; rows beyond the organs are none."""
  new = jnp.where(empty[:, None], lead.first[rows], boxes)
  following = lead.following.at[rows].set(new, mode="drop")
  middle_rows = jnp.where(in_middle, rows, len(lead.first))
  return Lead(lead.first, following, lead.after_middle.at[middle_rows].set(new, mode="drop"))
