"""Scans brought to the working spacing, and cubes cut from them that follow from seed and step alone."""

import dataclasses
import shutil

import numpy as np
import pytest
from rearranging import rearranged

from medlsam_jax.errors import ConfigError, InputError, TemplateError
from medlsam_jax.geometry import Grid, Volume
from medlsam_jax.notices import MedlsamWarning
from medlsam_jax.sam3d.training.labelled_cubes import ASTRAY, LEAST_VOXELS, CubeSource, SpacedScan, reach
from medlsam_jax.sam3d.training.scans import scans_to_learn, scans_to_validate
from medlsam_jax.sam3d.training.settings import CubeDataSettings

GRID = Grid((30, 70, 64), np.diag([-1.0, -1.2, 2.5, 1]))
EDGE = 12


def people(flip=(False, False, False), order=(0, 1, 2)):
  """A body of 40 HU that fills the scan, an organ of 100 and one of 150, with label values 7 and 9."""
  labels = np.zeros(GRID.shape, np.uint8)
  labels[8:16, 20:40, 22:40] = 7
  labels[18:22, 44:52, 30:44] = 9
  hu = (40 + 60 * (labels == 7) + 110 * (labels == 9)).astype(np.float32)
  (hu, grid), (labels, _) = (rearranged(each, GRID, order, flip) for each in (hu, labels))
  return Volume(hu, grid, "a_ct.nii.gz"), Volume(labels, grid, "a_seg.nii.gz")


def spaced(margin=20, spacing_mm=2.0, **way):
  scan, labels = people(**way)
  return SpacedScan.of("a", scan, labels, {7: 1, 9: 2}, spacing_mm, margin)


def source(scans=None, rows=range(4), seed=3, **data):
  given = {"cubes_per_step": 4, "organs_per_cube": 2, **data}
  scans = [spaced(reach(EDGE))] if scans is None else scans
  return CubeSource(scans, EDGE, CubeDataSettings(**given), seed, rows, 10)


@pytest.mark.parametrize(
  "way", [{"flip": (True, False, True)}, {"flip": (False, True, True), "order": (2, 0, 1)}], ids=str
)
def test_a_scan_is_the_same_however_it_is_stored(way):
  one, other = spaced(), spaced(**way)
  np.testing.assert_array_equal(one.labels, other.labels)
  assert np.abs(one.hu.astype(int) - other.hu).max() <= 1
  assert one.boxes == other.boxes


@pytest.mark.parametrize("spacing_mm", [1.0, 2.0, 3.7])
def test_organs_keep_their_volume_place_and_intensity(spacing_mm):
  scan = spaced(spacing_mm=spacing_mm)
  for number, hu, size in ((1, 100, 8 * 20 * 18 * 3.0), (2, 150, 4 * 8 * 14 * 3.0)):
    assert (scan.labels == number).sum() * spacing_mm**3 == pytest.approx(size, rel=0.1 * spacing_mm)
    assert np.percentile(scan.hu[scan.labels == number], 90) == pytest.approx(hu, abs=1)
    assert scan.boxes[number] == tuple(slice(int(a.min()), int(a.max()) + 1) for a in np.nonzero(scan.labels == number))


def test_no_more_of_a_scan_is_kept_than_there_is():
  shape = np.array(spaced(margin=1000).hu.shape)
  assert (np.abs(shape * 2.0 - np.array(GRID.shape) * GRID.spacing_mm) <= 2.0).all()
  assert (np.array(spaced(margin=2).hu.shape) < shape).all()


def test_cubes_show_the_scan_wherever_there_is_one():
  """Air is where the scan ends and nowhere else, even in the cubes that lie furthest from an organ."""
  scan, labels = people()
  wide = np.pad(scan.array, 40, constant_values=40), np.pad(labels.array, 40)
  grid = Grid(wide[0].shape, GRID.affine)
  scan = SpacedScan.of("a", Volume(wide[0], grid, "a"), Volume(wide[1], grid, "b"), {7: 1, 9: 2}, 2.0, reach(EDGE))
  for kind in (0.0, 1.0):
    cubes = source([scan], background=kind)
    assert min(int(cubes[step].hu.min()) for step in range(10)) == 40


def test_beyond_a_scan_lies_air():
  small = Volume(np.full((6, 14, 12), 30, np.float32), Grid((6, 14, 12), GRID.affine), "small")
  labels = Volume((np.indices(small.array.shape)[0] > 2).astype(np.uint8), small.grid, "small_seg")
  batch = source([SpacedScan.of("s", small, labels, {1: 1}, 2.0, reach(EDGE))], organs_per_cube=1)[0]
  assert set(np.unique(batch.hu)) <= set(range(-1000, 31)) and (batch.hu == -1000).mean() > 0.2
  assert (batch.labels[batch.hu == -1000] == 0).all()


def test_a_step_gives_the_same_cubes_whatever_the_number_of_processes():
  whole = source()
  for step in (0, 7):
    parts = [source(rows=rows)[step] for rows in (range(0, 1), range(1, 4))]
    for field, given in whole[step]._asdict().items():
      np.testing.assert_array_equal(given, np.concatenate([getattr(part, field) for part in parts]), err_msg=field)
  assert whole[7].place.tolist() == [28, 29, 30, 31]
  again, other = source()[7], source(seed=4)[7]
  np.testing.assert_array_equal(whole[7].hu, again.hu)
  assert not np.array_equal(whole[7].hu, other.hu)


def test_every_organ_comes_equally_often_and_of_it_every_scan():
  both, one = spaced(reach(EDGE)), spaced(reach(EDGE))
  one = dataclasses.replace(one, labels=np.where(one.labels == 1, 1, 0).astype(np.uint8), boxes={1: one.boxes[1]})
  one.hu[:] = 11  # to tell it by
  cubes = source([both, one], organs_per_cube=1)
  first = np.array([asked for step in range(10) for asked in cubes[step].asked[:, 0]])
  assert (first == 1).sum() == (first == 2).sum() == 20
  shown = [(hu == 11).any() for step in range(10) for hu, asked in zip(cubes[step].hu, cubes[step].asked, strict=True)
           if asked[0] == 1]  # fmt: skip
  assert 4 <= sum(shown) <= 16


def test_a_cube_shows_the_organ_it_was_cut_around_and_asks_for_others_that_it_shows():
  cubes = source(background=0.0)
  for step in range(10):
    batch = cubes[step]
    for labels, asked in zip(batch.labels, batch.asked, strict=True):
      assert (labels == asked[0]).any()
      other = 3 - asked[0]
      assert asked[1] == (other if (labels == other).sum() >= LEAST_VOXELS else 0)
  assert {int(asked[1] > 0) for step in range(10) for asked in cubes[step].asked} == {0, 1}


def test_cubes_around_any_place_stay_near_the_organ():
  cubes = source(background=1.0, organs_per_cube=1)
  missed = [not (labels == asked[0]).any() for step in range(10)
            for labels, asked in zip(cubes[step].labels, cubes[step].asked, strict=True)]  # fmt: skip
  assert ASTRAY < 0.5 and sum(missed) < len(missed) / 2, "half a cube reaches further than its middle strays"


def test_scans_that_teach_nothing_are_refused_or_left_out(mini_templates, mini_queries, tmp_path):
  folder = tmp_path / "train"
  shutil.copytree(mini_templates, folder)
  (folder / "labels.json").write_text('{"alpha": 1, "beta": 2, "gamma": 3, "liver": 4}')

  def learnt(**data):
    return scans_to_learn(CubeDataSettings(scans=(str(folder),), **data), 20)

  whole = learnt(spacing_mm=8.0)
  assert whole.organs == ("alpha", "beta", "gamma") and len(whole.scans) == 2
  assert learnt(spacing_mm=8.0, organs=("gamma", "beta")).organs == ("gamma", "beta")
  with pytest.raises(TemplateError, match=r"liver.: no voxels in any template"):
    learnt(organs=("liver",))
  with pytest.raises(InputError, match=r"spacing_mm 90\.0: so coarse that nothing is left of .*in any scan"):
    learnt(spacing_mm=90.0)
  with pytest.raises(ConfigError, match="nothing to learn from"):
    scans_to_learn(CubeDataSettings(), 20)
  both = CubeDataSettings(scans=(str(folder),), validation=(str(folder),))
  with pytest.raises(ConfigError, match="would be trained on, too"):
    scans_to_validate(both, whole)
  held_out = scans_to_validate(CubeDataSettings(validation=(str(mini_queries),)), whole)
  assert [each.name for each in held_out] == ["q0", "q1"] and set(held_out[0].values) == {"alpha", "beta", "gamma"}
  with pytest.warns(MedlsamWarning, match="shows nothing of liver"):
    scans_to_validate(CubeDataSettings(validation=(str(mini_queries),)), whole._replace(organs=("alpha", "liver")))
  with pytest.raises(InputError, match="shows none of liver"):
    scans_to_validate(CubeDataSettings(validation=(str(mini_queries),)), whole._replace(organs=("liver",)))


def test_a_scan_with_nan_is_refused_by_name():
  scan, labels = people()
  scan.array[3, 3, 3] = np.nan
  with pytest.raises(InputError, match=r"a_ct\.nii\.gz: has NaN"):
    SpacedScan.of("a", scan, labels, {7: 1}, 2.0, 5)
