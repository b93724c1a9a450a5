import dataclasses

import numpy as np
import pytest

from medlsam_jax.medlam.bank import template_points
from medlsam_jax.medlam.bank.bank import Bank
from medlsam_jax.medlam.search import calls, patches, programs, search, sharing, voting
from medlsam_jax.medlam.search.patches import Patches
from medlsam_jax.medlam.search.search_settings import PRESETS, SearchSettings
from medlsam_jax.working_grid import pad_for_patches, to_working_grid

LIVER = ((3, 4, 5), (16, 12, 14))
EACH = SearchSettings(feature_scales=(4,), agents=2, centred=True, templates="each")


def test_a_template_finds_its_own_points_exactly_and_weighs_most(network, make_template):
  template = make_template("a", liver=LIVER)
  alone = Bank.build(network, [template], "WPL", convention="consistent").organs["liver"]
  other = np.random.default_rng(0).standard_normal(alone.features[4].shape).astype(np.float32)
  both = dataclasses.replace(
    alone,
    templates=("a", "b"),
    positions=np.tile(alone.positions, (2, 1, 1)),
    places=None,
    features={4: np.concatenate([alone.features[4], other / np.linalg.norm(other, axis=-1, keepdims=True)])},
  )
  prepared = programs.prepare(network)
  padded = pad_for_patches(to_working_grid(template.scan, "consistent").intensity)
  where = template_points.plan([template], None, "consistent", None)[0].points["a"] + 32
  votes = voting.settle(prepared, Patches.of(prepared, padded), where, [both], EACH)
  # 1, less what voxels without any feature take off
  same = np.square(alone.features[4][0]).sum(-1).mean((1, 2, 3))
  np.testing.assert_allclose(votes.similarity[:, 0], same, atol=1e-5)
  assert np.abs(votes.voxels[:, 0] - where).max() <= 2
  assert np.all(votes.weights[:, 0] > 0.9)
  np.testing.assert_allclose(votes.weights.sum(1), 1)
  np.testing.assert_allclose(votes.agreed, np.einsum("pt,ptc->pc", votes.weights, votes.voxels))


def test_one_template_alone_is_found_as_its_mean_is(network, bank, make_template):
  scan, alone = make_template("q", 3).scan, bank.without("a")
  each = search.find(network, alone, scan, settings=EACH)
  mean = search.find(network, alone, scan, settings=dataclasses.replace(EACH, templates="mean"))
  for organ in alone.organs:
    np.testing.assert_allclose(each[organ].points, mean[organ].points, atol=1e-5)
    assert mean[organ].confidence.agreement is None
    assert each[organ].confidence.agreement.face_spread_mm == 0


def test_organs_that_fewer_templates_show_are_found_by_those_alone(network, bank, make_template):
  scan = make_template("q", 3).scan
  together = search.find(network, bank, scan, settings=EACH)
  apart = search.find(network, bank.subset(["kidney"]), scan, settings=EACH)
  np.testing.assert_allclose(together["kidney"].points, apart["kidney"].points, atol=1e-5)
  agreement = together["kidney"].confidence.agreement
  assert agreement.templates == ("b",) and agreement.points.shape == (1, 1, 6, 3)
  assert list(together["liver"].confidence.agreement.by_template) == ["a", "b"]


def test_what_single_templates_say_adds_up_to_the_finding(network, bank, make_template):
  settings = dataclasses.replace(EACH, softness=1e6)
  found = search.find(network, bank, make_template("q", 3, shape=(70, 60, 66)).scan, settings=settings)["liver"]
  agreement = found.confidence.agreement
  together = agreement.points.mean(0)
  # faces that cross are exchanged by template and in the result, each for itself: the middle of a pair stays
  np.testing.assert_allclose(together[:, :3] + together[:, 3:], found.points[:, :3] + found.points[:, 3:], atol=1e-3)
  np.testing.assert_allclose(agreement.weights, 0.5, atol=1e-5)
  assert all(-1 <= similarity <= 1 for similarity in agreement.by_template.values())
  assert agreement.face_spread_mm > 0 and agreement.face_spread > 0


def test_shapes_bring_faces_to_where_the_templates_have_them(network, bank, make_template, tmp_path):
  """Of random weights every point goes somewhere else; the templates' extents and other points pull them together."""
  scan = make_template("q", 3, shape=(70, 60, 66)).scan
  apart = search.find(network, bank, scan, settings=EACH)
  shaped = dataclasses.replace(EACH, shapes=True)
  together = search.find(network, bank, scan, settings=shaped)
  extent = np.array(LIVER[1]) - LIVER[0] + 1

  def off(found):
    box = found["liver"].box.array()
    return np.abs(box[1] - box[0] + 1 - extent).sum()

  assert off(together) < off(apart)
  bank.save(tmp_path / "bank.safetensors")
  again = search.find(network, Bank.load(tmp_path / "bank.safetensors"), scan, settings=shaped)
  assert np.array_equal(again["liver"].points, together["liver"].points)


def test_a_bank_without_places_is_searched_without_shapes_and_says_so(network, bank, make_template):
  scan, old = make_template("q", 3).scan, bank.subset(["kidney"])
  old.organs["kidney"] = dataclasses.replace(old.organs["kidney"], places=None)
  with pytest.warns(UserWarning, match="does not say where its points lie"):
    shaped = search.find(network, old, scan, settings=dataclasses.replace(EACH, shapes=True))
  plain = search.find(network, old, scan, settings=EACH)
  assert np.array_equal(shaped["kidney"].points, plain["kidney"].points)


def test_templates_that_lack_a_point_weigh_nothing():
  weights = voting.weights(np.array([[0.8, 0.75, np.nan], [0.1, np.nan, np.nan]]), 0.05)
  np.testing.assert_allclose(weights, [[1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1)), 0], [1, 0, 0]])


def test_an_organ_has_one_patch_and_a_long_one_a_few():
  near = np.array([[60, 60, 60], [60, 90, 70], [72, 75, 95]])
  assert np.array_equal(sharing.organ_centres(near), np.tile([[66, 75, 77]], (3, 1)))
  long = np.array([[40, 60, 60], [70, 60, 60], [130, 60, 60]])
  centres = sharing.organ_centres(long)
  assert len(np.unique(centres, axis=0)) == 2
  assert np.abs(centres - long).max() <= sharing.ORGAN_REACH
  both = calls.patch_centres(np.concatenate([near, near + 1]), (200,) * 3, PRESETS["vote-fast"], [3, 3])
  assert len(np.unique(both[:3], axis=0)) == len(np.unique(both[3:], axis=0)) == 1
  assert not np.array_equal(both[0], both[3])


def test_points_of_an_organ_go_through_the_network_once(network, bank, make_template, monkeypatch):
  cut = []
  crop = patches.crop_patches
  monkeypatch.setattr(patches, "crop_patches", lambda padded, where: cut.append(len(where)) or crop(padded, where))
  settings = dataclasses.replace(EACH, organ_patches=True)
  search.find(network, bank, make_template("q", shape=(50, 50, 50)).scan, settings=settings)
  assert cut[0] == 2 and sum(cut[1:]) <= 4


def test_one_compilation_serves_all_scans_and_organs_of_a_bank(network, bank, make_template):
  search.find(network, bank, make_template("q", 3).scan, settings=EACH)
  before = programs.template_moves._cache_size()
  search.find(network, bank.subset(["liver"]), make_template("r", 4, shape=(70, 40, 33)).scan, key=5, settings=EACH)
  assert programs.template_moves._cache_size() == before
