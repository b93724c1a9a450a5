"""The accelerator's way through a search, taken on a CPU: scan on the device, patches together, calls under way."""

import dataclasses
from unittest import mock

import jax
import numpy as np
import pytest

from medlsam_jax import platform
from medlsam_jax.medlam.bank.bank import Bank
from medlsam_jax.medlam.search import calls, fine_step, patches, programs, search
from medlsam_jax.medlam.search.patches import Patches
from medlsam_jax.medlam.search.search_settings import PRESETS, SearchSettings
from medlsam_jax.working_grid import pad_for_patches

WAYS = {
  "exact": SearchSettings((4,), agents=2),
  "twice": SearchSettings((4,), agents=2, steps=2),
  "atlas": SearchSettings((4,), agents=2, shared_patches=True),
  "vote": SearchSettings((4,), agents=2, centred=True, templates="each"),
  "vote-fast": dataclasses.replace(PRESETS["vote-fast"], feature_scales=(4,), agents=2),
}


@pytest.fixture
def accelerator(monkeypatch):
  """Searches go as on a GPU, but for the convolutions of the network and the operands of `auto`."""
  monkeypatch.setattr(platform, "patches_together", lambda name=None: True)


def test_cubes_cut_on_the_device_are_those_of_the_host_beyond_the_scan_too(network):
  padded = pad_for_patches(np.random.default_rng(0).random((21, 45, 33), np.float32))
  prepared = dataclasses.replace(programs.prepare(network), patches_together=True)
  there = Patches.of(prepared, padded)
  assert there.on_device.shape == (32, 64, 64)
  low, high = np.zeros(3, int), np.array(padded.shape) - 1
  centres = np.stack([low, high, low + 32, high - 32, [3, 70, 40]])
  cubes = there.at(centres, 7)
  assert isinstance(cubes, jax.Array) and len(cubes) == 7
  np.testing.assert_array_equal(cubes[:5], patches.crop_patches(padded, centres))
  assert Patches.of(programs.prepare(network), padded).on_device is None


@pytest.mark.parametrize("way", WAYS)
def test_what_a_gpu_is_given_finds_what_a_cpu_finds(network, bank, make_template, accelerator, way):
  scan = make_template("q", 3, shape=(70, 60, 66)).scan
  there = search.find(network, bank, scan, settings=WAYS[way])
  with mock.patch.object(platform, "patches_together", lambda name=None: False):
    here = search.find(network, bank, scan, settings=WAYS[way])
  for organ, each in here.items():
    np.testing.assert_allclose(there[organ].points, each.points, atol=1e-4)
    assert there[organ].confidence.similarity == pytest.approx(each.confidence.similarity, abs=1e-6)


def test_a_bank_made_as_on_a_gpu_is_that_of_a_cpu(network, templates, bank, accelerator):
  progress = []
  there = Bank.build(network, templates, "WPL", convention="consistent", progress=lambda *pair: progress.append(pair))
  for organ, each in bank.organs.items():
    np.testing.assert_allclose(there.organs[organ].positions, each.positions, atol=1e-5)
    for stride, volume in each.features.items():
      np.testing.assert_allclose(there.organs[organ].features[stride], volume, atol=1e-4)
  assert progress[-1] == (18, 18) and len(progress) > 3


def watched(monkeypatch, names):
  """What happens in turn: programs that begin, and `fetch` where the host waits for the device."""
  seen = []

  def watch(name, function):
    return lambda *given, **named: seen.append(name) or function(*given, **named)

  for name in names:
    monkeypatch.setattr(programs, name, watch(name, getattr(programs, name)))
  monkeypatch.setattr(patches, "cut", watch("cut", patches.cut))
  monkeypatch.setattr(jax, "device_get", watch("fetch", jax.device_get))
  return seen


@pytest.mark.parametrize(("way", "program"), [("exact", "best_moves"), ("vote", "template_moves")])
def test_a_scan_is_uploaded_once_and_its_points_are_downloaded_once(
  network, bank, make_template, accelerator, monkeypatch, way, program
):
  scan = make_template("q", 3, shape=(70, 60, 66)).scan
  search.find(network, bank, scan, settings=WAYS[way])  # compiled, and the network on the device
  seen, uploaded = watched(monkeypatch, ("positions", program)), []
  put = jax.device_put
  monkeypatch.setattr(jax, "device_put", lambda x, *rest, **named: uploaded.append(x) or put(x, *rest, **named))
  with jax.transfer_guard("disallow"):
    search.find(network, bank, scan, settings=WAYS[way])
  assert seen == ["cut", "positions", "fetch", "cut", program, "cut", program, "fetch"]
  volumes = [x.shape for x in jax.tree.leaves(uploaded) if x.ndim == 3 and x.dtype == np.float32]
  assert volumes == [(96, 64, 96)]


def test_on_a_cpu_no_call_begins_before_the_one_before_is_fetched(network, bank, make_template, monkeypatch):
  seen = watched(monkeypatch, ("positions", "best_moves"))
  search.find(network, bank, make_template("q", 3).scan, settings=WAYS["exact"])
  assert seen == ["positions", "fetch", "best_moves", "fetch", "best_moves", "fetch"]


def test_some_calls_are_ahead_of_the_one_that_is_fetched(network, monkeypatch):
  prepared, seen = dataclasses.replace(programs.prepare(network), patches_together=True), []
  monkeypatch.setattr(jax, "device_get", lambda x: seen.append(f"fetch {x}") or x)
  got = list(calls.fetched(prepared, range(4), lambda item: seen.append(f"run {item}") or item, ahead=2))
  assert got == [(item, item) for item in range(4)]
  assert seen == ["run 0", "run 1", "run 2", "fetch 0", "run 3", "fetch 1", "fetch [2, 3]"]
  assert list(calls.fetched(prepared, [], lambda item: item)) == []


def test_scans_of_near_sizes_and_organs_of_any_number_share_the_programs(
  network, bank, make_template, accelerator, compilations
):
  settings = WAYS["exact"]
  search.find(network, bank, make_template("q", 3, shape=(70, 60, 66)).scan, settings=settings)
  first = compilations.count
  search.find(network, bank.subset(["liver"]), make_template("r", 4, shape=(81, 50, 70)).scan, settings=settings)
  assert compilations.count == first


def test_the_networks_weights_go_to_the_device_once(network, bank, make_template, monkeypatch):
  first = programs.prepare(network)
  monkeypatch.setattr(jax, "device_put", mock.Mock(side_effect=AssertionError("uploaded again")))
  again = programs.prepare(network, "bfloat16")
  assert again.variables is first.variables and again.dtype == "bfloat16"


def test_points_that_share_patches_are_compared_in_groups_that_fit(network, make_template, monkeypatch):
  """Whatever the size of a group, points settle at the same places."""
  monkeypatch.setattr(platform, "patches_together", lambda name=None: True)
  prepared = programs.prepare(network)
  there = Patches.of(prepared, pad_for_patches(np.random.default_rng(0).random((70, 60, 66), np.float32)))
  taps = {4: np.random.default_rng(1).standard_normal((9, 2, 2, 2, 8)).astype(np.float32)}
  targets, results = np.tile([[60, 60, 60]], (9, 1)), []
  settings = SearchSettings((4,), shared_patches=True)
  for held in (2**28, 1, 70 * 16**3):
    monkeypatch.setattr(programs, "MAPS_HELD", held)
    jax.clear_caches()
    results.append(fine_step.settle(prepared, there, targets, [taps], settings))
  for voxels, scores in results[1:]:
    np.testing.assert_array_equal(voxels, results[0][0])
    np.testing.assert_allclose(scores, results[0][1], rtol=1e-5)
