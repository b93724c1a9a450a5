"""Masks that lead on to the next slice, and the planes that a scan can be cut along.

Boxes on a few slices alone need nothing here: `slice_boxes` interpolates between an organ's parts, one-slice parts
being markers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Integer

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
class _Organ:
  """One organ's way through the slices."""

  name: str
  value: int
  first: int
  last: int
  middle: int
  box: Float[np.ndarray, "4"]
  """Of the middle slice."""
  edges: Float[np.ndarray, "4"] | None = None
  """Of the mask in the slice before; None where it was empty."""
  middle_edges: Float[np.ndarray, "4"] | None = None

  def prompt(self) -> Float[np.ndarray, "4"]:
    """Box for the next slice."""
    return self.box if self.edges is None else self.edges

  def learn(self, mask: Bool[np.ndarray, "row column"], index: int) -> None:
    """Takes the mask of a slice as the lead for the next."""
    self.edges = tight_edges(mask) if mask.any() else None
    if index == self.middle:
      self.middle_edges = self.edges


@dataclasses.dataclass(eq=False)
class _Sweep:
  """What both sweeps through the slices share."""

  scan: SlicedScan
  labels: Integer[np.ndarray, "slice row column"]
  best: Float32[np.ndarray, "slice row column"]
  """Logit of what is painted."""
  margin_px: float

  def visit(self, index: int, embedding: Array | None, organs: Sequence[_Organ]) -> None:
    """Paints the organs that go through a slice, and leads each of them on."""
    if embedding is None or not organs:
      return
    boxes = [
      self.scan.prompts(organ.prompt()[None], None if organ.edges is None else self.margin_px)[0] for organ in organs
    ]
    logits, _ = self.scan.predictor.decode(embedding, np.stack(boxes))
    for organ, low in zip(organs, logits, strict=True):
      full = self.scan.fit.from_logits(low)
      organ.learn(full > 0, index)
      better = full > self.best[index]
      self.best[index][better] = full[better]
      self.labels[index][better] = organ.value


def paint_middle_out(
  scan: SlicedScan,
  boxes: Mapping[str, Sequence[Box]],
  values: Mapping[str, int],
  labels: Integer[np.ndarray, "slice row column"],
  margin_px: float,
  progress: Progress | None,
) -> None:
  """Every organ up from its middle slice in one sweep, then down in another; each slice is encoded once.

  Embeddings of slices that both sweeps need are kept between them, about 4 MB each with LiteMedSAM.
  """
  organs = _organs(scan.plan(boxes), values)
  up = sorted({i for organ in organs for i in range(organ.middle, organ.last + 1)})
  down = sorted({i for organ in organs for i in range(organ.first, organ.middle)}, reverse=True)
  sweep = _Sweep(scan, labels, np.zeros(labels.shape, np.float32), margin_px)
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
    for organ in organs:
      organ.edges = organ.middle_edges
    rest = scan.embeddings([index for index in down if index not in kept], beside)
    for done, index in enumerate(down, len(up) + 1):
      embedding = kept.pop(index) if index in kept else next(rest)[1]
      tell(done)
      sweep.visit(index, embedding, [o for o in organs if o.first <= index < o.middle])


def _organs(plan: Mapping[int, list[tuple[str, np.ndarray]]], values: Mapping[str, int]) -> list[_Organ]:
  slices: dict[str, dict[int, np.ndarray]] = {}
  for index, asked in plan.items():
    for organ, edges in asked:
      slices.setdefault(organ, {})[index] = edges
  result = []
  for organ in (name for name in values if name in slices):
    indices = sorted(slices[organ])
    middle = indices[len(indices) // 2]
    result.append(_Organ(organ, values[organ], indices[0], indices[-1], middle, slices[organ][middle]))
  return result
