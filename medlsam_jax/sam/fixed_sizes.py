"""Any number of prompts or images through programs of a few fixed sizes."""

from __future__ import annotations

import numpy as np

BOX_COUNTS = (1, 4, 16)
"""Prompts that one run of the decoder takes: three compiled programs serve every number of boxes."""


def runs_of(boxes: int) -> list[int]:
  """Sizes of the decoder runs for so many boxes: padded up where at least two thirds of a run are real, else split."""
  runs = []
  while boxes > 0:
    fit = next((size for size in BOX_COUNTS if boxes <= size and 3 * boxes >= 2 * size), None)
    runs.append(fit or max(size for size in BOX_COUNTS if size <= boxes))
    boxes -= runs[-1]
  return runs


def padded(batch: np.ndarray, size: int) -> np.ndarray:
  """The batch with its last item repeated up to `size`, so that one compiled program serves every length."""
  missing = size - len(batch)
  return np.concatenate([batch, np.repeat(batch[-1:], missing, 0)]) if missing else batch
