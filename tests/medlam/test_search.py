import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from medlsam_jax.errors import ConfigError, InputError, TemplateError, WeightsError
from medlsam_jax.geometry import Volume
from medlsam_jax.io import nifti
from medlsam_jax.io.templates import Template
from medlsam_jax.medlam.bank.bank import Bank
from medlsam_jax.medlam.bank.leave_one_out import leave_one_out
from medlsam_jax.medlam.search import calls, confidence, doubt, fine_step, patches, programs, search, sharing
from medlsam_jax.medlam.search.patches import Patches
from medlsam_jax.medlam.search.search_settings import PRESETS, SearchSettings
from medlsam_jax.working_grid import pad_for_patches, to_working_grid

GOLDEN = Path(__file__).parents[1] / "golden"
LIVER = ((3, 4, 5), (16, 12, 14))
KIDNEY = ((20, 8, 4), (23, 12, 9))
HEAD_ONLY = SearchSettings(feature_scales=(), agents=1)
"""The cheapest search: what surrounds the fine step is tested with it."""


def _compare(network, folder, template_names, expected) -> None:
  """Bank of the templates, then every query from the same starts, against the published program's results."""
  values = {value: int(value) for value in expected["support_position"]}
  templates = [
    Template(
      name,
      nifti.read_nifti(folder / f"{name}_ct.nii.gz"),
      nifti.read_label_nifti(folder / f"{name}_seg.nii.gz"),
      values,
      {},
    )
    for name in template_names
  ]
  is_cut = any(len(next(iter(r["extreme"].values()))) > 1 for r in expected["results"].values())
  bank = Bank.build(network, templates, "SPL" if is_cut else "WPL", 12.0, convention="published")
  for organ, positions in expected["support_position"].items():
    found = bank.organs[organ]
    assert np.allclose(found.mean_positions[found.faces.reshape(-1)], positions, atol=2e-5)
  for file, result in expected["results"].items():
    scan = nifti.read_nifti(folder / file)
    findings = search.find(network, bank, scan, starts=result["starts_padded_zyx"])
    same = []
    for organ, points in result["extreme"].items():
      found = findings[organ]
      voxels_per_mm = 3.0 / scan.spacing_mm
      assert found.points.shape == np.shape(points)
      assert np.all(np.abs(found.points - points) <= np.maximum(np.ceil(voxels_per_mm), 1))
      same.extend((found.points == points).all(-1).ravel())
      if (found.points == points).all():
        assert np.array_equal([box.array() for box in found.parts], result["corner"][organ])
    assert np.mean(same) >= 0.95


def _golden(name: str) -> dict:
  return json.loads((GOLDEN / name).read_text())


@pytest.mark.slow
def test_whole_organs_of_the_mini_scans_equal_the_published_program(network):
  _compare(network, GOLDEN / "mini", ("t0", "t1"), _golden("mini/localize_wpl.json"))


@pytest.mark.slow
def test_parts_of_the_mini_scans_equal_the_published_program(network):
  _compare(network, GOLDEN / "mini", ("t0", "t1"), _golden("mini/localize_spl.json"))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["wpl", "spl"])
def test_virtual_patients_equal_the_published_program(network, mode):
  folder = GOLDEN.parents[2] / "shared" / "data" / "torso"
  if not folder.is_dir():
    pytest.skip(f"{folder} is not beside this checkout")
  _compare(network, folder, ("case_000", "case_002"), _golden(f"localize_{mode}.json"))


@pytest.fixture(scope="module")
def bank(network, templates) -> Bank:
  return Bank.build(network, templates, "WPL")


def test_one_compilation_serves_scans_and_banks_of_any_shape(network, bank, make_template, compilations):
  settings = SearchSettings(feature_scales=(4,), agents=2)
  search.find(network, bank.subset(["kidney"]), make_template("q", 3).scan, settings=settings)
  first = compilations.count
  found = search.find(network, bank, make_template("r", 4, shape=(70, 40, 33)).scan, key=5, settings=settings)
  assert first > 0
  assert compilations.count == first
  assert [f.points.shape for f in found.values()] == [(1, 6, 3), (1, 6, 3)]


def test_the_same_key_finds_the_same_and_another_starts_elsewhere(network, bank, templates):
  scan = templates[0].scan
  by_key = [search.find(network, bank, scan, key=k, settings=HEAD_ONLY)["liver"].points for k in (1, 1, 2)]
  assert np.array_equal(by_key[0], by_key[1])
  assert not np.array_equal(by_key[0], by_key[2])


def test_starts_are_tissue_around_the_middle_and_follow_the_key():
  padded = np.zeros((80, 90, 101), np.float32)
  padded[40:45, 40:60, 45:61] = 0.5
  for key in (0, 7, jax.random.key(3), jax.random.PRNGKey(3)):
    starts = search.draw_starts(padded, key, 200)
    assert starts.shape == (200, 3)
    assert np.all(padded[tuple(starts.T)] > 0)
    assert starts.min(0).tolist() == [40, 40, 45] and starts.max(0).tolist() == [44, 54, 59]
  assert np.array_equal(search.draw_starts(padded, 7, 5), search.draw_starts(padded, 7, 5))


def test_a_scan_of_nothing_but_air_ends_with_a_message_that_names_it(network, bank, make_template):
  scan = make_template("q").scan
  empty = dataclasses.replace(scan, array=np.full_like(scan.array, -1000), source="chest.nii.gz")
  with pytest.raises(InputError, match=r"chest\.nii\.gz: nothing but air"):
    search.find(network, bank, empty)


def test_starts_that_are_no_voxels_of_the_padded_grid_are_refused(network, bank, make_template):
  scan = make_template("q").scan
  for starts in ([[1, 2]], [[0, 0, 400]], [[-1, 40, 40]], np.zeros((0, 3))):
    with pytest.raises(InputError, match="start"):
      search.find(network, bank, scan, starts=starts)


def test_the_bank_of_another_network_is_refused_before_searching(other_network, bank, make_template):
  with pytest.raises(TemplateError, match="another network"):
    search.find(other_network, bank, make_template("q").scan)


def test_a_network_of_another_kind_is_refused(network, bank, make_template):
  sam = dataclasses.replace(network, module=jax.nn.relu, kind="litemedsam", source="lite.safetensors")
  with pytest.raises(WeightsError, match=r"lite\.safetensors: litemedsam"):
    search.find(sam, bank, make_template("q").scan)


def test_a_scan_on_the_other_working_grid_is_refused(network, bank, make_template):
  other = to_working_grid(make_template("q").scan, "consistent")
  with pytest.raises(ConfigError, match="consistent"):
    search.find(network, bank, other)


@pytest.mark.parametrize(
  "wrong",
  [
    {"feature_scales": (8,)},
    {"steps": 0},
    {"agents": 0},
    {"finest_stride": 3},
    {"dtype": "float16"},
    {"templates": "each"},
    {"shapes": True, "centred": True},
    {"templates": "one", "centred": True},
    {"shared_patches": True, "organ_patches": True},
    {"reach_mm": 1.0},
    {"softness": 0.0},
  ],
)
def test_settings_that_mean_nothing_are_refused(wrong):
  with pytest.raises(ConfigError):
    SearchSettings(**wrong)


def test_without_feature_scales_the_coarse_targets_are_the_result(network, bank, templates):
  found = search.find(network, bank, templates[0].scan, settings=HEAD_ONLY)["liver"]
  assert found.confidence.similarity is None
  assert np.array_equal(found.points, found.confidence.targets)


def test_templates_at_the_query_itself_are_sent_to_their_own_points(network, bank, templates):
  """A template searched by itself alone, from one of its points: the offset there is 0 by construction."""
  alone = bank.without("b")
  organ = alone.organs["liver"]
  point = np.array([3, 8, 9])
  padded = pad_for_patches(to_working_grid(templates[0].scan, "published").intensity)
  here = np.asarray(programs.positions(programs.prepare(network), patches.crop_patches(padded, point[None] + 32)))
  organ = dataclasses.replace(organ, positions=np.tile(here, (1, 6, 1)))
  alone = dataclasses.replace(alone, organs={"liver": organ})
  found = search.find(network, alone, templates[0].scan, starts=point[None] + 32, settings=HEAD_ONLY)["liver"]
  assert np.array_equal(found.points[0], np.tile(point, (6, 1)))
  assert found.confidence.agent_spread_mm == 0
  assert found.confidence.template_spread_mm is None


def test_a_second_step_searches_from_where_the_first_one_ended(network, bank, make_template, monkeypatch):
  centres = []
  crop = patches.crop_patches

  def spy(padded, where):
    centres.append(np.array(where))
    return crop(padded, where)

  monkeypatch.setattr(patches, "crop_patches", spy)
  monkeypatch.setattr(
    programs, "best_moves", lambda network, cubes, used, *_: (np.full((*used.shape, 3), 2), np.full(used.shape, 0.5))
  )
  progress = []
  found = search.find(
    network,
    bank.subset(["kidney"]),
    make_template("q", shape=(90, 90, 90)).scan,
    settings=SearchSettings(steps=2, agents=2),
    progress=lambda done, total: progress.append((done, total)),
  )
  low, high = 32, 90 + 64 - 33
  assert np.array_equal(centres[2], np.clip(centres[1] + 2, low, high))
  assert np.array_equal(centres[1], np.clip(centres[1], low, high))
  assert progress == [(6, 12), (12, 12)]
  assert found["kidney"].confidence.similarity == 0.5


def test_shared_patches_are_as_many_as_tile_the_scan_whatever_the_number_of_points():
  shape = (64 + 122, 64 + 101, 64 + 112)
  points = np.random.default_rng(0).integers(-20, 250, (3000, 3))
  inside = np.clip(points, 32, np.array(shape) - 33)
  assert len(np.unique(calls.patch_centres(points, shape, PRESETS["fast"], [3000]), axis=0)) > 1000
  for count in (1, 60, 600, 3000):
    centres = calls.patch_centres(points[:count], shape, PRESETS["atlas"], [count])
    assert len(np.unique(centres, axis=0)) <= 4 * 3 * 3
    assert np.all(centres >= 32) and np.all(centres <= np.array(shape) - 33)
    assert np.abs(centres - inside[:count]).max() <= sharing.TILE_VOX // 2 + 1


def test_few_points_share_a_patch_only_with_near_ones():
  shape, points = (200, 200, 200), np.array([[60, 60, 60], [66, 72, 60], [60, 60, 120], [60, 73, 60]])
  centres = calls.patch_centres(points, shape, PRESETS["atlas"], [4])
  assert np.abs(centres - points).max() <= sharing.LEAST_REACH
  assert np.array_equal(centres[2], points[2])
  assert len(np.unique(centres, axis=0)) == 3


def test_points_that_share_a_patch_settle_as_with_patches_of_their_own(network, make_template):
  """All targets in one place, more of them than a shared patch takes at once."""
  scan = make_template("q", shape=(70, 60, 66)).scan
  prepared = programs.prepare(network)
  there = Patches.of(prepared, pad_for_patches(to_working_grid(scan, "published").intensity))
  centre = np.array([[60, 60, 60]])
  count = calls.POINTS_PER_SHARED_PATCH + 3
  taps = {4: np.random.default_rng(0).standard_normal((count, 2, 2, 2, 8)).astype(np.float32)}
  # half of those that share lie on one side of the centre and half on the other, and settle as from the centre itself
  aside = np.where(np.arange(count)[:, None] % 2, 3, -3)
  alone, shared = (
    fine_step.settle(prepared, there, centre + moved, [taps], SearchSettings((4,), shared_patches=share))
    for share, moved in ((False, 0 * aside), (True, aside))
  )
  np.testing.assert_array_equal(alone[0], shared[0])
  np.testing.assert_allclose(alone[1], shared[1], rtol=1e-5)
  assert len(np.unique(alone[0], axis=0)) > 3


def test_the_fast_presets_leave_out_full_resolution_and_atlas_shares_patches():
  assert PRESETS["exact"] == SearchSettings()
  assert PRESETS["exact"].scales((4, 2, 1)) == (4, 2, 1)
  assert PRESETS["fast"].scales((4, 2, 1)) == PRESETS["atlas"].scales((4, 2, 1)) == (4, 2)
  assert PRESETS["fast"].operands == ("float32" if jax.default_backend() == "cpu" else "bfloat16")
  with pytest.raises(ConfigError, match="finer than 2"):
    PRESETS["fast"].scales((1,))
  assert PRESETS["atlas"].shared_patches and not PRESETS["fast"].shared_patches


def test_scans_and_organs_of_any_number_and_size_share_the_compiled_programs(network, bank, make_template):
  settings = PRESETS["exact"]
  searched = (programs.positions, programs.best_moves)
  search.find(network, bank, make_template("first", shape=(70, 60, 66)).scan, settings=settings)
  before = [program._cache_size() for program in searched]
  search.find(network, bank.subset(["liver"]), make_template("second", shape=(90, 80, 71)).scan, settings=settings)
  assert [program._cache_size() for program in searched] == before


def test_a_crop_beyond_the_scan_is_filled_with_zeros():
  padded = np.arange(70.0**3, dtype=np.float32).reshape(70, 70, 70) + 1
  inside, beyond = patches.crop_patches(padded, np.array([[33, 34, 35], [10, 35, 69]]))
  assert np.array_equal(inside[..., 0], padded[1:65, 2:66, 3:67])
  assert np.array_equal(beyond[22:, :, :33, 0], padded[:42, 3:67, 37:])
  assert not beyond[:22].any() and not beyond[:, :, 33:].any()


@pytest.mark.parametrize("together", [False, True])
def test_padding_of_a_batch_changes_nothing_and_is_skipped(network, templates, together):
  prepared = dataclasses.replace(programs.prepare(network), patches_together=together)
  cubes = patches.crop_patches(pad_for_patches(templates[0].scan.array), np.array([[40, 40, 40]]))
  used = np.array([True, False])
  position, taps = programs.template_outputs(prepared, patches.pad_batch(cubes, 2), used, (4,), 8)
  assert np.asarray(position)[0].any() and not np.asarray(position)[1].any()
  assert not np.asarray(taps[4])[1].any()


def test_each_template_is_searched_with_the_others_and_only_for_what_they_know(network, bank, templates):
  found = dict((t.name, f) for t, f in leave_one_out(network, bank, templates, settings=HEAD_ONLY))
  assert {name: list(f) for name, f in found.items()} == {"a": ["liver"], "b": ["liver"]}
  with pytest.raises(TemplateError, match="built from b"):
    next(leave_one_out(network, bank, templates[:1]))
  with pytest.raises(TemplateError, match="one template"):
    next(leave_one_out(network, bank.without("b"), templates))


def test_a_scan_smaller_than_the_reach_of_the_starts_is_searched(network, bank, make_template):
  scan = make_template("q", shape=(12, 9, 10)).scan
  assert isinstance(scan, Volume)
  found = search.find(network, bank, scan, settings=HEAD_ONLY)
  assert np.all(np.isfinite(found["liver"].points))


def test_a_start_that_was_moved_is_among_the_doubts_of_every_organ(network, bank, make_template):
  coarse = SearchSettings(feature_scales=(), agents=2)
  scan = make_template("q", shape=(90, 60, 60)).scan
  half = scan.array.copy()
  half[20:] = -1000
  with pytest.warns(UserWarning, match="nothing but air"):
    moved = search.find(network, bank, dataclasses.replace(scan, array=half), settings=coarse)
  assert all("the search started in the body" in found.doubts[-1] for found in moved.values())
  usual = search.find(network, bank, scan, settings=coarse)
  assert not any("started" in doubt for found in usual.values() for doubt in found.doubts)


def test_a_calibrated_network_judges_by_its_header_and_looks_again_at_doubtful_scans(
  network, bank, make_template, monkeypatch
):
  looked = []

  def look(self, padded, starts, progress=None):
    looked.append(padded)
    return whole(self, padded, starts, progress)

  whole = search._Search.__call__
  monkeypatch.setattr(search._Search, "__call__", look)
  scan = make_template(liver=LIVER).scan
  plain = search.find(network, bank, scan, settings=HEAD_ONLY)
  assert len(looked) == 1 and plain["liver"].confidence.right_probability is None
  for bias, times, verdict in ((9.0, 1, "found"), (-9.0, 3, "uncertain")):
    looked.clear()
    model = doubt.Logistic((), (), (), (), bias)
    header = doubt.Calibration(model, dataclasses.replace(model, bias=-9.0), 0.9, 0.5, 0.1).to_header()
    known = dataclasses.replace(network, header=network.header | header)
    found = search.find(known, bank, scan, settings=HEAD_ONLY, thresholds=confidence.Thresholds(found_visible=0.0))
    assert len(looked) == times and found["liver"].verdict == verdict
    np.testing.assert_array_equal(found["liver"].points, plain["liver"].points)
  np.testing.assert_array_equal(looked[1], looked[0][::-1])
  np.testing.assert_array_equal(looked[2], looked[0][:, :, ::-1])
