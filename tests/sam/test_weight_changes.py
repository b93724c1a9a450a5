"""Changes beside the weights that they are made to: given back as far as their rank reaches, and refused by others."""

import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from medlsam_jax import loading
from medlsam_jax.errors import WeightsError
from medlsam_jax.io.weights.weights_file import write_weights
from medlsam_jax.loading import CHANGES_OF, load
from medlsam_jax.sam.weight_changes import changed, changes


@pytest.fixture
def before():
  rng = np.random.default_rng(0)
  shapes = {"kernel": (2, 2, 8, 24), "bias": (24,), "still": (4, 4)}
  return {"params": {"part": {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}}}


def test_a_change_of_that_rank_comes_back_whole_and_another_as_near_as_can_be(before):
  rng, part = np.random.default_rng(1), before["params"]["part"]
  low = (rng.normal(size=(32, 2)) @ rng.normal(size=(2, 24))).astype(np.float32)
  tuned = {**part, "kernel": part["kernel"] + low.reshape(2, 2, 8, 24), "bias": part["bias"] + 1}
  after = {"params": {"part": tuned}}
  kept = changes(before, after, 2)["params"]["part"]
  assert set(kept) == {"kernel", "bias"} and kept["bias"]["whole"].dtype == np.float16
  assert {name: array.shape for name, array in kept["kernel"].items()} == {"down": (32, 2), "up": (2, 24)}
  again = changed(before, {"params": {"part": kept}}, "file")["params"]["part"]
  for name in part:
    np.testing.assert_allclose(again[name], tuned[name], atol=0.02)
  nearest = changed(before, changes(before, after, 1), "file")["params"]["part"]["kernel"]
  error = np.linalg.norm(nearest - tuned["kernel"])
  assert error == pytest.approx(np.linalg.svd(low, compute_uv=False)[1], rel=0.01)
  assert "whole" in changes(before, after, 14)["params"]["part"]["kernel"]  # 14 * (32 + 24) > 32 * 24


@pytest.mark.parametrize(
  "kept",
  [{"other": {"whole": np.zeros(24)}}, {"bias": {"whole": np.zeros(23)}}, {"bias": {"down": np.zeros((1, 1))}}],
)
def test_changes_of_other_tensors_are_refused(before, kept):
  with pytest.raises(WeightsError, match=r"a\.changes: its change of params/part/"):
    changed(before, {"params": {"part": kept}}, "a.changes")


def test_a_file_of_changes_is_loaded_where_its_weights_are(tmp_path):
  shapes = loading._template(loading._module_of({"kind": "litemedsam"}, "x"))
  rng = np.random.default_rng(0)
  flat = {name: rng.normal(0, 0.01, shape).astype(np.float32) for name, shape in shapes.items()}
  name = "params.prompt_encoder.no_mask"
  before, after = (unflatten_dict({**flat, name: flat[name] + more}, sep=".") for more in (0, 1))
  base, small = tmp_path / "base.safetensors", tmp_path / "a.changes.safetensors"
  write_weights(base, before, {"kind": "litemedsam", "source_sha256": "1"})
  network = load(base, for_training=True)
  header = {"kind": "litemedsam", CHANGES_OF: str(base), f"{CHANGES_OF}_sha256": network.sha256, "window_cells": "32"}
  write_weights(small, changes(before, after, 2), header)
  tuned = load(small, for_training=True)
  np.testing.assert_allclose(tuned.params["prompt_encoder"]["no_mask"], flat[name] + 1, atol=1e-3)
  assert tuned.header["window_cells"] == "32" and tuned.header["source_sha256"] == "1"
  assert tuned.sha256 != network.sha256
  write_weights(base, after, {"kind": "litemedsam"})
  with pytest.raises(WeightsError, match=r"changes of other weights than .*base.safetensors has here"):
    load(small)
  base.unlink()
  with pytest.raises(WeightsError, match=r"base.safetensors: no such file"):
    load(small)
