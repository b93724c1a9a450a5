"""A device whose memory does not suffice for six patches at once: fewer, the same result; in the end a named error."""

import warnings
from unittest import mock

import jax
import numpy as np
import pytest

from medlsam_jax.errors import DeviceError
from medlsam_jax.medlam.bank.bank import Bank
from medlsam_jax.medlam.search import programs, search
from medlsam_jax.medlam.search.search_settings import SearchSettings

LIVER = ((3, 4, 5), (16, 12, 14))
SETTINGS = SearchSettings((4,), agents=2)


@pytest.fixture
def memory(monkeypatch, network):
  """Of how many patches a call may be; the programs run where they fit."""
  allowed = {"patches": programs.POINTS_PER_CALL, "calls": []}

  def limited(program):
    def call(prepared, patches, *given):
      allowed["calls"].append(len(patches))
      if len(patches) > allowed["patches"]:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 123 bytes.")
      return program(prepared, patches, *given)

    return call

  for name in ("template_outputs", "best_moves", "template_moves"):
    monkeypatch.setattr(programs, name, limited(getattr(programs, name)))
  with mock.patch.dict(network.ready):  # other tests have memory again
    yield allowed


def test_a_search_with_little_memory_finds_the_same_with_fewer_patches_at_once(network, make_template, memory):
  bank = Bank.build(network, [make_template("a", liver=LIVER)], "WPL")
  scan = make_template("q", 3).scan
  ample = search.find(network, bank, scan, settings=SETTINGS)["liver"]
  memory["patches"] = 3
  with pytest.warns(UserWarning, match="from now on 3 patches go there at once, not 6"):
    scarce = search.find(network, bank, scan, settings=SETTINGS)["liver"]
  np.testing.assert_array_equal(scarce.points, ample.points)
  assert scarce.confidence.similarity == ample.confidence.similarity
  memory["calls"].clear()
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    search.find(network, bank, scan, settings=SETTINGS)
  assert set(memory["calls"]) == {3}, "the next scan tries six again"


def test_a_bank_built_with_little_memory_is_the_same(network, make_template, memory):
  templates = [make_template("a", liver=LIVER), make_template("b", 1, liver=LIVER)]
  ample = Bank.build(network, templates, "WPL").organs["liver"]
  memory["patches"] = 1
  with pytest.warns(UserWarning) as said:
    scarce = Bank.build(network, templates, "WPL").organs["liver"]
  assert ["on 3" in str(said[0].message), "on 1" in str(said[1].message), len(said)] == [True, True, 2]
  np.testing.assert_array_equal(scarce.positions, ample.positions)
  np.testing.assert_array_equal(scarce.features[4], ample.features[4])


def test_memory_for_no_patch_at_all_is_an_error_that_says_what_to_do(network, make_template, memory):
  memory["patches"] = 0
  with pytest.warns(UserWarning), pytest.raises(DeviceError, match=r"singly .*XLA_PYTHON_CLIENT_PREALL"):
    Bank.build(network, [make_template("a", liver=LIVER)], "WPL")


def test_another_error_of_a_program_is_not_taken_for_want_of_memory(network, make_template, monkeypatch):
  def broken(*_):
    raise jax.errors.JaxRuntimeError("INTERNAL: a kernel failed")

  monkeypatch.setattr(programs, "template_outputs", broken)
  with pytest.raises(jax.errors.JaxRuntimeError, match="a kernel failed"):
    Bank.build(network, [make_template("a", liver=LIVER)], "WPL")
