"""Further ways from boxes to a label map: masks that lead on to the next slice, slices along other axes, and votes.

Boxes on a few slices alone need nothing here: `slice_boxes` interpolates between an organ's parts, one-slice parts
being markers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Integer

from medlsam_jax.errors import ConfigError
from medlsam_jax.geometry import Box, Grid, Volume, display_view, reorient
from medlsam_jax.io.labels import LabelMap, label_values, warn_of_swapped
from medlsam_jax.progress import Progress
from medlsam_jax.sam import volume as slicewise
from medlsam_jax.sam.clean import clean_labels
from medlsam_jax.sam.predictor import Predictor
from medlsam_jax.sam.slices import ImageFit
from medlsam_jax.sam.volume import LITEMEDSAM, SegmentationSettings, segment_volume

AXES = {"axial": "LPS", "coronal": "LIP", "sagittal": "PIL"}
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


def segment_along(
  volume: Volume,
  boxes: Mapping[str, Sequence[Box]],
  predictor: Predictor,
  settings: SegmentationSettings = LITEMEDSAM,
  values: Mapping[str, int] | None = None,
  progress: Progress | None = None,
  propagation: PropagationSettings | None = None,
) -> LabelMap:
  """`segment_volume` with any `PropagationSettings`; arguments, result and refusals are the same.

  With several axes `progress` is called for each one's slices in turn.
  """
  propagation = propagation or PropagationSettings()
  names = label_values(boxes, values)
  warn_of_swapped(volume, boxes)
  chosen = tuple(AXES) if propagation.axes == "all" else (propagation.axes,)
  answers = []
  for axis in chosen:
    turned, moved = turned_to(volume, boxes, AXES[axis])
    if propagation.mode == "boxes":
      labels = segment_volume(turned, moved, predictor, settings, names, progress).array
    else:
      labels = _middle_out(turned, moved, predictor, settings, names, progress, propagation.margin_px)
    array = np.empty(volume.array.shape, labels.dtype)
    reorient(array, volume.grid, AXES[axis])[...] = labels
    answers.append(array)
  result = answers[0] if len(answers) == 1 else majority(*answers)
  return LabelMap(result, volume.grid, names, volume.file_grid)


def turned_to(volume: Volume, boxes: Mapping[str, Sequence[Box]], codes: str) -> tuple[Volume, dict[str, list[Box]]]:
  """A scan whose slices in display order run along another axis, and the boxes in its voxels.

  Its affine says that it lies in display order, which holds for its array but not for the patient.
  """
  order, flip = volume.grid.axes_to(codes)
  array = reorient(volume.array, volume.grid, codes)
  spacing = volume.spacing_mm[list(order)]
  grid = Grid((array.shape[0], array.shape[1], array.shape[2]), np.diag([-spacing[2], -spacing[1], spacing[0], 1.0]))

  def moved(box: Box) -> Box:
    corners = box.array()[:, order]
    for axis in range(3):
      if flip[axis]:
        corners[:, axis] = array.shape[axis] - 1 - corners[:, axis]
    low, high = corners.min(0), corners.max(0)
    return Box.from_corners(low, high)

  return Volume(array, grid, volume.source), {organ: [moved(box) for box in parts] for organ, parts in boxes.items()}


def majority(
  first: Integer[np.ndarray, "z y x"], second: Integer[np.ndarray, "z y x"], third: Integer[np.ndarray, "z y x"]
) -> Integer[np.ndarray, "z y x"]:
  """The label that at least two of three maps give a voxel; 0 where all differ."""
  agreed = np.where((first == second) | (first == third), first, 0)
  return np.where(second == third, second, agreed).astype(first.dtype)


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
    y, x = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    self.edges = np.array([x[0], y[0], x[-1] + 1, y[-1] + 1], float) if len(y) else None
    if index == self.middle:
      self.middle_edges = self.edges


def _middle_out(
  volume: Volume,
  boxes: Mapping[str, Sequence[Box]],
  predictor: Predictor,
  settings: SegmentationSettings,
  names: Mapping[str, int],
  progress: Progress | None,
  margin_px: float,
) -> Integer[np.ndarray, "slice row column"]:
  """Every organ up from its middle slice in one sweep, then down in another; each slice is encoded once.

  Embeddings of slices that both sweeps need are kept between them, about 4 MB each with LiteMedSAM.
  """
  plan = slicewise.plan_slices(volume, boxes, settings)
  organs = _organs(plan, names)
  array = np.zeros(volume.array.shape, np.min_scalar_type(max(names.values(), default=0)))
  labels, best = display_view(array, volume.grid), np.zeros(array.shape, np.float32)
  scan = display_view(volume.array, volume.grid)
  fit = predictor.fit_of(scan.shape[1], scan.shape[2])
  if settings.scaling != "model":
    fit = ImageFit(fit.rows, fit.columns, fit.image_size, settings.scaling)
  grey = slicewise.grey_range_hu(volume, settings) if plan else settings.window_hu
  led = dataclasses.replace(settings, margin_px=margin_px, margin_frame=256)
  up = sorted({i for organ in organs for i in range(organ.middle, organ.last + 1)})
  down = sorted({i for organ in organs for i in range(organ.first, organ.middle)}, reverse=True)
  kept: dict[int, Any] = {}
  done = 0

  def visit(index: int, embedding: Any, active: list[_Organ]) -> None:
    nonlocal done
    done += 1
    if progress is not None:
      progress(done, len(up) + len(down))
    if embedding is None or not active:
      return
    prompts = [slicewise.prompts_of(o.prompt()[None], fit, settings if o.edges is None else led)[0] for o in active]
    logits, _ = predictor.decode(embedding, np.stack(prompts))
    for organ, low in zip(active, logits, strict=True):
      full = fit.from_logits(low)
      organ.learn(full > 0, index)
      better = full > best[index]
      best[index][better] = full[better]
      labels[index][better] = organ.value

  with ThreadPoolExecutor(1, "slices") as beside:

    def encoded(indices: Sequence[int]) -> Iterator[tuple[int, Any]]:
      prepared = slicewise.prepared_images(volume, scan, indices, grey, fit, predictor, beside)
      return slicewise.embeddings(prepared, predictor)

    for index, embedding in encoded(up):
      if index in down:
        kept[index] = embedding
      visit(index, embedding, [o for o in organs if o.middle <= index <= o.last])
    for organ in organs:
      organ.edges = organ.middle_edges
    rest = encoded([index for index in down if index not in kept])
    for index in down:
      embedding = kept.pop(index) if index in kept else next(rest)[1]
      visit(index, embedding, [o for o in organs if o.first <= index < o.middle])
  if settings.largest_component or settings.fill_holes:
    clean_labels(array, settings.largest_component, settings.fill_holes)
  return array


def _organs(plan: Mapping[int, list[tuple[str, np.ndarray]]], names: Mapping[str, int]) -> list[_Organ]:
  slices: dict[str, dict[int, np.ndarray]] = {}
  for index, asked in plan.items():
    for organ, edges in asked:
      slices.setdefault(organ, {})[index] = edges
  found = []
  for organ in (name for name in names if name in slices):
    indices = sorted(slices[organ])
    middle = indices[len(indices) // 2]
    found.append(_Organ(organ, names[organ], indices[0], indices[-1], middle, slices[organ][middle]))
  return found
