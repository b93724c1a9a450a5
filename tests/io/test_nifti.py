import gzip
import struct

import nibabel
import numpy as np
import pytest

from medlsam_jax import geometry
from medlsam_jax.errors import InputError, OutputError
from medlsam_jax.io import nifti


def save(path, array_xyz, affine=None, **header):
  image = nibabel.Nifti1Image(array_xyz, np.diag([2.0, 2.0, 3.0, 1.0]) if affine is None else affine)
  for key, value in header.items():
    image.header[key] = value
  nibabel.save(image, path)
  return path


def patch(path, offset, layout, *values):
  """Overwrites header bytes that nibabel would mend when saving."""
  content = bytearray(path.read_bytes())
  content[offset : offset + struct.calcsize(layout)] = struct.pack(layout, *values)
  path.write_bytes(content)
  return path


@pytest.fixture
def hu():
  return np.random.default_rng(0).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_scan_is_read_transposed_as_float32_with_its_affine(tmp_path, make_grid, codes, hu, ending):
  affine = make_grid(codes, (6, 5, 4)).affine
  volume = nifti.read_nifti(save(tmp_path / f"scan{ending}", hu, affine))
  assert volume.array.dtype == np.float32
  np.testing.assert_array_equal(volume.array, hu.T)
  np.testing.assert_allclose(volume.affine, affine, atol=1e-6)
  assert volume.grid.axis_codes == codes
  assert volume.grid.shape == (6, 5, 4)
  assert volume.source.endswith(ending)


def test_slope_and_intercept_are_applied(tmp_path, hu):
  path = save(tmp_path / "scan.nii", hu)
  patch(path, 112, "<2f", 2.0, -1024.0)
  np.testing.assert_allclose(nifti.read_nifti(path).array, hu.T * 2.0 - 1024)


def test_gzip_is_told_by_content_not_by_name(tmp_path, hu):
  plain = save(tmp_path / "scan.nii", hu)
  wrong = tmp_path / "plain.nii.gz"
  wrong.write_bytes(plain.read_bytes())
  zipped = tmp_path / "zipped.nii"
  zipped.write_bytes(gzip.compress(plain.read_bytes()))
  for path in (wrong, zipped):
    np.testing.assert_array_equal(nifti.read_nifti(path).array, hu.T)


def test_last_axis_of_length_one_is_dropped(tmp_path, hu):
  path = save(tmp_path / "scan.nii", hu[..., None])
  np.testing.assert_array_equal(nifti.read_nifti(path).array, hu.T)


def test_nifti2_is_read(tmp_path, hu):
  nibabel.save(nibabel.Nifti2Image(hu, np.eye(4)), tmp_path / "scan.nii")
  np.testing.assert_array_equal(nifti.read_nifti(tmp_path / "scan.nii").array, hu.T)


def tilted(degrees):
  angle = np.deg2rad(degrees)
  turn = np.eye(4)
  turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
  return turn @ np.array([[-2.0, 0, 0, 30], [0, -2, 0, 20], [0, 0, 2, 10], [0, 0, 0, 1]])


@pytest.mark.filterwarnings("error")
def test_tilt_of_a_rounded_quaternion_is_left_alone(tmp_path, hu):
  image = nibabel.Nifti1Image(hu, None)
  image.set_qform(tilted(0.3), code=1)
  nibabel.save(image, tmp_path / "scan.nii")
  volume = nifti.read_nifti(tmp_path / "scan.nii")
  np.testing.assert_array_equal(volume.array, hu.T)
  # A quaternion in single precision keeps so small an angle to half a percent.
  np.testing.assert_allclose(volume.affine, tilted(0.3), atol=1e-3)


@pytest.mark.parametrize("degrees", [12.0, -30.0])
def test_oblique_scan_and_labels_keep_their_place_in_the_world(tmp_path, degrees):
  affine = tilted(degrees)
  voxels = np.stack(np.indices((30, 30, 30)), -1)
  world = voxels @ affine[:3, :3].T + affine[:3, 3]
  centre = affine[:3, :3] @ [13, 16, 14] + affine[:3, 3]
  ball = np.linalg.norm(world - centre, axis=-1) < 12
  scan = save(tmp_path / "scan_ct.nii", np.where(ball, 50, -1000).astype(np.int16), affine)
  seg = save(tmp_path / "scan_seg.nii", (ball * 7).astype(np.uint8), affine)
  with pytest.warns(UserWarning, match=rf"scan_ct.nii: its axes are tilted by {abs(degrees):.1f} degrees"):
    volume = nifti.read_nifti(scan)
  with pytest.warns(UserWarning, match="tilted"):
    labels = nifti.read_label_nifti(seg)
  assert volume.grid.axis_codes == "LPS"
  assert volume.grid.is_same(labels.grid)
  assert np.count_nonzero(np.abs(volume.affine[:3, :3]) > 1e-9) == 3
  np.testing.assert_allclose(volume.spacing_mm, 2.0, atol=1e-5)
  assert set(np.unique(labels.array)) == {0, 7}
  assert volume.array.min() == -1000
  for mask in (volume.array > -475, labels.array == 7):
    found = volume.grid.world_from_voxel(np.argwhere(mask)).mean(axis=0)
    np.testing.assert_allclose(found, centre, atol=0.2)
    assert abs(mask.sum() / ball.sum() - 1) < 0.03
  # Nothing of the scan is cut off: its corners lie inside the new grid.
  corners = affine[:3, :3] @ np.array(np.meshgrid(*[(0, 29)] * 3)).reshape(3, -1) + affine[:3, 3:]
  inside = volume.grid.voxel_from_world(corners.T)
  assert (inside > -0.01).all()
  assert (inside < np.array(volume.grid.shape) - 1 + 0.01).all()


def test_file_without_orientation_says_so(tmp_path, hu):
  path = save(tmp_path / "scan.nii", hu)
  patch(path, 252, "<2h", 0, 0)
  with pytest.warns(UserWarning, match="states no orientation"):
    assert nifti.read_nifti(path).grid.axis_codes == "LAS"


def test_header_spacing_against_the_affine_is_told(tmp_path, hu):
  path = save(tmp_path / "scan.nii", hu)
  patch(path, 80, "<3f", 1.0, 1.0, 1.0)
  with pytest.warns(UserWarning, match=r"\[1.0, 1.0, 1.0\] mm, its affine \[2.0, 2.0, 3.0\]"):
    np.testing.assert_allclose(nifti.read_nifti(path).spacing_mm, [3, 2, 2])


@pytest.mark.parametrize(
  ("shape", "message"),
  [((5, 6), "2D \\(5x6"), ((4, 4, 4, 2), "4D \\(4x4x4x2"), ((4, 4, 4, 1, 3), "5D")],
)
def test_other_than_three_dimensions_are_refused(tmp_path, shape, message):
  path = save(tmp_path / "odd.nii.gz", np.zeros(shape, np.int16))
  with pytest.raises(InputError, match=f"odd.nii.gz: {message}"):
    nifti.read_nifti(path)


@pytest.mark.parametrize("dtype", [np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]), np.complex64])
def test_colour_and_complex_are_refused(tmp_path, dtype):
  path = save(tmp_path / "rgb.nii", np.zeros((4, 4, 4), dtype))
  with pytest.raises(InputError, match=r"rgb.nii: colour or complex"):
    nifti.read_nifti(path)


def test_nan_and_infinite_voxels_are_counted(tmp_path):
  array = np.zeros((4, 4, 4), np.float32)
  array[0, 0, :3] = np.nan
  array[1, 1, 1] = np.inf
  path = save(tmp_path / "scan.nii", array)
  with pytest.raises(InputError, match=r"scan.nii: 3 NaN and 1 infinite of 64"):
    nifti.read_nifti(path)


@pytest.mark.parametrize("row", [(0.0, 0.0, 0.0, 5.0), (2.0, 0.0, 0.0, 5.0), (float("nan"), 0.0, 0.0, 0.0)])
def test_singular_affine_is_refused(tmp_path, hu, row):
  path = patch(save(tmp_path / "scan.nii", hu), 296, "<4f", *row)
  with pytest.raises(InputError, match=r"scan.nii: singular affine"):
    nifti.read_nifti(path)


def test_axes_in_one_direction_are_a_singular_affine(tmp_path, hu):
  path = patch(save(tmp_path / "scan.nii", hu), 280, "<8f", 2, 2, 0, 0, 0, 0, 0, 0)
  with pytest.raises(InputError, match=r"scan.nii: singular affine \[\[2.0, 2.0, 0.0\]"):
    nifti.read_nifti(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 400, b"\x1f\x8bnot gzip really"])
def test_what_is_no_nifti_is_refused(tmp_path, content):
  path = tmp_path / "scan.nii.gz"
  path.write_bytes(content)
  with pytest.raises(InputError, match=r"scan.nii.gz: not a NIfTI"):
    nifti.read_nifti(path)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("read", [nifti.read_nifti, nifti.read_label_nifti])
def test_truncated_file_is_refused(tmp_path, share, ending, read):
  array = np.random.default_rng(0).integers(0, 999, (12, 12, 12)).astype(np.int16)
  path = save(tmp_path / f"scan{ending}", array)
  content = path.read_bytes()
  path.write_bytes(content[: int(len(content) * share)])
  with pytest.raises(InputError, match=rf"scan{ending}: .*truncated"):
    read(path)


def test_damaged_gzip_is_refused(tmp_path):
  array = np.random.default_rng(0).integers(0, 999, (12, 12, 12)).astype(np.int16)
  path = save(tmp_path / "scan.nii.gz", array)
  content = bytearray(path.read_bytes())
  middle = len(content) // 2
  content[middle : middle + 40] = bytes(40)
  path.write_bytes(content)
  with pytest.raises(InputError, match="truncated or damaged"):
    nifti.read_nifti(path)


def test_missing_file_and_folder_are_refused(tmp_path):
  with pytest.raises(InputError, match=r"gone.nii: no such file"):
    nifti.read_nifti(tmp_path / "gone.nii")
  with pytest.raises(InputError, match="a folder"):
    nifti.read_nifti(tmp_path)


def test_header_image_pair_is_refused(tmp_path, hu):
  nibabel.save(nibabel.Nifti1Pair(hu, np.eye(4)), tmp_path / "scan.hdr")
  with pytest.raises(InputError, match="header/image pair"):
    nifti.read_nifti(tmp_path / "scan.hdr")


def test_size_limit_is_refused_before_the_voxels_are_read(tmp_path, hu, monkeypatch):
  path = save(tmp_path / "scan.nii", hu)
  path.write_bytes(path.read_bytes()[:360])
  monkeypatch.setattr(geometry, "MAX_VOXELS", 100)
  with pytest.raises(InputError, match=r"scan.nii: 4x5x6 = .* over the limit of"):
    nifti.read_nifti(path)


def test_labels_come_in_the_smallest_integer_type(tmp_path):
  for values, dtype in (((0, 255), np.uint8), ((0, 256), np.uint16), ((0, 70_000), np.uint32)):
    array = np.zeros((3, 3, 3), np.float64)
    array[0, 0, 0], array[2, 1, 0] = values
    labels = nifti.read_label_nifti(save(tmp_path / "seg.nii", array))
    assert labels.array.dtype == dtype
    np.testing.assert_array_equal(labels.array, array.T)


def test_probability_map_is_no_label_map(tmp_path):
  path = save(tmp_path / "seg.nii", np.full((3, 3, 3), 0.4, np.float32))
  with pytest.raises(InputError, match="no whole number"):
    nifti.read_label_nifti(path)


@pytest.mark.parametrize(("top", "dtype"), [(3, np.uint8), (300, np.uint16), (70000, np.uint32)])
def test_written_labels_come_back_on_the_same_grid(tmp_path, make_grid, codes, top, dtype):
  grid = make_grid(codes, (4, 5, 6))
  array = np.random.default_rng(0).integers(0, 3, grid.shape)
  array[0, 0, 0] = top
  nifti.write_label_nifti(tmp_path / "seg.nii.gz", array, grid)
  assert nibabel.load(tmp_path / "seg.nii.gz").get_data_dtype() == dtype
  back = nifti.read_label_nifti(tmp_path / "seg.nii.gz")
  np.testing.assert_array_equal(back.array, array)
  np.testing.assert_allclose(back.affine, grid.affine, atol=1e-4)
  assert [p.name for p in tmp_path.iterdir()] == ["seg.nii.gz"]


def test_empty_label_map_is_written(tmp_path, make_grid):
  grid = make_grid("RAS", (3, 3, 3))
  nifti.write_label_nifti(tmp_path / "seg.nii", np.zeros(grid.shape, bool), grid)
  assert nifti.read_label_nifti(tmp_path / "seg.nii").array.max() == 0


def test_unwritable_output_leaves_nothing_behind(tmp_path, make_grid, monkeypatch):
  grid = make_grid("RAS", (3, 3, 3))
  array = np.zeros(grid.shape, np.uint8)
  with pytest.raises(OutputError, match=r"seg.nii: cannot be written"):
    nifti.write_label_nifti(tmp_path / "gone" / "seg.nii", array, grid)
  with pytest.raises(OutputError, match=r"seg.png: .*change the name"):
    nifti.write_label_nifti(tmp_path / "seg.png", array, grid)

  def interrupted(*_):
    raise KeyboardInterrupt

  (tmp_path / "seg.nii").write_text("the old result")
  monkeypatch.setattr(nifti.nibabel, "save", interrupted)
  with pytest.raises(KeyboardInterrupt):
    nifti.write_label_nifti(tmp_path / "seg.nii", array, grid)
  assert [p.name for p in tmp_path.iterdir()] == ["seg.nii"]
  assert (tmp_path / "seg.nii").read_text() == "the old result"


def test_labels_of_another_shape_are_a_programming_error(tmp_path, make_grid):
  with pytest.raises(ValueError, match="shape"):
    nifti.write_label_nifti(tmp_path / "seg.nii", np.zeros((3, 3, 4), np.uint8), make_grid("RAS", (3, 3, 3)))
