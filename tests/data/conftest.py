"""Grids of any orientation, and templates written to files, for the tests of this folder."""

import json

import numpy as np
import pytest
from template_files import SHAPE, cells, save

from medlsam_jax.geometry import Grid

ORIENTATIONS = ("LPS", "RAS", "LAS", "RPI", "SAR", "SRA")


def make_grid(codes="RAS", shape=(5, 6, 7), spacing=(3.0, 2.0, 1.5), origin=(-40.0, 20.0, 100.0)):
  """Axis-aligned grid: `codes`, `spacing` and `origin` in (x, y, z), `shape` in (z, y, x)."""
  affine = np.zeros((4, 4))
  affine[3, 3] = 1
  for axis, letter in enumerate(codes):
    row = next(i for i, pair in enumerate(("LR", "PA", "IS")) if letter in pair)
    affine[row, axis] = spacing[axis] if letter in "RAS" else -spacing[axis]
  affine[:3, 3] = origin
  return Grid(tuple(shape), affine)


@pytest.fixture(name="make_grid", scope="session")
def make_grid_fixture():
  return make_grid


@pytest.fixture(params=ORIENTATIONS)
def codes(request):
  return request.param


@pytest.fixture
def add(tmp_path, make_grid):
  """Writes a template into the folder: a scan, and what marks it."""

  def add(name, codes="LPS", labels=None, world=None, suffix="_ct.nii.gz"):
    grid = make_grid(codes, SHAPE, (3.0, 3.0, 4.0))
    save(tmp_path / f"{name}{suffix}", np.where(cells() > 0, 50, -1000).astype(np.int16), grid)
    if labels is not None:
      save(tmp_path / f"{name}_seg.nii.gz", labels, grid)
    if world is not None:
      (tmp_path / f"{name}_points.json").write_text(json.dumps(world))
    return grid

  return add
