"""Scans of a cohort beside each other by their pictures alone: which is mirrored, which shows something else.

Slabs of two scans that show the same level of the body are told by what left and right have in common, which a mirror
does not change; then what is different between left and right is compared, which a mirror turns into its opposite. So
a mirrored scan has the negative of the measure that it would have as it should be, whatever the measure is worth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from medlsam_jax.cohort.layout import ENOUGH_SCANS, spread_of
from medlsam_jax.cohort.sketch import HALF, Sketch

REFERENCES = 120
"""Scans that the others are held against, at most, evenly from the whole list."""
_LIKE = 0.25
"""Root mean square difference of two slabs (see `_Slabs`) by which the likeness of their levels falls to .6."""
_FEW = 0.2
"""Likeness of its levels, summed over a scan, below which a slab counts less."""
_LEAST_SPREAD = 0.03
"""Of `handed`: scans differ by this at least, whatever few of them say."""
_WEIGHTS = (400 / 100 / 255, 850 / 300 / 255)
"""A picture's unit in these comparisons: 100 HU of soft tissue, 300 HU of what is darker."""


@dataclasses.dataclass(frozen=True, eq=False)
class Likeness:
  """Of each scan to the others; NaN where it has no picture, or no other has one."""

  handed: Float[np.ndarray, " scans"]
  """Correlation of what is different between left and right with that of the others: below 0 the other way round."""
  apart: Float[np.ndarray, " scans"]
  """How far a scan's slabs are from the most like ones of the others, median."""
  cut: Float[np.ndarray, "scans 4"]
  """As of `Sketch`."""

  @property
  def mirrored_odds(self) -> Float[np.ndarray, " scans"]:
    """Natural logarithm of how many times likelier a scan's `handed` is of a mirrored one; 0 with few scans.

    Of a normal distribution with the cohort's median m and spread s, and its mirror image: -2 m handed / s^2. Where the
    cohort's organs do not tell left from right, m is small beside s, and nothing is likely.
    """
    known = self.handed[np.isfinite(self.handed)]
    middle = float(np.median(known)) if len(known) >= ENOUGH_SCANS else 0.0
    if middle <= 0:
      return np.zeros(len(self.handed))
    return np.nan_to_num(-2 * middle * self.handed / max(float(spread_of(known - middle)), _LEAST_SPREAD) ** 2)


def likeness_of(count: int, load: Callable[[int], Sketch | None]) -> Likeness:
  """Compares each of `count` scans with the others, or with `REFERENCES` of them; `load` gives the picture of one."""
  result = Likeness(np.full(count, np.nan), np.full(count, np.nan), np.full((count, 4), np.nan))
  chosen = np.unique(np.linspace(0, max(count - 1, 0), min(count, REFERENCES)).astype(int)).tolist()
  references = _References.of({row: sketch for row in chosen if (sketch := load(row)) is not None})
  for row in range(count):
    if (sketch := load(row)) is not None:
      result.cut[row] = sketch.cut
      result.handed[row], result.apart[row] = references.compare(row, _slabs(sketch))
  return result


@dataclasses.dataclass(frozen=True, eq=False)
class _Slabs:
  """Slabs of one scan, or of several one after another."""

  common: Float[np.ndarray, "slabs cells"]
  """Mean of left and right."""
  different: Float[np.ndarray, "slabs cells"]
  """Half of right less left."""


def _slabs(sketch: Sketch) -> _Slabs:
  picture = sketch.cells.astype(np.float32) * np.array(_WEIGHTS, np.float32)
  left, right = picture[:, :, :HALF][:, :, ::-1], picture[:, :, HALF:]
  common, different = (
    # to neighbouring slabs and cells, since people are not alike to 12 mm
    ndimage.gaussian_filter(each, (1, 1, 1, 0)).reshape(len(picture), -1)
    for each in ((left + right) / 2, (right - left) / 2)
  )
  return _Slabs(common, different)


@dataclasses.dataclass(frozen=True, eq=False)
class _References:
  """Scans that others are held against."""

  rows: list[int]
  slabs: _Slabs
  starts: list[int]
  """Of each one's slabs."""

  @classmethod
  def of(cls, sketches: Mapping[int, Sketch]) -> _References:
    """By their place in the cohort."""
    each = [_slabs(sketch) for sketch in sketches.values()]
    starts = np.cumsum([0, *(len(slabs.common) for slabs in each)])[:-1].tolist()
    joined = [np.concatenate([getattr(slabs, name) for slabs in each] or [np.zeros((0, 1), np.float32)])
              for name in ("common", "different")]  # fmt: skip
    return cls(list(sketches), _Slabs(*joined), starts)

  def compare(self, row: int, slabs: _Slabs) -> tuple[float, float]:
    """`handed` and `apart` of a scan, beside all but itself; NaN without any."""
    keep = [number for number, other in enumerate(self.rows) if other != row]
    if not keep:
      return float("nan"), float("nan")
    ours, theirs = ((each.common**2).mean(1) for each in (slabs, self.slabs))
    dots = slabs.common @ self.slabs.common.T / slabs.common.shape[1]
    squared = np.maximum(ours[:, None] + theirs - 2 * dots, 0)
    like = np.exp(-squared / (2 * _LIKE**2))
    by_scan = np.add.reduceat(like, self.starts, 1)
    # a level that another scan shows for long counts no more than one that it shows briefly
    like = like / np.repeat(np.maximum(by_scan, _FEW), np.diff([*self.starts, len(theirs)]), 1)
    ours, theirs = ((each.different**2).sum(1) for each in (slabs, self.slabs))
    product, own, other, weight = (
      np.add.reduceat(each.sum(0), self.starts)[keep]
      for each in (like * (slabs.different @ self.slabs.different.T), like * ours[:, None], like * theirs, like)
    )
    handed = (product / np.sqrt(own * other + 1e-9) * weight).sum() / (weight.sum() + 1e-9)
    nearest = np.sort(np.minimum.reduceat(squared, self.starts, 1)[:, keep], 1)
    # of the second scan that shows a level: one other may be of the same odd kind, or a copy
    return float(handed), float(np.sqrt(np.median(nearest[:, min(1, len(keep) - 1)])))
