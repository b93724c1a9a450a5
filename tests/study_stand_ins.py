"""A search whose boxes are the true ones moved along x by so many voxels as the setting says, and a painter of boxes.

A box of `WIDE` voxels that is moved by d has IoU (WIDE - d) / (WIDE + d), wall distance d / 3 of a voxel's edge (two
walls of six are off), point error d edges, and painted full Dice (WIDE - d) / WIDE.
"""

import dataclasses

import numpy as np

from medlsam_jax.evaluation.localization import truth_points
from medlsam_jax.finding import Finding
from medlsam_jax.geometry import Box, Grid, Volume
from medlsam_jax.io.labels import LabelMap
from medlsam_jax.io.templates import Template

WIDE, EDGE_MM = 10, 4.0
VALUES = {"liver": 3, "spleen": 7}
SHAPE = (40, 24, 30)
FIRST = {"liver": (18, 6, 6), "spleen": (22, 14, 12)}


def labelled(name, organs=tuple(VALUES)):
  """A scan in which both organs shine, and its label map with those that were drawn."""
  labels = np.zeros(SHAPE, np.uint8)
  for organ, (z, y, x) in FIRST.items():
    labels[z : z + 3, y : y + 5, x : x + WIDE] = VALUES[organ]
  array = np.where(labels > 0, 1000.0 + labels, 0.0).astype(np.float32)
  labels[~np.isin(labels, [VALUES[organ] for organ in organs])] = 0
  array[:, :1] = array[:, -1:] = array[:, :, :1] = array[:, :, -1:] = -1000
  grid = Grid(SHAPE, np.diag([-EDGE_MM, -EDGE_MM, EDGE_MM, 1.0]))
  return Volume(array, grid, name), Volume(labels, grid, f"{name}_seg")


def templates(names):
  return {
    name: Template(name, *labelled(name, organs), {organ: VALUES[organ] for organ in organs}, {})
    for name, organs in names.items()
  }


@dataclasses.dataclass
class StandInOrgan:
  value: int
  templates: tuple

  def only(self, names):
    return StandInOrgan(self.value, tuple(names))


@dataclasses.dataclass
class StandInBank:
  organs: dict
  mode: str
  interval_mm: float

  @classmethod
  def build(cls, network, templates, mode, interval_mm, *, organs, template_edge, progress, kept):
    own = {o: tuple(each.name for each in templates if o in each.organs) for o in organs}
    return cls({organ: StandInOrgan(VALUES[organ], names) for organ, names in own.items()}, mode, interval_mm)


def moved(scan, organ, by):
  """The finding of an organ that shines in a scan, moved along x."""
  mask = np.isclose(scan.array, 1000.0 + VALUES[organ])
  box = Box.of_mask(mask)
  low, high = box.array() + np.array([0, 0, by])
  points = truth_points(mask, scan.grid) + np.array([0, 0, by])
  return Finding(organ, VALUES[organ], points[None], "found", boxes=(Box.from_corners(low, high),))


def install(monkeypatch, work, by):
  """Lets `work` search with `by(bank, scan, settings)` voxels beside the truth; features alone are 5 beside."""

  def localize(network, bank, scan, key, *, settings, progress):
    return {organ: moved(scan, organ, by(bank, scan, settings)) for organ in bank.organs}

  monkeypatch.setattr(work, "Bank", StandInBank)
  monkeypatch.setattr(work.pipeline, "localize", localize)
  features = lambda network, bank, scan, means: {organ: moved(scan, organ, 5) for organ in bank.organs}  # noqa: E731
  monkeypatch.setattr(work, "find_by_features", features)


@dataclasses.dataclass
class BoxFiller:
  """Paints boxes full; `leaves` organs empty."""

  title: str
  leaves: tuple = ()

  @property
  def identity(self):
    return {"fills": self.title}

  def paint(self, scan, boxes, bank, progress):
    array = np.zeros(scan.array.shape, np.uint8)
    for organ, finding in boxes.items():
      for part in finding.parts:
        inside = part.clipped(scan.grid.shape)
        if inside is not None and organ not in self.leaves:
          low, high = inside.array().astype(int)
          array[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))] = VALUES[organ]
    return LabelMap(array, scan.grid, dict(VALUES))
