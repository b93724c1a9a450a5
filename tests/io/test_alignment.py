import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rearranging import rearranged

from medlsam_jax.errors import InputError
from medlsam_jax.geometry import SAME_PLACE_VOXELS, Grid, HeaderForms, Volume, reorient
from medlsam_jax.io import alignment, oblique

SHAPE = (5, 6, 7)


@pytest.mark.parametrize("turned", ["LPS", "RAI", "SAR", "PIL"])
def test_turned_label_map_comes_onto_the_scans_voxels(make_grid, codes, turned):
  scan = make_grid(codes, SHAPE, (3.0, 2.0, 1.5))
  cells = np.random.default_rng(0).integers(0, 9, SHAPE)
  world = scan.world_from_voxel(np.moveaxis(np.indices(SHAPE), 0, -1))
  turned_cells = reorient(cells, scan, turned)
  turned_world = np.stack([reorient(world[..., k], scan, turned) for k in range(3)], -1)
  affine = np.eye(4)
  affine[:3, 3] = turned_world[0, 0, 0]
  for axis, index in enumerate([(0, 0, 1), (0, 1, 0), (1, 0, 0)]):
    affine[:3, axis] = turned_world[index] - turned_world[0, 0, 0]
  labels = Volume(turned_cells, Grid(turned_cells.shape, affine), "seg.nii")
  aligned = alignment.align_labels(labels, scan, "ct.nii")
  np.testing.assert_array_equal(aligned.array, cells)
  assert aligned.grid is scan


@pytest.mark.parametrize("change", [{"origin": (-39.0, 20.0, 100.0)}, {"spacing": (3.0, 2.0, 1.6)}])
def test_another_grid_is_refused_with_both(make_grid, change):
  scan = make_grid("RAS", SHAPE)
  other = make_grid(**{"codes": "RAS", "shape": SHAPE, **change})
  labels = Volume(np.zeros(other.shape, np.uint8), other, "seg.nii")
  with pytest.raises(InputError, match=r"seg.nii: .*another grid than ct.nii: 5x6x7 voxels .* against 5x6x7 voxels"):
    alignment.align_labels(labels, scan, "ct.nii")


def test_rounded_spacing_is_the_same_grid(make_grid):
  scan = make_grid("RAS", (300, 300, 300), (0.7421875, 0.7421875, 1.0))
  other = make_grid("RAS", (300, 300, 300), (0.7422, 0.7422, 1.0))
  labels = Volume(np.broadcast_to(np.uint8(0), other.shape), other, "seg.nii")
  assert alignment.align_labels(labels, scan, "ct.nii").grid is scan


@given(
  st.permutations(range(3)),
  st.tuples(*[st.booleans()] * 3),
  st.tuples(*[st.integers(-3, 2)] * 3),
  st.tuples(*[st.integers(-3, 2)] * 3),
  st.tuples(*[st.floats(-0.2, 0.2)] * 3),
)
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("error", "ignore:.*laid where they coincide$")
def test_label_map_in_any_order_direction_and_extent_comes_onto_the_scan(order, flip, low, high, off):
  affine = np.diag([-3.0, 2.0, 5.0, 1.0])
  affine[:3, 3] = (40.0, -7.0, 311.0)
  scan = Grid((9, 8, 10), affine)
  array = np.zeros(scan.shape, np.uint8)
  array[2:7, 2:6, 2:8] = np.arange(1, 121).reshape(5, 4, 6)
  moved, grid = rearranged(array, scan, order, flip, low, high)
  origin = grid.affine.copy()
  origin[:3, 3] += affine[:3, :3] @ off
  aligned = alignment.align_labels(Volume(moved, Grid(grid.shape, origin), "seg.nii"), scan, "ct.nii")
  np.testing.assert_array_equal(aligned.array, array)


def test_half_a_voxel_is_another_grid_and_a_tenth_is_not(make_grid):
  scan = make_grid("LPS", SHAPE, (0.7, 0.7, 5.0), (10.0, 20.0, 30.0))
  array = np.ones(SHAPE, np.uint8)
  for voxels, same in ((0.1, True), (SAME_PLACE_VOXELS - 0.01, True), (0.5, False)):
    for axis, edge in enumerate((0.7, 0.7, 5.0)):
      origin = np.array([10.0, 20.0, 30.0])
      origin[axis] += voxels * edge
      labels = Volume(array, make_grid("LPS", SHAPE, (0.7, 0.7, 5.0), origin), "seg.nii")
      if same:
        assert alignment.align_labels(labels, scan, "ct.nii").grid is scan
      else:
        with pytest.raises(InputError, match="another grid"):
          alignment.align_labels(labels, scan, "ct.nii")


def test_labelled_voxels_beyond_the_scan_are_counted_and_a_map_beside_it_is_refused(make_grid):
  scan = make_grid("RAS", SHAPE, (3.0, 2.0, 1.5))
  array = np.zeros((5, 6, 12), np.uint8)
  array[2, 3, 4:10] = 7
  labels = Volume(array, make_grid("RAS", array.shape, (3.0, 2.0, 1.5)), "seg.nii")
  with pytest.warns(
    UserWarning, match=r"seg.nii: .* ct.nii has 5x6x7; .*; 3 of its 6 labelled voxels lie outside and are cut"
  ):
    aligned = alignment.align_labels(labels, scan, "ct.nii")
  assert np.count_nonzero(aligned.array) == 3 and "cut away" in aligned.notes[-1]
  array[2, 3, :9] = 0
  with pytest.raises(InputError, match=r"seg.nii: all its labelled voxels lie outside ct.nii"):
    alignment.align_labels(labels, scan, "ct.nii")


def unstated(grid, is_taken=False):
  rows = tuple(tuple(float(v) for v in row) for row in grid.affine[:3])
  forms = HeaderForms(0, rows, 0, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0, 1.0), 0, is_taken)
  return dataclasses.replace(grid, forms=forms)


@pytest.mark.parametrize("which", ["labels", "scan", "both"])
def test_without_orientation_arrays_of_one_shape_are_laid_voxel_by_voxel(make_grid, which):
  scan, own = make_grid("RAS", SHAPE, (3.0, 2.0, 1.5)), make_grid("LAS", SHAPE, (1.0, 1.0, 1.0), (3.5, 2.0, 1.0))
  scan = unstated(scan) if which != "labels" else scan
  own = unstated(own) if which != "scan" else own
  array = np.random.default_rng(0).integers(0, 9, SHAPE).astype(np.uint8)
  with pytest.warns(UserWarning, match="states no orientation; laid on the voxels of ct.nii"):
    aligned = alignment.align_labels(Volume(array, own, "seg.nii"), scan, "ct.nii")
  np.testing.assert_array_equal(aligned.array, array)
  other = Volume(array[1:], dataclasses.replace(own, shape=(4, 6, 7)), "seg.nii")
  if which == "labels":
    with pytest.raises(InputError, match="another grid"):
      alignment.align_labels(other, scan, "ct.nii")


def test_numbers_of_a_file_whose_codes_are_lost_are_used_where_they_fit(make_grid):
  scan = make_grid("RAS", SHAPE, (3.0, 2.0, 1.5))
  array = np.random.default_rng(0).integers(1, 9, SHAPE).astype(np.uint8)
  moved, grid = rearranged(array, scan, flip=(False, False, True))
  aligned = alignment.align_labels(Volume(moved, unstated(grid, is_taken=True), "seg.nii"), scan, "ct.nii")
  np.testing.assert_array_equal(aligned.array, array)


def test_another_grid_is_resampled_where_asked_for(make_grid):
  scan = make_grid("RAS", (12, 12, 12), (3.0, 3.0, 3.0), (0.0, 0.0, 0.0))
  fine = make_grid("RAS", (24, 24, 24), (1.5, 1.5, 1.5), (-0.75, -0.75, -0.75))
  array = np.zeros(fine.shape, np.uint8)
  array[8:16, 4:12, 6:20] = 3
  labels = Volume(array, fine, "seg.nii")
  with pytest.raises(InputError, match="another grid"):
    alignment.align_labels(labels, scan, "ct.nii")
  with pytest.warns(UserWarning, match="resampled"):
    aligned = alignment.align_labels(labels, scan, "ct.nii", resample=True)
  expected = np.zeros(scan.shape, np.uint8)
  expected[4:8, 2:6, 3:10] = 3
  np.testing.assert_array_equal(aligned.array, expected)


@pytest.mark.parametrize("flip", [(False, False, False), (True, False, True)])
@pytest.mark.filterwarnings("ignore:.*tilted", "ignore:.*laid where")
def test_cropped_and_turned_label_map_of_a_tilted_scan_is_the_whole_one(flip):
  angle = np.deg2rad(11.0)
  affine = np.diag([2.0, 2.5, 3.0, 1.0])
  affine[:2, :2] = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ affine[:2, :2]
  affine[:3, 3] = (-31.0, 12.0, 5.0)
  grid = Grid((14, 20, 18), affine)
  array = np.zeros(grid.shape, np.uint8)
  array[3:11, 5:15, 4:13] = 2
  scan = oblique.straighten(Volume(np.zeros(grid.shape, np.float32), grid, "ct.nii"))
  whole = oblique.straighten(Volume(array, grid, "seg.nii"), labels=True)
  moved, own = rearranged(array, grid, (1, 0, 2), flip, (2, 3, 1), (1, 0, -2))
  cropped = oblique.straighten(Volume(moved, own, "seg.nii"), labels=True)
  aligned = alignment.align_labels(cropped, scan.grid, "ct.nii", scan.file_grid)
  np.testing.assert_array_equal(aligned.array, whole.array)
  assert np.count_nonzero(aligned.array)
