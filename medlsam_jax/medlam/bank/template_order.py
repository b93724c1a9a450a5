"""Templates that contradict each other, from where their organs lie alone: swapped label values, a mirrored scan.

Two organs of which one lies before the other in one template and behind it in another cannot both be named rightly.
On 65 people of the head and neck sets (2080 pairs of templates), 7 torso scans and 12 phantoms the rule below is never
broken; of 21 swaps of two organs of one head and neck template it sees 18, of 18 left and right organs of a torso 16.
Without it the search mixes both places, and `bank check` shows IoU .03.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Collection, Mapping

import numpy as np
from jaxtyping import Bool, Float

from medlsam_jax import display

_OVERLAP = 0.5
"""Two organs lie one before the other along an axis where they share at most this much of the smaller one's extent."""
_SIDE = 2
"""Left and right, the last of z, y, x: which side an organ is on shows in a piece of it that the scan's end left."""
_SHOWN = 6
"""Organs that a sentence lists."""


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


def contradictions(places: Mapping[str, Mapping[str, Place]], wanted: Collection[str] | None = None) -> list[str]:
  """A sentence for each template with organs in another order than in the others, or for those that disagree.

  Along an axis, two organs contradict two templates where they are one before the other in both, in opposite order,
  and their distance changes by more than the larger one's extent. Organs that the scan's border cuts are looked at
  only along left and right.

  Args:
    places: by template, then by organ.
    wanted: organs of the bank; pairs without one of them are not looked at. None takes all.
  """
  edges: list[tuple[str, str, tuple[str, str]]] = []
  organs = sorted({organ for each in places.values() for organ in each})
  for pair in itertools.combinations(organs, 2):
    if wanted is not None and not set(pair) & set(wanted):
      continue
    names = [name for name, each in places.items() if pair[0] in each and pair[1] in each]
    if len(names) > 1:
      against = _against([(places[name][pair[0]], places[name][pair[1]]) for name in names])
      edges += [(names[one], names[two], pair) for one, two in np.argwhere(np.triu(against))]
  odd = _odd_ones(edges, list(places))
  why = "are label values swapped, or is a scan mirrored?"
  said = []
  for name in odd:
    others = {pair for one, two, pair in edges if name in (one, two) and not {one, two} <= set(odd)}
    place = "elsewhere among the organs than in the other templates"
    said.append(f"{name}: {_organs(others)}: {place}; {why} Correct or remove it")
  left = [edge for edge in edges if not set(edge[:2]) & set(odd)]
  if left:
    both = ", ".join(name for name in places if any(name in edge[:2] for edge in left))
    what = _organs({pair for *_, pair in left})
    said.append(f"{both}: {what}: the other way round in one template than in another; {why} Look at them")
  return said


def _odd_ones(edges: list[tuple[str, str, tuple[str, str]]], names: list[str]) -> list[str]:
  """Templates that contradict more than half of the others, where those are the fewer: of two nobody knows."""
  against: dict[str, set[str]] = {name: set() for name in names}
  for one, two, _ in edges:
    against[one].add(two)
    against[two].add(one)
  odd = [name for name in names if 2 * len(against[name]) > len(names) - 1]
  return odd if 2 * len(odd) < len(names) else []


def _against(pairs: list[tuple[Place, Place]]) -> Bool[np.ndarray, "templates templates"]:
  """Which templates two organs contradict."""
  low, high, is_cut = (
    np.array([[getattr(place, field) for place in pair] for pair in pairs]) for field in ("low", "high", "is_cut")
  )
  extent = high - low
  distance = (low[:, 1] + high[:, 1] - low[:, 0] - high[:, 0]) / 2
  shared = np.minimum(high[:, 0], high[:, 1]) - np.maximum(low[:, 0], low[:, 1])
  ends = np.any(is_cut, axis=1)
  is_usable = np.where(np.arange(3) == _SIDE, ~ends, ~np.any(ends, axis=1, keepdims=True))
  order = np.where(is_usable & (shared <= _OVERLAP * extent.min(1)), np.sign(distance), 0)
  largest = extent.max(1)
  moved = np.abs(distance[:, None] - distance[None]) > np.maximum(largest[:, None], largest[None])
  return np.any((order[:, None] * order[None] < 0) & moved, axis=-1)


def _organs(pairs: Collection[tuple[str, str]]) -> str:
  """The fewest organs that have a part in every pair, all of those that have it in as many."""
  chosen: list[str] = []
  left = list(pairs)
  while left:
    counts = collections.Counter(organ for pair in left for organ in pair)
    most = max(counts.values())
    chosen += sorted(organ for organ, n in counts.items() if n == most)
    left = [pair for pair in left if not set(pair) & set(chosen)]
  chosen.sort()
  return display.some(chosen, _SHOWN)
