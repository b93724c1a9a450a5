import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from medlsam_jax.network import Network


def network(params, **fields):
  return Network(nn.Dense(2), {"params": params}, "medlam", "test", **fields)


PARAMS = {"b": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "a": {"bias": np.zeros(3, np.float32)}}


def test_params_are_the_trainable_collection():
  assert network(PARAMS).params is PARAMS


def test_hash_depends_on_the_weights_alone():
  reordered = {"a": PARAMS["a"], "b": {"kernel": jnp.asarray(PARAMS["b"]["kernel"])}}
  transposed_in_memory = PARAMS | {"b": {"kernel": np.asfortranarray(PARAMS["b"]["kernel"])}}
  one = network(PARAMS).sha256
  assert len(one) == 64
  assert network(reordered, header={"kind": "x"}).sha256 == one
  assert network(transposed_in_memory).sha256 == one


@pytest.mark.parametrize(
  "other",
  [
    PARAMS | {"a": {"bias": np.full(3, 1e-7, np.float32)}},
    PARAMS | {"a": {"bias": np.zeros((1, 3), np.float32)}},
    PARAMS | {"a": {"bias": np.zeros(3, np.int32)}},
    PARAMS | {"a": {"scale": np.zeros(3, np.float32)}},
    {"b": PARAMS["b"]},
  ],
)
def test_hash_changes_with_value_shape_dtype_and_name(other):
  assert network(other).sha256 != network(PARAMS).sha256


def test_hash_covers_statistics_beside_parameters():
  stats = {"batch_stats": {"a": {"mean": np.ones(1, np.float32)}}}
  both = Network(nn.Dense(2), {"params": PARAMS, **stats}, "medlam", "test")
  assert both.sha256 != network(PARAMS).sha256


def test_a_network_cannot_be_changed_in_place():
  with pytest.raises(dataclasses.FrozenInstanceError):
    network(PARAMS).kind = "other"
