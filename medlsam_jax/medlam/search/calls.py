"""Which patch each point uses, which patches go through the network together, and when what comes out is fetched.

Voxels of the padded working grid.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import jax
import numpy as np
from jaxtyping import Bool, Int

from medlsam_jax.medlam.search import programs, sharing
from medlsam_jax.medlam.search.search_settings import SearchSettings
from medlsam_jax.working_grid import PATCH_MARGIN

POINTS_PER_SHARED_PATCH = 64
"""Template points that a shared patch is compared with at once, each of their templates counted where each is compared
on its own; with more it is run again."""

POINTS_PER_ORGAN_PATCH = 6
"""The same of a patch for one organ: the points of an organ without parts."""

Item = TypeVar("Item")
Outputs = TypeVar("Outputs")


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
  """Points whose patches are run together, in arrays of one shape whatever their number."""

  centres: Int[np.ndarray, "m 3"]
  """At most as many as a call has patches."""
  rows: Int[np.ndarray, " n"]
  """The points."""
  patch: Int[np.ndarray, " n"]
  seat: Int[np.ndarray, " n"]
  """Where each of them sits: among the patches of the call, and among the points of its patch."""
  used: Bool[np.ndarray, "patches seats"]

  def seated(self, values: np.ndarray) -> np.ndarray:
    """Values of all points, those of this call at their seats, and zeros."""
    result = np.zeros((*self.used.shape, *values.shape[1:]), values.dtype)
    result[self.patch, self.seat] = values[self.rows]
    return result

  def of(self, result: np.ndarray | jax.Array) -> np.ndarray:
    """What a program gave, by point of `rows`."""
    return np.asarray(result)[self.patch, self.seat]


def fetched(
  network: programs.Prepared,
  items: Iterable[Item],
  run: Callable[[Item], Outputs],
  ahead: int | None = None,
) -> Iterator[tuple[Item, Outputs]]:
  """Each item, and what a program gives for it, on the host; in turn.

  On a CPU one after the other. Elsewhere nothing is waited for until `ahead` later ones are on their way, so that the
  device has work while the host prepares the next and puts away the last.

  Args:
    network: which says which of the two.
    items: of the program.
    run: the program; what it gives lies on the device.
    ahead: None: all are begun, and come in one transfer.
  """
  waiting: collections.deque[tuple[Item, Outputs]] = collections.deque()
  most = 0 if not network.patches_together else ahead
  for item in items:
    waiting.append((item, run(item)))
    if most is not None and len(waiting) > most:
      first, outputs = waiting.popleft()
      yield first, jax.device_get(outputs)
  if waiting:
    yield from zip([item for item, _ in waiting], jax.device_get([outputs for _, outputs in waiting]), strict=True)


def calls(
  centres: Int[np.ndarray, "points 3"],
  settings: SearchSettings,
  templates: int = 1,
  size: int = programs.POINTS_PER_CALL,
) -> Iterator[Call]:
  """All points, in calls of `size` patches.

  Args:
    centres: of `patch_centres`.
    settings: who shares patches.
    templates: that each point is compared with.
    size: `Prepared.patches_per_call`.
  """
  seats = 1
  if settings.shared_patches:
    seats = max(POINTS_PER_SHARED_PATCH // templates, 1)
  elif settings.organ_patches:
    seats = POINTS_PER_ORGAN_PATCH
  groups = _groups(centres, seats)
  for first in range(0, len(groups), size):
    chosen = groups[first : first + size]
    patch, seat = (np.concatenate(part) for part in zip(*map(_seats, range(len(chosen)), chosen), strict=True))
    used = np.zeros((size, seats), bool)
    used[patch, seat] = True
    yield Call(centres[[group[0] for group in chosen]], np.concatenate(chosen), patch, seat, used)


def patch_centres(
  voxels: Int[np.ndarray, "points 3"], shape: tuple[int, ...], settings: SearchSettings, counts: Sequence[int]
) -> Int[np.ndarray, "points 3"]:
  """Centre of the patch that each point uses: the point itself, or one that others use too, inside the scan.

  Args:
    voxels: where points are expected.
    shape: of the padded grid.
    settings: who shares patches.
    counts: points of each organ, in the order of `voxels`.
  """
  # one less than fits at the far end, as published
  inside = np.clip(voxels, PATCH_MARGIN, np.array(shape) - PATCH_MARGIN - 1)
  if settings.shared_patches:
    return sharing.shared_centres(inside, shape, PATCH_MARGIN)
  if settings.organ_patches:
    return np.concatenate([sharing.organ_centres(own) for own in np.split(inside, np.cumsum(counts)[:-1])])
  return inside


def _groups(centres: Int[np.ndarray, "points 3"], most: int) -> list[Int[np.ndarray, " rows"]]:
  """Rows that share a patch, at most so many together; in order of appearance."""
  if most == 1:
    return list(np.arange(len(centres))[:, None])
  _, patch = np.unique(centres, axis=0, return_inverse=True)
  groups: list[np.ndarray] = []
  for index in range(patch.max() + 1):
    rows = np.flatnonzero(patch.reshape(-1) == index)
    groups.extend(rows[first : first + most] for first in range(0, len(rows), most))
  return groups


def _seats(patch: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  return np.full(len(rows), patch), np.arange(len(rows))
