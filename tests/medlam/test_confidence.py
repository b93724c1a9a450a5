import numpy as np
import pytest

from medlsam_jax.finding import Confidence
from medlsam_jax.geometry import Box
from medlsam_jax.medlam.search import confidence
from medlsam_jax.medlam.search.confidence import Thresholds


def _confidence(**changes) -> Confidence:
  values = {
    "targets": np.zeros((1, 6, 3)),
    "outside": np.zeros((1, 6), bool),
    "visible": 1.0,
    "similarity": 1.0,
    "agent_spread_mm": 0.0,
    "template_spread_mm": 0.0,
  }
  return Confidence(**(values | changes))


def test_visible_share_is_the_volume_inside_the_scan(make_grid):
  grid = make_grid((10, 10, 10))
  assert confidence.visible_share(Box((2, 2, 2), (5, 5, 5)), grid) == 1
  assert confidence.visible_share(Box((-4, 2, 2), (3, 5, 5)), grid) == 0.5
  assert confidence.visible_share(Box((-4, 2, 2), (3, 5, 7.0)), grid, margin_mm=6) == 6 / 8
  assert confidence.visible_share(Box((12, 2, 2), (15, 5, 5)), grid) == 0


def test_spread_is_the_root_mean_square_distance_from_the_mean():
  targets = np.array([[[0.0, 0, 0], [0, 0, 0]], [[0, 6, 0], [0, 0, 0]]])
  assert confidence.spread_mm(targets) == 1.5


def test_a_point_at_the_outer_edge_of_a_voxel_is_inside(make_grid):
  grid = make_grid((10, 10, 10))
  points = np.array([[0, 0, 0], [-0.5, 0, 9.5], [-0.6, 0, 0], [0, 0, 9.6]])
  assert confidence.outside_scan(points, grid).tolist() == [False, False, True, True]


@pytest.mark.parametrize(
  ("changes", "verdict"),
  [
    ({}, "found"),
    ({"visible": 0.5}, "partly outside"),
    ({"visible": 0.0}, "outside field of view"),
    ({"visible": 0.0, "similarity": 0.1}, "outside field of view"),
    ({"similarity": 0.1}, "uncertain"),
    ({"visible": 0.5, "agent_spread_mm": 1e3}, "uncertain"),
    ({"template_spread_mm": 1e3}, "uncertain"),
    ({"template_spread_mm": None, "similarity": None}, "found"),
  ],
)
def test_verdict(changes, verdict):
  assert confidence.judge(_confidence(**changes), Thresholds()) == verdict


def test_thresholds_decide():
  doubtful = _confidence(similarity=0.6, visible=0.8)
  assert confidence.judge(doubtful, Thresholds(similarity=0.7)) == "uncertain"
  assert confidence.judge(doubtful, Thresholds(similarity=0.5, found_visible=0.7)) == "found"


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"similarity": 0.31}, "similarity 0.31 is below 0.5"),
    ({"agent_spread_mm": 72.4}, "agents that start at different places send it 72 mm apart"),
    ({"template_spread_mm": 81.0}, "single templates send it 81 mm apart"),
    ({"visible": 0.34}, "34% of the box where it should lie is inside the scan"),
    ({"template_spread_mm": None}, "one template alone"),
    ({"visible": 0.0, "similarity": 0.1}, "similarity 0.10"),
  ],
)
def test_what_speaks_against_a_finding_is_said_in_words(changes, words):
  (said,) = confidence.doubts(_confidence(**changes), Thresholds())
  assert words in said
  assert confidence.doubts(_confidence(), Thresholds()) == ()


def test_every_reason_is_kept_when_there_are_several():
  weak = _confidence(similarity=0.1, agent_spread_mm=1e3, template_spread_mm=1e3, visible=0.5)
  assert len(confidence.doubts(weak, Thresholds())) == 4
