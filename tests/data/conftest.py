"""Grids of any orientation for the tests of this folder."""

import numpy as np
import pytest

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
