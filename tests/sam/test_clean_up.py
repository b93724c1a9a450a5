"""Clean-up of label maps."""

import numpy as np

from medlsam_jax.sam.clean_up import clean_labels


def test_only_the_largest_piece_of_each_label_stays():
  array = np.zeros((3, 6, 6), np.uint8)
  array[1, 1:4, 1:3] = 1
  array[0, 5, 5] = 1
  array[2, 5, 0:2] = 2
  array[2, 0, 5] = 2
  clean_labels(array, largest_component=True, fill_holes=False)
  assert (array == 1).sum() == 6 and (array == 2).sum() == 2 and array[0, 5, 5] == 0 and array[2, 0, 5] == 0


def test_holes_are_filled_but_another_organ_inside_stays():
  array = np.zeros((5, 7, 7), np.uint8)
  array[0:5, 1:6, 1:6] = 1
  array[2, 2, 2] = 0
  array[2, 4, 4] = 2
  clean_labels(array, largest_component=False, fill_holes=True)
  assert array[2, 2, 2] == 1 and array[2, 4, 4] == 2


def test_pieces_that_touch_at_a_corner_only_are_apart():
  array = np.zeros((1, 4, 4), np.uint8)
  array[0, 0:2, 0:2] = 1
  array[0, 2, 2] = 1
  clean_labels(array, largest_component=True, fill_holes=True)
  assert array[0, 2, 2] == 0 and (array == 1).sum() == 4


def test_an_empty_map_stays_empty():
  array = np.zeros((2, 3, 4), np.uint8)
  clean_labels(array, largest_component=True, fill_holes=True)
  assert not array.any()
