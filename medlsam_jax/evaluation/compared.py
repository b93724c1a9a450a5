"""Ways beside each other on the same people: means, failures, intervals, differences to the first, paired tests."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from jaxtyping import Float
from scipy import stats

from medlsam_jax.evaluation.people import organs_interval, organs_mean

MEAN = "mean over organs"


class Row(Protocol):
  """One organ of one scan, one way; metrics are attributes, None where one does not apply."""

  @property
  def scan(self) -> str:
    """Whose it is: people are drawn for intervals, not labels."""
    ...

  @property
  def way(self) -> str:
    """What made it."""
    ...

  @property
  def organ(self) -> str:
    """Which organ."""
    ...

  @property
  def failure(self) -> str:
    """Why there is no result, which has the worst scores then; empty where there is one."""
    ...


Rows = TypeVar("Rows", bound=Row)


def compared_lines(
  rows: Sequence[Row], ways: Sequence[str], metrics: Sequence[str], cut: Collection[tuple[str, str]] = ()
) -> list[dict[str, Any]]:
  """For each way each organ, and the mean over organs, each organ weighing the same: over whole labels, where some are
  not, and over all.

  A label with several rows of one way counts with their mean.

  Args:
    ways: in the order of the lines; all others are held against the first.
    metrics: attributes of the rows; one that no row of a line has is left out of it.
    cut: scans and organs whose labels are not whole.

  Returns:
    Keys: `labels` (`whole` or `all`), `way`, `organ`, `people`, `n` (rows), `failed`; each metric with its 95 %
    interval by people, `METRIC_low` and `METRIC_high`, which are not there where `people.organs_interval` has none; for
    ways after the first the mean difference to it, `METRIC_less_first`, with `..._low` and `..._high` likewise, and
    `METRIC_p` of `paired_p`.
  """
  lines = []
  for labels in ("whole", "all") if cut else ("all",):
    chosen = [row for row in rows if labels == "all" or (row.scan, row.organ) not in cut]
    organs = list(dict.fromkeys(row.organ for row in chosen))
    for way in ways if chosen else ():
      for organ in [*organs, MEAN]:
        of_organ = [row for row in chosen if organ in (MEAN, row.organ)]
        own = [row for row in of_organ if row.way == way]
        line: dict[str, Any] = {"labels": labels, "way": way, "organ": organ, "people": len({row.scan for row in own})}
        line |= {"n": len(own), "failed": failed(own)}
        for metric in metrics:
          line |= _figures(way, ways[0], of_organ, metric)
        lines.append(line)
  return lines


def failed(rows: Sequence[Row]) -> int:
  """Rows without a result."""
  return sum(bool(row.failure) for row in rows)


def paired_p(by_person: Float[np.ndarray, "people organs"]) -> float | None:
  """Two-sided Wilcoxon signed-rank test that differences lie around 0, over people: of each the mean over their organs.

  Args:
    by_person: differences; NaN where a person has no such organ.

  Returns:
    p, not corrected for how many are asked; 1 where all are 0; None with fewer than two people.
  """
  people = by_person[~np.isnan(by_person).all(1)]
  if len(people) < 2:
    return None
  differences = np.nanmean(people, axis=1)
  if not differences.any():
    return 1.0
  with warnings.catch_warnings():  # of few people, whose p is large as it is
    warnings.simplefilter("ignore")
    return float(stats.wilcoxon(differences).pvalue)


def _figures(way: str, first: str, rows: Sequence[Row], metric: str) -> dict[str, float | None]:
  """A metric's mean over a way's rows, and what it is more than the first way's."""
  own = _by_person(way, rows, metric)
  if np.isnan(own).all():
    return {}
  said: dict[str, float | None] = {metric: organs_mean(_known(own)), **_ends(metric, own)}
  less = own - _by_person(first, rows, metric)
  if way != first and not np.isnan(less).all():
    said |= {f"{metric}_less_first": organs_mean(_known(less)), f"{metric}_p": paired_p(less)}
    said |= _ends(f"{metric}_less_first", less)
  return said


def _ends(name: str, by_person: Float[np.ndarray, "people organs"]) -> dict[str, float]:
  """Of the interval, where there is one."""
  ends = organs_interval(by_person)
  return {} if ends is None else {f"{name}_low": ends[0], f"{name}_high": ends[1]}


def _known(table: Float[np.ndarray, "people organs"]) -> Float[np.ndarray, "people fewer"]:
  """Organs that somebody has."""
  return table[:, ~np.isnan(table).all(0)]


def _by_person(way: str, rows: Sequence[Row], metric: str) -> Float[np.ndarray, "people organs"]:
  """Scores of a way, people and organs in the order of all rows, of several for one label their mean; NaN where a
  person has no label that counts."""
  people, organs = (list(dict.fromkeys(each)) for each in zip(*((row.scan, row.organ) for row in rows), strict=True))
  sums, counts = np.zeros((len(people), len(organs))), np.zeros((len(people), len(organs)))
  for row in rows:
    value = getattr(row, metric)
    if row.way == way and value is not None:
      place = people.index(row.scan), organs.index(row.organ)
      sums[place] += value
      counts[place] += 1
  return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
