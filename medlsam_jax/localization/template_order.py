"""Templates that contradict each other, from where their organs lie alone: swapped label values, a mirrored scan.

Two organs that lie on one side of each other in one template and on the other side in another cannot both be named
rightly. On 65 people of the head and neck sets (2080 pairs of templates), 7 torso scans and the phantoms the rule
below is never broken; of 21 swaps of two organs of one head and neck template it sees 18, of 18 left and right organs
of a torso 16. Without it the search mixes both places, and `bank check` shows IoU .03.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float

_OVERLAP = 0.5
"""Two organs lie one before the other along an axis where they share at most this much of the smaller one's extent."""
_SIDE = 2
"""Left and right, the last of z, y, x: which side an organ is on shows in a piece of it that the scan's end left."""
_SHOWN = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
  """Where one organ lies in one template, working voxels (z, y, x)."""

  low: Float[np.ndarray, "3"]
  high: Float[np.ndarray, "3"]
  is_cut: Bool[np.ndarray, "3"]
  """By axis: the organ reaches the border of the scan there, and may go on."""

  @classmethod
  def of(cls, low: np.ndarray, high: np.ndarray, shape: tuple[int, ...]) -> Place:
    """From inclusive corners in a grid of `shape`."""
    return cls(np.asarray(low, float), high + 1.0, (np.asarray(low) <= 0) | (np.asarray(high) >= np.array(shape) - 1))


def contradictions(places: Mapping[str, Mapping[str, Place]]) -> list[str]:
  """A sentence for each template whose organs lie the other way round than in the others, or for two that disagree.

  Along an axis, two organs contradict two templates where they are one before the other in both, in opposite order,
  and their distance changes by more than the larger one's extent. Organs that the scan's border cuts are looked at
  only along left and right.

  Args:
    places: by template, then by organ.
  """
  odd: dict[str, list[str]] = {}
  unclear: dict[tuple[str, ...], list[str]] = {}
  organs = sorted({organ for each in places.values() for organ in each})
  for first, second in itertools.combinations(organs, 2):
    names = [name for name, each in places.items() if first in each and second in each]
    if len(names) < 2:
      continue
    against = _against([(places[name][first], places[name][second]) for name in names])
    opposed = np.flatnonzero(against.any(1))
    if not len(opposed):
      continue
    pair = f"{first} and {second}"
    wrong = [names[index] for index in np.flatnonzero(against.sum(1) > len(names) / 2)]
    if len(names) > 2 and wrong and len(wrong) < len(names) / 2:
      for name in wrong:
        odd.setdefault(name, []).append(pair)
    else:
      unclear.setdefault(tuple(names[index] for index in opposed), []).append(pair)
  why = "are label values swapped, or is a scan mirrored?"
  return [
    *(f"{name}: {_list(pairs)} lie the other way round than in the other templates; {why} Correct it, or leave it out"
      for name, pairs in odd.items()),
    *(f"{', '.join(names)}: {_list(pairs)} lie the other way round in one template than in another; {why} Look at them"
      for names, pairs in unclear.items()),
  ]  # fmt: skip


def _against(pairs: list[tuple[Place, Place]]) -> Bool[np.ndarray, "templates templates"]:
  """Which templates two organs contradict."""
  low, high, is_cut = (
    np.array([[getattr(place, field) for place in pair] for pair in pairs]) for field in ("low", "high", "is_cut")
  )
  extent = high - low
  distance = (low[:, 1] + high[:, 1] - low[:, 0] - high[:, 0]) / 2
  shared = np.minimum(high[:, 0], high[:, 1]) - np.maximum(low[:, 0], low[:, 1])
  ends = is_cut.any(1)
  is_usable = np.where(np.arange(3) == _SIDE, ~ends, ~ends.any(1, keepdims=True))
  order = np.where(is_usable & (shared <= _OVERLAP * extent.min(1)), np.sign(distance), 0)
  largest = extent.max(1)
  moved = np.abs(distance[:, None] - distance[None]) > np.maximum(largest[:, None], largest[None])
  return ((order[:, None] * order[None] < 0) & moved).any(-1)


def _list(pairs: list[str]) -> str:
  more = f" and {len(pairs) - _SHOWN} more pairs" if len(pairs) > _SHOWN else ""
  return ", ".join(pairs[:_SHOWN]) + more
