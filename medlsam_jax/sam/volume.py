"""A scan and boxes of its organs -> label map on the scan's own grid, slice by slice.

Each slice that any organ needs is encoded once and all its boxes are decoded together. While the network computes on
one slice, another thread prepares the next one and paints the one before. No more than these exist at a time, so that
memory does not grow with the scan or with the number of organs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Literal

import numpy as np
from jaxtyping import Array, Float, Integer, Num

from medlsam_jax import notices
from medlsam_jax.errors import ConfigError, InputError
from medlsam_jax.geometry import Box, Volume, display_view
from medlsam_jax.io.labels import LabelMap, label_values, warn_of_swapped
from medlsam_jax.progress import Progress
from medlsam_jax.sam.clean import clean_labels
from medlsam_jax.sam.predictor import Predictor
from medlsam_jax.sam.slice_boxes import boxes_by_slice
from medlsam_jax.sam.slices import ImageFit, window_to_bytes

Images = list[tuple[int, Float[np.ndarray, "s s 3"] | None]]


@dataclasses.dataclass(frozen=True)
class SegmentationSettings:
  """How boxes and slices are prepared for the network. Defaults are LiteMedSAM's own (reference, section 7).

  Raises:
    ConfigError: a value out of range.
  """

  window_hu: tuple[float, float] = (-160.0, 240.0)
  """HU shown as black and as white."""
  grey_range: Literal["window", "scan"] = "window"
  """What becomes 0..255: the whole window, or the range that the scan has inside it."""
  scaling: Literal["model", "pad", "stretch"] = "model"
  """How a slice fills the network's image: as the network was trained (size and interpolation), or a given way."""
  margin_px: float = 3.0
  """Widening of each box edge, in pixels of an image of `margin_frame` pixels an edge, whatever the network's."""
  margin_frame: int = 256
  rounding: Literal["down", "nearest"] = "down"
  """How box edges become whole pixels, before the margin."""
  extra_slices: int = 0
  """Slices added to an organ's lower and upper end; a negative number takes away."""
  fill_gaps: bool = True
  """Whether slices between two parts of an organ get an interpolated box."""
  largest_component: bool = False
  """Keep only the largest connected piece of each organ."""
  fill_holes: bool = False
  """Give enclosed holes of an organ to it, unless another organ is there."""

  def __post_init__(self) -> None:
    low, high = self.window_hu
    if not (np.isfinite([low, high]).all() and low < high):
      raise ConfigError(f"window_hu {self.window_hu}: the first must be below the second")
    if not (self.margin_px >= 0 and self.margin_frame > 0):
      raise ConfigError(f"margin_px {self.margin_px} at margin_frame {self.margin_frame}: neither may be negative")
    for name, value, known in (
      ("grey_range", self.grey_range, ("window", "scan")),
      ("scaling", self.scaling, ("model", "pad", "stretch")),
      ("rounding", self.rounding, ("down", "nearest")),
    ):
      if value not in known:
        raise ConfigError(f"{name} {value!r} is unknown; known: {', '.join(known)}")


LITEMEDSAM = SegmentationSettings()
MEDLSAM = SegmentationSettings(
  window_hu=(-500.0, 1000.0),
  grey_range="scan",
  scaling="stretch",
  margin_px=10.0,
  margin_frame=1024,
  rounding="nearest",
)
"""Published values (reference, section 6) without the program's bugs: water is not black, the network gets its own
pixel scaling, and no end slice is dropped. Boxes are kept inside the image."""
PRESETS = {"litemedsam": LITEMEDSAM, "medlsam": MEDLSAM}


def segment_volume(
  volume: Volume,
  boxes: Mapping[str, Sequence[Box]],
  predictor: Predictor,
  settings: SegmentationSettings = LITEMEDSAM,
  values: Mapping[str, int] | None = None,
  progress: Progress | None = None,
) -> LabelMap:
  """Segments every organ inside its boxes.

  Where organs overlap the voxel goes to the more probable one, and to the earlier in `boxes` on a tie.

  Args:
    volume: the scan, HU.
    boxes: organ -> its parts in scan voxels (z, y, x). They may overlap, leave gaps, reach outside the scan (clipped)
      or have crossed corners (sorted, with a warning); one-slice boxes prompt slice by slice. An organ without any, or
      with all of them outside the scan, stays empty, with a warning.
    predictor: encodes and decodes.
    settings: how slices and boxes are prepared.
    values: organ -> label value; by default 1, 2, ... in the order of `boxes`.
    progress: called after each slice.

  Returns:
    Label map on the scan's grid, in the smallest unsigned integer type.

  Raises:
    InputError: a box with NaN, an organ without a label value, NaN or infinite voxels in a slice that is needed.
  """
  names = label_values(boxes, values)
  warn_of_swapped(volume, boxes)
  plan = plan_slices(volume, boxes, settings)
  array = np.zeros(volume.array.shape, np.min_scalar_type(max(names.values(), default=0)))
  scan, labels = display_view(volume.array, volume.grid), display_view(array, volume.grid)
  fit = predictor.fit_of(scan.shape[1], scan.shape[2])
  if settings.scaling != "model":
    fit = ImageFit(fit.rows, fit.columns, fit.image_size, settings.scaling)
  grey_hu = grey_range_hu(volume, settings) if plan else settings.window_hu

  def paint(index: int, logits: np.ndarray) -> None:
    labels[index] = _resolve([names[organ] for organ, _ in plan[index]], logits, fit, array.dtype)

  with ThreadPoolExecutor(1, "slices") as beside:
    painting: Future[None] | None = None
    prepared = prepared_images(volume, scan, sorted(plan), grey_hu, fit, predictor, beside)
    for done, (index, embedding) in enumerate(embeddings(prepared, predictor), 1):
      if embedding is not None:
        edges = np.stack([box for _, box in plan[index]])
        logits, _ = predictor.decode(embedding, prompts_of(edges, fit, settings))
        if painting is not None:
          painting.result()
        painting = beside.submit(paint, index, logits)
      if progress is not None:
        progress(done, len(plan))
    if painting is not None:
      painting.result()
  if settings.largest_component or settings.fill_holes:
    clean_labels(array, settings.largest_component, settings.fill_holes)
  return LabelMap(array, volume.grid, names, volume.file_grid)


def plan_slices(
  volume: Volume, boxes: Mapping[str, Sequence[Box]], settings: SegmentationSettings
) -> dict[int, list[tuple[str, np.ndarray]]]:
  """Slice -> organs to segment in it with their boxes in pixels of the slice."""
  plan: dict[int, list[tuple[str, np.ndarray]]] = {}
  for organ, parts in boxes.items():
    try:
      found = boxes_by_slice(parts, volume.grid, settings.extra_slices, settings.fill_gaps)
    except InputError as error:
      raise InputError(f"{volume.source}: {organ}: {error}") from error
    if not found:
      reason = "its boxes lie outside the scan" if parts else "it has no box"
      notices.warn(f"{volume.source}: {organ} stays empty: {reason}")
    for index, edges in found.items():
      plan.setdefault(index, []).append((organ, edges))
  return plan


def grey_range_hu(volume: Volume, settings: SegmentationSettings) -> tuple[float, float]:
  """HU that become 0 and 255."""
  low, high = settings.window_hu
  if settings.grey_range == "window":
    return low, high
  scan_low, scan_high = np.clip([float(volume.array.min()), float(volume.array.max())], low, high)
  return (float(scan_low), float(scan_high)) if scan_low < scan_high else (low, high)


def prepared_images(
  volume: Volume,
  scan: Num[np.ndarray, "slice row column"],
  indices: Sequence[int],
  grey_hu: tuple[float, float],
  fit: ImageFit,
  predictor: Predictor,
  beside: Executor,
) -> Iterator[Images]:
  """Slices and their images, a batch at a time, the next batch in the making; None for a slice of one grey."""

  def prepare(start: int) -> Images:
    return [
      (index, _image(volume, scan[index], index, grey_hu, fit, predictor))
      for index in indices[start : start + predictor.encode_batch]
    ]

  ahead: Future[Images] | None = None
  for start in range(0, len(indices), predictor.encode_batch):
    batch = prepare(start) if ahead is None else ahead.result()
    ahead = beside.submit(prepare, start + predictor.encode_batch)
    yield batch


def _image(
  volume: Volume,
  plane: Num[np.ndarray, "row column"],
  index: int,
  grey_hu: tuple[float, float],
  fit: ImageFit,
  predictor: Predictor,
) -> Float[np.ndarray, "s s 3"] | None:
  """What the network sees of a slice; None where it is of one grey, which holds nothing to segment."""
  if not np.isfinite(plane).all():
    raise InputError(f"{volume.source}: slice {index} (from below) has NaN or infinite voxels; mend the scan first")
  grey = window_to_bytes(plane, grey_hu)
  return fit.to_image(grey, predictor.variant.pixels) if grey.min() < grey.max() else None


def embeddings(batches: Iterator[Images], predictor: Predictor) -> Iterator[tuple[int, Array | None]]:
  """Slices with their embeddings; None for a slice without an image."""
  for batch in batches:
    images = [image for _, image in batch if image is not None]
    encoded = iter(predictor.encode(np.stack(images)) if images else [])
    for index, image in batch:
      yield index, None if image is None else next(encoded)


def prompts_of(
  edges: Float[np.ndarray, "k 4"], fit: ImageFit, settings: SegmentationSettings
) -> Float[np.ndarray, "k 4"]:
  """Boxes in pixels of the slice to prompts: scaled, whole pixels, widened, inside the filled part."""
  scaled = fit.box_to_image(edges)
  whole = np.floor(scaled) if settings.rounding == "down" else np.rint(scaled)
  margin = settings.margin_px * fit.image_size / settings.margin_frame
  rows, columns = fit.fitted
  low = np.clip(whole[:, :2] - margin, 0, (columns - 1, rows - 1))
  # A box thinner than a pixel of the image would round to nothing.
  high = np.clip(np.maximum(whole[:, 2:] + margin, low + 1), 1, (columns, rows))
  return np.concatenate([low, high], 1)


def _resolve(
  values: Sequence[int], logits: Float[np.ndarray, "k low low"], fit: ImageFit, dtype: np.dtype
) -> Integer[np.ndarray, "row column"]:
  """Label of each pixel: the organ of the largest logit (hence probability) above zero, else 0."""
  best = np.zeros((fit.rows, fit.columns), np.float32)
  labels = np.zeros((fit.rows, fit.columns), dtype)
  for value, low in zip(values, logits, strict=True):
    inside = fit.from_positive_logits(low)
    if inside is not None:
      window, full = inside
      better = full > best[window]
      best[window][better] = full[better]
      labels[window][better] = value
  return labels
