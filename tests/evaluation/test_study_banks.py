"""A choice of templates taken out of the bank of all of them is the bank that is built of the choice."""

import numpy as np
import pytest

from medlsam_jax.evaluation.study.settings import Boxes
from medlsam_jax.evaluation.study.work import Finder
from medlsam_jax.io.templates import read_templates
from medlsam_jax.loading import load
from medlsam_jax.medlam.bank.bank import Bank


@pytest.fixture(scope="module")
def network(small_network_file):
  return load(small_network_file)


def test_a_choice_of_templates_is_the_bank_built_of_it(network, mini_templates):
  templates = {each.name: each for each in read_templates(mini_templates)}
  finder = Finder(network, templates, ["alpha", "beta"])
  for names in (("t1",), ("t0", "t1")):
    chosen = finder.bank(Boxes("found", names))
    built = Bank.build(network, [templates[name] for name in names], "WPL", organs=["alpha", "beta"])
    assert chosen.organs.keys() == built.organs.keys() and chosen.templates == built.templates
    for organ in ("alpha", "beta"):
      one, other = chosen.organs[organ].arrays(), built.organs[organ].arrays()
      assert one.keys() == other.keys()
      for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-5, atol=1e-5)
