"""What differs between two masks, and masks packed."""

import numpy as np
import pytest

from medlsam_jax.geometry import Box
from medlsam_jax.serve.mask_changes import Change, Packed


@pytest.fixture
def masks():
  first = np.zeros((5, 6, 7), bool)
  second = first.copy()
  first[1:3, 2, 3] = True
  second[2:4, 2:4, 3] = True
  return first, second


def test_a_change_is_the_new_mask_in_the_box_of_what_differs(masks):
  first, second = masks
  change = Change.of(second, first)
  assert change.box == Box((1, 2, 3), (3, 3, 3))
  first[change.where] = change.mask
  assert np.array_equal(first, second)


def test_no_change(masks):
  assert Change.of(masks[0], masks[0].copy()).box is None
  assert not Change.of(np.zeros((2, 2, 2), bool)).laid((2, 2, 2)).any()


def test_a_change_of_nothing_is_the_mask(masks):
  assert np.array_equal(Change.of(masks[1]).laid(masks[1].shape), masks[1])


def test_packed(masks):
  for mask in (*masks, np.zeros((3, 3, 3), bool), np.ones((3, 3, 3), bool)):
    assert np.array_equal(Packed.of(mask).unpacked(), mask)
  assert len(Packed.of(masks[0]).bits) == 1
