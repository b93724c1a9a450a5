"""Lines of ways beside each other, worked out by hand."""

import dataclasses

import numpy as np
import pytest

from medlsam_jax.evaluation.compared import MEAN, compared_lines, paired_p


@dataclasses.dataclass
class Row:
  scan: str
  way: str
  organ: str
  failure: str = ""
  iou: float | None = None
  dice: float | None = None


def lines(rows, *ways, **more):
  return {(line["way"], line["organ"]): line for line in compared_lines(rows, ways, ("iou", "dice"), **more)}


def test_several_rows_of_a_label_count_as_their_mean_and_as_rows_that_may_fail():
  rows = [
    Row("p", "one", "liver", iou=0.2), Row("p", "one", "liver", "no finding", iou=0.0),
    Row("q", "one", "liver", iou=0.7),
    Row("p", "three", "liver", iou=0.4), Row("q", "three", "liver", iou=0.8),
  ]  # fmt: skip
  said = lines(rows, "one", "three")
  one, three = said["one", "liver"], said["three", "liver"]
  assert (one["people"], one["n"], one["failed"], one["iou"]) == (2, 3, 1, pytest.approx((0.1 + 0.7) / 2))
  assert three["iou_less_first"] == pytest.approx(0.2) and "dice" not in three and "iou_less_first" not in one
  assert (one["iou_low"], one["iou_high"]) == pytest.approx((0.1, 0.7))


def test_a_metric_that_an_organ_lacks_leaves_it_out_of_that_mean_alone():
  rows = [Row("p", "w", "liver", iou=0.2, dice=0.4), Row("p", "w", "spleen", iou=0.6)]
  mean = lines(rows, "w")["w", MEAN]
  assert mean["iou"] == pytest.approx(0.4) and mean["dice"] == pytest.approx(0.4) and mean["n"] == 2


def test_the_paired_test_asks_people_and_not_labels():
  # five people better by 1 to 5: of the 32 sign patterns two are as far from even, whatever their labels
  table = np.arange(1.0, 6)[:, None] * np.array([[1.0, np.nan, 1.0]])
  assert paired_p(table) == pytest.approx(2 / 32)
  assert paired_p(np.zeros((4, 2))) == 1.0
  assert paired_p(np.array([[0.5, 0.2], [np.nan, np.nan]])) is None
