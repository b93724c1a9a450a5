"""A label map against a truth label map on the same grid, organ by organ."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Integer

from medlsam_jax import metrics
from medlsam_jax.geometry import Grid
from medlsam_jax.label_boxes import find_labels


@dataclasses.dataclass(frozen=True)
class MaskScores:
  """Scores of one organ's mask. An empty mask of an organ that is there: Dice 0, HD95 the scan's diagonal."""

  dice: float
  hd95_mm: float


@dataclasses.dataclass(frozen=True)
class OverlapScores:
  """Of one organ's mask, in [0, 1]; an empty mask of an organ that is there scores 0."""

  dice: float
  surface_dice_2mm: float
  surface_dice_5mm: float


class LabelBoxes:
  """Label array whose values are looked for in one pass, so that organs cost only their own box."""

  def __init__(self, array: Integer[np.ndarray, "z y x"]):
    self.array = array
    self._where = find_labels(array)

  def slices(self, value: int | None) -> tuple[slice, ...] | None:
    """The tight box of a value's voxels, or None where it has none."""
    return None if value is None else self._where.get(value)

  def count(self, value: int | None) -> int:
    """Voxels of a value."""
    where = self.slices(value)
    return 0 if where is None else int(np.count_nonzero(self.array[where] == value))


def score_mask(
  predicted: LabelBoxes | None, predicted_value: int | None, truth: LabelBoxes, truth_value: int, grid: Grid
) -> MaskScores:
  """Dice and HD95 of one organ.

  `predicted` None is a scan without a label map, `predicted_value` None an organ that the label map does not know: both
  are an empty mask.
  """
  masks = _both(predicted, predicted_value, truth, truth_value)
  if not masks[0].any() or not masks[1].any():
    both_empty = not masks[0].any() and not masks[1].any()
    return MaskScores(float(both_empty), 0.0 if both_empty else metrics.diagonal_mm(grid))
  return MaskScores(metrics.dice(*masks), metrics.hd95_mm(*masks, grid.spacing_mm))


def score_overlap(
  predicted: LabelBoxes | None, predicted_value: int | None, truth: LabelBoxes, truth_value: int, grid: Grid
) -> OverlapScores:
  """Dice, and surface Dice at 2 and at 5 mm, of one organ; arguments as of `score_mask`."""
  masks = _both(predicted, predicted_value, truth, truth_value)
  near, far = metrics.surface_dice_at(*masks, grid.spacing_mm, (2.0, 5.0))
  return OverlapScores(metrics.dice(*masks), near, far)


def _both(
  predicted: LabelBoxes | None, predicted_value: int | None, truth: LabelBoxes, truth_value: int
) -> tuple[Bool[np.ndarray, "z y x"], Bool[np.ndarray, "z y x"]]:
  """Masks of an organ in the box around both; an empty one where there is none."""
  ours = None if predicted is None else predicted.slices(predicted_value)
  theirs = truth.slices(truth_value)
  boxes = [each for each in (ours, theirs) if each is not None] or [(slice(0, 1),) * 3]
  cut = tuple(slice(min(s.start for s in along), max(s.stop for s in along)) for along in zip(*boxes, strict=True))
  second = truth.array[cut] == truth_value
  if predicted is None or predicted_value is None:
    return np.zeros_like(second), second
  return predicted.array[cut] == predicted_value, second
