"""Painting implicit shapes into a CT: body millimetres in, HU and labels out.

Body frame: x to the patient's right, y forwards, z upwards, in mm of an average body; the middle of the disc between
L5 and S1 is at z = 0. A `Window` is a cropped view of the grid, so that each shape costs only its own bounding box.
Signed distances are negative inside, and approximate (exact enough for walls of a few mm).
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Integer
from scipy.interpolate import make_interp_spline

FAR_MM = 40.0
"""Signed distance given to voxels that a shape does not reach."""

LATTICE_REACH_MM = 330.0
"""How far from the body's axis random fields are defined, across the body."""

Field = Float[np.ndarray, "z y x"]


def generator(seed: int, *names: str) -> np.random.Generator:
  """Random numbers of one part of one subject, so that a new part does not change the others."""
  return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])


def smooth_lattice(axes: list[np.ndarray], step_mm: float, rng_seed: int, name: str) -> Field:
  """Smooth random field of unit variance: a cubic B-spline over a random lattice that is fixed in space.

  Args:
    axes: coordinates in mm along z, y, x; the field at a place does not depend on how the axes are sampled. The
      last two must lie within `LATTICE_REACH_MM` of 0.
    step_mm: distance of the control points.
  """
  reach = int(np.ceil(LATTICE_REACH_MM / step_mm)) + 3
  salt = int(generator(rng_seed, name).integers(2**31))
  first, weights = [], []
  for axis in axes:
    place = np.asarray(axis) / step_mm
    base = np.floor(place).astype(int)
    t = (place - base).astype(np.float32)
    basis = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3])
    first.append(base - 1)
    weights.append(basis / np.float32(6 * np.sqrt(151 / 315)))  # 151/315: mean square of a cubic B-spline
  # One plane of the lattice at a time: a plane's numbers depend on its own index only, not on the field of view.
  planes = range(int(first[0].min()), int(first[0].max()) + 4)
  edge = 2 * reach
  field = np.stack(
    [np.random.default_rng([salt, p + 10**6]).standard_normal((edge, edge), dtype=np.float32) for p in planes]
  )
  for along, lowest in enumerate((planes[0], -reach, -reach)):
    shape = tuple(-1 if i == along else 1 for i in range(3))
    taps = (weights[along][k].reshape(shape) * field.take(first[along] - lowest + k, along) for k in range(4))
    field = functools.reduce(np.add, taps)
  return field


def smooth_union(first: Field, second: Field, blend_mm: float) -> Field:
  """Union of two signed distances whose seam is rounded over `blend_mm` (polynomial smooth minimum)."""
  mix = np.clip(0.5 + 0.5 * (second - first) / blend_mm, 0, 1)
  return second + (first - second) * mix - blend_mm * mix * (1 - mix)


Points = Sequence[Sequence[float | np.ndarray]] | np.ndarray
"""Places (x, y, z) in mm."""


def shifted(point: Sequence[float | np.ndarray] | np.ndarray, x: float, y: float, z: float) -> Float[np.ndarray, "3"]:
  """A point moved by some mm."""
  return np.asarray(point, float) + np.array([x, y, z])


def curve(points: Points, step_mm: float = 7.0) -> Float[np.ndarray, "n 3"]:
  """Smooth curve through `points` (x, y, z), sampled about every `step_mm`."""
  knots = np.asarray(points, float)
  lengths = np.linalg.norm(np.diff(knots, axis=0), axis=1)
  at = np.concatenate([[0], np.cumsum(lengths)])
  spline = make_interp_spline(at, knots, k=min(3, len(knots) - 1))
  return spline(np.linspace(0, at[-1], max(2, round(at[-1] / step_mm) + 1)))


def rotation(degrees: tuple[float, float, float]) -> Float[np.ndarray, "3 3"]:
  """Turn about x, then y, then z."""
  result = np.eye(3)
  for axis, angle in enumerate(np.radians(degrees)):
    c, s = np.cos(angle), np.sin(angle)
    turn = np.eye(3)
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    turn[i, i], turn[i, j], turn[j, i], turn[j, j] = c, -s, s, c
    result = turn @ result
  return result


@dataclasses.dataclass(frozen=True)
class Tissue:
  """HU and how they vary: mean, then the std of variation over about 30, 10 and 5 mm."""

  hu: float
  coarse: float = 4.0
  medium: float = 4.0
  fine: float = 4.0


@dataclasses.dataclass(frozen=True, eq=False)
class Window:
  """A box of the scan that is being painted; arrays are views (z, y, x), so that painting a crop paints the scan."""

  x: Field
  y: Field
  z: Field
  axes: tuple[np.ndarray, np.ndarray, np.ndarray]
  """Undeformed body coordinates in mm along z, y, x."""
  blur_mm: float
  hu: Field
  label: Integer[np.ndarray, "z y x"]
  fields: dict[str, Field]
  """Signed distances of the trunk and the textures `coarse`, `medium`, `fine`."""

  @functools.cached_property
  def _shifts_mm(self) -> list[tuple[float, float]]:
    """Smallest and largest deformation in this window along z, y, x."""
    if not self.x.size:
      return [(0.0, 0.0)] * 3
    straight = (self.axes[0][:, None, None], self.axes[1][:, None], self.axes[2])
    shifts = [bent - axis.astype(np.float32) for bent, axis in zip((self.z, self.y, self.x), straight, strict=True)]
    return [(float(s.min()) - 0.1, float(s.max()) + 0.1) for s in shifts]

  def crop(self, low: tuple[float, ...], high: tuple[float, ...]) -> Window:
    """The part that holds all voxels between two corners (x, y, z) in mm."""
    cut = tuple(
      slice(*np.searchsorted(axis, [low[2 - i] - self._shifts_mm[i][1], high[2 - i] - self._shifts_mm[i][0]]))
      for i, axis in enumerate(self.axes)
    )
    return dataclasses.replace(
      self,
      x=self.x[cut],
      y=self.y[cut],
      z=self.z[cut],
      axes=(self.axes[0][cut[0]], self.axes[1][cut[1]], self.axes[2][cut[2]]),
      hu=self.hu[cut],
      label=self.label[cut],
      fields={name: field[cut] for name, field in self.fields.items()},
    )

  def around(self, centre: tuple[float, ...] | np.ndarray, radius_mm: float | tuple[float, ...]) -> Window:
    """The part within `radius_mm` of a point, with room for a soft edge."""
    reach = np.broadcast_to(np.asarray(radius_mm, float), 3) + self.blur_mm + 3
    return self.crop(tuple(np.asarray(centre) - reach), tuple(np.asarray(centre) + reach))

  def ellipsoid(
    self,
    centre: tuple[float, ...] | np.ndarray,
    radii: tuple[float, ...] | np.ndarray,
    turn: tuple[float, float, float] = (0, 0, 0),
    power: float = 2.0,
  ) -> Field:
    """Signed distance to an ellipsoid, or with `power` above 2 to a box with round edges."""
    # Plain Python numbers keep the arrays in float32.
    lengths = [float(r) for r in radii]
    rows = [[a / r for a in axis] for axis, r in zip(rotation(turn).T.tolist(), lengths, strict=True)]
    offset = [c - float(s) for c, s in zip((self.x, self.y, self.z), centre, strict=True)]
    local = [row[0] * offset[0] + row[1] * offset[1] + row[2] * offset[2] for row in rows]
    if power == 2:
      near = np.sqrt(local[0] ** 2 + local[1] ** 2 + local[2] ** 2) + 1e-6
      slope = np.sqrt(sum((q / r) ** 2 for q, r in zip(local, lengths, strict=True))) + 1e-6
      return near * (near - 1) / slope
    near = sum(np.abs(q) ** power for q in local) ** (1 / power)
    return (near - 1) * float(min(lengths))

  def tube(
    self,
    path: Float[np.ndarray, "n 3"],
    radius_mm: float | np.ndarray,
    flatten: tuple[float, float, float] = (1, 1, 1),
    blend_mm: float = 0.0,
  ) -> Field:
    """Signed distance to a tube along `path` (x, y, z) whose radius may change; `flatten` stretches x, y, z."""
    radii = np.broadcast_to(np.asarray(radius_mm, float), len(path))
    result = np.full(self.x.shape, FAR_MM, np.float32)
    stretch = np.asarray(flatten, float)
    for a, b, ra, rb in zip(path[:-1], path[1:], radii[:-1], radii[1:], strict=True):
      margin = (max(ra, rb) + blend_mm + self.blur_mm + 4) * stretch
      part = self.crop(tuple(np.minimum(a, b) - margin), tuple(np.maximum(a, b) + margin))
      if not part.x.size:
        continue
      along = ((b - a) / stretch).tolist()
      start, factors, length2 = a.tolist(), stretch.tolist(), max(float(np.dot(along, along)), 1e-6)
      offset = [(c - s) / f for c, s, f in zip((part.x, part.y, part.z), start, factors, strict=True)]
      t = np.clip(sum(o * (d / length2) for o, d in zip(offset, along, strict=True)), 0, 1)
      away = np.sqrt(sum((o - t * d) ** 2 for o, d in zip(offset, along, strict=True)))
      distance = away - (float(ra) + t * float(rb - ra))
      where = tuple(
        slice(int(np.searchsorted(axis, p[0])), int(np.searchsorted(axis, p[0])) + len(p))
        for axis, p in zip(self.axes, part.axes, strict=True)
      )
      target = result[where]
      target[...] = smooth_union(target, distance, blend_mm) if blend_mm else np.minimum(target, distance)
    return result

  def along(self, path: Float[np.ndarray, "n 3"], radius_mm: float | np.ndarray) -> Window:
    """The part that a tube of that radius along `path` reaches."""
    reach = float(np.max(radius_mm)) + self.blur_mm + 3
    return self.crop(tuple(path.min(0) - reach), tuple(path.max(0) + reach))

  def paint(self, distance: Field, tissue: Tissue, label: int | None = None) -> None:
    """Fill the inside of a shape, with partial volume at its edge. `label` None keeps the labels underneath."""
    cover = np.clip(0.5 - distance / self.blur_mm, 0, 1)
    value = tissue.hu + tissue.coarse * self.fields["coarse"] + tissue.medium * self.fields["medium"]
    value += tissue.fine * self.fields["fine"]
    self.hu[...] += (cover * (value - self.hu)).astype(np.float32)
    if label is not None:
      self.label[distance < 0] = label
