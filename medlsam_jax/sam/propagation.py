"""Masks that lead on to the next slice, and the planes that a scan can be cut along.

Boxes on a few slices alone need nothing here: `slice_boxes` interpolates between an organ's parts, one-slice parts
being markers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, Protocol

import numpy as np
from jaxtyping import Array, Float, Float32, Integer

from medlsam_jax.errors import ConfigError
from medlsam_jax.geometry import DISPLAY_AXIS_CODES, Box
from medlsam_jax.progress import Progress
from medlsam_jax.sam.sliced_scan import SlicedScan
from medlsam_jax.sam.slices import tight_edges

AXES = {"axial": DISPLAY_AXIS_CODES, "coronal": "LIP", "sagittal": "PIL"}
"""Directions of rising column, row and slice, by the planes that are looked at."""


@dataclasses.dataclass(frozen=True)
class PropagationSettings:
  """How slices of an organ depend on one another; the defaults are plain boxes on axial slices.

  Raises:
    ConfigError: a value out of range.
  """

  mode: Literal["boxes", "middle-out"] = "boxes"
  """`middle-out`: the box prompts the organ's middle slice; up and down from there the box of the mask before, widened,
  prompts the next slice, and the first box does where that mask was empty (as LiteMedSAM's program does)."""
  margin_px: float = 3.0
  """By which the mask's box is widened, pixels of an image of 256 an edge."""
  axes: Literal["axial", "coronal", "sagittal", "all"] = "axial"
  """Planes to cut; `all` cuts all three, and a voxel gets the organ that two of them agree on. Pixels are taken as
  square: thick slices look squeezed in the other planes."""

  def __post_init__(self) -> None:
    if self.mode not in ("boxes", "middle-out"):
      raise ConfigError(f"propagation mode {self.mode!r} is unknown; known: boxes, middle-out")
    if self.axes not in (*AXES, "all"):
      raise ConfigError(f"axes {self.axes!r} are unknown; known: {', '.join(AXES)}, all")
    if not 0 <= self.margin_px < 256:
      raise ConfigError(f"propagation margin_px {self.margin_px}: give 0 or more")


@dataclasses.dataclass(eq=False)
class Organ:
  """One organ's way through the slices."""

  name: str
  value: int
  first: int
  last: int
  middle: int
  box: Float[np.ndarray, "4"]
  """Of the middle slice."""


class Sweep(Protocol):
  """Both ways through the slices: up from the organs' middles, then down."""

  def visit(self, index: int, embedding: Array | None, organs: Sequence[Organ]) -> None:
    """Paints the organs that go through a slice, and leads each of them on; None is a slice that holds nothing."""
    ...

  def turn(self) -> None:
    """Between the two ways: each organ is led on from its middle slice again."""
    ...

  def finish(self) -> None:
    """After the last slice: the label map is painted."""
    ...


class HostSweep:
  """A slice at a time: the next is asked about when the masks of the one before are here."""

  def __init__(
    self,
    scan: SlicedScan,
    labels: Integer[np.ndarray, "slice row column"],
    organs: Sequence[Organ],
    margin_px: float,
  ) -> None:
    self._scan, self._labels, self._margin_px = scan, labels, margin_px
    self._best: Float32[np.ndarray, "slice row column"] = np.zeros(labels.shape, np.float32)
    # edges of an organ's mask in the slice before, and in its middle; None where it was empty
    self._edges: dict[str, Float[np.ndarray, "4"] | None] = dict.fromkeys(organ.name for organ in organs)
    self._middle_edges = dict(self._edges)

  def visit(self, index: int, embedding: Array | None, organs: Sequence[Organ]) -> None:
    """As `Sweep`."""
    if embedding is None or not organs:
      return
    logits, _ = self._scan.predictor.decode(embedding, np.stack([self._prompt(organ) for organ in organs]))
    for organ, low in zip(organs, logits, strict=True):
      full = self._scan.fit.from_logits(low)
      mask = full > 0
      self._edges[organ.name] = tight_edges(mask) if mask.any() else None
      if index == organ.middle:
        self._middle_edges[organ.name] = self._edges[organ.name]
      better = full > self._best[index]
      self._best[index][better] = full[better]
      self._labels[index][better] = organ.value

  def turn(self) -> None:
    """As `Sweep`."""
    self._edges = dict(self._middle_edges)

  def finish(self) -> None:
    """As `Sweep`."""

  def _prompt(self, organ: Organ) -> Float[np.ndarray, "4"]:
    edges = self._edges[organ.name]
    if edges is None:
      return self._scan.prompts(organ.box[None])[0]
    return self._scan.prompts(edges[None], self._margin_px)[0]


def paint_middle_out(
  scan: SlicedScan,
  boxes: Mapping[str, Sequence[Box]],
  values: Mapping[str, int],
  labels: Integer[np.ndarray, "slice row column"],
  margin_px: float,
  progress: Progress | None,
  make_sweep: Callable[[SlicedScan, np.ndarray, Sequence[Organ], float], Sweep] = HostSweep,
) -> None:
  """Every organ up from its middle slice in one sweep, then down in another; each slice is encoded once.

  Embeddings of slices that both sweeps need are kept between them, about 4 MB each with LiteMedSAM.
  """
  organs = _organs(scan.plan(boxes), values)
  up = sorted({i for organ in organs for i in range(organ.middle, organ.last + 1)})
  down = sorted({i for organ in organs for i in range(organ.first, organ.middle)}, reverse=True)
  sweep = make_sweep(scan, labels, organs, margin_px)
  kept: dict[int, Array | None] = {}

  def tell(done: int) -> None:
    if progress is not None:
      progress(done, len(up) + len(down))

  with ThreadPoolExecutor(1, "slices") as beside:
    for done, (index, embedding) in enumerate(scan.embeddings(up, beside), 1):
      if index in down:
        kept[index] = embedding
      tell(done)
      sweep.visit(index, embedding, [o for o in organs if o.middle <= index <= o.last])
    sweep.turn()
    rest = scan.embeddings([index for index in down if index not in kept], beside)
    for done, index in enumerate(down, len(up) + 1):
      embedding = kept.pop(index) if index in kept else next(rest)[1]
      tell(done)
      sweep.visit(index, embedding, [o for o in organs if o.first <= index < o.middle])
  sweep.finish()


def _organs(plan: Mapping[int, list[tuple[str, np.ndarray]]], values: Mapping[str, int]) -> list[Organ]:
  slices: dict[str, dict[int, np.ndarray]] = {}
  for index, asked in plan.items():
    for organ, edges in asked:
      slices.setdefault(organ, {})[index] = edges
  result = []
  for organ in (name for name in values if name in slices):
    indices = sorted(slices[organ])
    middle = indices[len(indices) // 2]
    result.append(Organ(organ, values[organ], indices[0], indices[-1], middle, slices[organ][middle]))
  return result
