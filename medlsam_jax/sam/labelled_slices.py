"""Scans with label maps -> slices as a network of the SAM family sees them, with the boxes and masks of their organs.

Scans stay in memory, about six bytes a voxel; images are made when they are asked for.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Collection, Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Integer, Num, UInt8

from medlsam_jax.errors import ConfigError, InputError
from medlsam_jax.geometry import Volume, display_view
from medlsam_jax.io.alignment import align_labels
from medlsam_jax.label_boxes import count_labels, find_labels
from medlsam_jax.sam.slices import ImageFit, Pixels, tight_edges, window_to_bytes

WINDOWS_HU = {
  "soft_tissue": (-160.0, 240.0),
  "lung": (-910.0, 590.0),
  "brain": (0.0, 80.0),
  "bone": (-500.0, 1300.0),
}
"""MedSAM's CT windows: HU shown as black and as white."""
AREA_FRAME = 256
"""Edge of the image in whose pixels areas and jitter are stated, whatever the network's."""


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledScan:
  """A scan in display order; `values`: organ -> its value in `labels`."""

  name: str
  hu: Num[np.ndarray, "slice row column"]
  labels: Integer[np.ndarray, "slice row column"]
  values: dict[str, int]
  source: str

  @classmethod
  def of(cls, name: str, scan: Volume, labels: Volume, values: dict[str, int]) -> LabelledScan:
    """Brings both into display order; organs without a voxel are left out.

    Raises:
      InputError: NaN or infinite voxels, or labels on other voxels than the scan's.
    """
    if not np.isfinite(scan.array).all():
      raise InputError(f"{scan.source}: has NaN or infinite voxels; mend the scan first")
    labels = align_labels(labels, scan.grid, scan.source, scan.file_grid)
    shown = display_view(labels.array, labels.grid)
    where = find_labels(shown)
    held = {organ: value for organ, value in values.items() if value in where}
    return cls(name, display_view(scan.array, scan.grid), shown, held, scan.source)


@dataclasses.dataclass(frozen=True)
class Shown:
  """One image: a slice of a scan through a window, and the organs to ask for."""

  scan: int
  index: int
  window_hu: tuple[float, float]
  organs: tuple[str, ...]


Asked = Callable[[int, int], Collection[str]]
"""Number of a scan and index of a slice -> organs to ask for there."""


class LabelledSlices:
  """Images by position.

  Args:
    scans: where from.
    fit: size of a slice (rows, columns) -> how it lies in the network's image.
    pixels: how the network wants its pixels.
    low_size: edge of the masks it answers with.
    windows: names of `WINDOWS_HU`.
    step: every how manyth slice.
    least_pixels: an organ with fewer pixels in a slice, in an image of `AREA_FRAME`, is not asked for there.

  Raises:
    ConfigError: an unknown window, or a step below 1.
  """

  def __init__(
    self,
    scans: Sequence[LabelledScan],
    fit: Callable[[int, int], ImageFit],
    pixels: Pixels,
    low_size: int,
    windows: Sequence[str] = ("soft_tissue",),
    step: int = 1,
    least_pixels: float = 0.0,
  ):
    unknown = [name for name in windows if name not in WINDOWS_HU]
    if unknown or not windows or step < 1:
      raise ConfigError(f"data.windows {list(windows)}, data.slice_step {step}: known windows are {list(WINDOWS_HU)}")
    self.scans, self.pixels, self.low_size = list(scans), pixels, low_size
    self.fits = [fit(scan.hu.shape[1], scan.hu.shape[2]) for scan in scans]
    self._windows, self._step, self._least_pixels = tuple(windows), step, least_pixels
    self.items = self._items(self._large)

  def asking(self, asked: Asked) -> LabelledSlices:
    """The same scans, with other organs to ask for in each slice than those that have enough pixels in it."""
    other = copy.copy(self)
    other.items = self._items(asked)
    return other

  def _items(self, asked: Asked) -> list[Shown]:
    items = []
    for number, scan in enumerate(self.scans):
      for index in range(0, len(scan.hu), self._step):
        chosen = asked(number, index)
        organs = tuple(organ for organ in scan.values if organ in chosen)
        plane = scan.hu[index]
        for name in self._windows if organs else ():
          low, high = WINDOWS_HU[name]
          # one grey throughout shows nothing
          if plane.max() > low and plane.min() < high:
            items.append(Shown(number, index, (low, high), organs))
    return items

  def _large(self, number: int, index: int) -> list[str]:
    """Organs that have enough pixels in a slice."""
    scan, fit = self.scans[number], self.fits[number]
    x, y = fit.scale_xy
    least = self._least_pixels / (x * y) * (fit.image_size / AREA_FRAME) ** 2
    areas = count_labels(scan.labels[index][None])
    return [organ for organ, value in scan.values.items() if areas.get(value, 0) >= max(least, 1)]

  def __len__(self) -> int:
    return len(self.items)

  @property
  def organs(self) -> dict[str, int]:
    """Every organ that is asked for somewhere, with the number of its images."""
    counts: dict[str, int] = {}
    for item in self.items:
      for organ in item.organs:
        counts[organ] = counts.get(organ, 0) + 1
    return counts

  def fit_of(self, item: Shown) -> ImageFit:
    """How an item's slice lies in the image."""
    return self.fits[item.scan]

  def grey(self, item: Shown) -> UInt8[np.ndarray, "row column"]:
    """The slice through its window."""
    return window_to_bytes(self.scans[item.scan].hu[item.index], item.window_hu)

  def image(self, item: Shown) -> Float32[np.ndarray, "s s 3"]:
    """The network's input."""
    return self.fit_of(item).to_image(self.grey(item), self.pixels)

  def mask(self, item: Shown, organ: str) -> Bool[np.ndarray, "row column"]:
    """An organ in the slice."""
    scan = self.scans[item.scan]
    return scan.labels[item.index] == scan.values[organ]

  def low_mask(self, item: Shown, organ: str) -> Bool[np.ndarray, "low low"]:
    """The mask at the size of the network's answers: what lies at each pixel's centre, nothing beyond the slice."""
    fit, mask = self.fit_of(item), self.mask(item, organ)
    centres = (np.arange(self.low_size) + 0.5) * (fit.image_size / self.low_size)
    rows, columns = fit.fitted
    y = np.minimum((centres[centres < rows] * fit.rows / rows).astype(int), fit.rows - 1)
    x = np.minimum((centres[centres < columns] * fit.columns / columns).astype(int), fit.columns - 1)
    low = np.zeros((self.low_size, self.low_size), bool)
    low[: len(y), : len(x)] = mask[np.ix_(y, x)]
    return low

  def box(self, item: Shown, organ: str, rng: np.random.Generator | None = None, jitter_px: int = 0) -> Box2D:
    """Tight box in pixels of the network's image, its edges moved outward by up to `jitter_px` of `AREA_FRAME`."""
    return self.prompt(item, tight_edges(self.mask(item, organ)), rng, jitter_px)

  def prompt(
    self,
    item: Shown,
    edges: Float[np.ndarray, "4"],
    rng: np.random.Generator | None = None,
    jitter_px: int = 0,
    margin_px: float = 0.0,
  ) -> Box2D:
    """Edges in pixels of the slice as `box` gives those of a mask; without `rng` each is moved by `margin_px`."""
    fit = self.fit_of(item)
    box, per_px = np.floor(fit.box_to_image(edges)), fit.image_size / AREA_FRAME
    if rng is None:
      box = box + margin_px * per_px * np.array((-1, -1, 1, 1))
    elif jitter_px:
      reach = rng.integers(0, round(jitter_px * per_px) + 1, 4)
      box = box + reach * (-1, -1, 1, 1)
    rows, columns = fit.fitted
    low = np.clip(box[:2], 0, (columns - 1, rows - 1))
    high = np.clip(np.maximum(box[2:], low + 1), 1, (columns, rows))
    return np.concatenate([low, high]).astype(np.float32)


Box2D = Float[np.ndarray, "4"]
"""(x0, y0, x1, y1) pixels of the network's image."""
