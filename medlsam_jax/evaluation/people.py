"""95 % intervals of means: two organs of one person are no two witnesses, so people are drawn, not labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

DRAWS = 2000
"""Of people, with replacement, for an interval."""


def interval(by_person: Sequence[Sequence[float]]) -> tuple[float, float]:
  """Percentile interval of the mean over all values, by people drawn with replacement."""
  sums, counts = np.array([sum(values) for values in by_person]), np.array([len(values) for values in by_person])
  drawn = _drawn(len(sums))
  low, high = np.percentile(sums[drawn].sum(1) / counts[drawn].sum(1), (2.5, 97.5))
  return float(low), float(high)


def organs_mean(by_person: Float[np.ndarray, "people organs"]) -> float:
  """Mean over organs of each organ's mean over the people that have it (NaN for the others): organs weigh the same."""
  return float(np.nanmean(by_person, axis=0).mean())


def organs_interval(by_person: Float[np.ndarray, "people organs"]) -> tuple[float, float]:
  """Percentile interval of `organs_mean`; an organ that nobody of a draw has is left out of it."""
  known = ~np.isnan(by_person)
  drawn = _drawn(len(by_person))
  sums, counts = np.where(known, by_person, 0)[drawn].sum(1), known[drawn].sum(1)
  means = (sums / np.maximum(counts, 1)).sum(1) / np.maximum((counts > 0).sum(1), 1)
  low, high = np.percentile(means[counts.any(1)], (2.5, 97.5))
  return float(low), float(high)


def _drawn(people: int) -> np.ndarray:
  return np.random.default_rng(0).integers(people, size=(DRAWS, people))
