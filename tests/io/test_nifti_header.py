"""Headers whose fields are broken or do not agree: read by what is consistent, with a word, or refused by the field."""

import gzip
import re
import struct
import tempfile
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Grid
from medlsam_jax.io import nifti

AFFINE = np.array([[0, -2.0, 0, 31], [-1.5, 0, 0, 12], [0, 0, 4.0, -250], [0, 0, 0, 1]])
HU = np.random.default_rng(0).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)
FIELDS = {
  "sizeof_hdr": (0, "i"), "dim": (40, "8h"), "intent_code": (68, "h"), "bitpix": (72, "h"), "pixdim": (76, "8f"),
  "vox_offset": (108, "f"), "scl_slope": (112, "f"), "scl_inter": (116, "f"), "xyzt_units": (123, "B"),
  "qform_code": (252, "h"), "sform_code": (254, "h"), "quatern": (256, "3f"), "qoffset": (268, "3f"),
  "srow": (280, "12f"), "magic": (344, "4s"),
}  # fmt: skip


def nifti_bytes(array=HU, affine=AFFINE, order="<", **fields):
  """A file both of whose forms are `affine`, with code 1 in mm, but for `fields`."""
  image = nibabel.Nifti1Image(array, affine)
  image.set_sform(affine, 1)
  image.set_qform(affine, 1)
  image.header.set_xyzt_units("mm")
  content = bytearray(image.to_bytes() if order == "<" else swapped(image))
  for name, value in fields.items():
    place, layout = FIELDS[name]
    values = np.ravel(value).tolist() if not isinstance(value, bytes) else [value]
    content[place : place + struct.calcsize("<" + layout)] = struct.pack(order + layout, *values)
  return bytes(content)


def swapped(image):
  header = image.header.as_byteswapped(">")
  header["vox_offset"], header["scl_slope"], header["scl_inter"] = 352, 1, 0
  return header.binaryblock + bytes(4) + np.asarray(image.dataobj).astype(">i2").tobytes(order="F")


def read(tmp_path, content, name="scan.nii"):
  """The volume and what was warned of."""
  (tmp_path / name).write_bytes(content)
  with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    volume = nifti.read_nifti(tmp_path / name)
  words = [str(warning.message) for warning in told]
  assert set(volume.notes) | set(volume.doubts) <= set(words)
  return volume, " | ".join(words)


def rows(affine):
  return affine[:3].ravel()


def mirrored(affine=AFFINE, code=1):
  """Fields of a qform that turns the first axis round."""
  header = nibabel.Nifti1Header()
  header.set_qform(affine @ np.diag([-1.0, 1, 1, 1]), code)
  return {
    "quatern": [header[f"quatern_{k}"] for k in "bcd"],
    "qoffset": [header[f"qoffset_{k}"] for k in "xyz"],
    "pixdim": header["pixdim"],
    "qform_code": code,
  }


def edges(*values, handed=1.0):
  return [handed, *values, 1, 1, 1, 1]


HANDED = float(np.sign(np.linalg.det(AFFINE[:3, :3])))
SHEARED = AFFINE.copy()
SHEARED[:3, 0] = 0, -1.5 * np.cos(0.4), 1.5 * np.sin(0.4)
SCALED = AFFINE @ np.diag([1.3, 1.3, 1.3, 1])
NAN = float("nan")
TOO_LONG = [float(nibabel.Nifti1Image(HU, AFFINE).header[f"quatern_{k}"]) * 1.05 for k in "bcd"]


@pytest.mark.parametrize(
  ("fields", "word"),
  [
    ({}, ""),
    ({"xyzt_units": 0}, ""),
    ({"xyzt_units": 10}, ""),
    ({"xyzt_units": 1}, "voxels of 1.5x2x4 in metres .* taken as millimetres"),
    ({"xyzt_units": 3}, "in micrometres .* taken as millimetres"),
    ({"srow": np.zeros(12)}, "sform .* is empty or singular; the qform is taken"),
    ({"srow": np.full(12, NAN)}, "the qform is taken"),
    ({"srow": np.zeros(12), "qform_code": 0}, "the qform is taken, although its code is 0"),
    ({"quatern": [NAN, 0, 0]}, "qform .* the sform is taken"),
    ({"quatern": TOO_LONG, "srow": np.zeros(12)}, "quaternion of the header is .* long"),
    ({"quatern": [NAN, 0, 0], "sform_code": 0}, "the sform is taken, although its code is 0"),
    ({"qform_code": 0, "quatern": [0, 0, 0], "qoffset": [0, 0, 0]}, ""),
    ({"sform_code": 0, "srow": np.zeros(12)}, ""),
    ({"pixdim": edges(1.5, -2, 4, handed=HANDED)}, "pixdim .* above zero; the sform is used"),
    ({"pixdim": edges(0, 0, 0)}, "pixdim .* the sform is used"),
    ({"pixdim": edges(1.5, NAN, 4)}, "pixdim .* the sform is used"),
    ({"pixdim": edges(1.5, -2, 4, handed=HANDED), "sform_code": 0, "srow": np.zeros(12)}, "its amounts are taken"),
    ({"pixdim": edges(1.5, 0, 4), "sform_code": 0}, "the sform is taken, although its code is 0"),
    ({"pixdim": edges(1, 1, 1, handed=HANDED)}, "the header says a spacing"),
    ({"pixdim": edges(1.5, 2, 4, handed=0)}, ""),
    ({"pixdim": edges(1.5, 2, 4, handed=NAN)}, ""),
    ({"srow": rows(SCALED)}, "does not agree with the spacing"),
    ({"srow": rows(SHEARED)}, "the qform is taken, the axes of the sform are not at right angles"),
    ({"srow": rows(AFFINE + np.diag([0, 0, 0, 0.0])) + np.eye(3, 4).ravel() * 1e-3}, ""),
    ({"sform_code": 2, "srow": rows(AFFINE @ np.diag([1, -1, 1, 1]))}, r"\(code 1, .*the qform is taken.*scanner"),
    (mirrored(code=2), "the sform is taken"),
    (mirrored(), "its sform .* and its qform .* the sform is taken"),
    ({"sform_code": 9}, "sform_code 9 .* unknown"),
    ({"qform_code": -1}, "qform_code -1 .* unknown"),
    ({"sform_code": 0, "qform_code": 0}, "states no orientation .* the numbers of its sform are taken"),
    ({"sform_code": 0, "qform_code": 0, "srow": np.zeros(12)}, "numbers of its qform are taken"),
    ({"vox_offset": 0}, "vox_offset 0 .* begin at 352"),
    ({"vox_offset": NAN}, "vox_offset nan .* begin at 352"),
    ({"vox_offset": 368}, "vox_offset 368 .* begin at 352"),
    ({"vox_offset": 3e38}, "vox_offset .* begin at 352"),
    ({"scl_slope": 0, "scl_inter": 0}, ""),
    ({"scl_slope": NAN}, "scl_slope nan"),
    ({"scl_slope": float("inf")}, "scl_slope inf"),
    ({"scl_slope": 0, "scl_inter": -1024}, "scl_slope 0 and scl_inter -1024"),
    ({"scl_slope": 1, "scl_inter": NAN}, "scl_inter nan"),
    ({"dim": [4, 4, 5, 6, 0, 1, 1, 1]}, "axes beyond the third"),
    ({"dim": [0, 4, 5, 6, 0, 0, 0, 0]}, r"dim\[0\] of the header says 0"),
    ({"dim": [2, 4, 5, 6, 1, 1, 1, 1]}, r"dim\[0\] of the header says 2"),
    ({"dim": [300, 4, 5, 6, 1, 1, 1, 1]}, r"dim\[0\] of the header says 300"),
    ({"sizeof_hdr": 0}, ""),
    ({"bitpix": 8}, ""),
    ({"magic": b"ni1\0"}, ""),
    ({"intent_code": 1002}, "intent says that it is a label map"),
  ],
)  # fmt: skip
@pytest.mark.parametrize("order", "<>")
def test_a_header_that_is_broken_in_one_place_is_read_by_the_rest(tmp_path, fields, word, order):
  volume, told = read(tmp_path, nifti_bytes(order=order, **fields))
  np.testing.assert_array_equal(volume.array, HU.T)
  np.testing.assert_allclose(volume.affine, AFFINE, atol=2e-3)
  if word:
    assert re.search(word, told), told
  else:
    assert not told


@pytest.mark.parametrize(
  ("factor", "unit", "word"),
  [(1e-3, 1, "in metres"), (1e3, 3, "in micrometres"), (1e-3, 0, "in unknown units .* taken as metres")],
)
def test_other_units_become_millimetres_and_the_label_map_keeps_them(tmp_path, factor, unit, word):
  scale = np.diag([factor] * 3 + [1.0])
  volume, told = read(tmp_path, nifti_bytes(affine=scale @ AFFINE, xyzt_units=unit))
  assert re.search(word, told)
  np.testing.assert_allclose(volume.affine, AFFINE, rtol=1e-5)
  nifti.write_label_nifti(tmp_path / "seg.nii", (HU.T > 0).astype(np.uint8), volume.grid)
  written = nibabel.load(tmp_path / "seg.nii")
  assert int(written.header["xyzt_units"]) == unit
  np.testing.assert_allclose(written.affine, scale @ AFFINE, rtol=1e-5)
  with pytest.warns(UserWarning, match=word):
    assert nifti.read_label_nifti(tmp_path / "seg.nii").grid == volume.grid


@pytest.mark.parametrize(
  ("fields", "word"),
  [
    ({"srow": np.zeros(12), "quatern": [0, 0, 0], "qoffset": [0, 0, 0], "qform_code": 0}, "singular affine"),
    ({"srow": np.zeros(12), "quatern": [NAN, 0, 0]}, "singular affine"),
    ({"srow": np.zeros(12), "pixdim": edges(1.5, 0, 4)}, "pixdim"),
    ({"sform_code": 0, "qform_code": 0, "srow": np.zeros(12), "pixdim": edges(NAN, 2, 4)}, "pixdim"),
    ({"scl_slope": 2, "scl_inter": NAN}, "scl_slope 2 but scl_inter nan"),
    ({"vox_offset": 400}, "truncated or damaged.* vox_offset"),
    ({"dim": [3, 4, 5, 60, 1, 1, 1, 1]}, "truncated or damaged"),
    ({"dim": [3, 4, -5, -6, 1, 1, 1, 1]}, "dim of the header says 4x-5x-6"),
    ({"dim": [2, 4, 5, 60, 1, 1, 1, 1]}, "truncated or damaged"),
    ({"dim": [2, 4, 5, 3, 1, 1, 1, 1]}, "truncated or damaged"),
  ],
)
def test_what_cannot_be_settled_is_refused_by_the_field(tmp_path, fields, word):
  content = nifti_bytes(**fields)
  if "vox_offset" in fields:
    content = content[:-20]
  with pytest.raises(InputError, match=rf"scan.nii: .*{word}"):
    read(tmp_path, content)


@pytest.mark.parametrize(
  ("spacing", "shape", "unit"),
  [(3000.0, (4, 5, 6), 0), (3000.0, (4, 5, 6), 2), (0.004, (4, 5, 6), 2), (20.0, (300, 2, 2), 2), (1e30, (4, 5, 6), 1)],
)
def test_a_spacing_of_no_ct_is_refused_before_memory_is_taken(tmp_path, monkeypatch, spacing, shape, unit):
  monkeypatch.setattr(nifti.nifti_file, "read_voxels", None)
  content = nifti_bytes(np.zeros(shape, np.int16), np.diag([spacing] * 3 + [1.0]), xyzt_units=unit)
  with pytest.raises(InputError, match=r"scan.nii: spacing .*xyzt_units .* a CT has voxels of 0.05 to 50 mm"):
    read(tmp_path, content)


def test_without_codes_and_numbers_left_and_right_are_in_doubt(tmp_path):
  nothing = {"sform_code": 0, "qform_code": 0, "srow": np.zeros(12), "quatern": [0, 0, 0], "qoffset": [0, 0, 0]}
  volume, told = read(tmp_path, nifti_bytes(**nothing))
  assert volume.grid.axis_codes == "LAS" and not volume.grid.is_stated
  assert "states no orientation" in told and volume.doubts
  centred = np.diag([-1.5, 2.0, 4.0, 1.0])
  centred[:3, 3] = -centred[:3, :3] @ [1.5, 2, 2.5]
  volume, _ = read(tmp_path, nifti_bytes(affine=centred, sform_code=0, qform_code=0))
  assert not volume.grid.forms.is_taken and volume.grid.axis_codes == "LAS"
  assert read(tmp_path, nifti_bytes(**mirrored()))[0].doubts
  assert not read(tmp_path, nifti_bytes(srow=rows(SCALED)))[0].doubts


def test_extensions_are_stepped_over_whatever_vox_offset_says(tmp_path):
  plain = nifti_bytes()
  extension = struct.pack("<2i", 32, 4) + b"made by a test".ljust(24, b"\0")
  content = plain[:348] + b"\1\0\0\0" + extension + plain[352:]
  for offset in (384.0, 352.0, 0.0, NAN):
    changed = content[:108] + struct.pack("<f", offset) + content[112:]
    volume, told = read(tmp_path, changed)
    np.testing.assert_array_equal(volume.array, HU.T)
    assert ("vox_offset" in told) == (offset != 384)
  headless = plain[:108] + struct.pack("<f", 348.0) + plain[112:348] + plain[352:]
  np.testing.assert_array_equal(read(tmp_path, headless)[0].array, HU.T)


def test_gzip_in_members_is_read_and_rubbish_behind_it_is_told(tmp_path):
  plain = nifti_bytes()
  members = gzip.compress(plain[:400]) + gzip.compress(plain[400:])
  volume, told = read(tmp_path, members, "scan.nii.gz")
  np.testing.assert_array_equal(volume.array, HU.T)
  assert not told
  for rubbish in (b"PK\3\4 and more", b"\x1f\x8a"):
    volume, told = read(tmp_path, gzip.compress(plain) + rubbish, "scan.nii.gz")
    np.testing.assert_array_equal(volume.array, HU.T)
    assert "after the end of the compressed data" in told
  volume, told = read(tmp_path, plain + b"x" * 77)
  assert "77 bytes after the last voxel" in told
  bad = bytearray(gzip.compress(plain))
  bad[-6] ^= 1
  with pytest.raises(InputError, match="truncated or damaged"):
    read(tmp_path, bytes(bad), "scan.nii.gz")


@pytest.mark.parametrize(
  "dtype", ["int8", "uint8", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]
)
def test_every_type_of_number_is_read(tmp_path, dtype):
  array = np.random.default_rng(1).integers(0, 60, (4, 5, 6)).astype(dtype)
  image = nibabel.Nifti1Image(array, AFFINE, dtype=np.dtype(dtype))
  (tmp_path / "scan.nii").write_bytes(image.to_bytes())
  np.testing.assert_array_equal(nifti.read_nifti(tmp_path / "scan.nii").array, array.T)
  np.testing.assert_array_equal(nifti.read_label_nifti(tmp_path / "scan.nii").array, array.T)


def test_single_bits_are_refused_as_that(tmp_path):
  content = bytearray(nifti_bytes())
  content[70:74] = struct.pack("<2h", 1, 1)
  with pytest.raises(InputError, match="single bits"):
    read(tmp_path, bytes(content))


def test_nifti2_is_settled_by_the_same_rules(tmp_path):
  image = nibabel.Nifti2Image(HU, AFFINE)
  image.header.set_xyzt_units("meter")
  image.header["pixdim"][2] = -2
  image.header["srow_x"] = 0
  image.set_qform(AFFINE, 1)
  (tmp_path / "scan.nii").write_bytes(image.to_bytes())
  volume, told = read(tmp_path, (tmp_path / "scan.nii").read_bytes())
  np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-6)
  assert "metres" in told and "the qform is taken" in told


KEPT = [
  {},
  {"sform_code": 2, "qform_code": 1},
  {"sform_code": 0},
  {"qform_code": 0},
  {"sform_code": 0, "qform_code": 0},
  {"sform_code": 4, "qform_code": 2, "xyzt_units": 10},
  {"sform_code": 1, "pixdim": edges(1, 1, 1, handed=HANDED)},
  {"srow": rows(SHEARED)},
  mirrored(),
]


@pytest.mark.parametrize("fields", KEPT)
@pytest.mark.filterwarnings("ignore")
def test_a_written_label_map_states_what_the_scan_states(tmp_path, fields):
  volume, _ = read(tmp_path, nifti_bytes(**fields))
  nifti.write_label_nifti(tmp_path / "seg.nii.gz", (HU.T > 0).astype(np.uint8), volume.grid)
  before, after = nibabel.load(tmp_path / "scan.nii").header, nibabel.load(tmp_path / "seg.nii.gz").header
  names = [f"srow_{k}" for k in "xyz"] + [f"quatern_{k}" for k in "bcd"] + [f"qoffset_{k}" for k in "xyz"]
  for name in ("sform_code", "qform_code", "xyzt_units", *names):
    np.testing.assert_array_equal(before[name], after[name], err_msg=name)
  np.testing.assert_array_equal(before["pixdim"][:4], after["pixdim"][:4])
  assert nifti.read_label_nifti(tmp_path / "seg.nii.gz").grid == volume.grid


BROKEN = [
  {"srow": np.zeros(12)},
  {"srow": np.full(12, NAN), "sform_code": 0},
  {"quatern": [NAN, 0, 0]},
  {"pixdim": edges(1.5, -2, 4, handed=HANDED)},
  {"pixdim": edges(0, 0, 0)},
  {"pixdim": edges(1.5, 2, 4, handed=0)},
  {"quatern": TOO_LONG, "srow": np.zeros(12)},
  {"quatern": TOO_LONG, "sform_code": 0},
]


@pytest.mark.parametrize("fields", BROKEN)
@pytest.mark.filterwarnings("ignore")
def test_a_label_map_of_a_broken_header_states_whole_forms_at_the_same_place(tmp_path, fields):
  volume, _ = read(tmp_path, nifti_bytes(**fields))
  nifti.write_label_nifti(tmp_path / "seg.nii", (HU.T > 0).astype(np.uint8), volume.grid)
  header = nibabel.load(tmp_path / "seg.nii").header
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    back = nifti.read_label_nifti(tmp_path / "seg.nii")
  straight = volume.file_grid or volume.grid
  assert (back.file_grid or back.grid).is_same(straight)
  for form in (header.get_sform(coded=True), header.get_qform(coded=True)):
    if form[1]:
      assert Grid(straight.shape, form[0]).is_same(straight)


def test_a_grid_of_no_file_is_written_as_the_scanners(tmp_path):
  array = np.zeros((6, 5, 4), np.uint8)
  nifti.write_label_nifti(tmp_path / "seg.nii", array, Grid(array.shape, AFFINE))
  header = nibabel.load(tmp_path / "seg.nii").header
  assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1) and int(header["xyzt_units"]) == 2
  np.testing.assert_allclose(header.get_qform(), AFFINE, atol=1e-5)
  nifti.write_label_nifti(tmp_path / "seg.nii", array, Grid(array.shape, SHEARED))
  header = nibabel.load(tmp_path / "seg.nii").header
  assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 0)
  np.testing.assert_allclose(header.get_sform(), SHEARED, atol=1e-6)


NUMBERS = st.one_of(
  st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 348.0, 352.0, 353.0, 1e30, -1e30, NAN, float("inf"), 1e-30]),
  st.floats(-400, 400, width=32),
)
WHOLE = st.one_of(st.sampled_from([0, 1, -1, 2, 3, 4, 7, 8, 300, 32767, -32768]), st.integers(-32768, 32767))
LENGTHS = {"pixdim": 4, "quatern": 3, "qoffset": 3, "srow": 12, "dim": 5}


@st.composite
def one_field(draw):
  """A field and one number of it."""
  name = draw(st.sampled_from([*LENGTHS, "vox_offset", "sform_code", "qform_code", "bitpix", "sizeof_hdr"]))
  values = WHOLE if name in ("dim", "sform_code", "qform_code", "bitpix", "sizeof_hdr") else NUMBERS
  return name, draw(st.integers(0, LENGTHS.get(name, 1) - 1)), draw(values)


PLACE = ("srow", "quatern", "qoffset", "pixdim", "sform_code", "qform_code")
"""Of these one at a time: two may be wrong in the same way, or the wrong one be the only one that is meant."""


@given(st.lists(one_field(), min_size=1, max_size=2, unique_by=lambda change: change[0] in PLACE or change[0]))
@settings(max_examples=150, deadline=None)
def test_no_wrong_number_in_a_header_goes_unsaid(changes):
  content = bytearray(nifti_bytes())
  for name, index, value in changes:
    place, layout = FIELDS[name]
    kind = layout[-1]
    struct.pack_into("<" + kind, content, place + index * struct.calcsize(kind), value)
  with tempfile.TemporaryDirectory() as folder:
    try:
      volume, told = read(Path(folder), bytes(content))
    except InputError as error:
      assert "scan.nii: " in str(error)
      return
  if not told:
    assert volume.grid.is_same(Grid((6, 5, 4), AFFINE))
    np.testing.assert_array_equal(volume.array, HU.T)
