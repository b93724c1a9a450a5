"""`localize` and `segment` as functions: same key same result, organs outside stay empty, bad scans are refused."""

import dataclasses

import numpy as np
import pytest
from box_painter import BoxPainter

from medlsam_jax import pipeline
from medlsam_jax.errors import ConfigError, InputError, TemplateError, TimeLimitError, WeightsError
from medlsam_jax.finding import Finding
from medlsam_jax.geometry import Box, Grid, Volume
from medlsam_jax.medlam.search.confidence import Thresholds
from medlsam_jax.medlam.search.findings import Findings
from medlsam_jax.progress import time_limit
from medlsam_jax.sam.propagation import PropagationSettings
from medlsam_jax.sam.segmentation_settings import LITEMEDSAM

GRID = Grid((12, 16, 16), np.diag([-2.0, -2.0, 2.0, 1.0]))


@pytest.fixture
def scan():
  return Volume(np.random.default_rng(0).uniform(-100, 200, GRID.shape).astype(np.float32), GRID, "a_ct.nii.gz")


def given(organ, value, low, high, verdict="found"):
  return Finding.of_boxes(organ, value, (Box(low, high),), verdict)


def test_every_organ_is_named_and_the_one_outside_stays_empty(scan):
  painter = BoxPainter()
  found = {
    "liver": given("liver", 5, (2, 4, 4), (5, 9, 9)),
    "brain": given("brain", 7, (8, 4, 4), (11, 9, 9), "outside field of view"),
    "lung": given("lung", 3, (9, 4, 4), (10, 9, 9), "uncertain"),
  }
  labels = pipeline.segment(scan, found, painter)
  assert dict(labels.names) == {"liver": 5, "brain": 7, "lung": 3}
  assert labels["liver"].any() and labels["lung"].any() and not labels["brain"].any()
  assert painter.slices == 6  # 4 of the liver, 2 of the lung: none for what is not there
  assert labels.grid is scan.grid and labels.array.dtype == np.uint8


def test_all_organs_outside_gives_an_empty_map(scan):
  found = {"brain": given("brain", 7, (8, 4, 4), (11, 9, 9), "outside field of view")}
  labels = pipeline.segment(scan, found, BoxPainter())
  assert not labels.array.any() and labels.volumes_ml() == {"brain": 0.0}


def test_the_network_paints_what_templates_have_no_mask_of_and_only_where_they_left_room(scan, monkeypatch):
  painter, low, high = BoxPainter(), (2, 4, 4), (5, 9, 9)

  def by_templates(scan, boxes, crops, values, *_):
    array = np.zeros(scan.array.shape, np.uint8)
    array[3, 4:10, 4:10] = values["liver"]
    return array

  monkeypatch.setattr(pipeline, "paint_by_templates", by_templates)
  monkeypatch.setattr(pipeline, "predictor_of", lambda model, dtype=None: painter)
  findings = Findings({"liver": given("liver", 5, low, high), "lung": given("lung", 3, low, high)}, {"liver": ()})
  labels = pipeline.segment(scan, findings)
  alone = pipeline.segment(scan, {"lung": findings["lung"]}, painter)
  assert labels["lung"].any() and (alone["lung"] & labels["liver"]).any()
  np.testing.assert_array_equal(labels["liver"], by_templates(scan, {}, {}, labels.names) > 0)
  np.testing.assert_array_equal(labels["lung"], alone["lung"] & ~labels["liver"])


def test_clean_up_adds_to_the_settings(scan, monkeypatch):
  seen = []
  original = pipeline.paint_volume
  monkeypatch.setattr(pipeline, "paint_volume", lambda *a: (seen.append(a[4]), original(*a))[1])
  found = {"liver": given("liver", 5, (2, 4, 4), (5, 9, 9))}
  pipeline.segment(scan, found, BoxPainter(), clean_up=True)
  pipeline.segment(scan, found, BoxPainter(), settings="medlsam")
  assert seen[0].largest_component and seen[0].fill_holes and seen[0].margin_px == LITEMEDSAM.margin_px
  assert seen[1].margin_px == 10


def test_templates_masks_are_cleaned_by_the_settings_too(scan, monkeypatch):
  """As the command line asks for it; so does `clean_up`."""

  def in_two_pieces(scan, boxes, crops, values, *_):
    array = np.zeros(scan.array.shape, np.uint8)
    array[3, 4:10, 4:10] = array[5, 4, 4] = 5
    return array

  monkeypatch.setattr(pipeline, "paint_by_templates", in_two_pieces)
  findings = Findings({"liver": given("liver", 5, (2, 4, 4), (5, 9, 9))}, {"liver": ()})
  settings = dataclasses.replace(LITEMEDSAM, largest_component=True, fill_holes=True)
  whole = np.zeros(scan.array.shape, bool)
  whole[3, 4:10, 4:10] = True
  for given_so in ({"settings": settings}, {"clean_up": True}):
    np.testing.assert_array_equal(pipeline.segment(scan, findings, **given_so)["liver"], whole)
  assert pipeline.segment(scan, findings)["liver"][5, 4, 4]


def test_progress_is_told_of_every_slice(scan):
  told = []
  found = {"liver": given("liver", 5, (2, 4, 4), (5, 9, 9))}
  pipeline.segment(scan, found, BoxPainter(), progress=lambda done, total: told.append((done, total)))
  assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_painting_ends_at_the_first_slice_after_its_time(scan):
  painter, found = BoxPainter(), {"liver": given("liver", 5, (2, 4, 4), (5, 9, 9))}
  told = []
  with time_limit(0), pytest.raises(TimeLimitError, match=r"longer than 0 s .* 1 of 4 steps done"):
    pipeline.segment(scan, found, painter, progress=lambda *_: told.append(1))
  assert painter.slices < 4 and not told
  with time_limit(60):
    assert pipeline.segment(scan, found, painter)["liver"].any()
  assert pipeline.segment(scan, found, painter)["liver"].any()


def test_unknown_preset_is_refused(scan):
  with pytest.raises(ConfigError, match="preset 'sam' is unknown; choose litemedsam or medlsam"):
    pipeline.segment(scan, {}, BoxPainter(), settings="sam")


def test_one_label_value_for_two_organs_is_refused(scan):
  found = {"a": given("a", 5, (2, 4, 4), (5, 9, 9)), "b": given("b", 5, (2, 4, 4), (5, 9, 9))}
  with pytest.raises(InputError, match="same label value 5"):
    pipeline.segment(scan, found, BoxPainter())


@pytest.mark.parametrize("call", ["localize", "segment"])
def test_arrays_of_ones_own_are_checked_too(scan, call, unchecked_shapes):
  def run(volume):
    if call == "segment":
      return pipeline.segment(volume, {}, BoxPainter())
    return pipeline.localize(None, None, volume)

  spoilt = scan.array.copy()
  spoilt[0, 0, 0] = np.nan
  with pytest.raises(InputError, match=r"a_ct.nii.gz: 1 NaN"):
    run(Volume(spoilt, GRID, "a_ct.nii.gz"))
  with pytest.raises(InputError, match=r"a_ct.nii.gz: an array of 2 axes"):
    run(Volume(scan.array[0], GRID, "a_ct.nii.gz"))


def test_localization_network_cannot_paint(scan, small_network_file):
  with pytest.raises(WeightsError, match="cannot segment"):
    pipeline.segment(scan, {}, small_network_file)


def test_same_key_same_finding_and_given_starts_count(mini_templates, mini_queries, small_network_file):
  import medlsam_jax as ml

  network = ml.load(small_network_file)
  templates = ml.read_templates(mini_templates, ["alpha", "beta"])
  bank = ml.Bank.build(network, templates, mode="WPL")
  query = ml.read_volume(mini_queries / "q0_ct.nii.gz")
  first, second = (ml.localize(network, bank, query, key=3, organs=["beta"]) for _ in range(2))
  assert list(first) == ["beta"] and np.array_equal(first["beta"].points, second["beta"].points)
  starts = [[60, 60, 60], [62, 61, 60]]
  told = []
  third = ml.localize(network, bank, query, starts=starts, progress=lambda done, total: told.append((done, total)))
  assert list(third) == ["alpha", "beta"] and told[-1][0] == told[-1][1]
  assert third["beta"].points.shape == (1, 6, 3) and third["beta"].confidence.similarity is not None
  with pytest.raises(TemplateError, match="gamma"):
    ml.localize(network, bank, query, organs=["gamma"])
  with time_limit(0), pytest.raises(TimeLimitError, match="longer than 0 s"):
    ml.localize(network, bank, query)


EVERYTHING_IS_FOUND = Thresholds(
  similarity=-2, agent_spread_mm=1e9, template_spread_mm=1e9, outside_visible=-1, found_visible=0
)


def test_doubts_of_the_scan_reach_every_verdict_and_leave_the_points_alone(
  mini_templates, mini_queries, small_network_file
):
  import medlsam_jax as ml

  network = ml.load(small_network_file)
  bank = ml.Bank.build(network, ml.read_templates(mini_templates, ["alpha", "beta"]), mode="WPL")
  clean = dataclasses.replace(ml.read_volume(mini_queries / "q0_ct.nii.gz"), doubts=())
  doubtful = dataclasses.replace(clean, doubts=("its values are no HU", "it covers 40 mm along z only"))
  sure, unsure = (ml.localize(network, bank, scan, thresholds=EVERYTHING_IS_FOUND) for scan in (clean, doubtful))
  for organ in bank.organs:
    assert sure[organ].verdict == "found" and sure[organ].doubts == ()
    assert unsure[organ].verdict == "uncertain" and unsure[organ].doubts == doubtful.doubts
    assert np.array_equal(sure[organ].points, unsure[organ].points)


def test_doubts_of_the_scan_stand_before_those_of_the_search(mini_templates, mini_queries, small_network_file):
  import medlsam_jax as ml

  network = ml.load(small_network_file)
  bank = ml.Bank.build(network, ml.read_templates(mini_templates, ["alpha"])[:1], mode="WPL")
  scan = dataclasses.replace(ml.read_volume(mini_queries / "q0_ct.nii.gz"), doubts=("its values are no HU",))
  doubts = ml.localize(network, bank, scan, thresholds=EVERYTHING_IS_FOUND)["alpha"].doubts
  assert doubts[0] == "its values are no HU" and "one template alone" in doubts[1]


def test_a_network_compiles_its_programs_once_for_all_scans(scan):
  from sam_weights import tiny_network

  network = tiny_network()
  found = {"liver": given("liver", 5, (2, 4, 4), (3, 9, 9))}
  counts = []
  for _ in range(3):
    pipeline.segment(scan, found, network)
    counts.append(pipeline.predictor_of(network).compilations())
  assert counts[0] > 0 and counts == [counts[0]] * 3
  assert pipeline.predictor_of(tiny_network()) is not pipeline.predictor_of(network)


def test_each_device_has_a_predictor_of_its_own(monkeypatch):
  from sam_weights import tiny_network

  network, predictors = tiny_network(), []
  for name in ("gpu:0", "gpu:1", "gpu:0"):
    monkeypatch.setattr(pipeline, "device", lambda name=name: name)
    predictors.append(pipeline.predictor_of(network))
  assert predictors[0] is predictors[2] is not predictors[1]


def test_segmenting_a_second_scan_compiles_nothing(scan, compilations):
  from sam_weights import tiny_network

  network = tiny_network()
  found = {"liver": given("liver", 5, (2, 4, 4), (3, 9, 9))}
  pipeline.segment(scan, found, network)
  before = compilations.count
  assert before > 0
  pipeline.segment(scan, found, network)
  assert compilations.count == before


def test_operands_are_those_asked_for_or_the_fast_ones_where_masks_were_measured_with_them(monkeypatch):
  import dataclasses

  from sam_weights import tiny_network

  from medlsam_jax.sam import predictor

  network = tiny_network()
  assert pipeline.predictor_of(network).operands == "float32"
  assert pipeline.predictor_of(network, "bfloat16").operands == "bfloat16"
  assert pipeline.predictor_of(network) is pipeline.predictor_of(network, "float32")
  monkeypatch.setattr(predictor.platform, "fast_dtype", lambda: "bfloat16")
  assert predictor.operands_of(network) == "float32"
  measured = dataclasses.replace(network.module.variant, name="litemedsam")
  network = dataclasses.replace(network, module=network.module.clone(variant=measured))
  assert predictor.operands_of(network) == "bfloat16"
  assert pipeline.predictor_of(network).operands == "bfloat16"


def test_what_was_compiled_goes_with_its_network_and_no_copy_inherits_it():
  import dataclasses
  import gc
  import weakref

  from sam_weights import tiny_network

  network = tiny_network()
  predictor = weakref.ref(pipeline.predictor_of(network))
  assert not dataclasses.replace(network, variables=dict(network.variables)).ready
  del network
  gc.collect()
  assert predictor() is None


def test_a_label_value_that_no_label_map_holds_is_refused_by_organ(scan):
  with pytest.raises(InputError, match="organ liver: label value 4294967296"):
    pipeline.segment(scan, {"liver": given("liver", 2**32, (2, 4, 4), (3, 9, 9))}, BoxPainter())


def test_nothing_to_paint_gives_an_empty_map(scan):
  painter = BoxPainter()
  labels = pipeline.segment(scan, {}, painter)
  assert not labels.array.any() and dict(labels.names) == {} and labels.volumes_ml() == {} and painter.slices == 0
  every_way = PropagationSettings(mode="middle-out", axes="all")
  assert not pipeline.segment(scan, {}, painter, propagation=every_way, clean_up=True).array.any()


def test_swapped_corners_of_a_given_box_are_said(scan):
  found = {"liver": given("liver", 5, (5, 4, 9), (2, 9, 4))}
  with pytest.warns(UserWarning, match="a_ct.nii.gz: liver: the low and the high corner of a box are swapped"):
    swapped = pipeline.segment(scan, found, BoxPainter())
  straight = pipeline.segment(scan, {"liver": given("liver", 5, (2, 4, 4), (5, 9, 9))}, BoxPainter())
  np.testing.assert_array_equal(swapped.array, straight.array)
