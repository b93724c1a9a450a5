"""A scan cut into slices along one plane, and how these come before a network of the SAM family.

While the network computes on one batch of slices, another thread prepares the next one. No more than these exist at a
time, so that memory does not grow with the scan.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import TypeVar

import numpy as np
from jaxtyping import Array, Float, Integer, Num, UInt8

from medlsam_jax import notices, platform
from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Box, Volume, reorient
from medlsam_jax.sam.predictor import Predictor
from medlsam_jax.sam.segmentation_settings import SegmentationSettings
from medlsam_jax.sam.slice_boxes import boxes_by_slice
from medlsam_jax.sam.slices import ImageFit, window_to_bytes

Images = list[tuple[int, Float[np.ndarray, "s s 3"] | None]]
Levels = list[tuple[int, UInt8[np.ndarray, "s s"] | None]]
Prepared = TypeVar("Prepared")


@dataclasses.dataclass(frozen=True, eq=False)
class SlicedScan:
  """Slices of a scan; the scan's array is viewed in their order, not copied."""

  volume: Volume
  codes: str
  """Directions of rising column, row and slice, such as `geometry.DISPLAY_AXIS_CODES`."""
  predictor: Predictor
  settings: SegmentationSettings

  @functools.cached_property
  def hu(self) -> Num[np.ndarray, "slice row column"]:
    """The scan, slice by slice."""
    return reorient(self.volume.array, self.volume.grid, self.codes)

  @functools.cached_property
  def fit(self) -> ImageFit:
    """How a slice lies in the network's image."""
    fit = self.predictor.fit_of(self.hu.shape[1], self.hu.shape[2])
    if self.settings.scaling == "model":
      return fit
    return ImageFit(fit.rows, fit.columns, fit.image_size, self.settings.scaling)

  @functools.cached_property
  def grey_hu(self) -> tuple[float, float]:
    """HU that become 0 and 255."""
    low, high = self.settings.window_hu
    if self.settings.grey_range == "window":
      return low, high
    scan_low, scan_high = np.clip([float(self.hu.min()), float(self.hu.max())], low, high)
    return (float(scan_low), float(scan_high)) if scan_low < scan_high else (low, high)

  def blank(
    self, values: Mapping[str, int]
  ) -> tuple[Integer[np.ndarray, "z y x"], Integer[np.ndarray, "slice row column"]]:
    """An empty label map in the order of the scan's voxels, and the same memory slice by slice, to paint in.

    It is of the smallest unsigned type that holds the values.
    """
    array = np.zeros(self.volume.array.shape, np.min_scalar_type(max(values.values(), default=0)))
    return array, reorient(array, self.volume.grid, self.codes)

  def plan(self, boxes: Mapping[str, Sequence[Box]]) -> dict[int, list[tuple[str, Float[np.ndarray, "4"]]]]:
    """Slice -> organs to segment in it with their boxes in pixels of the slice.

    An organ of which nothing lies in the scan is warned of.

    Raises:
      InputError: a box with NaN.
    """
    plan: dict[int, list[tuple[str, np.ndarray]]] = {}
    source, settings = self.volume.source, self.settings
    for organ, parts in boxes.items():
      try:
        by_slice = boxes_by_slice(parts, self.volume.grid, settings.extra_slices, settings.fill_gaps, self.codes)
      except InputError as error:
        raise InputError(f"{source}: {organ}: {error}") from error
      if not by_slice:
        reason = "its boxes lie outside the scan" if parts else "it has no box"
        notices.warn(f"{source}: {organ} stays empty: {reason}")
      for index, edges in by_slice.items():
        plan.setdefault(index, []).append((organ, edges))
    return plan

  def embeddings(self, indices: Sequence[int], beside: Executor) -> Iterator[tuple[int, Array | None]]:
    """Slices with their embeddings, each encoded once; None for a slice of one grey, which holds nothing to segment.

    Raises:
      InputError: NaN or infinite voxels in a slice.
    """
    if platform.slices_together():
      batches: Iterator[Levels] | Iterator[Images] = self.level_batches(indices, beside)
      encode: Callable[[np.ndarray], list[Array]] = functools.partial(self.predictor.encode_each_level, fit=self.fit)
    else:
      batches, encode = self._batches(indices, beside, self._image), self.predictor.encode
    for batch in batches:
      images = [image for _, image in batch if image is not None]
      encoded = iter(encode(np.stack(images)) if images else [])
      for index, image in batch:
        yield index, None if image is None else next(encoded)

  def level_batches(self, indices: Sequence[int], beside: Executor) -> Iterator[Levels]:
    """Slices as 8-bit images of the network's size, a batch at a time; None for a slice of one grey.

    Raises:
      InputError: NaN or infinite voxels in a slice.
    """

    def levels(index: int) -> UInt8[np.ndarray, "s s"] | None:
      grey = self._grey(index)
      return None if grey is None else self.fit.to_levels(grey)

    return self._batches(indices, beside, levels)

  def prompts(self, edges: Float[np.ndarray, "k 4"], margin_px: float | None = None) -> Float[np.ndarray, "k 4"]:
    """Boxes in pixels of a slice to prompts: scaled, whole pixels, widened, inside the filled part.

    Args:
      margin_px: instead of that of the settings, in pixels of an image of 256 an edge.
    """
    settings = self.settings
    margin, frame = (settings.margin_px, settings.margin_frame) if margin_px is None else (margin_px, 256)
    scaled = self.fit.box_to_image(edges)
    whole = np.floor(scaled) if settings.rounding == "down" else np.rint(scaled)
    margin = margin * self.fit.image_size / frame
    rows, columns = self.fit.fitted
    low = np.clip(whole[:, :2] - margin, 0, (columns - 1, rows - 1))
    # A box thinner than a pixel of the image would round to nothing.
    high = np.clip(np.maximum(whole[:, 2:] + margin, low + 1), 1, (columns, rows))
    return np.concatenate([low, high], 1)

  def _batches(
    self, indices: Sequence[int], beside: Executor, made: Callable[[int], Prepared]
  ) -> Iterator[list[tuple[int, Prepared]]]:
    """Slices and what is made of each, a batch at a time, the next batch in the making."""
    step = self.predictor.encode_batch

    def prepare(start: int) -> list[tuple[int, Prepared]]:
      return [(index, made(index)) for index in indices[start : start + step]]

    ahead: Future[list[tuple[int, Prepared]]] | None = None
    for start in range(0, len(indices), step):
      batch = prepare(start) if ahead is None else ahead.result()
      ahead = beside.submit(prepare, start + step)
      yield batch

  def _image(self, index: int) -> Float[np.ndarray, "s s 3"] | None:
    """What the network sees of a slice; None where it is of one grey."""
    grey = self._grey(index)
    return None if grey is None else self.fit.to_image(grey, self.predictor.variant.pixels)

  def _grey(self, index: int) -> UInt8[np.ndarray, "row column"] | None:
    """A slice through the window; None where it is of one grey."""
    plane = self.hu[index]
    if not np.isfinite(plane).all():
      raise InputError(
        f"{self.volume.source}: slice {index} (from below) has NaN or infinite voxels; mend the scan first"
      )
    grey = window_to_bytes(plane, self.grey_hu)
    return grey if grey.min() < grey.max() else None
