"""A label map against a truth label map on the same grid, organ by organ."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Integer

from medlsam_jax import metrics
from medlsam_jax.geometry import Grid
from medlsam_jax.label_boxes import find_labels


@dataclasses.dataclass(frozen=True)
class MaskScores:
  """Scores of one organ's mask. An empty mask of an organ that is there: Dice 0, HD95 the scan's diagonal."""

  dice: float
  hd95_mm: float


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
  ours = None if predicted is None else predicted.slices(predicted_value)
  theirs = truth.slices(truth_value)
  if predicted is None or ours is None or theirs is None:
    both_empty = ours is None and theirs is None
    return MaskScores(float(both_empty), 0.0 if both_empty else metrics.diagonal_mm(grid))
  cut = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(ours, theirs, strict=True))
  first, second = predicted.array[cut] == predicted_value, truth.array[cut] == truth_value
  return MaskScores(metrics.dice(first, second), metrics.hd95_mm(first, second, grid.spacing_mm))
