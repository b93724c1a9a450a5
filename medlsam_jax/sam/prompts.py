"""What users point at -> labelled points of fixed number, which the decoder takes. Pixels are `(x, y)` of the image."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Integer, Num, UInt8

from medlsam_jax.errors import InputError
from medlsam_jax.sam.network.prompt_encoder import ABSENT, BOX_HIGH, BOX_LOW, NEGATIVE, PADDING, POSITIVE
from medlsam_jax.sam.slices import ImageFit


@dataclasses.dataclass(frozen=True, eq=False)
class Prompt:
  """One question about an image; any of its parts may be missing, but not all."""

  points: Num[np.ndarray, "p 2"] | None = None
  """(x, y) pixels of the image."""
  labels: Integer[np.ndarray, " p"] | None = None
  """Of each point: 1 inside, 0 outside, -1 no point (as in segment-anything; its place is ignored)."""
  box: Num[np.ndarray, "4"] | None = None
  """(x0, y0, x1, y1) pixels of the image."""
  mask: Float[np.ndarray, "low low"] | None = None
  """Low-resolution logits of an earlier answer."""


def check_image(image: np.ndarray) -> UInt8[np.ndarray, "row column 3"]:
  """An image as the family takes it, grey ones repeated in three channels.

  Raises:
    InputError: not 8-bit grey or RGB, empty, or of one value throughout.
  """
  image = np.asarray(image)
  if image.ndim == 3 and image.shape[2] == 1:
    image = image[..., 0]
  if image.ndim == 3 and image.shape[2] == 4:
    raise InputError("an image of four channels; take away the last (transparency): image[..., :3]")
  if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or not image.size:
    raise InputError(f"an image of shape {image.shape}; give (rows, columns) or (rows, columns, 3)")
  if image.dtype.kind == "f" and not np.isfinite(image).all():
    raise InputError("an image has NaN or infinite pixels")
  if image.dtype != np.uint8:
    raise InputError(
      f"an image of {image.dtype}; give 8-bit values 0..255 (CT through a window: data.slices.window_to_bytes)"
    )
  if image.min() == image.max():
    raise InputError(f"an image of one value ({image.flat[0]}) throughout, such as all air, holds nothing to segment")
  return np.repeat(image[..., None], 3, -1) if image.ndim == 2 else image


def check_prompt(prompt: Prompt, number: int, fit: ImageFit, low: int) -> None:
  """Refuses a prompt that cannot be meant.

  Raises:
    InputError: it is empty; labels do not fit the points; a number is not finite; a point or box lies outside the
      image; a box has no area or is reversed; a mask of another size. The message names the prompt by its number.
  """
  if prompt.points is None and prompt.box is None and prompt.mask is None:
    raise InputError(f"prompt {number}: has neither points nor a box nor a mask")
  if prompt.points is not None:
    _check_points(np.asarray(prompt.points), prompt.labels, number, fit)
  elif prompt.labels is not None:
    raise InputError(f"prompt {number}: has labels but no points")
  if prompt.box is not None:
    check_box(np.asarray(prompt.box, float), f"prompt {number}: its box", fit.columns, fit.rows)
  if prompt.mask is not None:
    mask = np.asarray(prompt.mask)
    if mask.shape != (low, low):
      raise InputError(f"prompt {number}: a mask of shape {mask.shape}; give logits of an answer, ({low}, {low})")
    if not np.isfinite(mask).all():
      raise InputError(f"prompt {number}: its mask has NaN or infinite values")


def check_box(box: Float[np.ndarray, "4"], title: str, columns: int, rows: int) -> None:
  """Refuses a box that is not finite, has no area, is reversed or lies outside an image of that size.

  Raises:
    InputError: it is so.
  """
  if box.shape != (4,):
    raise InputError(f"{title}: has the shape {box.shape}; give (x0, y0, x1, y1)")
  if not np.isfinite(box).all():
    raise InputError(f"{title}: an edge is not a finite number")
  x0, y0, x1, y1 = box
  if x0 >= x1 or y0 >= y1:
    raise InputError(f"{title}: ({x0:g}, {y0:g}, {x1:g}, {y1:g}) has no area; give (x0, y0, x1, y1)")
  if x1 <= 0 or y1 <= 0 or x0 >= columns or y0 >= rows:
    raise InputError(f"{title}: ({x0:g}, {y0:g}, {x1:g}, {y1:g}) lies outside the image")


def _check_points(points: np.ndarray, labels: np.ndarray | None, number: int, fit: ImageFit) -> None:
  if points.ndim != 2 or points.shape[1] != 2 or not len(points):
    raise InputError(f"prompt {number}: points of shape {points.shape}; give (points, 2), each (x, y)")
  if labels is None:
    raise InputError(f"prompt {number}: points without labels; give 1 (inside) or 0 (outside) for each")
  known = np.asarray(labels)
  if known.shape != (len(points),):
    raise InputError(f"prompt {number}: {len(points)} points but labels of shape {known.shape}")
  if not np.isin(known, (PADDING, NEGATIVE, POSITIVE)).all():
    raise InputError(f"prompt {number}: labels {sorted(set(known.tolist()))}; known: 1 inside, 0 outside, -1 no point")
  real = points[known != PADDING].astype(float)
  if not np.isfinite(real).all():
    raise InputError(f"prompt {number}: a point is not finite")
  if (real < 0).any() or (real > (fit.columns, fit.rows)).any():
    raise InputError(f"prompt {number}: a point lies outside the image of {fit.columns} x {fit.rows} pixels")


def tokens_of(
  prompts: Sequence[Prompt], fit: ImageFit
) -> tuple[Float[np.ndarray, "k t 2"], Integer[np.ndarray, "k t"]]:
  """Prompts as labelled points in pixels of the network's image; `t` is a power of two, so that programs stay few.

  As published, points without a box are followed by one `PADDING`.
  """
  rows = [_tokens(prompt, fit) for prompt in prompts]
  count = 2
  while count < max(len(labels) for _, labels in rows):
    count *= 2
  points = np.zeros((len(rows), count, 2), np.float32)
  labels = np.full((len(rows), count), ABSENT, np.int32)
  for index, (places, kinds) in enumerate(rows):
    points[index, : len(kinds)] = places
    labels[index, : len(kinds)] = kinds
  return points, labels


def _tokens(prompt: Prompt, fit: ImageFit) -> tuple[np.ndarray, np.ndarray]:
  places, kinds = np.zeros((0, 2)), np.zeros(0, int)
  if prompt.points is not None and prompt.labels is not None:
    places = np.where(np.asarray(prompt.labels)[:, None] == PADDING, 0, fit.points_to_image(prompt.points))
    kinds = np.asarray(prompt.labels, int)
    if prompt.box is None:
      places, kinds = np.append(places, [[0, 0]], 0), np.append(kinds, PADDING)
  if prompt.box is not None:
    corners = fit.points_to_image(np.asarray(prompt.box, float).reshape(2, 2))
    places, kinds = np.append(places, corners, 0), np.append(kinds, [BOX_LOW, BOX_HIGH])
  return places, kinds


def prompts_of(
  points: np.ndarray | None, labels: np.ndarray | None, box: np.ndarray | None, masks: np.ndarray | None
) -> tuple[list[Prompt], bool]:
  """Arguments of `Predictor.predict` as prompts, and whether they are several.

  Raises:
    InputError: they are no numbers, of another shape, or of different numbers.
  """
  points, labels = _numbers(points, "point_coords"), _numbers(labels, "point_labels")
  box, masks = _numbers(box, "box"), _numbers(masks, "mask_input")
  if masks is not None and masks.ndim != 3:
    raise InputError(f"mask_input of shape {masks.shape}; give low-resolution logits with an axis in front")
  many_points = points is not None and points.ndim == 3
  if points is not None and not many_points and not points.size and not np.size(labels if labels is not None else 0):
    points = labels = None  # no points are none, beside a box
  parts = {
    "points": (points, many_points),
    "labels": (labels, many_points),
    "box": (box, box is not None and box.ndim == 2),
    "mask": (masks, masks is not None and len(masks) != 1),
  }
  counts = {len(part) for part, many in parts.values() if many and part is not None}
  if len(counts) > 1:
    raise InputError(f"prompts of different numbers: {sorted(counts)} points, boxes or masks")
  single = {name: part for name, (part, many) in parts.items() if not many}
  only = single.get("mask")
  if only is not None:
    single["mask"] = only[0]
  total = counts.pop() if counts else 1
  each = [{n: p[i] for n, (p, many) in parts.items() if many and p is not None} for i in range(total)]
  return [Prompt(**single, **own) for own in each], any(many for _, many in parts.values())


def _numbers(part: object, name: str) -> np.ndarray | None:
  """An argument of `predict` as an array."""
  if part is None:
    return None
  try:
    array = np.asarray(part)
  except ValueError as error:
    raise InputError(f"{name}: rows of different lengths; give one array of numbers") from error
  if array.dtype.kind not in "iufb":
    raise InputError(f"{name}: values of type {array.dtype}; give numbers")
  return array


def stability_score(logits: Float[np.ndarray, "*n row column"], offset: float = 1.0) -> Float[np.ndarray, "*n"]:
  """How little a mask changes with its threshold: pixels above `offset` over those above `-offset`, 0 without any.

  "Segment anything", section 5 of its appendix (automatic mask generation). Masks with two thresholds are nested, so
  that this is their intersection over union.
  """
  inside, around = (np.sum(logits > threshold, (-2, -1)) for threshold in (offset, -offset))
  return inside / np.maximum(around, 1)
