"""The probe: truth scores 1, nothing scores 0, and nobody is both template and query."""

import types

import numpy as np
import pytest

from medlsam_jax.errors import ConfigError
from medlsam_jax.evaluation import feature_search, probe
from medlsam_jax.evaluation.baseline import MeanBoxes
from medlsam_jax.evaluation.localization import truth_points
from medlsam_jax.geometry import Box
from medlsam_jax.localization.bank import OrganBank


@pytest.fixture(scope="module")
def small():
  return probe.Probe.of_phantoms((1, 2), (3,), ("liver", "spleen"), spacing_mm=(15.0, 15.0, 15.0))


@pytest.fixture
def with_findings(monkeypatch, small):
  """Runs the probe with a search that finds what `find` gives for each organ's mask."""

  def run(find):
    bank = types.SimpleNamespace(organs={"liver": None, "spleen": None})
    monkeypatch.setattr(probe.Bank, "build", lambda *_, **__: bank)
    query = small.queries[0]
    found = {organ: find(query.labels.array == query.names[organ], query.scan.grid) for organ in bank.organs}
    monkeypatch.setattr(probe.pipeline, "localize", lambda *_, **__: {o: f for o, f in found.items() if f})
    return small(None)

  return run


def truth(mask, grid):
  where = np.argwhere(mask)
  box = Box(tuple(where.min(0).astype(float)), tuple(where.max(0).astype(float)))
  return types.SimpleNamespace(box=box, whole_points=truth_points(mask, grid), verdict="found")


def test_truth_scores_one_and_the_baseline_less(with_findings):
  scores = with_findings(truth)
  assert scores["probe_box_iou"] == pytest.approx(1) and scores["probe_wall_mm"] == pytest.approx(0)
  assert scores["probe_ale_mm"] == pytest.approx(0, abs=1e-6) and 0 < scores["probe_baseline_iou"] < 1


def test_organs_that_are_not_found_count_as_zero(with_findings):
  scores = with_findings(lambda mask, grid: None)
  assert scores["probe_box_iou"] == 0 and scores["probe_wall_mm"] > 100


def test_nobody_is_both_template_and_query():
  with pytest.raises(ConfigError, match="nobody may be both"):
    probe.Probe.of_phantoms((1, 2), (2,))


def test_probe_phantoms_are_in_no_training_or_validation():
  from medlsam_jax.training.loop import VALIDATION_SEED

  assert min(probe.TEMPLATE_SEEDS + probe.QUERY_SEEDS) > VALIDATION_SEED + 10_000


def test_parts_search_with_the_head_alone_and_with_features_alone(monkeypatch, small):
  asked, query = [], small.queries[0]
  found = {organ: truth(query.labels.array == query.names[organ], query.scan.grid) for organ in small.organs}
  bank = types.SimpleNamespace(organs=dict.fromkeys(small.organs))
  monkeypatch.setattr(probe.Bank, "build", lambda *_, **__: bank)
  monkeypatch.setattr(probe.pipeline, "localize", lambda *_, settings, **__: asked.append(settings) or found)
  monkeypatch.setattr(probe, "find_by_features", lambda *_: {})
  scores = small.parts(None)
  assert [settings.feature_scales for settings in asked] == [()]
  assert scores["head_box_iou"] == pytest.approx(1) and scores["features_box_iou"] == 0


def test_features_are_looked_for_around_the_faces_of_the_mean_box(monkeypatch, small):
  """Points that settle where they were sent give back the mean boxes, whatever the head says."""
  mean_boxes, query = MeanBoxes.of(small.templates), small.queries[0]
  random = np.random.default_rng(0)
  organs = {
    organ: OrganBank(organ, 1, "WPL", ("a",), np.arange(6)[None], random.random((1, 6, 3), np.float32), {})
    for organ in small.organs
  }
  bank = types.SimpleNamespace(organs=organs, convention="consistent")
  monkeypatch.setattr(feature_search.programs, "prepare", lambda network: (None, None))
  monkeypatch.setattr(feature_search.fine, "settle", lambda module, variables, padded, targets, *_: (targets, None))
  found = feature_search.find_by_features(None, bank, query.scan, mean_boxes)
  for organ, box in mean_boxes.place(query.scan).items():
    # whole working voxels of 3 mm in a scan of 15 mm
    np.testing.assert_allclose(found[organ].box.array(), box.array(), atol=0.5 * 3 / 15 + 1e-6)
    assert found[organ].whole_points.shape == (6, 3)
