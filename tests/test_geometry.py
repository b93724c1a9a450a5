import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medlsam_jax.geometry import Box, Grid, Volume, faces_from_points, reorient
from medlsam_jax.working_grid import WorkingGrid

ORIENTATIONS = ("LPS", "RAS", "LAS", "RPI", "SAR", "PIL")


def make_grid(codes, shape=(4, 5, 6), spacing=(1.0, 2.0, 3.0), origin=(10.0, -20.0, 30.0)):
  affine = np.zeros((4, 4))
  affine[3, 3] = 1
  for axis, letter in enumerate(codes):
    row = next(i for i, pair in enumerate(("LR", "PA", "IS")) if letter in pair)
    affine[row, axis] = spacing[axis] if letter in "RAS" else -spacing[axis]
  affine[:3, 3] = origin
  return Grid(shape, affine)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_grid_names_its_own_orientation(codes):
  assert make_grid(codes).axis_codes == codes


def test_spacing_is_in_array_order():
  np.testing.assert_allclose(make_grid("LPS").spacing_mm, [3.0, 2.0, 1.0])


def test_world_of_one_voxel_by_hand():
  # LPS: x and y run against RAS. Voxel (z, y, x) = (1, 2, 3).
  np.testing.assert_allclose(
    make_grid("LPS").world_from_voxel(np.array([1, 2, 3])), [10 - 3 * 1, -20 - 2 * 2, 30 + 1 * 3]
  )


@given(st.lists(st.floats(-50, 50), min_size=3, max_size=3), st.floats(-0.4, 0.4))
@settings(max_examples=30, deadline=None)
def test_voxels_survive_the_way_to_world_and_back(point, angle):
  grid = make_grid("RPI")
  turn = np.eye(4)
  turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
  tilted = Grid(grid.shape, turn @ grid.affine)
  np.testing.assert_allclose(tilted.voxel_from_world(tilted.world_from_voxel(np.array(point))), point, atol=1e-9)


@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("target", ["LAS", "RPS"])
def test_reorient_puts_each_voxel_where_its_world_position_says(codes, target):
  grid = make_grid(codes)
  z, y, x = np.indices(grid.shape)
  world = grid.world_from_voxel(np.stack([z, y, x], -1))
  turned = [reorient(world[..., k], grid, target) for k in range(3)]
  # Along the (z, y, x) axes of the result, world z, y, x rise where the letter is of RAS and fall where it is not.
  for axis, letter in enumerate(target[::-1]):
    steps = np.diff(turned[2 - axis], axis=axis)
    assert ((steps > 0) == (letter in "RAS")).all()


@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("convention", ["published", "consistent"])
def test_working_grid_goes_to_the_scan_and_back(codes, convention):
  grid = make_grid(codes, shape=(30, 40, 50))
  order, _ = grid.axes_to("LAS")
  zoom = grid.spacing_mm[list(order)] / 3
  working = WorkingGrid(grid, (9, 9, 9), zoom, convention)
  points = np.array([[0.0, 3.0, 5.0], [8.0, 1.0, 2.0], [-4.0, 20.0, 7.0]])
  back = working.from_scan(working.to_scan(points))
  # "published" rounds to whole scan voxels on the way: half a scan voxel is zoom / 2 working voxels.
  np.testing.assert_allclose(back, points, atol=1e-9 if convention == "consistent" else zoom.max() / 2 + 1e-9)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_working_axes_run_to_the_left_the_front_and_the_head(codes):
  grid = make_grid(codes, shape=(30, 40, 50))
  order, _ = grid.axes_to("LAS")
  working = WorkingGrid(grid, (9, 9, 9), grid.spacing_mm[list(order)] / 3)
  origin = grid.world_from_voxel(working.to_scan(np.zeros(3)))
  for axis, step in enumerate(([0, 0, 3.0], [0, 3.0, 0], [-3.0, 0, 0])):
    there = grid.world_from_voxel(working.to_scan(np.eye(3)[axis]))
    np.testing.assert_allclose(there - origin, step, atol=1e-9)


def test_grids_differ_by_shape_origin_or_direction():
  grid = make_grid("RAS")
  assert grid.is_same(make_grid("RAS"))
  assert not grid.is_same(make_grid("RAS", shape=(4, 5, 7)))
  assert not grid.is_same(make_grid("RAS", origin=(10.5, -20, 30)))
  assert not grid.is_same(make_grid("LAS"))


def test_grids_are_equal_by_their_numbers_and_can_be_keys():
  grid, same = make_grid("RAS"), make_grid("RAS")
  assert grid == same and hash(grid) == hash(same) and {grid: 1}[same] == 1
  assert grid != make_grid("LAS") and grid != make_grid("RAS", shape=(4, 5, 7)) and grid != "RAS"
  minus_zero = np.where(grid.affine == 0, -0.0, grid.affine)
  assert Grid(grid.shape, minus_zero) == grid and hash(Grid(grid.shape, minus_zero)) == hash(grid)
  near = Grid(grid.shape, grid.affine + 1e-9)
  assert near != grid and near.is_same(grid)
  with pytest.raises(ValueError, match="read-only"):
    grid.affine[0, 0] = 7
  working = WorkingGrid(grid, (9, 9, 9), np.ones(3))
  assert working == WorkingGrid(same, (9, 9, 9), np.ones(3)) != WorkingGrid(same, (9, 9, 9), np.full(3, 2.0))
  assert len({working, WorkingGrid(same, (9, 9, 9), np.ones(3))}) == 1
  assert Volume(np.zeros(grid.shape), grid) != Volume(np.zeros(grid.shape), same)


@pytest.mark.parametrize("affine", [np.zeros((4, 4)), np.full((4, 4), np.nan), np.full((4, 4), np.inf)])
def test_a_grid_of_no_sense_is_on_no_lattice(affine):
  assert make_grid("RAS").relay_to(Grid((4, 5, 6), affine)) is None
  assert not Grid((4, 5, 6), affine).is_same(make_grid("RAS"))
  far = np.eye(4)
  far[0, 3] = 1e30
  assert Grid((4, 5, 6), np.eye(4)).relay_to(Grid((4, 5, 6), far)) is None
  assert not Grid((0, 5, 6), np.eye(4)).is_same(Grid((4, 5, 6), np.eye(4)))


@given(st.permutations(range(3)), st.tuples(*[st.booleans()] * 3), st.tuples(*[st.integers(-6, 6)] * 3))
@settings(max_examples=40, deadline=None)
def test_an_array_is_relaid_to_where_its_voxels_are_in_the_world(order, flip, shift):
  target = make_grid("LPS", shape=(7, 8, 9))
  signed = np.eye(3)[list(order)] * np.where(flip, -1, 1)
  affine = target.affine.copy()
  affine[:3, :3] = target.affine[:3, :3] @ signed
  affine[:3, 3] = target.world_from_voxel(np.array(shift)[::-1] + 3)
  grid = Grid((4, 5, 6), affine)
  array = np.arange(1, 121).reshape(grid.shape)
  relay = grid.relay_to(target)
  assert relay is not None
  result = relay.apply(array)
  expected = np.zeros(target.shape, int)
  for voxel in np.ndindex(*grid.shape):
    there = np.rint(target.voxel_from_world(grid.world_from_voxel(np.array(voxel)))).astype(int)
    if ((there >= 0) & (there < target.shape)).all():
      expected[tuple(there)] = array[voxel]
  np.testing.assert_array_equal(result, expected)


def test_box_of_mask_is_inclusive():
  mask = np.zeros((5, 6, 7), bool)
  mask[1:3, 2, 4:7] = True
  assert Box.of_mask(mask) == Box((1, 2, 4), (2, 2, 6))
  assert Box.of_mask(np.zeros((2, 2, 2), bool)) is None


def test_box_survives_crossed_points():
  points = np.zeros((6, 3))
  points[[0, 1, 2], [0, 1, 2]] = [5, 1, 2]
  points[[3, 4, 5], [0, 1, 2]] = [3, 8, 9]
  assert Box.of_points(points) == Box((3, 1, 2), (5, 8, 9))


def test_box_is_clipped_to_the_scan_or_vanishes():
  assert Box((-2, 1, 1), (3, 9, 2)).clipped((3, 5, 5)) == Box((0, 1, 1), (2, 4, 2))
  assert Box((5, 0, 0), (6, 1, 1)).clipped((3, 5, 5)) is None


@given(st.permutations(range(6)))
@settings(max_examples=30, deadline=None)
def test_points_in_any_order_find_their_faces(order):
  faces = np.array([[0, 5, 5], [5, 0, 5], [5, 5, 0], [9, 4, 5], [4, 9, 5], [5, 4, 9]], float)
  np.testing.assert_array_equal(faces_from_points(faces[order]), faces)


def test_volume_knows_its_spacing():
  volume = Volume(np.zeros((4, 5, 6)), make_grid("LPS"))
  np.testing.assert_allclose(volume.spacing_mm, [3, 2, 1])
