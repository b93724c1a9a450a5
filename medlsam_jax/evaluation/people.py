"""95 % intervals of means: two organs of one person are no two witnesses, so people are drawn, not labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

DRAWS = 2000
"""Of people, with replacement, for an interval."""


def interval(by_person: Sequence[Sequence[float]]) -> tuple[float, float] | None:
  """Percentile interval of the mean over all values, by people drawn with replacement; None with fewer than two."""
  by_person = [values for values in by_person if values]
  if len(by_person) < 2:
    return None
  sums, counts = np.array([sum(values) for values in by_person]), np.array([len(values) for values in by_person])
  drawn = _drawn(len(sums))
  low, high = np.percentile(sums[drawn].sum(1) / counts[drawn].sum(1), (2.5, 97.5))
  return float(low), float(high)


def organs_mean(by_person: Float[np.ndarray, "people organs"]) -> float:
  """Mean over organs of each organ's mean over the people that have it (NaN for the others): organs weigh the same."""
  return float(np.nanmean(by_person, axis=0).mean())


def organs_interval(by_person: Float[np.ndarray, "people organs"]) -> tuple[float, float] | None:
  """Percentile interval of `organs_mean`, of the same organs in each draw; None where no organ has two people.

  People are drawn with all their organs, as clusters are (Davison and Hinkley, Bootstrap Methods and their Application,
  1997, section 3.8). A draw may have nobody with an organ that few have. To leave that organ out would make the draw's
  mean one of other organs, and the interval lie beside the mean: rare organs are often the difficult ones. So in such a
  draw the organ's people are drawn once more, among themselves, as many as there are, as strata are (section 3.2).
  Draws with somebody of every organ stay as they are. An organ of one person stands with that person's value in each
  draw: how it varies between people nobody knows, and the interval does not say.
  """
  known = ~np.isnan(by_person)
  by_person, known = by_person[known.any(1)][:, known.any(0)], known[known.any(1)][:, known.any(0)]
  if known.sum(0).max(initial=0) < 2:
    return None
  drawn = _drawn(len(by_person))
  sums, counts = np.where(known, by_person, 0)[drawn].sum(1), known[drawn].sum(1)
  means = sums / np.maximum(counts, 1)
  rng = np.random.default_rng(1)
  for organ in range(by_person.shape[1]):
    missed = counts[:, organ] == 0
    own = by_person[known[:, organ], organ]
    means[missed, organ] = own[rng.integers(len(own), size=(missed.sum(), len(own)))].mean(1)
  low, high = np.percentile(means.mean(1), (2.5, 97.5))
  return float(low), float(high)


def _drawn(people: int) -> np.ndarray:
  return np.random.default_rng(0).integers(people, size=(DRAWS, people))
