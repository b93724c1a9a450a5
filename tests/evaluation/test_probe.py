"""The probe: truth scores 1, nothing scores 0, nobody is both template and query, and unsound labels stand apart."""

import json
import types

import numpy as np
import pytest
from template_files import SHAPE, cells, save, write_table

from medlsam_jax.errors import ConfigError, InputError
from medlsam_jax.evaluation import feature_search, probe
from medlsam_jax.evaluation.baseline import MeanBoxes
from medlsam_jax.evaluation.localization import truth_points
from medlsam_jax.geometry import Box, Grid
from medlsam_jax.medlam.bank.bank import OrganBank

GRID = Grid(SHAPE, np.diag([-4.0, 4.0, 5.0, 1.0]))


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
    found = {organ: find(query.labels.array == query.values[organ], query.scan.grid) for organ in bank.organs}
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
  from medlsam_jax.medlam.pretraining.recipe import VALIDATION_SEED

  assert min(probe.TEMPLATE_SEEDS + probe.QUERY_SEEDS) > VALIDATION_SEED + 10_000


def test_parts_search_with_the_head_alone_and_with_features_alone(monkeypatch, small):
  asked, query = [], small.queries[0]
  found = {organ: truth(query.labels.array == query.values[organ], query.scan.grid) for organ in small.organs}
  bank = types.SimpleNamespace(organs=dict.fromkeys(small.organs))
  built = []
  monkeypatch.setattr(probe.Bank, "build", lambda *_, **__: built.append(1) or bank)
  monkeypatch.setattr(probe.pipeline, "localize", lambda *_, settings, **__: asked.append(settings) or found)
  monkeypatch.setattr(probe, "find_by_features", lambda *_: {})
  scores = small(None, parts=True)
  assert asked[0] == "exact" and [settings.feature_scales for settings in asked[1:]] == [()]
  assert len(built) == 1, "one bank serves all parts"
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
  prepared = types.SimpleNamespace(patches_together=False)
  monkeypatch.setattr(feature_search.programs, "prepare", lambda network: prepared)
  monkeypatch.setattr(feature_search.fine_step, "settle", lambda network, patches, targets, *_: (targets, None))
  found = feature_search.find_by_features(None, bank, query.scan, mean_boxes)
  for organ, box in mean_boxes.place(query.scan).items():
    # whole working voxels of 3 mm in a scan of 15 mm
    np.testing.assert_allclose(found[organ].box.array(), box.array(), atol=0.5 * 3 / 15 + 1e-6)
    assert found[organ].whole_points.shape == (6, 3)


@pytest.fixture
def folders(tmp_path):
  """Two templates, and two queries: `one` with sound labels of both organs, `two` whose spleen is cut."""
  for place, seeds in (("templates", {"a": 1, "b": 2}), ("queries", {"one": 3, "two": 4})):
    (tmp_path / place).mkdir()
    write_table(tmp_path / place, {"liver": 5, "spleen": 1})
    for name, seed in seeds.items():
      scan = np.random.default_rng(seed).integers(-100, 100, SHAPE).astype(np.int16)
      save(tmp_path / place / f"{name}_ct.nii.gz", scan, GRID)
      save(tmp_path / place / f"{name}_seg.nii.gz", cells(), GRID)
  sound = {"one": {"liver": "whole", "spleen": "whole"}, "two": {"liver": "whole", "spleen": "cut"}}
  (tmp_path / "queries" / "sound.json").write_text(json.dumps(sound))
  return tmp_path / "templates", tmp_path / "queries"


def test_labels_that_are_not_whole_count_in_the_figure_over_all_alone(monkeypatch, folders):
  made = probe.Probe.of_folders(*folders)
  assert made.organs == ("liver", "spleen") and [query.name for query in made.queries] == ["one", "two"]
  monkeypatch.setattr(probe.Bank, "build", lambda *_, **__: types.SimpleNamespace(organs=dict.fromkeys(made.organs)))
  query = made.queries[1]
  found = {organ: truth(query.labels.array == value, query.scan.grid) for organ, value in query.values.items()}

  # the cut spleen of `two` is missed: only the figure over all labels may say so
  def search(network, bank, scan, key, settings):
    return found if key == 0 else {"liver": found["liver"]}

  monkeypatch.setattr(probe.pipeline, "localize", search)
  scores = made(None)
  assert scores["probe_labels"] == 3 and scores["probe_box_iou"] == pytest.approx(1)
  assert scores["probe_all_labels"] == 4 and scores["probe_all_box_iou"] == pytest.approx(0.75)
  assert probe.Probe.of_folders(*folders, count=1).queries[0].name == "one"


def test_without_sound_file_there_is_one_figure(monkeypatch, folders):
  (folders[1] / "sound.json").unlink()
  made = probe.Probe.of_folders(*folders, organs=["liver"], template_names=["b"])
  assert made.organs == ("liver",) and [template.name for template in made.templates] == ["b"]
  monkeypatch.setattr(probe.Bank, "build", lambda *_, **__: types.SimpleNamespace(organs={"liver": None}))
  monkeypatch.setattr(probe.pipeline, "localize", lambda *_, **__: {})
  scores = made(None)
  assert scores["probe_labels"] == 2 and scores["probe_box_iou"] == 0
  assert not [name for name in scores if "_all_" in name]


def test_folders_that_make_no_probe_are_refused(folders):
  templates, queries = folders
  with pytest.raises(ConfigError, match=r"nobody may be both .*a, b"):
    probe.Probe.of_folders(templates, templates)
  with pytest.raises(ConfigError, match="no template is called c"):
    probe.Probe.of_folders(templates, queries, template_names=["a", "c"])
  (queries / "sound.json").write_text('{"one": "whole"}')
  with pytest.raises(InputError, match=r"sound\.json: one"):
    probe.Probe.of_folders(templates, queries)
