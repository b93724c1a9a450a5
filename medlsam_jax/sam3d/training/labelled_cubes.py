"""Labelled scans on a working spacing, and cubes cut from them around organs, which follow from the seed and the step.

Scans are brought to the spacing once, as far around their organs as cubes reach, and stay in memory as three bytes a
voxel. A cube is cut at whole voxels, larger than the network's by what the least zoom of a view needs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int16, Integer, Num, UInt8

from medlsam_jax.errors import ConfigError, InputError
from medlsam_jax.geometry import DISPLAY_AXIS_CODES, Volume, display_view
from medlsam_jax.io.alignment import align_labels
from medlsam_jax.label_boxes import find_labels
from medlsam_jax.sam3d.lattice import Lattice
from medlsam_jax.sam3d.painting import AIR_HU
from medlsam_jax.sam3d.training.settings import CubeDataSettings


class CubeBatch(NamedTuple):
  """`n` cubes and the organs asked for in each."""

  hu: Int16[np.ndarray, "n s s s"]
  labels: UInt8[np.ndarray, "n s s s"]
  """Number of the organ, 0 none."""
  asked: UInt8[np.ndarray, "n k"]
  """Numbers of organs; 0 asks for nothing."""
  place: Int32Rows
  """Of each cube in the run: what its view is drawn from."""


Int32Rows = Integer[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True, eq=False)
class SpacedScan:
  """A part of a scan on the working spacing, in display order."""

  name: str
  source: str
  hu: Int16[np.ndarray, "z y x"]
  labels: UInt8[np.ndarray, "z y x"]
  boxes: Mapping[int, tuple[slice, ...]]
  """Of each organ's voxels, by its number."""

  @classmethod
  def of(
    cls, name: str, scan: Volume, labels: Volume, numbers: Mapping[int, int], spacing_mm: float, margin: int
  ) -> SpacedScan:
    """Brings a scan to the spacing.

    Args:
      name: of the scan.
      scan: HU.
      labels: its label map.
      numbers: label value -> number of the organ, from 1.
      spacing_mm: between voxels of the result.
      margin: voxels of the result around the organs, as far as the scan goes.

    Raises:
      InputError: NaN voxels, labels on other voxels than the scan's, or none of the organs.
    """
    if not np.isfinite(scan.array).all():
      raise InputError(f"{scan.source}: has NaN or infinite voxels; mend the scan first")
    labels = align_labels(labels, scan.grid, scan.source, scan.file_grid)
    shown, values = display_view(scan.array, scan.grid), display_view(labels.array, labels.grid)
    found = {value: box for value, box in find_labels(values).items() if value in numbers}
    if not found:
      raise InputError(f"{scan.source}: its label map shows none of the organs that are to be learned")
    order, _ = scan.grid.axes_to(DISPLAY_AXIS_CODES)
    spacing = scan.grid.spacing_mm[list(order)]
    lattice = _around(list(found.values()), spacing, spacing_mm, margin, shown.shape)
    hu = np.clip(np.rint(lattice.sampled(shown, AIR_HU)), -32768, 32767).astype(np.int16)
    spaced = np.zeros(lattice.shape, np.uint8)
    for value, box in found.items():
      part, where = _part_of(lattice, box)
      spaced[where][part.mask(values == value)] = numbers[value]
    return cls(name, scan.source, hu, spaced, find_labels(spaced))


def _around(
  boxes: Sequence[tuple[slice, ...]],
  spacing: Num[np.ndarray, "3"],
  step_mm: float,
  margin: int,
  shape: Sequence[int],
) -> Lattice:
  low, high = (np.array([[getattr(a, end) for a in box] for box in boxes]) for end in ("start", "stop"))
  wide = margin * step_mm / spacing
  first = np.clip(low.min(0) - wide, 0, None)
  last = np.minimum(high.max(0) - 1 + wide, np.asarray(shape) - 1)
  size = np.ceil((last - first + 1) * spacing / step_mm).astype(int)
  return Lattice.around((first + last) / 2, spacing, step_mm, size.tolist())


def _part_of(lattice: Lattice, box: tuple[slice, ...]) -> tuple[Lattice, tuple[slice, ...]]:
  """The part of a lattice that an organ's voxels can be seen in, and where it lies in the whole."""
  corners = np.array([[along.start - 1, along.stop] for along in box], float).T
  near = lattice.from_scan(corners)
  low = np.clip(np.floor(near[0]).astype(int) - 1, 0, lattice.shape)
  high = np.clip(np.ceil(near[1]).astype(int) + 2, 0, lattice.shape)
  start = np.asarray(lattice.start) + low * np.asarray(lattice.step)
  (z, y, x), (a, b, c) = start.tolist(), (high - low).tolist()
  return Lattice((z, y, x), lattice.step, (a, b, c)), tuple(map(slice, low.tolist(), high.tolist()))


class CubeSource:
  """This process's rows of any step's batch. Each organ that is labelled anywhere comes equally often, and of it each
  scan that shows it."""

  def __init__(
    self, scans: Sequence[SpacedScan], edge: int, settings: CubeDataSettings, seed: int, rows: range, steps: int
  ):
    """`edge`: voxels of a cube before its view is taken."""
    self._scans, self._edge, self._settings = scans, edge, settings
    self._seed, self._rows, self._steps = seed, rows, steps
    self._showing = {
      organ: [number for number, scan in enumerate(scans) if organ in scan.boxes]
      for organ in sorted({organ for scan in scans for organ in scan.boxes})
    }
    if not self._showing:
      raise ConfigError("no organ to learn from")

  def __len__(self) -> int:
    return self._steps

  def __getitem__(self, step: int) -> CubeBatch:
    places = [step * self._settings.cubes_per_step + row for row in self._rows]
    made = [self._cube(place) for place in places]
    hu, labels, asked = zip(*made, strict=True)
    return CubeBatch(np.stack(hu), np.stack(labels), np.stack(asked), np.array(places, np.int32))

  def _cube(self, place: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    organs = list(self._showing)
    turn, position = divmod(place, len(organs))
    organ = organs[int(np.random.default_rng([self._seed, 1, turn]).permutation(len(organs))[position])]
    rng = np.random.default_rng([self._seed, 2, place])
    scan = self._scans[self._showing[organ][rng.integers(len(self._showing[organ]))]]
    start = self._start(scan, organ, rng)
    hu, labels = _cut(scan.hu, start, self._edge, round(AIR_HU)), _cut(scan.labels, start, self._edge, 0)
    return hu, labels, self._asked(labels, organ, rng)

  def _start(self, scan: SpacedScan, organ: int, rng: np.random.Generator) -> np.ndarray:
    box = np.array([(along.start, along.stop - 1) for along in scan.boxes[organ]], float)
    kind = rng.random()
    if kind < self._settings.background:
      astray = ASTRAY * self._edge
      centre = rng.uniform(box[:, 0] - astray, box[:, 1] + astray)
    elif kind < (1 + self._settings.background) / 2:
      inside = np.argwhere(scan.labels[scan.boxes[organ]] == organ)
      centre = inside[rng.integers(len(inside))] + box[:, 0]
    else:
      centre = box.mean(1)
    return np.rint(centre - (self._edge - 1) / 2).astype(int)

  def _asked(self, labels: np.ndarray, organ: int, rng: np.random.Generator) -> np.ndarray:
    """The organ and others of the cube, each of which shows some voxels of it."""
    counts = np.bincount(labels.ravel(), minlength=256)
    others = [int(each) for each in np.flatnonzero(counts[1:]) + 1 if each != organ and counts[each] >= LEAST_VOXELS]
    chosen = rng.permutation(others)[: self._settings.organs_per_cube - 1]
    asked = np.zeros(self._settings.organs_per_cube, np.uint8)
    asked[: 1 + len(chosen)] = [organ, *chosen]
    return asked


def reach(edge: int) -> int:
  """Voxels beyond an organ's box that cubes of `edge` around it may show."""
  return math.ceil((0.5 + ASTRAY) * edge) + 1


ASTRAY = 0.25
"""Of a cube's edge, how far beyond an organ's box the middle of one around any place may lie."""
LEAST_VOXELS = 20
"""Of an organ in a cube, below which it is not asked for beside another."""


def _cut(array: np.ndarray, start: np.ndarray, edge: int, outside: int) -> np.ndarray:
  cube = np.full((edge,) * 3, outside, array.dtype)
  low, high = np.clip(start, 0, array.shape), np.clip(start + edge, 0, array.shape)
  here = tuple(map(slice, low - start, high - start))
  cube[here] = array[tuple(map(slice, low, high))]
  return cube
