"""What the numbers of a label map mean: values beyond doubt are mended and said, scans and probability maps refused,
and organs that data sets number differently get one number for results.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Integer, Num

from medlsam_jax.errors import InputError

_SILENT = 1e-3
"""Rounding of a stored slope: not worth a word."""
_JITTER = 0.05
"""Noise on label values, which does not grow with the value: a tenth of the way to the next decision."""
_SCALED = 0.01
"""A factor on all values that is nearer to 1 than this is a factor; more is a map of something else."""
_NEAREST = 0.25
"""No value may be further from its whole number: half of the way to where the next one is as near."""
_MANY_VALUES = 64
_SHOWN = 5
"""Organs that one sentence lists."""
LARGEST_VALUE = 2**32 - 1
"""Of values in results: viewers built on ITK do not all show 64 bit label maps."""


def whole_labels(array: Num[np.ndarray, "z y x"], source: str) -> tuple[Integer[np.ndarray, "z y x"], tuple[str, ...]]:
  """Label values as whole numbers from 0, and what was mended, a sentence each.

  Values off by one small factor or offset (0.9999, 28.997), or by noise up to 0.05, are taken as the nearest whole
  numbers where no value can be nearer to another one for that error; NaN and negative values are background.

  Returns:
    The smallest integer type that holds the values.

  Raises:
    InputError: infinite values; values that are not beyond doubt; a scan instead of labels.
  """
  notes: list[str] = []
  if not np.issubdtype(array.dtype, np.integer):
    array = _rounded(array, source, notes)
  if array.size:
    _refuse_scan(array, source)
    if array.min() < 0:
      array = _without_negative(array, source, notes)
  high = int(array.max(initial=0))
  # by name: numpy has two types of 8 bytes, and `min_scalar_type` gives the one that is not `uint64`
  return np.ascontiguousarray(array, dtype=np.min_scalar_type(high).str), tuple(notes)


def result_values(tables: Iterable[tuple[str, Mapping[str, int]]]) -> tuple[dict[str, int], dict[str, str]]:
  """One label value per organ for results, whatever the tables of the scans say.

  An organ keeps the value of the first table that has it; where another organ has that value already, or it takes more
  than 32 bits, it gets the next free one.

  Args:
    tables: where from, for the sentences, and organ -> value.

  Returns:
    Organ -> value, and for each organ that has another value in some table a sentence.
  """
  first: dict[str, tuple[int, str]] = {}
  owners: dict[int, str] = {}
  others: dict[str, str] = {}
  for place, table in tables:
    for organ, value in table.items():
      known = first.setdefault(organ, (value, place))
      if known[0] != value:
        others.setdefault(organ, f"{known[0]} in {known[1]} and {value} in {place}")
      if known[1] == place and value <= LARGEST_VALUE:
        owners.setdefault(value, organ)
  numbers = {}
  for organ, (value, place) in first.items():
    if owners.get(value) == organ:
      numbers[organ] = value
    else:
      numbers[organ] = next_free(owners)
      why = "too large for label maps" if value > LARGEST_VALUE else f"also that of {owners[value]}"
      others.setdefault(organ, f"{value} in {place}, {why}")
      owners[numbers[organ]] = organ
  said = {organ: f"{organ} is {what}; results call it {numbers[organ]}" for organ, what in others.items()}
  return numbers, said


def differing_numbers(differing: Mapping[str, str], organs: Iterable[str]) -> list[str]:
  """What `result_values` says of these organs as one sentence, or none."""
  said = [differing[organ] for organ in organs if organ in differing]
  more = f"; and {len(said) - _SHOWN} more" if len(said) > _SHOWN else ""
  if not said:
    return []
  return [f"templates number organs differently, and their names rule: {'; '.join(said[:_SHOWN])}{more}"]


def next_free(taken: Iterable[int]) -> int:
  """The number after the largest of `taken`, or where that is too large the smallest that is free."""
  used = set(taken)
  after = max(used, default=0) + 1
  return after if after <= LARGEST_VALUE else next(value for value in range(1, len(used) + 2) if value not in used)


def _rounded(array: np.ndarray, source: str, notes: list[str]) -> Integer[np.ndarray, "z y x"]:
  """Nearest whole numbers; NaN becomes 0. Slab by slab: a map scaled by its header is eight bytes a voxel already."""
  nan, low, high, off_values = 0, 0.0, 0.0, np.zeros(0)
  for plane in array:
    known = plane[~np.isnan(plane)].astype(np.float64)
    nan += plane.size - known.size
    off = np.abs(known - np.rint(known)) if np.isfinite(known).all() else None
    if off is None:
      raise InputError(f"{source}: infinite values in a label map; write whole numbers there")
    if off.max(initial=0) >= _NEAREST:
      raise _no_label_map(source, f"{known[off.argmax()]:g} is no whole number")
    low, high = min(low, known.min(initial=0)), max(high, known.max(initial=0))
    off_values = _extremes(np.concatenate([off_values, known[off > 0]]))
  if max(-low, high) >= 2**63:
    raise _no_label_map(source, f"{max(-low, high):g} is out of range")
  notes += _judge(off_values, max(-low, high), source)
  if nan:
    notes.append(f"{source}: {nan} of {array.size} voxels of the label map are NaN; taken as background")
  result = np.empty(array.shape, np.min_scalar_type(int(high)) if low > -0.5 else np.int64)
  for index, plane in enumerate(array):
    result[index] = np.rint(np.nan_to_num(plane))
  return result


def _extremes(values: np.ndarray) -> np.ndarray:
  """Of the values around each whole number the lowest and the highest: of a noisy map every voxel is another one."""
  nearest, at = np.unique(np.rint(values), return_inverse=True)
  low, high = np.full(len(nearest), np.inf), np.full(len(nearest), -np.inf)
  np.minimum.at(low, at, values)
  np.maximum.at(high, at, values)
  return np.unique(np.concatenate([low, high]))


def _judge(values: np.ndarray, largest: float, source: str) -> list[str]:
  """A sentence where values are off by more than rounding, none where they are not; refuses what is in doubt.

  Args:
    values: the distinct ones that are not whole, all within `_NEAREST` of a whole number; `_extremes` are enough.
    largest: absolute value in the map.
  """
  if not len(values):
    return []
  nearest = np.rint(values)
  off = values - nearest
  worst = int(np.abs(off).argmax())
  is_offset = len(values) > 1 and np.ptp(off) <= np.abs(off[worst]) / 10
  if len(np.unique(nearest)) == len(values) and not is_offset:
    # one value a label, each off by its own amount: a factor, which moves large values by more, whole ones too
    factor = np.max(np.abs(off) / np.maximum(np.abs(nearest), 1))
    is_sure = bool(factor <= _SCALED and factor * largest < _NEAREST)
  else:
    is_sure = bool(np.abs(off[worst]) <= _JITTER)
  if not is_sure:
    raise _no_label_map(source, f"values such as {values[worst]:g}, up to {largest:g}, may be of more than one label")
  if np.abs(off[worst]) <= _SILENT:
    return []
  return [
    f"{source}: label values are a little off whole numbers ({values[worst]:.6g} for {int(nearest[worst])}); "
    "the nearest whole numbers are taken"
  ]


def _refuse_scan(array: np.ndarray, source: str) -> None:
  """Refuses whole numbers that are no labels: many values, which fill the volume and change from voxel to voxel."""
  if int(array.max()) - min(int(array.min()), 0) <= _MANY_VALUES:
    return
  filled, pairs, equal = 0, 0, 0
  values: set[int] = set()
  for plane in array:
    is_filled = plane != 0
    is_pair = is_filled[:, 1:] | is_filled[:, :-1]
    filled += int(np.count_nonzero(is_filled))
    pairs += int(np.count_nonzero(is_pair))
    equal += int(np.count_nonzero(is_pair & (plane[:, 1:] == plane[:, :-1])))
  if filled < array.size / 10 or 2 * equal >= pairs:
    return
  for plane in array:
    values.update(np.unique(plane).tolist())
    if len(values) > _MANY_VALUES:
      raise _no_label_map(source, f"more than {_MANY_VALUES} values that change from voxel to voxel")


def _without_negative(array: np.ndarray, source: str, notes: list[str]) -> np.ndarray:
  """Negative values as background, where 0 or -1 is plainly that."""
  values, count, has_zero = set(), 0, False
  for plane in array:
    negative = plane[plane < 0]
    values.update(np.unique(negative).tolist())
    count += negative.size
    has_zero = has_zero or bool((plane == 0).any())
  if not has_zero and values != {-1}:
    raise _no_label_map(source, f"values from {min(values)} and no background of 0")
  shown = ", ".join(str(value) for value in sorted(values, reverse=True)[:5])
  note = f"{source}: {count} of {array.size} voxels have negative label values ({shown}); taken as background"
  wrapped = sorted(value for value in values if -128 <= value < -1)
  if array.dtype == np.int8 and wrapped:
    note += f"; in int8 a label {wrapped[-1] + 256} becomes {wrapped[-1]}: save the map as uint8 if that was meant"
  notes.append(note)
  return np.maximum(array, 0)


def _no_label_map(source: str, why: str) -> InputError:
  return InputError(f"{source}: not a label map: {why} (a scan or a probability map?); give whole numbers")
