"""Slices in display order, images as OpenCV would make them, boxes and masks there and back."""

from pathlib import Path

import numpy as np
import pytest

from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Box, display_view
from medlsam_jax.sam.resampling import resize_cubic
from medlsam_jax.sam.slices import ImageFit, area_matrix, box_in_slices, linear_matrix, window_to_bytes

GOLDEN = Path(__file__).parents[1] / "golden"
SERIES = Path(__file__).parents[3] / "shared" / "data" / "dicom" / "series"


@pytest.mark.parametrize("codes", ["LPS", "RAS", "LAS", "RPI", "SAR", "PIR"])
def test_row_zero_is_anterior_and_column_zero_the_patients_right(make_grid, codes):
  grid = make_grid(codes)
  voxels = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1)
  right, anterior, superior = np.moveaxis(grid.world_from_voxel(voxels), -1, 0)
  shown = {name: display_view(a, grid) for name, a in (("x", right), ("y", anterior), ("z", superior))}
  assert (np.diff(shown["z"], axis=0) > 0).all()  # slices rise to the head
  assert (np.diff(shown["y"], axis=1) < 0).all()  # rows run from anterior (+y) to posterior
  assert (np.diff(shown["x"], axis=2) < 0).all()  # columns from the patient's right (RAS x largest) to the left


def test_a_box_surrounds_the_same_voxels_in_display_order(make_grid, codes):
  grid = make_grid(codes)
  mask = np.zeros(grid.shape, bool)
  mask[1:3, 2:6, 3:4] = True
  (first, last), (x0, y0, x1, y1) = box_in_slices(Box.of_mask(mask), grid)
  shown = np.zeros_like(display_view(mask, grid))
  shown[first : last + 1, int(y0) : int(y1), int(x0) : int(x1)] = True
  np.testing.assert_array_equal(shown, display_view(mask, grid))


def test_crossed_corners_are_swapped(make_grid):
  grid = make_grid("RPI")
  straight, crossed = (box_in_slices(b, grid) for b in (Box((1, 2, 0), (3, 4, 5)), Box((3, 4, 0), (1, 2, 5))))
  assert straight[0] == crossed[0]
  np.testing.assert_array_equal(straight[1], crossed[1])


def test_a_box_with_nan_is_refused(make_grid):
  with pytest.raises(InputError, match="not a finite number"):
    box_in_slices(Box((0, float("nan"), 0), (1, 1, 1)), make_grid())


@pytest.mark.parametrize("name", ["shrink", "enlarge", "half"])
def test_area_resizing_equals_opencv_within_one_grey_level(name):
  golden = np.load(GOLDEN / "slice_resize.npz")
  image, expected = golden["image"], golden[f"area_{name}"]
  ours = area_matrix(image.shape[0], expected.shape[0]) @ image @ area_matrix(image.shape[1], expected.shape[1]).T
  # OpenCV interpolates 8-bit images in fixed point; plain linear weights are up to 90 levels away.
  assert np.abs(ours - expected).max() < 1


@pytest.mark.parametrize("name", ["shrink", "enlarge", "mixed"])
def test_cubic_resizing_equals_scikit_image(name):
  golden = np.load(GOLDEN / "skimage_resize.npz")
  expected = golden[f"{name}_cubic"]
  np.testing.assert_array_equal(resize_cubic(golden[f"{name}_image"], *expected.shape[:2]), expected)


def test_linear_resizing_equals_pytorch():
  golden = np.load(GOLDEN / "slice_resize.npz")
  ours = linear_matrix(5, 9) @ golden["image"] @ linear_matrix(7, 4).T
  np.testing.assert_allclose(ours, golden["linear_9x4"], atol=1e-3)


def test_linear_resizing_of_a_single_pixel_repeats_it():
  np.testing.assert_array_equal(linear_matrix(1, 4), np.ones((4, 1)))


def test_window_maps_its_ends_to_black_and_white():
  hu = np.array([-2000, -160, 40, 239.9, 240, 3000], np.float32)
  np.testing.assert_array_equal(window_to_bytes(hu, (-160, 240)), [0, 0, 127, 254, 255, 255])


def test_the_longest_side_fills_the_image_and_the_rest_is_zero():
  fit = ImageFit(rows=3, columns=4, image_size=8)
  grey = np.arange(10, 22, dtype=np.uint8).reshape(3, 4)
  image = fit.to_image(grey, "unit")
  assert image.shape == (8, 8, 3) and fit.fitted == (6, 8)
  assert image[:6].min() == 0 and image[:6].max() == 1 and not image[6:].any()
  np.testing.assert_array_equal(fit.box_to_image(np.array([1, 0, 4, 3])), [2, 0, 8, 6])


def test_stretching_fills_both_sides():
  fit = ImageFit(rows=3, columns=4, image_size=12, scaling="stretch")
  assert fit.fitted == (12, 12)
  np.testing.assert_array_equal(fit.box_to_image(np.array([1, 0, 4, 3])), [3, 0, 12, 12])
  assert np.ptp(fit.to_image(np.full((3, 4), 7, np.uint8), "imagenet"), axis=(0, 1)).max() == 0


def test_a_constant_slice_gives_zeros_not_nan():
  assert not ImageFit(5, 4, 8).to_image(np.full((5, 4), 200, np.uint8), "unit").any()


@pytest.mark.parametrize("shape", [(6, 8), (8, 6), (40, 31)])
@pytest.mark.parametrize("scaling", ["pad", "stretch"])
def test_a_mask_returns_to_its_place_in_the_slice(shape, scaling):
  """A half plane drawn in the image, through `box_to_image`, comes back with its edge where it was."""
  fit = ImageFit(*shape, image_size=64, scaling=scaling)
  rows, columns = shape
  x = np.arange(64) + 0.5
  edge = fit.box_to_image(np.array([0, 0, columns / 2, rows / 2]))
  logits = np.broadcast_to(edge[2] - x, (64, 64)) + np.zeros((64, 64))
  back = fit.from_logits(logits) > 0
  expected = np.broadcast_to(np.arange(columns) + 0.5 < columns / 2, shape)
  np.testing.assert_array_equal(back, expected)


def test_low_resolution_logits_are_upsampled_before_they_are_cropped():
  """A single step of the low-resolution grid lies where four image pixels meet, also beside padding."""
  fit = ImageFit(rows=16, columns=32, image_size=32)
  low = np.repeat(np.where(np.arange(8) < 4, 1.0, -1.0)[:, None], 8, 1)  # image rows 0..15 are inside
  inside = fit.from_logits(low) > 0
  assert inside.all()


def test_published_image_of_the_dicom_slice_is_reproduced():
  if not SERIES.is_dir():
    pytest.skip("../shared is missing")
  from medlsam_jax.io.dicom import read_series

  scan = read_series(SERIES)
  grey = window_to_bytes(display_view(scan.array, scan.grid)[6], (-160, 240))
  image = ImageFit(*grey.shape, image_size=256).to_image(grey, "unit")
  np.testing.assert_allclose(image[..., 0], np.load(GOLDEN / "litemedsam_forward.npz")["image_z6"], atol=1e-6)


@pytest.mark.parametrize("scaling", ["pad", "stretch"])
@pytest.mark.parametrize("shape", [(40, 61), (90, 30), (16, 16)])
def test_window_of_a_mask_loses_nothing_of_it(shape, scaling):
  """Also pieces far from each other, at the edges, and in the padding."""
  rng = np.random.default_rng(0)
  fit = ImageFit(*shape, 64, scaling)
  for share in (0.0, 0.001, 0.01, 0.5):
    logits = np.where(rng.random((16, 16)) < share, 3.0, -1.0).astype(np.float32) * rng.random((16, 16), np.float32)
    full, found = fit.from_logits(logits), fit.from_positive_logits(logits)
    outside = np.ones(shape, bool)
    if found is not None:
      outside[found[0]] = False
      np.testing.assert_allclose(found[1], full[found[0]], atol=1e-6)
    assert not (full[outside] > 0).any()


def test_mask_of_one_logit_has_a_small_window():
  logits = np.full((64, 64), -1.0, np.float32)
  logits[30, 20] = 5.0
  window, values = ImageFit(512, 512, 256).from_positive_logits(logits)
  assert values.shape == (window[0].stop - window[0].start, window[1].stop - window[1].start)
  assert values.shape[0] <= 32 and values.shape[1] <= 32 and values.max() > 0
