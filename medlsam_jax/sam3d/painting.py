"""A scan and boxes of its organs -> the voxels of a label map, cube by cube.

An organ whose box, and a margin around it, fits into a cube gets one, centred on the box. A larger one is covered by
windows that overlap by half and count by a Gaussian around their middle (as nnU-Net merges its tiles). In each window
the box is what of it the window shows.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int32, Integer, Num

from medlsam_jax import notices
from medlsam_jax.errors import InputError
from medlsam_jax.geometry import DISPLAY_AXIS_CODES, Box, Volume, display_view, reorient_corners
from medlsam_jax.io.refining_points import Point
from medlsam_jax.progress import Progress
from medlsam_jax.sam3d.cube_predictor import POINTS, CubePredictor
from medlsam_jax.sam3d.lattice import Lattice, Slices
from medlsam_jax.sam3d.network.prompts import points_of_box

AIR_HU = -1000.0
"""Of what lies beyond a scan."""
OVERLAP = 0.5
GAUSSIAN_SHARE = 0.125
"""Standard deviation of a window's weight, of its edge."""
LEAST_WEIGHT = 1e-3
"""Of the largest, so that the corners of windows count where nothing else does."""


class _Ask(NamedTuple):
  """One cube."""

  organ: str
  lattice: Lattice
  faces: Float[np.ndarray, "6 3"]
  points: Float[np.ndarray, "t 3"]
  positive: Int32[np.ndarray, " t"]


def paint_cubes(
  volume: Volume,
  boxes: Mapping[str, Sequence[Box]],
  values: Mapping[str, int],
  predictor: CubePredictor,
  points: Mapping[str, Sequence[Point]] | None = None,
  progress: Progress | None = None,
) -> Integer[np.ndarray, "z y x"]:
  """Paints every organ by its box, all parts of which are taken together.

  Where organs overlap the voxel goes to the larger logit, and to the earlier in `boxes` on a tie.

  Args:
    volume: the scan, HU.
    boxes: organ -> its parts in scan voxels (z, y, x); what of them lies beyond the scan is left away. An organ with
      nothing inside stays empty, with a warning.
    values: organ -> label value, of these organs at least.
    predictor: of adapters.
    points: organ -> places that are in it or not, to mend a mask by; at most `cube_predictor.POINTS` in a cube.
    progress: called with cubes done and in all.

  Returns:
    Label values in the order of the scan's voxels, in the smallest unsigned integer type.

  Raises:
    InputError: a box or a point with NaN, or more points in a cube than it takes.
  """
  largest = max((values[organ] for organ in boxes), default=0)
  array = np.zeros(volume.array.shape, np.min_scalar_type(largest))
  hu, labels = display_view(volume.array, volume.grid), display_view(array, volume.grid)
  best = np.zeros(labels.shape, np.float32)
  predictor.warn_of_unlearned(boxes)
  asks = list(_asks(volume, boxes, points or {}, predictor))
  answers = _answers(hu, asks, predictor, progress)
  for organ, own in itertools.groupby(asks, lambda ask: ask.organ):
    lattices = [ask.lattice for ask in own]
    where, full = merged_logits(labels.shape, lattices, list(itertools.islice(answers, len(lattices))))
    better = full > best[where]
    best[where][better] = full[better]
    labels[where][better] = values[organ]
  return array


def merged_logits(
  shape: Sequence[int], lattices: Sequence[Lattice], logits: Sequence[Float32[np.ndarray, "e e e"]]
) -> tuple[Slices, Float32[np.ndarray, "z y x"]]:
  """One organ's logits at the voxels that its cubes reach; where none does, none is inside."""
  reaches = [lattice.reach(shape) for lattice in lattices]
  if len(lattices) == 1:
    return reaches[0], lattices[0].at_voxels(logits[0], reaches[0])
  low = [min(reach[axis].start for reach in reaches) for axis in range(3)]
  high = [max(reach[axis].stop for reach in reaches) for axis in range(3)]
  size = [b - a for a, b in zip(low, high, strict=True)]
  total, weight = np.zeros(size, np.float32), np.zeros(size, np.float32)
  for lattice, reach, each in zip(lattices, reaches, logits, strict=True):
    counts = gaussian(each.shape[0])
    within = tuple(slice(along.start - a, along.stop - a) for along, a in zip(reach, low, strict=True))
    total[within] += lattice.at_voxels(each * counts, reach)
    weight[within] += lattice.at_voxels(counts, reach)
  np.divide(total, weight, out=total, where=weight > 0)
  z, y, x = (slice(a, b) for a, b in zip(low, high, strict=True))
  return (z, y, x), total


@functools.lru_cache(maxsize=2)
def gaussian(edge: int) -> Float32[np.ndarray, "e e e"]:
  """How much each voxel of a window counts."""
  along = np.exp(-0.5 * ((np.arange(edge) - (edge - 1) / 2) / (GAUSSIAN_SHARE * edge)) ** 2)
  weights = np.einsum("a,b,c->abc", along, along, along)
  result: np.ndarray = np.maximum(weights, LEAST_WEIGHT * weights.max()).astype(np.float32)
  result.flags.writeable = False
  return result


def _answers(
  hu: Num[np.ndarray, "z y x"], asks: Sequence[_Ask], predictor: CubePredictor, progress: Progress | None
) -> Iterator[Float32[np.ndarray, "e e e"]]:
  """Logits of each cube in turn; cubes of several organs fill one call."""
  for start in range(0, len(asks), predictor.at_once):
    some = asks[start : start + predictor.at_once]
    width = max(len(ask.points) for ask in some)
    answers = predictor(
      np.stack([ask.lattice.sampled(hu, AIR_HU) for ask in some]),
      np.stack([ask.faces for ask in some]),
      np.stack([np.pad(ask.points, ((0, width - len(ask.points)), (0, 0))) for ask in some]),
      np.stack([np.pad(ask.positive, (0, width - len(ask.positive)), constant_values=-1) for ask in some]),
    )
    if progress is not None:
      progress(start + len(some), len(asks))
    yield from answers


def _asks(
  volume: Volume, boxes: Mapping[str, Sequence[Box]], points: Mapping[str, Sequence[Point]], predictor: CubePredictor
) -> Iterator[_Ask]:
  grid = volume.grid
  order, _ = grid.axes_to(DISPLAY_AXIS_CODES)
  spacing = grid.spacing_mm[list(order)]
  shape = np.array([grid.shape[axis] for axis in order])
  for organ, parts in boxes.items():
    whole = np.array([reorient_corners(part, grid, DISPLAY_AXIS_CODES) for part in parts]).reshape(-1, 2, 3)
    low, high = np.clip(whole.min((0, 1), initial=np.inf), 0, None), whole.max((0, 1), initial=-np.inf)
    box = np.stack([low, np.minimum(high, shape - 1)])
    if (box[0] > box[1]).any():
      notices.warn(f"{volume.source}: {organ}: its box has nothing inside the scan; it stays empty")
      continue
    own = points.get(organ, ())
    placed = [reorient_corners(Box(each.place, each.place), grid, DISPLAY_AXIS_CODES)[0] for each in own]
    lattices = list(cubes_over(box, spacing, predictor.edge, predictor.settings.spacing_mm, predictor.settings.margin))
    for lattice in lattices:
      inside = [k for k, place in enumerate(placed) if _holds(lattice, place)]
      if len(inside) > POINTS:
        raise InputError(f"{volume.source}: {organ}: {len(inside)} points within one cube; it takes {POINTS} at most")
      yield _Ask(
        organ,
        lattice,
        faces_in(lattice, box),
        np.array([lattice.from_scan(placed[k]) for k in inside]).reshape(-1, 3),
        np.array([own[k].is_inside for k in inside], np.int32),
      )


def _holds(lattice: Lattice, place: Float[np.ndarray, "3"]) -> bool:
  at = lattice.from_scan(place)
  return bool((at > -0.5).all() and (at < np.array(lattice.shape) - 0.5).all())


def faces_in(lattice: Lattice, box: Float[np.ndarray, "2 3"]) -> Float[np.ndarray, "6 3"]:
  """Middles of the faces of what a cube shows of a box (display voxels, inclusive), in voxels of the cube."""
  seen = np.clip(lattice.from_scan(box), 0, np.array(lattice.shape) - 1)
  return points_of_box(seen)


def cubes_over(
  box: Float[np.ndarray, "2 3"], spacing_mm: Float[np.ndarray, "3"], edge: int, step_mm: float, margin: float
) -> Iterator[Lattice]:
  """One cube around a box (display voxels, inclusive), or windows that overlap and together show it and its margin."""
  size_mm, cube_mm = (box[1] - box[0] + 1) * spacing_mm, edge * step_mm
  wanted = size_mm * (1 + 2 * margin)
  counts = np.maximum(np.ceil((wanted - cube_mm) / ((1 - OVERLAP) * cube_mm) - 1e-6), 0).astype(int) + 1
  middle = box.mean(0)
  along = [
    middle[axis] + (np.linspace(-0.5, 0.5, n) * (wanted[axis] - cube_mm) / spacing_mm[axis] if n > 1 else np.zeros(1))
    for axis, n in enumerate(counts)
  ]
  for centre in itertools.product(*along):
    yield Lattice.around(np.array(centre), spacing_mm, step_mm, (edge,) * 3)
