"""Programs of a search compiled beforehand; a CPU is made to go as an accelerator does."""

import dataclasses

import jax
import pytest

from medlsam_jax import platform
from medlsam_jax.errors import WeightsError
from medlsam_jax.medlam.bank.bank import edge_of
from medlsam_jax.medlam.search import programs, search
from medlsam_jax.medlam.search.rehearsal import of_search
from medlsam_jax.medlam.search.search_settings import PRESETS


@pytest.mark.parametrize("preset", ["exact", "vote-fast"])
def test_after_a_rehearsal_a_search_compiles_nothing(network, bank, make_template, monkeypatch, compilations, preset):
  monkeypatch.setattr(platform, "patches_together", lambda name=None: True)
  settings = dataclasses.replace(PRESETS[preset], feature_scales=(4,), agents=3)
  jax.clear_caches()
  of_search(network, settings, 2, edge_of(network)).wait()
  rehearsed = compilations.count
  assert rehearsed >= 3  # cut, positions and the fine step
  # as small as what is rehearsed with: patches are cut by a program that belongs to the size of the scan
  search.find(network, bank, make_template("q", 3, shape=(30, 32, 20)).scan, settings=settings)
  assert compilations.count == rehearsed


def test_on_a_cpu_nothing_is_done(network, monkeypatch):
  for name in ("prepare", "positions", "best_moves"):
    monkeypatch.setattr(programs, name, None)
  rehearsal = of_search(network, PRESETS["exact"], 1, 8)
  assert not rehearsal._begun
  rehearsal.wait()


def test_what_goes_wrong_is_left_for_the_search(network, monkeypatch):
  monkeypatch.setattr(platform, "patches_together", lambda name=None: True)
  rehearsal = of_search(dataclasses.replace(network, module=jax.nn.relu), PRESETS["exact"], 1, 8)
  rehearsal.wait()
  assert [type(each.exception()) for each in rehearsal._begun] == [WeightsError, WeightsError]
