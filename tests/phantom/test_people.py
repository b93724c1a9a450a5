"""The made-up population: deterministic, varied, labelled, and the same person under every grid."""

import json

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from medlsam_jax.errors import ConfigError, OutputError
from medlsam_jax.geometry import Box, reorient
from medlsam_jax.phantom import people as module
from medlsam_jax.phantom.canvas import smooth_lattice
from medlsam_jax.phantom.people import LABEL_VALUES, make_phantom, write_phantoms

COARSE = (6.0, 6.0, 6.0)


@pytest.fixture(scope="module")
def person():
  return make_phantom(3, COARSE)


def _mean_hu(phantom, organ):
  return float(phantom.scan.array[phantom.labels.array == phantom.names[organ]].mean())


def test_a_phantom_shows_soft_tissue_and_bone_of_many_organs(person):
  assert len(person.names) >= 30
  assert person.scan.array.dtype == np.float32 and person.labels.array.dtype == np.uint8
  assert person.scan.grid.is_same(person.labels.grid)
  assert set(np.unique(person.labels.array)) == {0, *person.names.values()}
  assert all(LABEL_VALUES[name] == value for name, value in person.names.items())


def test_tissues_have_plausible_hu(person):
  assert _mean_hu(person, "lung_right") < -600
  assert 30 < _mean_hu(person, "liver") < 160
  assert -40 < _mean_hu(person, "urinary_bladder") < 60
  assert _mean_hu(person, "hip_left") > 150
  assert _mean_hu(person, "vertebrae_L3") > 150
  corner = person.scan.array[:, -2:, :2]
  assert corner.mean() < -960


def test_organs_lie_where_anatomy_puts_them(person):
  labels = reorient(person.labels.array, person.labels.grid, "RAS")
  centre = {name: np.argwhere(labels == value).mean(0) for name, value in person.names.items()}
  assert centre["liver"][2] > centre["spleen"][2]
  assert centre["kidney_right"][2] > centre["kidney_left"][2]
  assert centre["stomach"][1] > centre["vertebrae_L1"][1]
  spine = [centre[f"vertebrae_{name}"][0] for name in ("L5", "L4", "L3", "L2", "L1", "T12", "T11", "T10")]
  assert np.all(np.diff(spine) > 2)
  assert centre["kidney_right"][0] < centre["liver"][0]
  assert centre["femur_left"][0] < centre["urinary_bladder"][0] + 5


def test_the_same_seed_is_the_same_scan_and_another_seed_another_person(person):
  again, other = make_phantom(3, COARSE), make_phantom(4, COARSE)
  np.testing.assert_array_equal(again.scan.array, person.scan.array)
  np.testing.assert_array_equal(again.labels.array, person.labels.array)
  first, second = ((p.labels.array == LABEL_VALUES["liver"]).sum() for p in (person, other))
  assert first != second
  assert other.scan.array.shape != person.scan.array.shape


@pytest.mark.parametrize(("spacing_mm", "codes"), [((5.0, 6.0, 7.0), "LPS"), ((7.0, 5.0, 5.0), "PIR")])
def test_a_seed_shows_the_same_anatomy_on_another_grid(person, spacing_mm, codes):
  other = make_phantom(3, spacing_mm, codes)
  assert other.scan.grid.axis_codes == codes
  np.testing.assert_allclose(other.scan.spacing_mm, spacing_mm)
  for organ in ("liver", "kidney_left", "vertebrae_L2", "hip_right"):
    centres = [
      p.labels.grid.world_from_voxel(np.argwhere(p.labels.array == LABEL_VALUES[organ])).mean(0)
      for p in (person, other)
    ]
    np.testing.assert_allclose(centres[0], centres[1], atol=2.0, err_msg=organ)


def test_noise_is_as_strong_as_asked():
  still, loud = make_phantom(3, COARSE, noise_hu=0.0), make_phantom(3, COARSE, noise_hu=25.0)
  bladder = still.labels.array == LABEL_VALUES["urinary_bladder"]
  difference = (loud.scan.array - still.scan.array)[ndimage.binary_erosion(bladder)]
  assert 15 < difference.std() < 35


def test_field_of_view_decides_which_organs_are_present():
  chest = make_phantom(3, COARSE, z_range_mm=(150, 270))
  assert "urinary_bladder" not in chest.names and "femur_left" not in chest.names
  assert "heart" in chest.names and "liver" in chest.names
  assert abs(chest.scan.array.shape[0] * 6 - 120) <= 6


def test_body_stays_apart_from_the_couch_and_inside_the_field_of_view(person):
  hu = reorient(person.scan.array, person.scan.grid, "RAS")
  parts, _ = ndimage.label(ndimage.gaussian_filter(hu, 0.5) > -300)
  body = parts == np.argmax(np.bincount(parts.ravel())[1:]) + 1
  box = Box.of_mask(body)
  assert box.low[1] > 0 and box.high[1] < hu.shape[1] - 1
  assert body[len(hu) // 2].mean() > 0.35


def test_smooth_lattice_has_unit_variance_and_ignores_the_sampling():
  fine = np.arange(-60, 60.5, 2.0)
  field = smooth_lattice([fine, fine, fine], 6.0, 1, "x")
  assert 0.85 < field.std() < 1.15
  part = smooth_lattice([fine[10:20:2], fine[5:9], fine], 6.0, 1, "x")
  np.testing.assert_allclose(part, field[10:20:2, 5:9], atol=1e-5)


def test_bad_requests_are_refused():
  with pytest.raises(ConfigError, match="positive"):
    make_phantom(0, (3, 0, 3))
  with pytest.raises(ConfigError, match="rise"):
    make_phantom(0, z_range_mm=(100, 50))


def test_written_phantoms_read_back_with_their_names(tmp_path):
  seen = []
  paths = write_phantoms(tmp_path, [7, 8], (8, 8, 8), lambda seed: "LPS" if seed == 7 else "RAS", progress=seen.append)
  assert [p.name for p in paths] == ["phantom_007_ct.nii.gz", "phantom_008_ct.nii.gz"] and seen == [7, 8]
  assert json.loads((tmp_path / "labels.json").read_text()) == LABEL_VALUES
  image, labels = nibabel.load(paths[0]), nibabel.load(tmp_path / "phantom_007_seg.nii.gz")
  assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")
  assert image.get_data_dtype() == np.int16 and labels.get_data_dtype() == np.uint8
  expected = make_phantom(7, (8, 8, 8), "LPS")
  np.testing.assert_array_equal(np.asarray(labels.dataobj).T, expected.labels.array)
  np.testing.assert_allclose(image.affine, expected.scan.affine, atol=1e-4)
  assert not list(tmp_path.glob(".*"))


def test_an_unwritable_directory_is_an_output_error(tmp_path, monkeypatch):
  (tmp_path / "file").write_text("")
  monkeypatch.setattr(module, "make_phantom", lambda *a, **k: pytest.fail("must fail before drawing"))
  with pytest.raises(OutputError, match="file"):
    write_phantoms(tmp_path / "file", [1])
