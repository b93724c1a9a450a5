"""The prompt study around a network that answers with rectangles."""

import types

import numpy as np
import pytest

from medlsam_jax import metrics
from medlsam_jax.evaluation import mask_factors, prompt_making, prompt_report, prompts
from medlsam_jax.geometry import Grid, Volume
from medlsam_jax.sam.labelled_slices import LabelledScan, LabelledSlices
from medlsam_jax.sam.network.sam import LITEMEDSAM, MEDSAM, SAM_VIT_B
from medlsam_jax.sam.slices import ImageFit, tight_edges

ROWS, COLUMNS = 40, 60


def disc(radius, shape=(ROWS, COLUMNS), squeeze=1.0):
  y, x = np.mgrid[: shape[0], : shape[1]]
  return ((y - shape[0] / 2) / squeeze) ** 2 + (x - shape[1] / 2) ** 2 < radius**2


def horseshoe():
  mask = np.zeros((ROWS, COLUMNS), bool)
  mask[5:35, 10:50] = True
  mask[5:30, 18:42] = False
  return mask


def at(mask, points):
  x, y = np.floor(points).astype(int).T
  return mask[y, x]


@pytest.mark.parametrize("mask", [disc(10), horseshoe(), disc(1.1)], ids=["disc", "horseshoe", "few pixels"])
def test_positive_points_are_five_different_ones_inside_the_mask(mask):
  points = prompt_making.positive_points(mask)
  assert len(points) == min(5, mask.sum()) == len(np.unique(points, axis=0))
  assert at(mask, points).all()


def test_first_point_is_the_centre_of_mass_only_where_that_is_inside():
  y, x = np.nonzero(disc(10))
  assert prompt_making.positive_points(disc(10))[0].tolist() == [round(x.mean()) + 0.5, round(y.mean()) + 0.5]
  y, x = np.nonzero(horseshoe())
  assert not horseshoe()[round(y.mean()), round(x.mean())]
  assert at(horseshoe(), prompt_making.positive_points(horseshoe(), 1)).all()


def test_negative_points_lie_in_the_box_of_twice_the_size_outside_the_mask():
  points = prompt_making.negative_points(disc(6))
  assert len(points) == 5 and not at(disc(6), points).any()
  x0, y0, x1, y1 = tight_edges(disc(6))
  centre, half = np.array([(x0 + x1) / 2, (y0 + y1) / 2]), np.array([x1 - x0, y1 - y0])
  assert (np.abs(points - centre) <= half + 1).all() and (np.abs(points - centre) > half / 2).any()


def test_prompts_of_the_modes():
  for mode, points, labels, box in (
    ("S2", 1, [1], False), ("S3", 5, [1] * 5, False), ("S4", 10, [1] * 5 + [0] * 5, False), ("S6", 1, [1], True),
  ):  # fmt: skip
    prompt = prompt_making.prompt_of(mode, disc(8))
    assert len(prompt.points) == points and prompt.labels.tolist() == labels and (prompt.box is not None) == box
  assert prompt_making.prompt_of("S5", disc(8)).points is None


@pytest.mark.parametrize("level", [0, 1, 2])
def test_disturbance_has_the_length_of_its_level(level):
  shape, rng = (512, 512), np.random.default_rng(0)
  mask = disc(40, shape)
  low, high = prompt_making.LEVELS_PX[level]
  box, points = prompt_making.prompt_of("S5", mask), prompt_making.prompt_of("S3", mask)
  for _ in range(20):
    moved = prompt_making.disturbed(box, "box moved", level, shape, rng).box - box.box
    assert low <= np.hypot(*moved[:2]) <= high and np.allclose(moved[:2], moved[2:])
    wider = (prompt_making.disturbed(box, "box enlarged", level, shape, rng).box - box.box) * (-1, -1, 1, 1)
    assert np.allclose(wider, wider[0]) and low <= wider[0] <= high
    reach = prompt_making.disturbed(points, "points moved", level, shape, rng).points - points.points
    assert (np.linalg.norm(reach, axis=1) <= high + 1e-9).all() and (np.linalg.norm(reach, axis=1) >= low - 1e-9).all()


def test_wound_boundaries_need_more_orders():
  assert mask_factors.boundary_order(disc(14)) <= 2
  assert mask_factors.boundary_order(disc(22, squeeze=0.5)) <= 3
  assert mask_factors.boundary_order(horseshoe()) > 4
  assert mask_factors.boundary_order(disc(0.9)) >= 1


def test_factors_by_hand():
  mask = np.zeros((ROWS, COLUMNS), bool)
  mask[10:20, 10:30] = True
  grey = np.where(mask, 150, 100).astype(np.uint8)
  found = mask_factors.factors_of(mask, grey, (2.0, 3.0))
  assert found.intensity_difference == 50 and found.size_mm2 == 200 * 6 and found.aspect_ratio == 3


def test_hausdorff_by_hand_and_never_zero_for_an_empty_answer():
  first, second = np.zeros((2, 30, 40), bool)
  first[5:10, 5:10], second[5:10, 5:14] = True, True
  assert prompts.hausdorff_mm(first, second, (1.0, 2.0)) == 8
  assert prompts.hausdorff_mm(first, np.zeros_like(first), (1.0, 2.0)) == np.hypot(30, 80)


class Rectangles:
  """Candidates: nothing (which it rates highest), the box (or all pixels, for points), and all; single: the box."""

  low_size = 64

  def encode_images(self, images):
    fit = ImageFit(ROWS, COLUMNS, 256)
    return [types.SimpleNamespace(fit=fit, upsampled=lambda logits: logits) for _ in images]

  def answer(self, image, asked, multimask=False):
    assert len(asked) == 16
    masks = np.full((len(asked), 3, ROWS, COLUMNS), -1.0)
    masks[:, 2] = 1
    for number, prompt in enumerate(asked):
      x0, y0, x1, y1 = np.round(prompt.box).astype(int) if prompt.box is not None else (0, 0, COLUMNS, ROWS)
      masks[number, 1, y0:y1, x0:x1] = 1
    quality = np.tile([0.9, 0.5, 0.1], (len(asked), 1))
    return (masks, quality) if multimask else (masks[:, 1:2], quality[:, 1:2])


@pytest.fixture(scope="module")
def rows():
  labels = np.zeros((2, ROWS, COLUMNS), np.uint8)
  labels[0, 10:20, 10:30] = 1
  labels[1, 10:16, 10:34] = 1
  labels[:, 25:35, 40:50] = 2
  hu = np.random.default_rng(0).normal(0, 50, labels.shape) + 100 * (labels == 1)
  grid = Grid(labels.shape, np.diag([-1.0, -1, 1, 1]))
  scan = LabelledScan.of("a", Volume(hu, grid), Volume(labels, grid), {"one": 1, "two": 2})
  slices = LabelledSlices([scan], lambda r, c: ImageFit(r, c, 256), "unit", 64)
  patch = pytest.MonkeyPatch()
  masks = [types.SimpleNamespace(mask=labels[0] == 2), types.SimpleNamespace(mask=np.ones((ROWS, COLUMNS), bool))]
  patch.setattr(prompts, "segment_everything", lambda *_: masks)
  with patch.context():
    return prompts.run_study(slices, [(1.0, 1.0)], Rectangles())


def scores(rows, mode, choice, disturbance=""):
  return [row.dice for row in rows if (row.mode, row.choice, row.disturbance) == (mode, choice, disturbance)]


def test_oracle_and_deployable_choice_stand_side_by_side(rows):
  assert scores(rows, "S5", "oracle") == [1] * 4 == scores(rows, "S5", "single")
  assert scores(rows, "S5", "predicted") == [0] * 4
  empty = [row for row in rows if row.mode == "S5" and row.choice == "predicted" and not row.disturbance]
  assert all(row.hausdorff_mm == np.hypot(ROWS, COLUMNS) for row in empty)
  assert sorted(scores(rows, "S1", "oracle"))[-2:] == [1, 1] and not scores(rows, "S1", "predicted")
  assert len(scores(rows, "S5", "single", "box moved")) == 12
  assert np.mean(scores(rows, "S5", "single", "box enlarged")) < 0.95


def test_jaccard_belongs_to_dice(rows):
  for row in rows:
    assert row.jaccard == pytest.approx(row.dice / (2 - row.dice))


def test_spearman_follows_a_factor(rows):
  found = prompts.spearman(rows, "S3", "single")
  # all pixels are the answer to points: the larger organ fits better
  assert found["size_mm2"][0] > 0.9
  assert np.isnan(prompts.spearman(rows, "S5", "single")["size_mm2"][0])


def test_report_has_every_mode_and_plots_inside(rows, tmp_path):
  prompt_report.write_csv(tmp_path / "s.csv", rows)
  prompt_report.write_html(tmp_path / "s.html", rows, {"scans": "a <b>"})
  assert len((tmp_path / "s.csv").read_text().splitlines()) == len(rows) + 1
  page = (tmp_path / "s.html").read_text()
  assert page.count("data:image/png;base64,") == 4 and "a &lt;b&gt;" in page
  assert [row[0] for row in prompt_report.mode_table(rows)[1:]].count("S5 box") == 3
  assert sorted(p.name for p in tmp_path.iterdir()) == ["s.csv", "s.html"]


def test_best_of_nothing_is_empty():
  assert not prompts.best_of([], disc(5)).any()
  assert metrics.dice(prompts.best_of([disc(9), disc(5)], disc(5)), disc(5)) == 1


def test_a_network_that_never_learned_points_is_not_meant_for_modes_of_points():
  told = prompt_making.not_meant_for(LITEMEDSAM, prompt_making.MODES)
  assert "boxes alone" in told and "S2 (1 point)" in told and "S5" not in told
  assert prompt_making.not_meant_for(LITEMEDSAM, ("S5",)) == ""
  assert prompt_making.not_meant_for(MEDSAM, ("S1",)) and not prompt_making.not_meant_for(SAM_VIT_B, ("S1", "S2"))
