"""Where organs lie to each other: the layout that a set of people shares, and how far one person is from it."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from medlsam_jax.finding import whole_points
from medlsam_jax.geometry import WORKING_SPACING_MM

if TYPE_CHECKING:
  from medlsam_jax.medlam.bank.bank import Bank

LEAST_SPREAD_MM = 8.0
"""People differ by this at least, whatever few of them say."""
TEMPLATE_SPREAD_MM = 25.0
"""What is taken where only templates say where an organ lies."""
ENOUGH_SCANS = 8
"""An organ's place is the cohort's own from so many scans on in which it was found; else the templates'."""
_ROUNDS = 6
_QUANTILES = ((0.5, 0.6745), (0.8, 1.2816))
"""Shares of a normal distribution's values, and within how many standard deviations of its middle they lie."""


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
  """Places of organs to each other, RAS mm (x, y, z); NaN where nobody has an organ."""

  middles_mm: Float[np.ndarray, "organs 3"]
  spread_mm: Float[np.ndarray, "organs 3"]
  """Standard deviation, of people whose layouts were laid over each other."""
  log_ml: Float[np.ndarray, " organs"]
  """Logarithm of the organ's size (see `quality`), median."""
  log_ml_spread: Float[np.ndarray, " organs"]

  def residual_mm(self, middles_mm: Float[np.ndarray, "scans organs 3"]) -> Float[np.ndarray, "scans organs 3"]:
    """How far each organ of each scan lies from its place, the scan being laid over the layout by its organs."""
    return _laid_over(middles_mm, self.middles_mm) - self.middles_mm

  def handedness(self, middles_mm: Float[np.ndarray, "scans organs 3"]) -> Float[np.ndarray, " scans"]:
    """Slope of the organs' places from right to left against the layout's: 1 as it should be, -1 in a mirror.

    NaN where too few organs are there to say, or all lie near the middle.
    """
    both = np.isfinite(middles_mm[..., 0]) & np.isfinite(self.middles_mm[:, 0])
    have = np.where(both, middles_mm[..., 0], np.nan)
    should = np.where(both, self.middles_mm[:, 0], np.nan)
    have, should = (each - _mean(each)[:, None] for each in (have, should))
    weight = np.nansum(should**2, 1)
    slope = np.nansum(have * should, 1) / np.maximum(weight, 1e-9)
    return np.where((both.sum(1) >= 3) & (weight > both.sum(1) * 20.0**2), slope, np.nan)


def layout_of(
  middles_mm: Float[np.ndarray, "scans organs 3"],
  log_ml: Float[np.ndarray, "scans organs"],
  sure: Bool[np.ndarray, "scans organs"],
  templates: Layout | None = None,
) -> Layout:
  """What people share, by medians, which a few odd ones do not move.

  Args:
    middles_mm: of the organs' boxes; NaN where there is none.
    log_ml: logarithm of their sizes.
    sure: organs that count.
    templates: what stands in for organs that too few of them have.
  """
  known = np.where(sure[..., None], middles_mm, np.nan)
  shared = _median(known - _median(known.transpose(1, 0, 2))[:, None])
  for _ in range(_ROUNDS):
    shared = _median(_laid_over(known, shared))
  apart = _laid_over(known, shared) - shared
  spread = np.maximum(spread_of(apart), LEAST_SPREAD_MM)
  sizes = np.where(sure, log_ml, np.nan)
  size = _median(sizes)
  size_spread = np.maximum(spread_of(sizes - size), 0.15)
  own = Layout(shared, spread, size, size_spread)
  return own if templates is None else _filled(own, templates, sure.sum(0) >= ENOUGH_SCANS)


def layout_of_templates(bank: Bank, organs: Sequence[str]) -> Layout | None:
  """Of a bank's templates, by the points that they were given; None of a bank of an older version."""
  names = sorted({name for organ in bank.organs.values() for name in organ.templates})
  corners = np.full((len(names), len(organs), 2, 3), np.nan)
  for column, organ in enumerate(organs):
    held = bank.organs.get(organ)
    if held is None or held.places is None:
      continue
    for template, places in zip(held.templates, held.places, strict=True):
      whole = whole_points(places[held.faces])
      low_high = np.stack([whole.min(0), whole.max(0)])[:, ::-1] * WORKING_SPACING_MM
      # the working grid rises to the left; RAS to the right
      corners[names.index(template), column] = low_high * (-1, 1, 1)
  if not np.isfinite(corners).any():
    return None
  middles = corners.mean(2)
  log_ml = box_log_ml(corners)
  plain = layout_of(middles, log_ml, np.isfinite(log_ml))
  spread = np.maximum(plain.spread_mm, TEMPLATE_SPREAD_MM)
  return dataclasses.replace(plain, spread_mm=spread, log_ml_spread=np.maximum(plain.log_ml_spread, 0.35))


def box_log_ml(corners: Float[np.ndarray, "*n 2 3"]) -> Float[np.ndarray, "*n"]:
  """Logarithm of a box's content in millilitres."""
  edges = np.abs(corners[..., 1, :] - corners[..., 0, :])
  return np.log(np.maximum(edges, 1.0)).sum(-1) - np.log(1000.0)


def spread_of(off: np.ndarray) -> np.ndarray:
  """Standard deviation over the first axis by what most distances from 0 say, which a few odd ones do not move.

  The greater one of those that half and four fifths of them give: a search that fails now and then has long tails, and
  what it does in one scan of five is nothing odd.
  """
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", RuntimeWarning)  # of nothing but NaN, which is meant
    return np.max([np.nanquantile(np.abs(off), share, axis=0) / within for share, within in _QUANTILES], axis=0)


def _filled(own: Layout, templates: Layout, enough: Bool[np.ndarray, " organs"]) -> Layout:
  """The templates' places, laid over the cohort's by the organs that both know, where the cohort has too few."""
  both = enough & np.isfinite(templates.middles_mm[:, 0])
  start = np.where(both[:, None], own.middles_mm, np.nan)
  laid = templates.middles_mm
  if both.any():
    laid = laid + np.nanmedian(start - laid, axis=0)
  take = ~enough & np.isfinite(templates.middles_mm[:, 0])
  sizes = take & np.isfinite(templates.log_ml)
  return Layout(
    np.where(take[:, None], laid, own.middles_mm),
    np.where(take[:, None], templates.spread_mm, own.spread_mm),
    np.where(sizes, templates.log_ml, own.log_ml),
    np.where(sizes, templates.log_ml_spread, own.log_ml_spread),
  )


def _laid_over(
  middles_mm: Float[np.ndarray, "scans organs 3"], shared: Float[np.ndarray, "organs 3"]
) -> Float[np.ndarray, "scans organs 3"]:
  """Each scan moved so that the median of what its organs are off is 0."""
  return middles_mm - _median((middles_mm - shared).transpose(1, 0, 2))[:, None]


def _median(values: np.ndarray) -> np.ndarray:
  """Over the first axis, NaN left out; NaN where there is nothing else."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", RuntimeWarning)  # of nothing but NaN, which is meant
    return np.nanmedian(values, axis=0)


def _mean(values: np.ndarray) -> np.ndarray:
  """Over the last axis, likewise."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", RuntimeWarning)
    return np.nanmean(values, axis=-1)
