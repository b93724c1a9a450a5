"""Whether a scan's values are Hounsfield units, judged by where its tissue lies, not by its lowest value.

In every CT of a body most of what is no air lies between fat (about -100 HU) and muscle (about +50), and nothing but
filler is lighter than air. Filler (values of a circle's outside, such as -2000 or -3024, and air that was cut off at
one value) repeats one number and is not counted. Thresholds were measured on 97 real scans of head, chest and abdomen
and the same ones stored otherwise; each has room on both sides. A volume too small to judge is left alone.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Num

ENOUGH_VOXELS = 20_000
"""Fewer say too little about tissue: then values without anything below `_LIGHTEST_FLUID_HU` are doubted, and an
offset where there are `_ENOUGH_FOR_AN_OFFSET`."""
_ENOUGH_FOR_AN_OFFSET = 4000
_LOOKED_AT = 400_000
"""Voxels that are looked at, evenly spread; more change nothing."""

_LIGHTEST_FLUID_HU = -10.0
"""A CT that shows any air or fat goes below this; MR and normalised images do not (limit of the published program)."""
_LEAST_RANGE = 50.0
"""HU between the lowest and the highest value of any CT; normalised images have less."""
_LABEL_VALUES = 256
_OFFSETS = (32768, 31744, 8192, 2048, 1024, -1024)
"""What was left in, or taken off twice: bits read without sign, intercepts of scanners, one of them with its sign lost.
Tried from the highest: the one before which nothing is lighter than air would take the air for tissue."""
_LOW, _HIGH = -6000, 40_000
_SPIKE_SHARE, _SPIKE_OVER, _SPIKE_AROUND = 0.01, 8.0, 41
_FILLER_SHARE = 0.1
_INVERTED_SHARE = 0.2
"""Of voxels as far above water as air is below; dense bone is under 0.03 in all of the real scans."""

_SOFT, _BODY, _LIGHTER_THAN_AIR, _AIR_ABOVE, _AIR_BELOW = 200, -500, -1100, -700, -400


@dataclasses.dataclass(frozen=True, eq=False)
class _Values:
  """Counts of values rounded to whole numbers `_LOW`.., without filler; filler as value and share of all voxels."""

  below: Float[np.ndarray, " values"]
  """How many lie below each whole number."""
  filler: dict[int, float]
  lowest: int

  @classmethod
  def of(cls, sample: Num[np.ndarray, " n"]) -> _Values:
    whole = np.rint(np.clip(sample.astype(np.float64), _LOW, _HIGH)).astype(np.int64)
    counts = np.bincount(whole - _LOW, minlength=_HIGH - _LOW + 1).astype(float)
    total = np.convolve(counts, np.ones(_SPIKE_AROUND), "same")
    around = (total - counts) / (_SPIKE_AROUND - 1)
    spikes = np.flatnonzero((counts > _SPIKE_SHARE * whole.size) & (counts > _SPIKE_OVER * np.maximum(around, 1)))
    filler = {int(at) + _LOW: counts[at] / whole.size for at in spikes}
    counts[spikes] = 0
    return cls(np.concatenate([[0.0], np.cumsum(counts)]), filler, int(whole.min()))

  def between(self, low: float, high: float) -> float:
    """How many lie in `low <= value < high`."""
    ends = np.clip(np.array([low, high]) - _LOW, 0, len(self.below) - 1).astype(int)
    return float(self.below[ends[1]] - self.below[ends[0]])

  @property
  def count(self) -> float:
    return float(self.below[-1])

  def softness(self, offset: int = 0) -> float:
    """Share of soft tissue in all that is no air or lung, were the values HU + `offset`."""
    body = self.between(offset + _BODY, np.inf)
    return self.between(offset - _SOFT, offset + _SOFT) / body if body else 0.0


def doubt_of_values(array: Num[np.ndarray, "z y x"]) -> str | None:
  """Why the values of a scan may be no Hounsfield units, as the end of a sentence; None where nothing speaks for it."""
  sample = _sample(array)
  low, high = float(sample.min()), float(sample.max())
  span = f"values from {low:g} to {high:g}"
  no_ct = f"{span} do not look like CT in Hounsfield units (air is near -1000)"
  if sample.size >= ENOUGH_VOXELS:
    if low == high or high < _AIR_ABOVE:
      return f"{span}: there is nothing to see in it"
    if high - low < _LEAST_RANGE:
      return _explained(no_ct, sample)
  values = _Values.of(sample)
  offset = _offset(values, sample.size) if sample.size >= _ENOUGH_FOR_AN_OFFSET else 0
  if offset:
    return (
      f"{no_ct}, but like Hounsfield units {offset:+d}: was the rescale intercept left out, or applied twice? If so, "
      f"read it with --hu-offset {-offset}, in Python ml.read_volume(path, hu_offset={-offset})"
    )
  if sample.size < ENOUGH_VOXELS:
    return _explained(no_ct, sample) if low > _LIGHTEST_FLUID_HU else None
  if not _reaches_below_water(values, sample.size):
    return _explained(no_ct, sample)
  return _misplaced(values, sample.size, no_ct)


def _offset(values: _Values, size: int) -> int:
  """What was added to Hounsfield units, 0 where they are themselves or nothing fits."""
  for offset in _OFFSETS:
    soft = values.between(offset - _SOFT, offset + _SOFT)
    muscle = values.between(offset - 30, offset + _SOFT)
    if soft < 0.02 * size or muscle < 0.2 * soft or values.softness(offset) < 0.6:
      continue
    if values.between(-np.inf, offset + _LIGHTER_THAN_AIR) > 0.01 * values.count:
      continue
    # the air of a scan in order lies where the soft tissue of one 1024 too low would: then hardly anything is above it,
    # and fat reaches below air
    if offset < 0 and (
      values.between(_BODY, np.inf) > 0.35 * soft or values.between(-np.inf, _LIGHTER_THAN_AIR) < 0.04 * soft
    ):
      continue
    return offset
  return 0


def _reaches_below_water(values: _Values, size: int) -> bool:
  """Whether anything is lighter than water, or a crop is so plainly soft tissue that nothing needs to be."""
  lighter = values.between(-np.inf, _LIGHTEST_FLUID_HU) + size * sum(
    share for value, share in values.filler.items() if value < _LIGHTEST_FLUID_HU
  )
  if lighter > 0.01 * size:
    return True
  plain = values.between(-np.inf, 10) < 0.1 * size and values.between(10, 100) > 0.6 * size
  return not values.filler and plain and values.softness() > 0.8


def _misplaced(values: _Values, size: int, no_ct: str) -> str | None:
  """Air, soft tissue or filler at a place where no CT has it."""
  lighter = values.between(-np.inf, _LIGHTER_THAN_AIR)
  if lighter > 0.03 * values.count:
    return (
      f"{no_ct}: {lighter / values.count:.0%} of the voxels are lighter than air; was the rescale slope applied twice?"
    )
  dense = values.between(-_AIR_ABOVE, -_LIGHTER_THAN_AIR + 200)
  light = values.between(-np.inf, _AIR_ABOVE)
  light += size * sum(share for value, share in values.filler.items() if value < _AIR_ABOVE)
  if dense > _INVERTED_SHARE * size and light < 0.05 * dense:
    return f"{no_ct}: {dense / size:.0%} of the voxels lie near +1000 and hardly any near air; were they inverted?"
  for value, share in values.filler.items():
    if value > _AIR_ABOVE and share > _FILLER_SHARE:
      return f"{no_ct}: {share:.0%} of the voxels are exactly {value}; a CT that was cut off, masked or rescaled?"
  air = values.between(-np.inf, _AIR_BELOW)
  airy = any(_LIGHTER_THAN_AIR < value < _AIR_ABOVE for value in values.filler)
  if not airy and air > 0.05 * values.count and values.between(-np.inf, _AIR_ABOVE) < 0.02 * air:
    return f"{no_ct}: the lightest tissue lies near {values.lowest:d}; was the rescale slope left out?"
  body = values.between(_BODY, np.inf)
  if body > 0.1 * size and values.softness() < 0.15:
    return f"{no_ct}: hardly anything lies near soft tissue (-100 to 50)"
  return None


def _explained(no_ct: str, sample: np.ndarray) -> str:
  """The sentence with what such values usually are."""
  low, high = float(sample.min()), float(sample.max())
  if high - low < _LEAST_RANGE:
    what = "an image that was normalised, or a label map"
  elif high <= 255 and np.unique(sample).size <= _LABEL_VALUES:
    what = "an image of 8 bits, or a label map"
  else:
    what = "an MR or PET scan, or a CT that was normalised"
  return f"{no_ct}: {what}? Results will be poor; give the original CT"


def _sample(array: Num[np.ndarray, "z y x"]) -> Num[np.ndarray, " n"]:
  step = max(1, int(np.ceil((array.size / _LOOKED_AT) ** (1 / 3))))
  steps = [min(step, max(1, n // 16)) for n in array.shape]
  return array[tuple(slice(None, None, s) for s in steps)].ravel()
