"""Everything mode: an image -> masks of all that a grid of points finds in it, best first, without duplicates.

"Segment anything", appendix B (automatic mask generation): each point of the grid is a prompt with three answers; the
sure and the stable ones are kept, near duplicates go, and the same is done for enlarged crops where small things are
wanted. Boxes are `(x0, y0, x1, y1)` pixels of the image, corners inclusive.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num, UInt8

from medlsam_jax.errors import ConfigError
from medlsam_jax.progress import Progress
from medlsam_jax.sam.predictor import Answers, EncodedImage, Predictor
from medlsam_jax.sam.prompts import Prompt, check_image
from medlsam_jax.sam.run_lengths import RunLengths, encode
from medlsam_jax.sam.slices import ImageFit, tight_edges

MASKS_AT_ONCE = 16
"""Masks that are upsampled and measured by one run on the device."""
EDGE_PX = 20.0
"""A mask that ends this close to a crop's edge was probably cut by it."""


@dataclasses.dataclass(frozen=True)
class EverythingSettings:
  """What to look for and what to keep; the defaults are the published ones, chosen for ViT-H on photographs.

  Raises:
    ConfigError: a value out of range.
  """

  points_per_side: int = 32
  prompts_at_once: int = 64
  predicted_iou: float = 0.88
  """Masks that the network rates no better are dropped; 0 or less keeps all."""
  stability: float = 0.95
  """Masks of a lower stability score are dropped; 0 or less keeps all."""
  stability_offset: float = 1.0
  box_iou: float = 0.7
  """Of two masks of one crop whose boxes overlap more, the one with the higher predicted IoU stays."""
  crop_layers: int = 0
  """Layer i looks at 4^i crops besides the whole image."""
  crop_box_iou: float = 0.7
  """The same between crops, where the mask of the smaller crop stays."""
  crop_overlap: float = 512 / 1500
  """Overlap of the first layer's crops, as a part of the image's short side; later layers have less."""
  crop_points_divisor: int = 1
  """Points a side are divided by this once for each layer."""
  least_region_px: int = 0
  """Smaller separate regions of a mask are dropped and smaller holes filled."""

  def __post_init__(self) -> None:
    for name in ("points_per_side", "prompts_at_once", "crop_points_divisor"):
      if getattr(self, name) < 1:
        raise ConfigError(f"{name} {getattr(self, name)}: give at least 1")
    for name in ("crop_layers", "least_region_px", "stability_offset"):
      if getattr(self, name) < 0:
        raise ConfigError(f"{name} {getattr(self, name)}: cannot be negative")
    for name in ("box_iou", "crop_box_iou", "crop_overlap"):
      if not 0 <= getattr(self, name) <= 1:
        raise ConfigError(f"{name} {getattr(self, name)}: give a number from 0 to 1")


@dataclasses.dataclass(frozen=True)
class FoundMask:
  """One mask that everything mode found."""

  run_lengths: RunLengths
  box: tuple[int, int, int, int]
  predicted_iou: float
  stability: float
  point: tuple[float, float]
  """(x, y) of the prompt it answers."""
  crop: tuple[int, int, int, int]
  """The crop it was found in, its high corner exclusive."""

  @property
  def mask(self) -> Bool[np.ndarray, "row column"]:
    """As an array of the image's size."""
    return self.run_lengths.decode()

  def as_record(self, output: str = "binary_mask") -> dict[str, object]:
    """The record of segment-anything's generator: `segmentation`, `area`, `bbox` (x, y, width, height) and the rest.

    Args:
      output: `binary_mask`, `uncompressed_rle`, or `coco_rle` (needs pycocotools).

    Raises:
      ConfigError: another output, or pycocotools is missing.
    """
    forms = {
      "binary_mask": self.run_lengths.decode,
      "uncompressed_rle": self.run_lengths.as_dict,
      "coco_rle": self.run_lengths.compressed,
    }
    if output not in forms:
      raise ConfigError(f"output {output!r} is unknown; known: {', '.join(forms)}")
    return {
      "segmentation": forms[output](),
      "area": self.run_lengths.area,
      "bbox": _corner_and_size(self.box),
      "predicted_iou": self.predicted_iou,
      "point_coords": [list(self.point)],
      "stability_score": self.stability,
      "crop_box": _corner_and_size(self.crop),
    }


def _corner_and_size(box: tuple[int, int, int, int]) -> list[int]:
  x0, y0, x1, y1 = box
  return [x0, y0, x1 - x0, y1 - y0]


def segment_everything(
  image: UInt8[np.ndarray, "row column *3"],
  predictor: Predictor,
  settings: EverythingSettings | None = None,
  progress: Progress | None = None,
) -> list[FoundMask]:
  """All masks that a grid of points finds in an image.

  Args:
    image: 8-bit, grey or red, green, blue.
    predictor: encodes each crop once and decodes its points in batches.
    settings: None takes the published ones.
    progress: called after each crop.

  Returns:
    Masks in order of predicted IoU; with crops, those of smaller crops first.

  Raises:
    InputError: an image that the network does not take.
  """
  settings = settings or EverythingSettings()
  image = check_image(image)
  rows, columns = image.shape[:2]
  crops = list(crops_of(rows, columns, settings.crop_layers, settings.crop_overlap))
  masks: list[FoundMask] = []
  for done, (crop, layer) in enumerate(crops, 1):
    x0, y0, x1, y1 = crop
    part = image[y0:y1, x0:x1]
    if part.size and part.min() < part.max():  # a crop of one colour, or of an image too small for it, holds nothing
      masks += _segment_crop(part, crop, layer, image.shape[:2], predictor, settings)
    if progress is not None:
      progress(done, len(crops))
  if len(crops) > 1:
    scores = [1 / ((m.crop[2] - m.crop[0]) * (m.crop[3] - m.crop[1])) for m in masks]
    masks = _without_duplicates(masks, scores, settings.crop_box_iou)
  if settings.least_region_px:
    masks = _cleaned(masks, settings)
  return masks


def crops_of(rows: int, columns: int, layers: int, overlap: float) -> Iterator[tuple[tuple[int, int, int, int], int]]:
  """The whole image as layer 0, then 4^i overlapping crops of layer i: (x0, y0, x1, y1), high corner exclusive."""
  yield (0, 0, columns, rows), 0
  for layer in range(1, layers + 1):
    side = 2**layer
    shared = int(overlap * min(rows, columns) * 2 / side)
    width, height = (math.ceil((shared * (side - 1) + length) / side) for length in (columns, rows))
    for x in range(side):
      for y in range(side):
        x0, y0 = x * (width - shared), y * (height - shared)
        yield (x0, y0, min(x0 + width, columns), min(y0 + height, rows)), layer


def point_grid(per_side: int) -> Float[np.ndarray, "n 2"]:
  """Centres (x, y) of a grid of cells over the unit square, row by row."""
  centres = (np.arange(per_side) + 0.5) / per_side
  y, x = np.meshgrid(centres, centres, indexing="ij")
  return np.stack([x.ravel(), y.ravel()], -1)


def _segment_crop(
  part: UInt8[np.ndarray, "row column 3"],
  crop: tuple[int, int, int, int],
  layer: int,
  image_shape: tuple[int, ...],
  predictor: Predictor,
  settings: EverythingSettings,
) -> list[FoundMask]:
  """Masks of one crop, in pixels of the whole image."""
  encoded = predictor.encode_images([part])[0]
  per_side = max(1, int(settings.points_per_side / settings.crop_points_divisor**layer))
  points = point_grid(per_side) * (part.shape[1], part.shape[0])
  masks: list[FoundMask] = []
  for start in range(0, len(points), settings.prompts_at_once):
    some = points[start : start + settings.prompts_at_once]
    prompts = [Prompt(point[None], np.ones(1, int)) for point in some]
    for run in predictor.answer_on_device(encoded, prompts, multimask=True):
      for measured in _measured(encoded, run, settings, functools.partial(_is_cut, crop=crop, image_shape=image_shape)):
        mask = np.zeros(image_shape, bool)
        mask[crop[1] : crop[3], crop[0] : crop[2]] = measured.mask
        corners = np.array([crop[0], crop[1]] * 2)
        x, y = some[measured.prompt] + corners[:2]
        x0, y0, x1, y1 = (int(edge) for edge in measured.box + corners)
        masks.append(
          FoundMask(encode(mask), (x0, y0, x1, y1), measured.quality, measured.stability, (float(x), float(y)), crop)
        )
  return _without_duplicates(masks, [m.predicted_iou for m in masks], settings.box_iou)


class _Measured(NamedTuple):
  prompt: int
  mask: Bool[np.ndarray, "row column"]
  box: Int[np.ndarray, "4"]
  quality: float
  stability: float


def _measured(
  image: EncodedImage, run: Answers, settings: EverythingSettings, is_cut: Callable[[Int[np.ndarray, "4"]], bool]
) -> Iterator[_Measured]:
  """Answers that pass all filters. Only those of enough predicted IoU are brought to the crop's size at all, and only
  masks that pass leave the device, eight pixels to a byte.

  Args:
    image: the crop.
    run: of the decoder.
    settings: of the filters.
    is_cut: whether a box, in pixels of the crop, ends where the crop does.
  """
  quality = np.asarray(run.quality)[: run.count]
  keep = quality > settings.predicted_iou if settings.predicted_iou > 0 else np.ones_like(quality, bool)
  prompts, numbers = np.nonzero(keep)
  rows, columns = back_matrices(image.fit, run.logits.shape[-1])
  for start in range(0, len(prompts), MASKS_AT_ONCE):
    some = slice(start, start + MASKS_AT_ONCE)
    count = len(prompts[some])
    which = np.pad(np.stack([prompts[some], numbers[some]]), ((0, 0), (0, MASKS_AT_ONCE - count)))
    packed, *measured = _measure(run.logits, which, rows, columns, settings.stability_offset)
    stability, boxes = map(np.asarray, measured)
    stable = [index for index in range(count) if settings.stability <= 0 or stability[index] >= settings.stability]
    passed = [index for index in stable if not is_cut(boxes[index])]
    masks = np.unpackbits(np.asarray(packed)[passed], -1, count=len(columns)).astype(bool) if passed else ()
    for index, mask in zip(passed, masks, strict=True):
      prompt, number = prompts[start + index], numbers[start + index]
      score = float(quality[prompt, number])
      yield _Measured(run.first + int(prompt), mask, boxes[index], score, float(stability[index]))


@functools.lru_cache(maxsize=8)
def back_matrices(fit: ImageFit, low: int) -> tuple[Float[Array, "row low"], Float[Array, "column low"]]:
  """What brings low-resolution logits to the image's size, one axis each, on the device."""
  rows, columns = fit.back_matrices(low, low)
  return jnp.asarray(rows), jnp.asarray(columns)


@jax.jit
def _measure(
  logits: Float[Array, "p m low low"],
  which: Int[Array, "2 k"],
  rows: Float[Array, "row low"],
  columns: Float[Array, "column low"],
  offset: Array,
) -> tuple[UInt8[Array, "k row eighth"], Float[Array, " k"], Int[Array, "k 4"]]:
  """Masks of some answers at the image's size, eight pixels of a row to a byte, their stability and boxes (0, 0, 0, 0
  where a mask is empty); `which`: prompt and number of each."""
  low = logits[which[0], which[1]]
  exact = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
  full = exact(exact(rows, low), columns.T)
  masks = full > 0
  inside, around = (jnp.sum(full > threshold, (1, 2)) for threshold in (offset, -offset))
  return jnp.packbits(masks, -1), inside / jnp.maximum(around, 1), boxes_of(masks)


def boxes_of(masks: Bool[Array, "k row column"]) -> Int[Array, "k 4"]:
  """Tight boxes of masks in a program, corners inclusive; 0, 0, 0, 0 where a mask is empty."""
  ends = []
  for axis in (1, 2):  # along x, then along y
    hit = masks.any(axis)
    count = hit.shape[1]
    ends.append((jnp.argmax(hit, 1), count - 1 - jnp.argmax(hit[:, ::-1], 1)))
  (x0, x1), (y0, y1) = ends
  return jnp.where(masks.any((1, 2))[:, None], jnp.stack([x0, y0, x1, y1], 1), 0)


def _is_cut(box: Int[np.ndarray, "4"], crop: tuple[int, int, int, int], image_shape: tuple[int, ...]) -> bool:
  """Whether a box, in pixels of its crop, ends at an edge of it that is not also one of the image."""
  box = box + np.array([crop[0], crop[1]] * 2)
  at_crop = np.abs(box - np.array(crop)) <= EDGE_PX
  at_image = np.abs(box - np.array([0, 0, image_shape[1], image_shape[0]])) <= EDGE_PX
  return bool((at_crop & ~at_image).any())


def distinct(boxes: Num[np.ndarray, "n 4"], scores: Float[np.ndarray, " n"], limit: float) -> Int[np.ndarray, " m"]:
  """Non-maximum suppression: indices, best first, of boxes that overlap no better one by more than `limit` (IoU).

  Areas are max - min, as in the published generator; boxes without area overlap nothing.
  """
  order = np.argsort(-np.asarray(scores), kind="stable")
  boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
  area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
  kept = []
  while len(order):
    best, order = order[0], order[1:]
    kept.append(best)
    size = np.minimum(boxes[best, 2:], boxes[order, 2:]) - np.maximum(boxes[best, :2], boxes[order, :2])
    shared = np.prod(np.maximum(size, 0), 1)
    order = order[shared <= limit * (area[best] + area[order] - shared)]
  return np.array(kept, int)


def _without_duplicates(masks: list[FoundMask], scores: list[float], limit: float) -> list[FoundMask]:
  if not masks:
    return []
  kept = distinct(np.array([each.box for each in masks]), np.array(scores), limit)
  return [masks[index] for index in kept]


def _cleaned(masks: list[FoundMask], settings: EverythingSettings) -> list[FoundMask]:
  """Masks without small regions and holes; among new duplicates those that needed no change stay."""
  result, scores = [], []
  for each in masks:
    mask, changed = without_small_regions(each.mask, settings.least_region_px)
    scores.append(0.0 if changed else 1.0)
    result.append(dataclasses.replace(each, run_lengths=encode(mask), box=_box_of(mask)) if changed else each)
  return _without_duplicates(result, scores, max(settings.box_iou, settings.crop_box_iou))


def _box_of(mask: Bool[np.ndarray, "row column"]) -> tuple[int, int, int, int]:
  if not mask.any():
    return 0, 0, 0, 0
  x0, y0, x1, y1 = (int(edge) for edge in tight_edges(mask))
  return x0, y0, x1 - 1, y1 - 1


def without_small_regions(
  mask: Bool[np.ndarray, "row column"], least_px: int
) -> tuple[Bool[np.ndarray, "row column"], bool]:
  """Fills regions outside a mask of fewer pixels, then drops such regions of the mask; diagonal neighbours touch.

  Where every region is small the largest stays. Also says whether anything changed.
  """
  from scipy import ndimage

  changed = False
  for of_background in (True, False):
    labels, _ = ndimage.label(mask != of_background, structure=np.ones((3, 3)))
    sizes = np.bincount(labels.ravel())
    sizes[0] = least_px  # what is not looked at is no small region
    small = sizes < least_px
    if not small.any():
      continue
    changed = True
    if of_background:
      mask = mask | small[labels]
    else:
      if small[1:].all():
        small[1 + np.argmax(sizes[1:])] = False
      mask = mask & ~small[labels]
  return mask, changed
