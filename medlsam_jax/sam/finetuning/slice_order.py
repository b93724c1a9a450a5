"""Which slices a step of fine-tuning shows: shuffled epoch after epoch, from the seed and the step alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np


class SliceOrder:
  """The order of `count` slices, for the rows of a step that one process prepares."""

  def __init__(self, count: int, images_per_step: int, seed: int, rows: range):
    self._count, self._images_per_step, self._rows = count, images_per_step, rows
    self._epoch = lru_cache(maxsize=4)(lambda epoch: np.random.default_rng([seed, epoch]).permutation(count))

  def of_step(self, step: int) -> Iterator[tuple[int, int]]:
    """For each row, how many images the run has shown before it, over all processes, and the slice to show."""
    for row in self._rows:
      place = step * self._images_per_step + row
      epoch, position = divmod(place, self._count)
      yield place, int(self._epoch(epoch)[position])
