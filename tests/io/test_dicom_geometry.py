"""Slices are where their own positions say, or reading says where they are not."""

import warnings

import numpy as np
import pytest
from dicom_files import write_series, write_slice

from medlsam_jax.errors import InputError
from medlsam_jax.io import dicom, dicom_geometry

ROWS, COLUMNS = 6, 7


def ramp(place):
  """A slice whose value is its place along z in tenths of a millimetre."""
  return np.full((ROWS, COLUMNS), round(10 * place))


def write_ramp(folder, places, sideways=None, **extra):
  folder.mkdir()
  for index, place in enumerate(places):
    x, y = (0, 0) if sideways is None else sideways[index]
    write_slice(folder / f"{index:03d}.dcm", ramp(place), (x, y, place), intercept=0, **extra)
  return folder


def read_quietly(folder):
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    return dicom.read_series(folder)


def tolerance_mm(volume):
  return max(dicom_geometry.EXACT_MM, dicom_geometry.EXACT_VOXELS * volume.spacing_mm[0]) + 1e-6


def assert_at_its_place(volume):
  """Every voxel's value says where it lies, to the twentieth of a millimetre that the ramp rounds to."""
  index = np.argwhere(np.ones(volume.array.shape))
  off = np.abs(volume.array.ravel() / 10 - volume.grid.world_from_voxel(index)[:, 2])
  assert off.max() <= tolerance_mm(volume) + 0.05


def test_one_missing_slice_is_filled_from_its_neighbours_and_named(tmp_path):
  places = [2.5 * i for i in range(12) if i != 5]
  with pytest.warns(UserWarning, match=r"uneven slices: 5.00 mm between 004.dcm \(0.0, 0.0, 10.0\) and 005.dcm"):
    volume = dicom.read_series(write_ramp(tmp_path / "case", places))
  assert volume.array.shape[0] == 12
  np.testing.assert_allclose(volume.spacing_mm[0], 2.5)
  assert_at_its_place(volume)
  assert any("interpolated" in note for note in volume.notes) and not volume.doubts


@pytest.mark.parametrize(
  "places",
  [
    [*np.arange(0, 30, 3.0), *np.arange(32, 60, 5.0)],
    np.cumsum(np.linspace(2.0, 3.0, 30)),
    [0, 2, 5, 7, 10, 12, 15, 17, 20],
    [*np.arange(0, 10, 1.0), *np.arange(16, 30, 1.0)],
  ],
  ids=["3 mm then 5 mm", "drifting", "rounded to whole millimetres", "six slices missing"],
)
def test_uneven_slices_are_laid_at_their_true_places(tmp_path, places):
  volume = read_quietly(write_ramp(tmp_path / "case", places))
  assert_at_its_place(volume)
  low, high = volume.grid.world_from_voxel(np.array([[0, 0, 0], [volume.array.shape[0] - 1, 0, 0]]))[:, 2]
  np.testing.assert_allclose([low, high], [places[0], places[-1]])
  assert "uneven" in volume.notes[0]


def test_tilted_stack_with_a_missing_slice_keeps_its_shear(tmp_path):
  places = [3.0 * i for i in range(14) if i != 6]
  folder = write_ramp(tmp_path / "case", places, sideways=[(0, 0.2 * place) for place in places])
  volume = read_quietly(folder)
  assert volume.file_grid is not None
  # world y of DICOM turns round in RAS
  np.testing.assert_allclose(volume.file_grid.world_from_voxel(np.array([6, 0, 0])), [0, -0.2 * 18, 18], atol=1e-9)


def test_wide_gap_is_refused_with_its_places(tmp_path):
  places = [*np.arange(0, 20, 2.0), *np.arange(31, 50, 2.0)]
  with pytest.raises(InputError, match=r"13.00 mm between 009.dcm \(0.0, 0.0, 18.0\) and 010.dcm \(0.0, 0.0, 31.0\)"):
    dicom.read_series(write_ramp(tmp_path / "case", places))


def test_two_stacks_between_each_other_are_refused(tmp_path):
  places = sorted([*np.arange(0, 40, 5.0), *np.arange(1.3, 40, 5.0)])
  with pytest.raises(InputError, match=r"uneven slices: .*two acquisitions"):
    dicom.read_series(write_ramp(tmp_path / "case", places))


def test_slices_with_acquisitions_in_turn_are_doubted_and_named(tmp_path):
  folder = tmp_path / "case"
  folder.mkdir()
  for index in range(12):
    write_slice(folder / f"{index}.dcm", ramp(index), (0, 0, index), AcquisitionNumber=1 + index % 2)
  with pytest.warns(UserWarning, match=r"between each other, by AcquisitionNumber \(1, 2\)"):
    volume = dicom.read_series(folder)
  assert "AcquisitionNumber" in volume.doubts[0]


def test_acquisitions_one_after_the_other_are_one_scan(tmp_path):
  folder = tmp_path / "case"
  folder.mkdir()
  for index in range(12):
    write_slice(folder / f"{index}.dcm", ramp(index), (0, 0, index), intercept=0, AcquisitionNumber=1 + index // 4)
  volume = dicom.read_series(folder)
  assert not volume.notes and not volume.doubts
  assert_at_its_place(volume)


@pytest.mark.parametrize("field", ["AcquisitionNumber", "TemporalPositionIdentifier", "ContentTime"])
def test_repeated_places_are_told_apart_by_the_field_that_differs(tmp_path, field):
  for index in range(10):
    value = ("101500" if index < 5 else "101700") if field == "ContentTime" else 1 + index // 5
    write_slice(tmp_path / f"{index}.dcm", ramp(index), (0, 0, 3 * (index % 5)), **{field: value})
  with pytest.raises(InputError, match=rf"0.dcm \(.*5.dcm .*same place.* by {field} \(.*5 slices.*5 slices"):
    dicom.read_series(tmp_path)


def test_one_slice_a_pixel_aside_is_refused_by_name(tmp_path):
  sideways = [(0, 0)] * 7 + [(0.6, 0)] + [(0, 0)] * 7
  with pytest.raises(InputError, match=r"not lie on one line: .*007.dcm.* shift sideways by 0.6 mm"):
    dicom.read_series(write_ramp(tmp_path / "case", np.arange(15.0), sideways))


def test_table_drifting_off_in_a_curve_is_refused(tmp_path):
  sideways = [(0.02 * i * i, 0) for i in range(20)]
  with pytest.raises(InputError, match="not lie on one line"):
    dicom.read_series(write_ramp(tmp_path / "case", np.arange(20.0), sideways))


def test_a_fraction_of_a_pixel_aside_is_said_and_read(tmp_path):
  sideways = [(0, 0)] * 7 + [(0.2, 0)] + [(0, 0)] * 7
  with pytest.warns(UserWarning, match=r"up to 0.19 mm beside the line .*007.dcm"):
    assert dicom.read_series(write_ramp(tmp_path / "case", np.arange(15.0), sideways)).array.shape[0] == 15


def test_positions_rounded_to_a_tenth_are_exact(tmp_path):
  volume = dicom.read_series(write_ramp(tmp_path / "case", [round(0.625 * index, 1) for index in range(30)]))
  assert not volume.notes
  np.testing.assert_allclose(volume.spacing_mm[0], 0.625, atol=0.01)


def test_a_slice_of_another_size_or_direction_is_left_out_of_many_by_name(tmp_path):
  folder = write_ramp(tmp_path / "case", np.arange(9.0))
  write_slice(folder / "odd.dcm", np.zeros((ROWS, COLUMNS + 1)), (0, 0, 9))
  with pytest.warns(UserWarning, match=r"left out odd.dcm: 000.dcm and odd.dcm differ in rows and columns"):
    assert dicom.read_series(folder).array.shape == (9, ROWS, COLUMNS)
  write_slice(folder / "odd.dcm", ramp(0), (0, 0, 9), orientation=[0, 1, 0, 0, 0, -1])
  with pytest.warns(UserWarning, match=r"000.dcm and odd.dcm differ in orientation"):
    assert dicom.read_series(folder).array.shape == (9, ROWS, COLUMNS)


def test_halves_of_two_pixel_spacings_are_refused(tmp_path):
  folder = write_ramp(tmp_path / "case", np.arange(9.0))
  for index in range(9, 16):
    write_slice(folder / f"{index}.dcm", ramp(index), (0, 0, index), PixelSpacing=[0.8, 0.8])
  with pytest.raises(InputError, match=r"differ in pixel spacing .*give the slices of one kind alone \(9 and 7 here"):
    dicom.read_series(folder)


def test_negative_distance_and_location_count_for_nothing(tmp_path):
  for index in range(5):
    extra = {"SliceLocation": -3.0 * index, "SpacingBetweenSlices": -3.0}
    write_slice(tmp_path / f"{index}.dcm", ramp(3 * index), (0, 0, 3 * index), intercept=0, **extra)
  assert_at_its_place(dicom.read_series(tmp_path))
  for index in range(1, 5):
    (tmp_path / f"{index}.dcm").unlink()
  assert dicom.read_series(tmp_path).spacing_mm[0] == 3


def test_location_without_position_is_no_place(tmp_path, recwarn):
  write_series(tmp_path, np.zeros((4, 6, 7)), drop=["ImagePositionPatient"], SliceLocation=10.0)
  with pytest.raises(InputError, match=r"no ImagePositionPatient \(SliceLocation alone is no place\)"):
    dicom.read_series(tmp_path)


@pytest.mark.parametrize("seed", range(24))
def test_disturbed_stacks_are_right_or_told(tmp_path, seed):
  """Random steps, shifts, losses and repeats: each voxel is where it says, or a note or an error says otherwise."""
  generator = np.random.default_rng(seed)
  count = int(generator.integers(5, 16))
  places = np.cumsum(np.full(count, generator.choice([1.0, 2.5, 5.0])))
  sideways = np.zeros((count, 2))
  kind = ("order", "loss", "jitter", "shift", "double", "shear")[seed % 6]
  if kind == "loss":
    keep = np.sort(generator.permutation(count)[: count - int(generator.integers(1, 3))])
    places, sideways = places[keep], sideways[keep]
  elif kind == "jitter":
    places = places + generator.normal(0, generator.choice([0.02, 0.2, 1.0]), count)
  elif kind == "shift":
    sideways[int(generator.integers(1, count)) :] += generator.normal(0, generator.choice([0.03, 3.0]), 2)
  elif kind == "double":
    places = np.append(places, places[int(generator.integers(count))])
    sideways = np.zeros((count + 1, 2))
  elif kind == "shear":
    sideways = places[:, None] * generator.normal(0, 0.003, (1, 2))
  order = generator.permutation(len(places))
  folder = tmp_path / "case"
  folder.mkdir()
  for name, index in enumerate(order):
    # a second image at a place is another image, not its copy
    values = ramp(places[index]) + 1000 * (index >= count)
    write_slice(folder / f"{name}.dcm", values, (*sideways[index], places[index]), intercept=0)
  try:
    volume = read_quietly(folder)
  except InputError as error:
    assert "dcm" in str(error) and kind not in ("order", "shear")
    return
  assert kind != "double"
  if volume.file_grid is None:
    assert_at_its_place(volume)
  if not volume.notes:
    positions = np.array([[-x, -y, z] for (x, y), z in zip(sideways, places, strict=True)])
    positions = positions[np.argsort(positions[:, 2])]
    corners = volume.grid.world_from_voxel(np.array([[i, 0, 0] for i in range(len(positions))]))
    assert len(positions) == volume.array.shape[0]
    assert np.abs(corners - positions).max() <= tolerance_mm(volume)


def test_two_slices_beside_each_other_are_no_tilted_stack(tmp_path):
  with pytest.raises(InputError, match=r"0.dcm .* and 001.dcm .* more sideways than above"):
    dicom.read_series(write_ramp(tmp_path / "case", [0.0, 5.0], [(0, 0), (30, 0)]))


def test_places_rounded_to_whole_millimetres_are_no_mixture(tmp_path):
  volume = read_quietly(write_ramp(tmp_path / "case", np.rint(np.arange(0, 30, 1.5) + 0.01)))
  assert_at_its_place(volume)


@pytest.mark.parametrize(
  ("extra", "message"),
  [
    ({"PixelSpacing": [500.0, 500.0]}, "voxels of 1x500x500 mm"),
    ({"PixelSpacing": [0.0005, 0.0005]}, "voxels of 1x0.0005x0.0005 mm"),
    ({"ImagePositionPatient": [1e30, 0, 0]}, "ImagePositionPatient is .*no place in a scanner"),
  ],
)
def test_lengths_of_no_scanner_are_refused(tmp_path, extra, message):
  with pytest.raises(InputError, match=message):
    dicom.read_series(write_ramp(tmp_path / "case", np.arange(3.0), **extra))


def test_slices_that_all_state_one_place_are_refused_in_one_sentence(tmp_path):
  for index in range(6):
    write_slice(tmp_path / f"{index}.dcm", ramp(index), (0, 0, 0), SliceLocation=float(index))
  with pytest.raises(InputError, match="all 6 slices state one place"):
    dicom.read_series(tmp_path)


def test_several_missing_slices_of_an_even_stack_are_filled(tmp_path):
  places = [2.5 * i for i in range(14) if i not in (3, 6, 9)]
  volume = read_quietly(write_ramp(tmp_path / "case", places))
  assert volume.array.shape[0] == 14
  assert_at_its_place(volume)
