"""Scans in which organs are gone, cut, or nothing as it should be, made from labelled ones for `bench.absence`."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from medlsam_jax.evaluation.labelled import WHOLE, LabelledScan
from medlsam_jax.geometry import WORKING_AXIS_CODES, Box, Grid, Volume

WINDOWS = {"whole": (0.0, 1.0), "lower": (0.0, 0.55), "upper": (0.45, 1.0), "middle": (0.25, 0.75)}
"""Share of the height of the scan that a crop keeps, from the feet up."""
NONSENSE = ("upside down", "mirrored", "MR-like", "label map")
WHOLE_SHARE = 0.95
"""Share of an organ's voxels in the crop from which it counts as whole."""
SHOWS_A_HEAD = ("acrinflt_001",)
"""Scans of the trunk's folder that show one all the same (looked at)."""
ONE_WOMAN = ("acrinflt_001b", "acrinflt_001c")
"""Scans of the trunk's folder that show the same person: they stay on one side of every split."""
NEVER_IN_TRUNK = ("brainstem", "parotid_gland_right", "parotid_gland_left", "mandible")
"""Organs that no other scan there shows, so that nothing need be drawn to know that they are gone."""


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
  """A scan to search, and what is true of organs in it."""

  query: str
  kind: str
  """A crop's name, one of `NONSENSE`, or `foreign`."""
  scan: Volume
  truth: dict[str, tuple[str, Box | None]]
  """By organ: `whole`, `cut` or `gone`, and the box of what is there."""


def crop_along_z(volume: Volume, low: float, high: float) -> Volume:
  """The slices between two shares of the height, counted from the feet."""
  order, flip = volume.grid.axes_to(WORKING_AXIS_CODES)
  axis, count = order[0], volume.grid.shape[order[0]]
  first, last = round(low * count), round(high * count)
  if flip[0]:
    first, last = count - last, count - first
  array = volume.array[tuple(slice(first, last) if a == axis else slice(None) for a in range(3))]
  origin = np.zeros(3)
  origin[axis] = first
  affine = volume.affine.copy()
  affine[:3, 3] = volume.grid.world_from_voxel(origin)
  return Volume(np.ascontiguousarray(array), Grid(array.shape, affine), volume.source)


def states(
  query: LabelledScan, window: tuple[float, float], organs: Sequence[str]
) -> dict[str, tuple[str, Box | None]]:
  """State of each organ in a crop, and its box there. Odd and bad labels are left out. An organ that reaches the
  end of the query itself is cut wherever something of it is; where nothing is known of labels it is left out."""
  cropped = crop_along_z(query.labels, *window).array
  axis = query.labels.grid.axes_to(WORKING_AXIS_CODES)[0][0]
  ends = np.moveaxis(query.labels.array, axis, 0)[[0, -1]]
  result: dict[str, tuple[str, Box | None]] = {}
  for organ in organs:
    value = query.values.get(organ)
    is_cut = bool((ends == value).any()) or (query.sound or {}).get(organ) == "cut"
    if value is None or (is_cut if query.sound is None else query.sound.get(organ) not in (WHOLE, "cut")):
      continue
    mask = cropped == value
    share = float(mask.sum() / (query.labels.array == value).sum())
    state = "gone" if share == 0 else "whole" if share >= WHOLE_SHARE and not is_cut else "cut"
    result[organ] = (state, Box.of_mask(mask) if share else None)
  return result


def crops(query: LabelledScan, organs: Sequence[str]) -> Iterator[Case]:
  """The scan cropped along z, where an organ of known state is left to say something about."""
  for name, window in WINDOWS.items():
    truth = states(query, window, organs)
    if truth:
      yield Case(query.name, name, crop_along_z(query.scan, *window), truth)


def nonsense(query: LabelledScan, organs: Sequence[str]) -> Iterator[Case]:
  """Scans that no network should trust. The truth is carried along, so that a box may still be right in them."""
  grid = query.scan.grid
  order, _ = grid.axes_to(WORKING_AXIS_CODES)
  for kind, axis in (("upside down", order[0]), ("mirrored", order[2])):
    labels = dataclasses.replace(query, labels=Volume(np.flip(query.labels.array, axis).copy(), grid, "labels"))
    scan = Volume(np.flip(query.scan.array, axis).copy(), grid, query.scan.source)
    yield Case(query.name, kind, scan, states(labels, (0.0, 1.0), organs))
  truth = states(query, (0.0, 1.0), organs)
  rng = np.random.default_rng(zlib.crc32(query.name.encode()))
  yield Case(query.name, "MR-like", Volume(mr_like(query.scan.array, rng), grid, query.scan.source), truth)
  yield Case(query.name, "label map", Volume(query.labels.array.astype(np.float32), grid, query.scan.source), truth)


def mr_like(hu: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Intensities as in a T1-weighted MR: air and bone dark, muscle grey, fat bright, none of them in HU."""
  value = np.interp(hu, (-1000, -300, -100, 0, 60, 300, 1000), (10, 40, 700, 220, 350, 90, 20))
  return (value + rng.normal(0, 25, hu.shape)).astype(np.float32)


def foreign(scan: Volume, name: str, organs: Sequence[str]) -> Case:
  """A scan of the trunk, in which organs of the head are gone."""
  return Case(name, "foreign", scan, {organ: ("gone", None) for organ in organs if organ in NEVER_IN_TRUNK})
