"""Arrays go to nninteractive-client and come from it as they are."""

import numpy as np
import pytest
from nnInteractive.inference.remote import serialization

from medlsam_jax.errors import InputError
from medlsam_jax.serve import wire

ARRAYS = [
  np.arange(24, dtype=np.int16).reshape(1, 2, 3, 4),
  np.random.default_rng(0).random((5, 7)).astype(np.float32),
  np.zeros((3, 5, 7), np.uint8),
  np.zeros((3, 5, 7), bool),
  np.asfortranarray(np.arange(12, dtype=np.int64).reshape(3, 4)),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype.name} {array.shape}")
def test_there_and_back(array):
  for pack, unpack in (
    (wire.packed, serialization.unpack_array),
    (serialization.pack_array, lambda body: wire.unpacked(body, 10**6)),
  ):
    back = unpack(pack(array))
    assert back.dtype == array.dtype and np.array_equal(back, array)


def test_arrays_of_several_pieces(monkeypatch):
  array = np.arange(100, dtype=np.int32)
  monkeypatch.setattr(wire, "_PIECE_BYTES", 64)
  assert np.array_equal(serialization.unpack_array(wire.packed(array)), array)
  assert np.array_equal(wire.unpacked(wire.packed(array), 100), array)


def test_nothing_is_allocated_for_a_shape_over_the_limit():
  body = wire.packed(np.zeros((10, 10), np.uint8))
  with pytest.raises(InputError, match="10x10 was sent, over the limit of 99"):
    wire.unpacked(body, 99)


def test_types_that_are_no_numbers():
  body = wire.packed(np.zeros(3, np.uint8)).replace(b"uint8", b"str_8")
  with pytest.raises(InputError, match="type 'str_8'"):
    wire.unpacked(body, 99)
