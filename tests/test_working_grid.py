from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medlsam_jax import working_grid
from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Volume, reorient
from medlsam_jax.io import nifti

MINI = Path(__file__).parent / "golden" / "mini"


@pytest.fixture(scope="module")
def published():
  with np.load(MINI / "preprocessed.npz") as numbers:
    return dict(numbers)


@pytest.mark.parametrize("name", ["t0", "q0"])
def test_image_equals_the_published_program(published, name):
  scan = nifti.read_nifti(MINI / f"{name}_ct.nii.gz")
  working = working_grid.to_working_grid(scan, "published")
  assert working.intensity.dtype == np.float32
  assert working.grid.shape == working.intensity.shape == tuple(published[f"{name}_shape"])
  np.testing.assert_allclose(working.grid.zoom, published[f"{name}_zoom"], rtol=1e-12)
  np.testing.assert_allclose(working.intensity[::4, ::4, ::4], published[f"{name}_image_every4"], atol=1e-5)


@pytest.mark.parametrize("name", ["t0", "q0"])
def test_labels_equal_the_published_program(published, name):
  labels, grid = working_grid.labels_to_working_grid(nifti.read_label_nifti(MINI / f"{name}_seg.nii.gz"), "published")
  assert grid.shape == labels.shape
  np.testing.assert_array_equal(labels, published[f"{name}_label"])


@given(st.integers(0, 100), st.sampled_from([1.0, 2.0, 3.0, 4.3]))
@settings(max_examples=15, deadline=None)
def test_published_image_is_scipys_cubic_zoom(make_grid, seed, spacing):
  grid = make_grid("LAS", (6, 9, 7), (spacing, 3.7, 2.1))
  hu = np.random.default_rng(seed).uniform(-1000, 1000, grid.shape).astype(np.float32)
  working = working_grid.to_working_grid(Volume(hu, grid), "published")
  expected = ndimage.zoom(hu.astype(float), grid.spacing_mm.astype(np.float32).astype(float) / 3)
  np.testing.assert_allclose(working.intensity, working_grid.hu_to_intensity(expected), atol=1e-6)


def test_published_sizes_of_image_and_labels_differ_where_rounding_does(make_grid):
  volume = Volume(np.zeros((112, 101, 122), np.uint8), make_grid("LAS", (112, 101, 122), (2.9999998, 2.98, 3.0)))
  image = working_grid.to_working_grid(volume, "published").grid
  _, labels = working_grid.labels_to_working_grid(volume, "published")
  assert image.shape == (112, 100, 122)
  assert labels.shape == (112, 100, 121)


def test_consistent_grid_is_one_for_image_and_labels(make_grid, codes):
  grid = make_grid(codes, (20, 31, 42), (2.9999998, 2.5, 1.3))
  image = working_grid.to_working_grid(Volume(np.zeros(grid.shape, np.float32), grid))
  labels, label_grid = working_grid.labels_to_working_grid(Volume(np.zeros(grid.shape, np.uint8), grid))
  assert image.grid.shape == label_grid.shape == image.intensity.shape == labels.shape
  # 42 voxels of 2.9999998 mm are 42 working voxels: rounding of the stored spacing takes none away.
  assert 42 in image.grid.shape


@pytest.mark.parametrize("convention", ["published", "consistent"])
def test_scan_of_exactly_3_mm_is_left_as_it_is(make_grid, codes, convention):
  grid = make_grid(codes, (8, 9, 10), (3.0, 3.0, 3.0))
  hu = np.random.default_rng(0).uniform(-900, 900, grid.shape).astype(np.float32)
  working = working_grid.to_working_grid(Volume(hu, grid), convention)
  np.testing.assert_allclose(working.intensity, working_grid.hu_to_intensity(reorient(hu, grid, "LAS")), atol=1e-5)
  cells = np.random.default_rng(1).integers(0, 5, grid.shape).astype(np.uint8)
  labels, _ = working_grid.labels_to_working_grid(Volume(cells, grid), convention)
  np.testing.assert_array_equal(labels, reorient(cells, grid, "LAS"))


@pytest.mark.parametrize("convention", ["published", "consistent"])
@pytest.mark.parametrize("spacing", [(1.5, 2.0, 5.0), (4.0, 3.0, 0.8)])
def test_blob_keeps_its_place_on_the_way_there_and_back(make_grid, codes, convention, spacing):
  shape = tuple(round(120 / s) for s in spacing[::-1])
  grid = make_grid(codes, shape, spacing)
  centre_world = grid.world_from_voxel(np.array(shape) * [0.4, 0.55, 0.45])
  voxels = np.moveaxis(np.indices(shape), 0, -1)
  distance = np.linalg.norm(grid.world_from_voxel(voxels) - centre_world, axis=-1)
  ball = (distance < 20).astype(np.uint8)
  hu = np.where(ball, 1500.0, -1000.0).astype(np.float32)
  truth = np.array(ndimage.center_of_mass(ball))

  working = working_grid.to_working_grid(Volume(hu, grid), convention)
  labels, label_grid = working_grid.labels_to_working_grid(Volume(ball, grid), convention)
  from_image = working.grid.to_scan(np.array(ndimage.center_of_mass(working.intensity)))
  from_labels = label_grid.to_scan(np.array(ndimage.center_of_mass(labels)))
  order, _ = grid.axes_to("LAS")
  if convention == "consistent":
    allowed = np.full(3, 0.5)
  else:
    # Rounding to whole voxels, and the grid's corner or half-pixel shift that the plain division ignores.
    zoom = np.empty(3)
    zoom[list(order)] = working.grid.zoom
    allowed = 0.5 + np.abs(0.5 / zoom - 0.5) + 0.5
  assert (np.abs(from_image - truth) <= allowed).all()
  assert (np.abs(from_labels - truth) <= allowed).all()


def test_each_label_keeps_its_own_place_in_the_working_grid(make_grid, codes):
  grid = make_grid(codes, (24, 24, 24), (3.0, 3.0, 3.0))
  cells = np.zeros(grid.shape, np.uint16)
  cells[2:6, 3:9, 5:20] = 700
  cells[10:20, 3:9, 5:20] = 3
  labels, working = working_grid.labels_to_working_grid(Volume(cells, grid))
  assert labels.dtype == np.uint16
  for value in (3, 700):
    for voxel in np.argwhere(labels == value):
      assert cells[tuple(np.rint(working.to_scan(voxel)).astype(int))] == value


def test_labels_are_the_argmax_of_every_class_interpolated(make_grid):
  grid = make_grid("LAS", (9, 10, 11), (2.0, 4.0, 3.5))
  cells = np.random.default_rng(3).integers(0, 4, grid.shape).astype(np.uint8)
  labels, working = working_grid.labels_to_working_grid(Volume(cells, grid))
  shares = []
  positions = [
    np.clip((np.arange(size) + 0.5) / f - 0.5, 0, n - 1)
    for size, f, n in zip(working.shape, working.zoom, grid.shape, strict=True)
  ]
  for value in range(4):
    where = np.meshgrid(*positions, indexing="ij")
    shares.append(ndimage.map_coordinates((cells == value).astype(float), where, order=1, mode="nearest"))
  ranked = np.sort(shares, axis=0)
  clear = ranked[-1] - ranked[-2] > 1e-4
  assert clear.mean() > 0.5
  np.testing.assert_array_equal(labels[clear], np.argmax(shares, axis=0)[clear])


def test_shrinking_averages_noise_away_where_published_keeps_it(make_grid):
  grid = make_grid("LAS", (60, 60, 60), (0.75, 0.75, 0.75))
  noise = np.random.default_rng(0).normal(0, 60, grid.shape).astype(np.float32)
  sd = {c: working_grid.to_working_grid(Volume(noise, grid), c).intensity.std() for c in ("published", "consistent")}
  assert sd["consistent"] < 0.3 * sd["published"]


def test_metal_does_not_reach_far_into_its_surroundings(make_grid):
  grid = make_grid("LAS", (20, 20, 20), (3.7, 3.7, 3.7))
  hu = np.zeros(grid.shape, np.float32)
  metal = hu.copy()
  hu[:10], metal[:10] = 1500, 30000
  bone, clipped = (working_grid.to_working_grid(Volume(array, grid)).intensity for array in (hu, metal))
  np.testing.assert_array_equal(bone, clipped)


def test_intensity_follows_its_knots_and_is_clipped():
  hu = np.array([-3000, -1000, -600, -200, 0, 200, 850, 1500, 9000])
  np.testing.assert_allclose(working_grid.hu_to_intensity(hu), [0, 0, 0.1, 0.2, 0.5, 0.8, 0.9, 1, 1], atol=1e-7)


@pytest.mark.parametrize("convention", ["published", "consistent"])
@pytest.mark.parametrize("spacing", [(0.4, 0.4, 0.4), (5.0, 0.4, 3.0)])
def test_tiny_scan_still_has_a_voxel_and_a_patch(make_grid, convention, spacing):
  grid = make_grid("RPI", (1, 2, 3), spacing)
  working = working_grid.to_working_grid(Volume(np.full(grid.shape, 200, np.float32), grid), convention)
  assert min(working.intensity.shape) >= 1
  np.testing.assert_allclose(working.intensity, 0.8, atol=1e-5)
  labels, _ = working_grid.labels_to_working_grid(Volume(np.ones(grid.shape, np.uint8), grid), convention)
  assert (labels == 1).all()
  padded = working_grid.pad_for_patches(working.intensity)
  assert min(padded.shape) >= 64 + 1
  np.testing.assert_array_equal(padded[32:-32, 32:-32, 32:-32], working.intensity)
  assert padded[:32].max() == 0


def test_negative_labels_and_wrong_dimensions_are_refused(make_grid, unchecked_shapes):
  grid = make_grid("RAS", (4, 4, 4))
  with pytest.raises(InputError, match="label -2"):
    working_grid.labels_to_working_grid(Volume(np.full(grid.shape, -2, np.int8), grid, "map.nii.gz"))
  with pytest.raises(InputError, match=r"scan.nii: array of shape \(4, 4\)"):
    working_grid.to_working_grid(Volume(np.zeros((4, 4), np.float32), grid, "scan.nii"))
