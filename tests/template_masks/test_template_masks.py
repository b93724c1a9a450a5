"""Templates' masks in a scan: found although organ and box lie otherwise, and better than by the box alone."""

import numpy as np
import pytest
from painted import segment_by_templates

from medlsam_jax.errors import ConfigError
from medlsam_jax.geometry import Box, Grid, Volume
from medlsam_jax.label_boxes import find_labels
from medlsam_jax.metrics import dice
from medlsam_jax.template_masks import masks as template_masks
from medlsam_jax.template_masks.masks import VoteSettings
from medlsam_jax.template_masks.organ_crops import OrganCrop

SHAPE = (40, 44, 48)
GRID = Grid(SHAPE, np.diag([-3.0, 3.0, 3.0, 1.0]))


def _body(centre, radii, seed):
  """An ellipsoid of 150 HU beside a bone, in noise: its mask and the scan."""
  nodes = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
  mask = (((nodes - centre) / radii) ** 2).sum(-1) <= 1
  hu = np.random.default_rng(seed).normal(0, 10, SHAPE)
  hu[mask] += 150
  hu[(((nodes - np.add(centre, (0, 14, 0))) / 5) ** 2).sum(-1) <= 1] += 600
  return mask, Volume(hu.astype(np.float32), GRID)


def _crop(centre, radii, seed):
  mask, scan = _body(centre, radii, seed)
  labels = np.where(mask, 3, 0).astype(np.uint8)
  return OrganCrop.of(scan, labels, 3, find_labels(labels)[3])


@pytest.fixture(scope="module")
def crops():
  return [_crop((20, 18, 24), radii, seed) for seed, radii in enumerate([(8, 6, 7), (7, 7, 7), (9, 6, 6)])]


def test_a_crop_holds_the_organ_at_its_box(crops):
  low, high = np.rint(crops[0].edges).astype(int)
  inside = crops[0].mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] > 127
  assert inside.any((1, 2)).all()
  assert inside.any((0, 1)).all()
  assert (crops[0].mask > 127).sum() == inside.sum() == _body((20, 18, 24), (8, 6, 7), 0)[0].sum()


def test_a_wrong_box_is_mended_by_what_the_scan_shows(crops):
  mask, scan = _body((19, 20, 22), (8, 6, 6), 9)
  box = Box.of_mask(mask).array() + np.array([[1.5, -1, 1], [2, 1, 1.5]])
  wrong = Box(tuple(box[0]), tuple(box[1]))
  told = []
  labels = segment_by_templates(
    scan, {"liver": [wrong]}, {"liver": crops}, values={"liver": 7}, progress=lambda *a: told.append(a)
  )
  assert told == [(1, 3), (2, 3), (3, 3)]
  assert set(np.unique(labels.array)) == {0, 7}
  assert dice(labels["liver"], mask) > 0.92
  frame = template_masks._Frame.of(scan, wrong, VoteSettings())
  scaled = np.mean([frame.seen_in(crop, 0.0)[1] for crop in crops], 0)
  window, shares = template_masks.lattices.spread(scaled, frame.lattice, SHAPE)
  unmended = np.zeros(SHAPE, bool)
  unmended[window] = shares > 0.5
  assert dice(labels["liver"], mask) > dice(unmended, mask) + 0.05


def test_the_larger_vote_wins_and_organs_without_boxes_stay_empty(crops):
  mask, scan = _body((20, 18, 24), (8, 6, 7), 9)
  box = Box.of_mask(mask)
  shifted = Box(tuple(np.add(box.low, 3)), tuple(np.add(box.high, 3)))
  labels = segment_by_templates(scan, {"a": [box], "b": [shifted], "c": []}, {"a": crops, "b": crops, "c": crops})
  assert dice(labels["a"] | labels["b"], mask) > 0.85
  assert not labels["c"].any()


@pytest.mark.parametrize(("setting", "value"), [("sharpness", 0.0), ("similarity_mm", 30.0)])
def test_every_setting_of_the_vote_reaches_it(crops, monkeypatch, setting, value):
  mask, scan = _body((19, 20, 22), (8, 6, 6), 9)
  frame = template_masks._Frame.of(scan, Box.of_mask(mask), VoteSettings())
  given = []
  monkeypatch.setattr(template_masks, "combined", lambda *each: given.append(each) or each[1].mean(0))
  for settings in (VoteSettings(), VoteSettings(**{setting: value})):
    likeness = template_masks.gaussian(template_masks.NODES, settings.similarity_mm / frame.step_mm)
    segment_by_templates(scan, {"organ": [Box.of_mask(mask)]}, {"organ": crops}, settings)
    np.testing.assert_allclose(given[-1][4], likeness, atol=1e-6)
    assert float(given[-1][6]) == settings.sharpness


def test_a_box_outside_the_scan_paints_nothing(crops):
  _, scan = _body((20, 18, 24), (8, 6, 7), 9)
  labels = segment_by_templates(scan, {"liver": [Box((80.0, 0.0, 0.0), (99.0, 9.0, 9.0))]}, {"liver": crops})
  assert not labels.array.any()


@pytest.mark.parametrize("bad", [{"margin_mm": -1.0}, {"similarity_mm": 0.0}, {"sharpness": float("nan")}])
def test_settings_out_of_range_are_refused(bad):
  with pytest.raises(ConfigError, match=r"masks\."):
    VoteSettings(**bad)
