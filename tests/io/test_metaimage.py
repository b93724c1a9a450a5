"""MetaImage: what was written is read, and files as ITK writes them are understood."""

import zlib

import numpy as np
import pytest

from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Grid
from medlsam_jax.io.labels import LabelMap
from medlsam_jax.io.metaimage import read_metaimage

TURN = np.deg2rad(20)


def grid_of(turned):
  affine = np.diag([-2.0, -2.5, 3.0, 1.0])
  if turned:
    turn = np.array([[np.cos(TURN), -np.sin(TURN), 0], [np.sin(TURN), np.cos(TURN), 0], [0, 0, 1]])
    affine[:3, :3] = turn @ affine[:3, :3]
  affine[:3, 3] = (10, -20, 30)
  return Grid((5, 6, 7), affine)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("value", [5, 300])
def test_label_map_comes_back_at_its_place(tmp_path, turned, value):
  grid = grid_of(turned)
  array = np.zeros(grid.shape, np.uint8 if value < 256 else np.uint16)
  array[1, 2:4] = value
  LabelMap(array, grid, {"liver": value}).save(tmp_path / "a.mha")
  back, where = read_metaimage(tmp_path / "a.mha")
  assert np.array_equal(back, array) and where.is_same(grid)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("beside", [False, True])
def test_scan_as_itk_writes_it(tmp_path, compressed, beside):
  array = (np.arange(5 * 6 * 7) - 100).astype(">i2").reshape(5, 6, 7)
  data = zlib.compress(array.tobytes()) if compressed else array.tobytes()
  header = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = True\n"
    f"CompressedData = {compressed}\nTransformMatrix = 0 1 0 -1 0 0 0 0 1\nOffset = 1 2 3\nCenterOfRotation = 0 0 0\n"
    "AnatomicalOrientation = RAI\nElementSpacing = 2 3 4\nDimSize = 7 6 5\nElementType = MET_SHORT\n"
    f"ElementDataFile = {'a.raw' if beside else 'LOCAL'}\n"
  ).encode()
  (tmp_path / "a.mhd").write_bytes(header if beside else header + data)
  if beside:
    (tmp_path / "a.raw").write_bytes(data)
  back, grid = read_metaimage(tmp_path / "a.mhd")
  assert np.array_equal(back, array)
  # x runs along LPS +y in steps of 2, y along -x in steps of 3
  np.testing.assert_allclose(grid.world_from_voxel(np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0]])),
                             [(-1, -2, 3), (-1, -4, 3), (2, -2, 3)])  # fmt: skip


def test_voxels_behind_a_header_of_unknown_length_and_the_other_name_of_the_byte_order(tmp_path):
  array = np.arange(5 * 6 * 7, dtype=">i2").reshape(5, 6, 7)
  (tmp_path / "a.mhd").write_text(
    "NDims = 3\nBinaryData = True\nElementByteOrderMSB = T\nHeaderSize = -1\nElementSpacing = 2 3 4\nDimSize = 7 6 5\n"
    "ElementType = MET_SHORT\nElementDataFile = a.raw\n"
  )
  (tmp_path / "a.raw").write_bytes(b"what another program wrote" + array.tobytes())
  assert np.array_equal(read_metaimage(tmp_path / "a.mhd")[0], array)


@pytest.mark.parametrize("change", [
  lambda text: text.replace(b"DimSize = 7 6 5", b"DimSize = 7 6 5000"),
  lambda text: text.replace(b"MET_UCHAR", b"MET_OTHER"),
  lambda text: text.replace(b"ElementSpacing = 2 2.5 3", b"ElementSpacing = 2 x 3"),
  lambda text: text[:60],
  lambda text: text[:-20],
])  # fmt: skip
def test_damaged_file_is_told_in_one_line(tmp_path, change):
  grid = grid_of(False)
  LabelMap(np.random.default_rng(0).integers(0, 255, grid.shape, np.uint8), grid, {"liver": 5}).save(tmp_path / "a.mha")
  (tmp_path / "a.mha").write_bytes(change((tmp_path / "a.mha").read_bytes()))
  with pytest.raises(InputError, match=r"a\.mha: "):
    read_metaimage(tmp_path / "a.mha")


def test_a_sheared_scan_cannot_be_said(tmp_path):
  affine = np.diag([-2.0, -2.5, 3.0, 1.0])
  affine[1, 2] = 0.7
  grid = Grid((5, 6, 7), affine)
  with pytest.raises(InputError, match="not at right angles"):
    LabelMap(np.ones(grid.shape, np.uint8), grid, {"liver": 1}).save(tmp_path / "a.mha")
