import numpy as np
import pytest

from medlsam_jax.errors import InputError
from medlsam_jax.evaluation.segmentation import LabelBoxes
from medlsam_jax.geometry import Volume
from medlsam_jax.io.labels import LabelMap
from medlsam_jax.label_boxes import count_labels, find_labels
from medlsam_jax.sam.clean_up import clean_labels
from medlsam_jax.sam.labelled_slices import LabelledScan
from medlsam_jax.working_grid import labels_to_working_grid, to_working_grid

ATLAS = {1: 614_454_277, 5: 3_000_000_000, 9: 70_000}
"""Small values by the ids that an atlas gives the same organs; in its order."""


def small_map():
  array = np.zeros((12, 14, 16), np.uint8)
  array[2:6, 3:9, 4:12] = 1
  array[8:11, 1:5, 2:6] = 5
  array[8:11, 9:13, 8:15] = 9
  array[0, 0, 0] = 9
  return array


def atlas_map():
  array = small_map()
  large = np.zeros(array.shape, np.uint32)
  for value, other in ATLAS.items():
    large[array == value] = other
  return large


@pytest.fixture
def grid(make_grid):
  return make_grid("LPS", (12, 14, 16), (4.0, 5.0, 6.0))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64])
def test_boxes_and_counts_are_those_of_each_mask(dtype):
  array = small_map().astype(dtype)
  boxes, counts = find_labels(array), count_labels(array)
  assert list(boxes) == list(counts) == [1, 5, 9]
  for value, box in boxes.items():
    where = np.nonzero(array == value)
    assert box == tuple(slice(int(axis.min()), int(axis.max()) + 1) for axis in where)
    assert counts[value] == len(where[0])


def test_values_that_no_list_could_be_as_long_as_are_found_alike():
  small, large = find_labels(small_map()), find_labels(atlas_map())
  assert large == dict(sorted((ATLAS[value], box) for value, box in small.items()))
  counts = count_labels(small_map())
  assert count_labels(atlas_map()) == dict(sorted((ATLAS[value], n) for value, n in counts.items()))
  assert find_labels(np.zeros((2, 3, 4), np.uint64)) == count_labels(np.zeros((2, 3, 4), np.uint8)) == {}


def test_negative_values_are_no_labels():
  array = small_map().astype(np.int32) - 1
  assert list(find_labels(array)) == list(count_labels(array)) == [4, 8]
  assert list(find_labels(array * 100_000)) == list(count_labels(array * 100_000)) == [400_000, 800_000]


def test_every_reader_of_label_maps_takes_atlas_ids(grid):
  large, small = atlas_map(), small_map()
  names = {f"organ_{value}": other for value, other in ATLAS.items()}
  volumes = LabelMap(large, grid, names).volumes_ml()
  assert volumes == LabelMap(small, grid, {name: value for name, value in zip(names, ATLAS, strict=True)}).volumes_ml()
  boxes = LabelBoxes(large)
  assert boxes.slices(ATLAS[1]) == LabelBoxes(small).slices(1)
  assert boxes.count(ATLAS[9]) == LabelBoxes(small).count(9) and boxes.slices(7) is None and boxes.slices(None) is None
  held = LabelledScan.of("a", Volume(small.astype(np.int16), grid), Volume(large, grid), {**names, "gone": 7})
  assert held.values == names
  on_grid, _ = labels_to_working_grid(Volume(large, grid))
  expected, _ = labels_to_working_grid(Volume(small, grid))
  assert set(np.unique(on_grid)) == {0, *ATLAS.values()}
  assert all(np.array_equal(on_grid == other, expected == value) for value, other in ATLAS.items())
  clean_labels(large, largest_component=True, fill_holes=False)
  assert large[0, 0, 0] == 0 and count_labels(large)[ATLAS[9]] == boxes.count(ATLAS[9])


@pytest.mark.parametrize("spacing", [(1000.0, 1000.0, 1000.0), (1e-3, 4e4, 4e4), (0.5, 0.5, 1e9)])
@pytest.mark.parametrize("resample", [to_working_grid, labels_to_working_grid])
def test_spacing_that_makes_terabytes_is_refused_by_name_before_it_is_worked_with(make_grid, spacing, resample):
  grid = make_grid("LPS", (40, 41, 42), (1.0, 1.0, 1.0))
  affine = grid.affine.copy()
  affine[:3, :3] *= np.array(spacing)[::-1]
  scan = Volume(np.zeros(grid.shape, np.int16), type(grid)(grid.shape, affine), "wide.nii.gz")
  for convention in ("consistent", "published"):
    with pytest.raises(InputError, match=r"wide.nii.gz: a spacing of .*e\+|wide.nii.gz: a spacing of 1000 x 1000"):
      resample(scan, convention)


def test_fine_spacing_costs_only_the_voxels(make_grid):
  grid = make_grid("LPS", (20, 20, 20), (1e-3, 1e-3, 1e-3))
  assert to_working_grid(Volume(np.zeros(grid.shape, np.int16), grid)).intensity.shape == (1, 1, 1)
