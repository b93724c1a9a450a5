import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medlsam_jax import working_grid
from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Box
from medlsam_jax.io import nifti
from medlsam_jax.medlam.bank import points

MINI = Path(__file__).parents[1] / "golden" / "mini"


def blob(seed, shape=(14, 11, 9), share=0.8):
  noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.3)
  return noise > np.quantile(noise, share)


def test_extreme_points_by_hand():
  mask = np.zeros((5, 6, 7), bool)
  mask[1, 2, 2:5] = True
  mask[2, 1:5, 3] = True
  mask[3, 2, 3] = True
  expected = [[1, 2, 3], [2, 1, 3], [1, 2, 2], [3, 2, 3], [2, 4, 3], [1, 2, 4]]
  np.testing.assert_array_equal(points.extreme_points(mask), expected)


def test_middle_voxel_is_listed_x_before_z_on_faces_of_y():
  # On y = 1: z 0 with x 4, z 2 with x 0 and 1. Listed by (x, z): (0, 2), (1, 2), (4, 0); the middle one is x 1, z 2.
  # Listed by (z, x) it would be x 0, z 2.
  mask = np.zeros((3, 3, 5), bool)
  mask[0, 1, 4] = mask[2, 1, 0] = mask[2, 1, 1] = True
  np.testing.assert_array_equal(points.extreme_points(mask)[1], [2, 1, 1])


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_extreme_points_are_voxels_of_the_mask_on_its_tight_box(seed):
  mask = blob(seed)
  found = points.extreme_points(mask)
  assert mask[tuple(found.T)].all()
  assert Box.of_points(found) == Box.of_mask(mask)


@given(st.integers(0, 10_000), st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_parts_stack_up_and_hug_their_own_section(seed, parts):
  mask = blob(seed, share=0.6)
  if points.z_extent(mask) < parts:
    return
  found = points.part_points(mask, parts)
  low, high = points.extreme_points(mask)[[0, 3], 0]
  assert found.shape == (parts, 6, 3)
  assert found[0, 0, 0] == low
  assert found[-1, 3, 0] == high
  np.testing.assert_array_equal(found[1:, 0, 0], found[:-1, 3, 0])
  for part in found:
    section = mask[part[0, 0] : part[3, 0]]
    if section.any():
      box = Box.of_mask(section)
      assert (part[1, 1], part[2, 2], part[4, 1], part[5, 2]) == (*box.low[1:], *box.high[1:])


def test_topmost_slice_belongs_to_no_part():
  mask = np.zeros((10, 9, 9), bool)
  mask[2:8, 4, 4] = True
  mask[7, 1:8, 4] = True
  part = points.part_points(mask, 1)[0]
  assert (part[0, 0], part[3, 0]) == (2, 7)
  assert (part[1, 1], part[4, 1]) == (4, 4)
  assert points.extreme_points(mask)[1, 1] == 1


def test_point_of_a_part_comes_from_the_whole_organs_slice():
  # Both sections reach y = 2; of the organ's voxels there the middle one lies in the upper section.
  mask = np.zeros((9, 5, 5), bool)
  mask[0:9, 3, 3] = True
  mask[1, 2, 3] = mask[6:9, 2, 3] = True
  found = points.part_points(mask, 2)
  np.testing.assert_array_equal(found[0, 1], [7, 2, 3])


def test_bound_in_a_gap_takes_the_next_filled_slice_and_keeps_its_own_coordinate():
  # Extent 8, two parts: the bound is slice 4, which is empty.
  mask = np.zeros((9, 5, 5), bool)
  mask[0:3, 1, 1] = True
  mask[6:9, 3, 2] = True
  found = points.part_points(mask, 2)
  np.testing.assert_array_equal(found[0, 3], [4, 3, 2])
  np.testing.assert_array_equal(found[1, 0], [4, 3, 2])


def test_empty_section_takes_the_bounds_of_the_one_below():
  mask = np.zeros((13, 5, 6), bool)
  mask[0:2, 1:3, 1:4] = True
  mask[12, 4, 5] = True
  found = points.part_points(mask, 3)
  np.testing.assert_array_equal(found[:, 0, 0], [0, 4, 8])
  np.testing.assert_array_equal(found[:, 4, 1], [2, 2, 2])


def test_no_parts_is_the_whole_organ():
  mask = blob(1)
  np.testing.assert_array_equal(points.part_points(mask, 0), points.extreme_points(mask)[None])


def test_part_count_follows_the_shortest_template():
  assert points.part_count([30, 17, 40], 4) == 4
  assert points.part_count([100, 90], 4) == points.MAX_PARTS
  assert points.part_count([5], 4) == 1
  assert points.part_count([4], 4) == 0
  assert points.part_count([30, 3], 4) == 0
  with pytest.raises(ValueError, match="at least 1"):
    points.part_count([30], 0)


def test_empty_mask_and_too_many_parts_are_refused():
  with pytest.raises(InputError, match="empty mask"):
    points.extreme_points(np.zeros((3, 3, 3), bool))
  with pytest.raises(InputError, match="cannot be cut into 5 parts"):
    points.part_points(np.ones((4, 3, 3), bool), 5)


def test_parts_of_the_mini_templates_are_as_many_as_published():
  golden = json.loads((MINI / "localize_spl.json").read_text())
  read = (nifti.read_label_nifti(MINI / f"{name}_seg.nii.gz") for name in ("t0", "t1"))
  maps = [working_grid.labels_to_working_grid(labels, "published")[0] for labels in read]
  for value, outputs in golden["support_position"].items():
    masks = [labels == int(value) for labels in maps]
    parts = points.part_count([points.z_extent(mask) for mask in masks], 4)
    assert 6 * max(parts, 1) == len(outputs)
