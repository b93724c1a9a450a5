"""Painting cube by cube with a predictor that needs no weights, and what is asked of it."""

import itertools

import numpy as np
import pytest
from rearranging import rearranged

from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Box, Grid, Volume
from medlsam_jax.io.refining_points import Point
from medlsam_jax.metrics import dice
from medlsam_jax.notices import MedlsamWarning
from medlsam_jax.sam3d.cube_predictor import CubePredictor
from medlsam_jax.sam3d.cube_settings import CubeSettings
from medlsam_jax.sam3d.lattice import Lattice
from medlsam_jax.sam3d.painting import OVERLAP, cubes_over, gaussian, merged_logits, paint_cubes

GRID = Grid((20, 64, 60), np.diag([-1.0, -0.8, 2.5, 1]))
SPACING = GRID.spacing_mm


class Stand(CubePredictor):
  """Bright voxels are inside, but for those beyond the faces of the box; keeps what it was asked."""

  edge = 32

  def __init__(self, answer=None, at_once=1, **settings):
    self.settings, self.source, self.at_once, self._told = CubeSettings(**settings), "stand.safetensors", at_once, set()
    self.answer, self.asked = answer or self.bright, []

  def __call__(self, cubes, faces, points, positive):
    self.asked.append((cubes, faces, points, positive))
    return np.stack([self.answer(*each) for each in zip(cubes, faces, strict=True)]).astype(np.float32)

  @staticmethod
  def bright(cube, faces):
    at = np.indices(cube.shape).reshape(3, -1).T
    inside = ((at >= faces.min(0) - 1) & (at <= faces.max(0) + 1)).all(1).reshape(cube.shape)
    return np.where(inside, np.clip(cube / 100, -5, 5), -5)


def ball(centre, radius_mm):
  return (((np.stack(np.indices(GRID.shape), -1) - centre) * SPACING) ** 2).sum(-1) <= radius_mm**2


def scan_of(mask, grid=GRID):
  return Volume(np.where(mask, 1000, -1000).astype(np.int16), grid, "scan.nii.gz")


def painted(mask, predictor, grid=GRID, **given):
  box = Box.of_mask(mask)
  return paint_cubes(scan_of(mask, grid), {"a": [box]}, {"a": 3}, predictor, **given)


@pytest.mark.parametrize("way", [(0, 0, 0), (0, 1, 1), (0, 1, 0), (1, 0, 1)], ids=["LPS", "RAS", "LAS", "RPI"])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)], ids=str)
def test_a_mask_comes_back_on_the_scans_own_voxels_however_it_is_stored(way, order):
  mask, grid = rearranged(ball((8, 40, 18), 16), GRID, order, tuple(map(bool, way)))
  result = painted(mask, Stand(), grid)
  assert result.dtype == np.uint8 and set(np.unique(result)) == {0, 3}
  assert dice(result == 3, mask) > 0.97


@pytest.mark.parametrize("centre", [(0, 30, 30), (19, 63, 30), (10, 0, 59)])
def test_an_organ_that_touches_the_border_is_painted_up_to_it(centre):
  mask = ball(centre, 14)
  assert dice(painted(mask, Stand()) == 3, mask) > 0.95


def test_a_box_partly_outside_is_cut_to_the_scan():
  mask = ball((3, 30, 30), 20)
  box = Box.from_corners((-6, *Box.of_mask(mask).low[1:]), Box.of_mask(mask).high)
  result = paint_cubes(scan_of(mask), {"a": [box]}, {"a": 1}, predictor := Stand())
  assert dice(result == 1, mask) > 0.95
  cube, faces = predictor.asked[0][0][0], predictor.asked[0][1][0]
  assert cube.shape == (32, 32, 32)
  np.testing.assert_allclose(faces[3, 0] - faces[0, 0], Box.of_mask(mask).high[0] * SPACING[0] / 2, atol=1e-6)


def test_a_box_wholly_outside_stays_empty_with_a_warning_and_harms_no_other():
  mask, far = ball((10, 30, 30), 15), Box((30.0, 0.0, 0.0), (40.0, 9.0, 9.0))
  with pytest.warns(MedlsamWarning, match=r"scan\.nii\.gz: gone: its box has nothing inside the scan; it stays empty"):
    result = paint_cubes(scan_of(mask), {"gone": [far], "a": [Box.of_mask(mask)]}, {"gone": 1, "a": 2}, Stand())
  assert set(np.unique(result)) == {0, 2}
  with pytest.warns(MedlsamWarning, match="gone"):
    assert not paint_cubes(scan_of(mask), {"gone": [far]}, {"gone": 1}, Stand()).any()


def test_a_box_of_no_number_is_refused():
  with pytest.raises(InputError, match="not a finite number"):
    paint_cubes(scan_of(ball((10, 30, 30), 9)), {"a": [Box((np.nan, 0, 0), (1, 1, 1))]}, {"a": 1}, Stand())


def test_parts_of_an_organ_are_one_box():
  mask = ball((10, 30, 30), 18)
  whole = Box.of_mask(mask)
  parts = [Box(whole.low, (9, *whole.high[1:])), Box((10, *whole.low[1:]), whole.high)]
  one, two = Stand(), Stand()
  np.testing.assert_array_equal(
    paint_cubes(scan_of(mask), {"a": parts}, {"a": 1}, one), paint_cubes(scan_of(mask), {"a": [whole]}, {"a": 1}, two)
  )
  np.testing.assert_allclose(one.asked[0][1], two.asked[0][1])


def test_an_organ_larger_than_a_cube_is_painted_by_windows_without_seams():
  """The predictor misses the rim of every cube; windows count by their middle."""

  def wrong_at_rims(cube, faces):
    logits = Stand.bright(cube, faces)
    rim = np.ones(cube.shape, bool)
    rim[3:-3, 3:-3, 3:-3] = False
    return np.where(rim, -5, logits)

  mask = np.zeros(GRID.shape, bool)
  mask[3:17, 6:60, 5:55] = True
  predictor = Stand(wrong_at_rims, spacing_mm=1.0)
  result = painted(mask, predictor)
  assert len(predictor.asked) > 8
  assert dice(result == 3, mask) > 0.97
  inner = mask.copy()
  inner[4:16, 8:58, 7:53] = False
  assert (result[mask & ~inner] == 3).all(), "a seam"


def test_a_constant_stays_a_constant_through_the_merge():
  box = np.array([[2.0, 6, 5], [17, 60, 55]])
  lattices = list(cubes_over(box, SPACING, 16, 2.0, 0.1))
  assert len(lattices) > 4
  where, logits = merged_logits(GRID.shape, lattices, [np.full((16, 16, 16), 1.75, np.float32)] * len(lattices))
  inside = tuple(slice(int(a), int(b) + 1) for a, b in box.T)
  full = np.full(GRID.shape, np.nan)
  full[where] = logits
  np.testing.assert_allclose(full[inside], 1.75, rtol=1e-5)


@pytest.mark.parametrize("margin", [0.0, 0.1, 1.0])
def test_windows_show_a_box_and_its_margin_and_overlap_by_half(margin):
  rng = np.random.default_rng(0)
  for _ in range(20):
    low = rng.uniform(0, 20, 3)
    box = np.stack([low, low + rng.uniform(0, 40, 3)])
    lattices = list(cubes_over(box, SPACING, 16, 2.0, margin))
    cube_mm, wide = 32.0, (box[1] - box[0] + 1) * SPACING * (1 + 2 * margin)
    for axis in range(3):
      starts = sorted({round(each.start[axis] * SPACING[axis] - 1.0, 6) for each in lattices})  # a voxel's lower face
      middle = box.mean(0)[axis] * SPACING[axis]
      assert starts[0] <= middle - min(wide[axis], cube_mm) / 2 + 1e-6
      assert starts[-1] + cube_mm >= middle + min(wide[axis], cube_mm) / 2 - 1e-6
      if wide[axis] > cube_mm:
        assert starts[0] + cube_mm - (middle - wide[axis] / 2) == pytest.approx(cube_mm, abs=1e-5)
        assert max(np.diff(starts)) <= (1 - OVERLAP) * cube_mm + 1e-6
      else:
        assert len(starts) == 1
    assert len(lattices) == len({each.start for each in lattices})


def test_a_margin_that_leads_windows_beyond_the_scan_paints_what_is_inside():
  """The first windows lie wholly outside, below the first voxel and beyond the last."""
  mask = np.ones(GRID.shape, bool)
  result = painted(mask, Stand(lambda cube, faces: np.ones(cube.shape), margin=0.8, spacing_mm=0.5))
  assert (result == 3).all()


def test_windows_weigh_most_in_their_middle_and_everywhere_something():
  weights = gaussian(16)
  assert weights.argmax() in np.ravel_multi_index(np.array(list(itertools.product((7, 8), repeat=3))).T, weights.shape)
  assert weights.min() > 0 and weights[0, 0, 0] < 0.01 * weights.max()
  np.testing.assert_allclose(weights, weights[::-1, ::-1, ::-1])


def test_a_cube_larger_than_the_scan_sees_air_around_it():
  small = Grid((4, 12, 10), GRID.affine)
  mask = np.zeros(small.shape, bool)
  mask[1:3, 3:9, 2:8] = True
  scan, predictor = Volume(np.where(mask, 1000, -600).astype(np.int16), small, "small"), Stand(spacing_mm=1.0)
  result = paint_cubes(scan, {"a": [Box.of_mask(mask)]}, {"a": 1}, predictor)
  assert 0.9 < (predictor.asked[0][0] == -1000).mean() < 0.99  # 32^3 mm of which the scan is 10 x 10 x 10
  assert dice(result == 1, mask) > 0.8


@pytest.mark.parametrize("first", ["a", "b"])
def test_what_two_organs_claim_goes_to_the_surer_and_of_equals_to_the_first(first):
  box = Box((4.0, 10.0, 10.0), (14.0, 50.0, 50.0))
  boxes = {organ: [box] for organ in sorted("ab", key=lambda organ: organ != first)}
  values, mask = {"a": 1, "b": 2}, np.zeros(GRID.shape, bool)
  equal = paint_cubes(scan_of(mask), boxes, values, Stand(lambda cube, faces: np.full(cube.shape, 2.0)))
  assert set(np.unique(equal[5:14, 12:48, 12:48])) == {values[first]}
  sure = itertools.cycle([1.0, 2.0] if first == "a" else [2.0, 1.0])  # a gets 1, b gets 2
  better = paint_cubes(scan_of(mask), boxes, values, Stand(lambda cube, faces: np.full(cube.shape, next(sure))))
  assert set(np.unique(better[5:14, 12:48, 12:48])) == {2}


def test_batches_are_filled_with_cubes_of_several_organs():
  mask = ball((10, 30, 30), 12)
  boxes = {f"organ{n}": [Box.of_mask(mask)] for n in range(6)}
  values, said = {organ: n + 1 for n, organ in enumerate(boxes)}, []
  predictor = Stand(at_once=4)
  result = paint_cubes(scan_of(mask), boxes, values, predictor, progress=lambda *each: said.append(each))
  assert [len(each[0]) for each in predictor.asked] == [4, 2] and said == [(4, 6), (6, 6)]
  np.testing.assert_array_equal(result, paint_cubes(scan_of(mask), boxes, values, Stand()))


@pytest.mark.parametrize("flip", [False, True])
def test_points_reach_the_cubes_that_hold_them(flip):
  """Of two windows along z and one elsewhere; where both hold a place, both get it."""
  mask = np.zeros(GRID.shape, bool)
  mask[1:19, 30:34, 30:34] = True
  mask, grid = rearranged(mask, GRID, flip=(flip, False, flip))

  def at(z, y, x):
    place = np.array([z, y, x], float)
    return tuple(np.where([flip, False, flip], np.array(GRID.shape) - 1 - place, place))

  points = [Point(at(2, 32, 31), True), Point(at(9.5, 31, 33), False), Point(at(18, 33, 30), True)]
  predictor = Stand(spacing_mm=1.25, at_once=2)
  paint_cubes(scan_of(mask, grid), {"a": [Box.of_mask(mask)]}, {"a": 1}, predictor, {"a": points, "b": points})
  cubes, faces, given, positive = predictor.asked[0]
  assert len(predictor.asked) == 1 and len(cubes) == 2
  assert sorted([row[row >= 0].tolist() for row in positive]) == [[0, 1], [1, 0]]
  for window in range(2):
    for place, kind in zip(given[window], positive[window], strict=True):
      # a point lies at the same millimetres from the box's faces as in the scan
      if kind >= 0:
        assert (place > -0.5).all() and (place < 31.5).all()
        near_x = [(33 - x) * 1.0 / 1.25 for _, _, x in ((9.5, 31, 33), (2, 32, 31), (18, 33, 30))]
        assert min(abs(faces[window][5, 2] - place[2] - each) for each in near_x) < 1e-6
  with pytest.raises(InputError, match="a: 5 points within one cube; it takes 4"):
    paint_cubes(scan_of(mask, grid), {"a": [Box.of_mask(mask)]}, {"a": 1}, predictor, {"a": points[:1] * 5})
  organ_b = Stand()
  paint_cubes(scan_of(mask, grid), {"c": [Box.of_mask(mask)]}, {"c": 1}, organ_b, {"a": points})
  assert all(each[2].shape[1] == 0 for each in organ_b.asked)


def test_organs_that_the_adapters_have_not_learned_are_named_once():
  mask = ball((10, 30, 30), 12)
  boxes = {organ: [Box.of_mask(mask)] for organ in ("liver", "spleen", "pancreas")}
  predictor, values = Stand(organs=("liver", "kidney")), {"liver": 1, "spleen": 2, "pancreas": 3}
  with pytest.warns(MedlsamWarning, match="have not learned spleen, pancreas, but liver, kidney") as said:
    paint_cubes(scan_of(mask), boxes, values, predictor)
    paint_cubes(scan_of(mask), boxes, values, predictor)
  assert len(said) == 1
  paint_cubes(scan_of(mask), boxes, values, Stand())  # a file that does not say is no reason for a warning


def test_nothing_to_paint_is_nothing_painted():
  assert not paint_cubes(scan_of(np.zeros(GRID.shape, bool)), {}, {}, Stand()).any()


def test_lattices_that_miss_the_scan_are_merged_with_those_that_do_not():
  near = Lattice((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (4, 4, 4))
  far = Lattice((50.0, 0.0, 0.0), (1.0, 1.0, 1.0), (4, 4, 4))
  where, logits = merged_logits((6, 4, 4), [near, far], [np.ones((4, 4, 4), np.float32)] * 2)
  assert logits.shape == (6, 4, 4) and where[0] == slice(0, 6)
  np.testing.assert_allclose(logits[:4], 1)
  assert (logits[4:] == 0).all()
