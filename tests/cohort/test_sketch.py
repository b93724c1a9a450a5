"""A scan's picture: the same however the scan is stored, and mirrored with it."""

import numpy as np
import pytest

from medlsam_jax.cohort.sketch import FOLDER, HALF, Sketch, path_of, sketch_of
from medlsam_jax.geometry import Grid, Volume, reorient

SPACING = 4.0


def body(liver=1, air=0.0):
  """A trunk in RAS with a bright organ on its right (1) or left (-1), lungs, and a table below it."""
  z, y, x = np.meshgrid(*(np.arange(count) * SPACING for count in (30, 60, 90)), indexing="ij")
  inside = ((x - 180) / 150) ** 2 + ((y - 120) / 90) ** 2 < 1
  array = np.where(inside, 40.0, -1000.0)
  array[inside & (np.abs(np.abs(x - 180) - 70) < 40) & (np.abs(y - 120) < 50) & (z > 60)] = -800
  array[inside & (liver * (x - 180) > 30) & (np.abs(y - 120) < 50) & (z < 50)] = 160
  array[:, 1:2, 20:70] = 0
  affine = np.diag([SPACING, SPACING, SPACING, 1.0])
  return Volume(array.astype(np.int16), Grid(array.shape, affine))


def stored(volume, codes):
  order, flip = volume.grid.axes_to(codes)
  array = reorient(volume.array, volume.grid, codes)
  corner = np.array([volume.array.shape[axis] - 1 if turned else 0 for axis, turned in zip(order, flip, strict=True)])
  start = np.empty(3)
  start[list(order)] = corner
  columns = [volume.affine[:3, 2 - axis] * (-1 if turned else 1) for axis, turned in zip(order, flip, strict=True)][
    ::-1
  ]
  affine = np.eye(4)
  affine[:3, :3], affine[:3, 3] = np.stack(columns, 1), volume.grid.world_from_voxel(start)
  return Volume(np.ascontiguousarray(array), Grid(array.shape, affine))


def test_the_picture_has_right_on_the_right_and_feet_first():
  cells = sketch_of(body()).cells.astype(float)
  assert len(cells) == 10
  soft, dark = cells[..., 0], cells[..., 1]
  assert soft[2, 8:14, HALF + 3 : HALF + 9].mean() > soft[2, 8:14, HALF - 9 : HALF - 3].mean() + 50
  assert dark[8, 8:14, HALF + 4 : HALF + 8].mean() < dark[2, 8:14, HALF + 4 : HALF + 8].mean() - 100
  assert soft[:, 0].max() == 0, "the table is no part of the body"


@pytest.mark.parametrize("codes", ["LPS", "RAI", "SAR"])
def test_it_is_the_same_however_the_scan_is_stored(codes):
  here, there = sketch_of(body()), sketch_of(stored(body(), codes))
  assert stored(body(), codes).grid.axis_codes == codes
  assert np.abs(here.cells.astype(int) - there.cells).mean() < 1.5


def test_a_mirrored_scan_has_the_mirror_image():
  plain, mirror = sketch_of(body()), sketch_of(body(liver=-1))
  assert np.abs(plain.cells[:, :, ::-1].astype(int) - mirror.cells).mean() < 0.5
  assert np.abs(plain.cells.astype(int) - mirror.cells).mean() > 3


def test_a_side_that_the_edge_goes_through_is_told():
  whole = body()
  assert sketch_of(whole).cut == pytest.approx(np.zeros(4))
  half = Volume(whole.array[:, :, :50], Grid((30, 60, 50), whole.affine))
  assert sketch_of(half).cut[1] > 0.9 and sketch_of(half).cut[[0, 2, 3]] == pytest.approx(np.zeros(3))
  front = Volume(whole.array[:, :30], Grid((30, 30, 90), whole.affine))
  assert sketch_of(front).cut[3] > 0.9


def test_it_comes_back_from_its_file_and_a_damaged_one_is_none(tmp_path):
  sketch = sketch_of(body())
  sketch.save(tmp_path, "a.b")
  again = Sketch.load(tmp_path, "a.b")
  assert np.array_equal(again.cells, sketch.cells) and again.cut == pytest.approx(sketch.cut)
  assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["a.b.npz"]
  path = path_of(tmp_path, "a.b")
  path.write_bytes(path.read_bytes()[:100])
  assert Sketch.load(tmp_path, "a.b") is None and Sketch.load(tmp_path, "none") is None
  np.savez(path, cells=np.zeros((3, 3), np.uint8), cut=np.zeros(4))
  assert Sketch.load(tmp_path, "a.b") is None


def test_nothing_but_air_nan_and_a_spacing_that_lies():
  whole = body()
  assert sketch_of(Volume(np.full((4, 5, 6), -1000, np.int16), Grid((4, 5, 6), whole.affine))) is None
  holed = whole.array.astype(np.float32)
  holed[10, 30, 40] = np.nan
  assert np.abs(sketch_of(Volume(holed, whole.grid)).cells.astype(int) - sketch_of(whole).cells).mean() < 1
  far = Volume(whole.array, Grid(whole.array.shape, np.diag([1e6, 1e6, 1e6, 1.0])))
  assert len(sketch_of(far).cells) == 30
