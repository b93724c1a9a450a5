"""Adapter files hold the trained parameters alone, and serve their own base alone."""

import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors import safe_open
from tiny_sam3d import ON_VIT, VIT, base, made_up

from medlsam_jax.errors import WeightsError
from medlsam_jax.io.weights.weights_file import read_weights, write_weights
from medlsam_jax.sam3d import parameters
from medlsam_jax.sam3d.adapter_file import read_adapters, write_adapters


@pytest.fixture(scope="module")
def trained():
  return parameters.split(made_up(parameters.shapes(ON_VIT), 7))[0]


@pytest.fixture
def file(trained, tmp_path):
  path = tmp_path / "adapters.safetensors"
  write_adapters(path, ON_VIT, trained, base(VIT), {"trained_steps": "12"})
  return path


def test_a_file_gives_back_the_network_with_its_base(file, trained):
  adapted = read_adapters(file, base(VIT))
  assert adapted.module.variant == ON_VIT.variant and adapted.header["trained_steps"] == "12"
  for name, leaf in flatten_dict(trained, sep="/").items():
    np.testing.assert_array_equal(flatten_dict(adapted.trained, sep="/")[name], leaf)
  expected = parameters.split(parameters.base_params(ON_VIT, base(VIT)))[1]
  assert jax.tree.all(jax.tree.map(np.array_equal, adapted.frozen, expected))


def test_a_file_holds_trained_arrays_alone_and_names_its_base(file, trained):
  with safe_open(file, "numpy") as opened:
    stored, header = set(opened.keys()), opened.metadata()
  assert stored == {f"params.{name}" for name in flatten_dict(trained, sep=".")}
  assert header["base_sha256"] == base(VIT).sha256 and header["base_kind"] == "sam-tiny"
  assert json.loads(header["sizes"])["taps"] == [0, 1, 2, 3]
  assert file.stat().st_size < 1.3 * sum(4 * leaf.size for leaf in jax.tree.leaves(trained))


def test_another_base_is_refused_and_the_user_told_which_it_was(file):
  with pytest.raises(WeightsError) as error:
    read_adapters(file, base(VIT, seed=9))
  for words in (str(file), base(VIT).sha256[:16], base(VIT, seed=9).sha256[:16], "give those weights, or adapters"):
    assert words in str(error.value)


def test_without_adapters_nothing_is_made_up():
  with pytest.raises(WeightsError, match=r"sam-tiny\.safetensors by itself has no weights for volumes: give trained"):
    read_adapters(None, base(VIT))


def test_other_weights_are_no_adapters(tmp_path):
  path = tmp_path / "other.safetensors"
  write_weights(path, base(VIT).variables, {"kind": "sam-vit-b"})
  with pytest.raises(WeightsError, match="weights of a sam-vit-b network; give an adapter file"):
    read_adapters(path, base(VIT))


@pytest.mark.parametrize("damage", ["lacks one", "another shape", "a frozen one"])
def test_parameters_that_do_not_fit_are_named(file, damage):
  variables, header = read_weights(file)
  params = variables["params"]
  if damage == "lacks one":
    del params["prompts"]["labels"]
  elif damage == "another shape":
    params["prompts"]["labels"] = np.zeros((2, 16), np.float32)
  else:
    params["encoder"]["position"] = np.zeros((1, 8, 8, 32), np.float32)
  write_weights(file, variables, {k: v for k, v in header.items() if k != "format"})
  name = "encoder/position" if damage == "a frozen one" else "prompts/labels"
  with pytest.raises(WeightsError, match=f"does not hold the trained parameters of sam3d-tiny: {name}"):
    read_adapters(file, base(VIT))
  with pytest.raises(ValueError, match=name):
    write_adapters(file, ON_VIT, params, base(VIT), {})


@pytest.mark.parametrize("sizes", ["{}", "[1]", "nonsense", '{"taps": [0], "name": "x"}', '{"taps": null}'])
def test_a_damaged_header_is_said_to_be_one(file, sizes):
  variables, header = read_weights(file)
  write_weights(file, variables, {**{k: v for k, v in header.items() if k != "format"}, "sizes": sizes})
  with pytest.raises(WeightsError, match="does not give the sizes"):
    read_adapters(file, base(VIT))
