"""A true mask of one slice -> the prompts of the study S1-S6, exact or disturbed. Pixels are (x, y), edges as in a box.

"Segment anything model for medical images?", section 3.2. Its published sampler is not copied: it takes the centre of
mass whether or not that is inside, and returns a sixth point, labelled negative, unless the pixels are a multiple of
five.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from medlsam_jax.sam.network.sam import SamVariant
from medlsam_jax.sam.prompts import Prompt
from medlsam_jax.sam.slices import tight_edges

MODES = ("S1", "S2", "S3", "S4", "S5", "S6")
MODE_TITLES = {
  "S1": "everything",
  "S2": "1 point",
  "S3": "5 points",
  "S4": "5 points, 5 outside",
  "S5": "box",
  "S6": "box, 1 point",
}
WITH_POINTS = ("S1", "S2", "S3", "S4", "S6")
"""Modes that point at things; everything mode asks with a grid of single points."""
POINTS = 5
LEVELS_PX = ((0.0, 10.0), (10.0, 20.0), (20.0, 30.0))
"""How far prompts are moved at each level, pixels of an image of `LEVEL_FRAME` an edge, as CT slices usually are."""
LEVEL_FRAME = 512
DISTURBANCES = {"box moved": "S5", "box enlarged": "S5", "points moved": "S3"}
"""What is disturbed, and in which mode."""


def not_meant_for(variant: SamVariant, modes: Sequence[str]) -> str:
  """What to know of modes that a network answers without having been trained to; empty where there are none."""
  strange = [f"{mode} ({MODE_TITLES[mode]})" for mode in modes if mode in WITH_POINTS]
  if "points" in variant.trained_on or not strange:
    return ""
  return (
    f"{variant.name} was trained with boxes alone and is not meant for points: {', '.join(strange)} say how it answers "
    "what it never learned, not how well it paints"
  )


def positive_points(mask: Bool[np.ndarray, "row column"], count: int = POINTS) -> Float[np.ndarray, "count 2"]:
  """Centres of `count` pixels of a mask: that of the centre of mass if it is inside, the rest evenly along the list.

  A mask of fewer pixels gives all of them.
  """
  y, x = np.nonzero(mask)
  middle = (round(float(y.mean())), round(float(x.mean())))
  first = [(middle[1] + 0.5, middle[0] + 0.5)] if mask[middle] else []
  rest = min(count, len(y)) - len(first)
  chosen = _evenly(len(y), rest)
  others = np.stack([x[chosen] + 0.5, y[chosen] + 0.5], -1)
  return np.concatenate([np.array(first).reshape(-1, 2), others])


def negative_points(mask: Bool[np.ndarray, "row column"], count: int = POINTS) -> Float[np.ndarray, "count 2"]:
  """Centres of pixels evenly along the list of those in the box of twice the size that are not of the mask."""
  x0, y0, x1, y1 = tight_edges(mask)
  half_x, half_y = (x1 - x0) / 2, (y1 - y0) / 2
  around = np.zeros_like(mask)
  around[max(0, int(y0 - half_y)) : int(np.ceil(y1 + half_y)), max(0, int(x0 - half_x)) : int(np.ceil(x1 + half_x))] = 1
  y, x = np.nonzero(around & ~mask)
  chosen = _evenly(len(y), min(count, len(y)))
  return np.stack([x[chosen] + 0.5, y[chosen] + 0.5], -1)


def _evenly(length: int, count: int) -> np.ndarray:
  """`count` different indices, each in the middle of its share of the list."""
  return ((np.arange(count) + 0.5) * length / max(count, 1)).astype(int)


def prompt_of(mode: str, mask: Bool[np.ndarray, "row column"]) -> Prompt:
  """The prompt of a mode, S2 to S6."""
  box = tight_edges(mask) if mode in ("S5", "S6") else None
  if mode == "S5":
    return Prompt(box=box)
  points = positive_points(mask, 1 if mode in ("S2", "S6") else POINTS)
  outside = negative_points(mask) if mode == "S4" else np.zeros((0, 2))
  labels = np.repeat([1, 0], [len(points), len(outside)])
  return Prompt(np.concatenate([points, outside]), labels, box)


def disturbed(prompt: Prompt, how: str, level: int, shape: tuple[int, int], rng: np.random.Generator) -> Prompt:
  """A prompt moved (each point on its own, the box as one) in a random direction, or its box enlarged on each side.

  Args:
    prompt: of the mode that `DISTURBANCES` names for `how`.
    level: index of `LEVELS_PX`; the distance is drawn evenly within it.
    shape: rows and columns of the slice, in which everything is kept.
  """
  low, high = (np.array(LEVELS_PX[level]) * max(shape) / LEVEL_FRAME).tolist()
  rows, columns = shape
  if how == "points moved":
    assert prompt.points is not None
    angle, reach = rng.uniform(0, 2 * np.pi, len(prompt.points)), rng.uniform(low, high, len(prompt.points))
    moved = np.asarray(prompt.points) + np.stack([np.cos(angle), np.sin(angle)], -1) * reach[:, None]
    return Prompt(np.clip(moved, 0, (columns, rows)), prompt.labels)
  box = np.asarray(prompt.box, float)
  distance = float(rng.uniform(low, high))
  if how == "box enlarged":
    box = box + distance * np.array([-1, -1, 1, 1])
  else:
    turn = rng.uniform(0, 2 * np.pi)
    box = box + distance * np.tile([np.cos(turn), np.sin(turn)], 2)
  low_corner = np.clip(box[:2], 0, (columns - 1, rows - 1))
  return Prompt(box=np.concatenate([low_corner, np.clip(box[2:], low_corner + 1, (columns, rows))]))
