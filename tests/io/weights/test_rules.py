import numpy as np
import pytest

from medlsam_jax.errors import WeightsError
from medlsam_jax.io.weights.rules import (
  CONV2D,
  CONV3D,
  CONV_TRANSPOSE2D,
  IDENTITY,
  LINEAR,
  Rule,
  RuleTable,
  Skip,
  Transform,
  shapes_of,
)

TABLE = RuleTable(
  "toy",
  (
    Rule("blocks.{i}.conv{j}.weight", "params.block{i}.conv{j}.kernel", CONV2D),
    Rule("head.weight", "params.head.kernel", LINEAR),
    Rule("norm.running_mean", "batch_stats.norm.mean"),
  ),
  (Skip("norm.num_batches_tracked", "a counter"),),
)
TEMPLATE = {
  "params.block3.conv1.kernel": (5, 7, 2, 4),
  "params.head.kernel": (3, 2),
  "batch_stats.norm.mean": (6,),
}


def published():
  generator = np.random.default_rng(0)
  shapes = {"blocks.3.conv1.weight": (4, 2, 5, 7), "head.weight": (2, 3), "norm.running_mean": (6,)}
  tensors = {name: generator.random(shape, np.float32) for name, shape in shapes.items()}
  return tensors | {"norm.num_batches_tracked": np.array(7)}


def test_each_tensor_goes_to_its_place_in_its_layout():
  tensors = published()
  variables = TABLE.forward(tensors, TEMPLATE, "f.pth")
  kernel = variables["params"]["block3"]["conv1"]["kernel"]
  assert kernel[4, 6, 1, 3] == tensors["blocks.3.conv1.weight"][3, 1, 4, 6]
  assert variables["params"]["head"]["kernel"][2, 1] == tensors["head.weight"][1, 2]
  np.testing.assert_array_equal(variables["batch_stats"]["norm"]["mean"], tensors["norm.running_mean"])
  assert shapes_of(variables) == TEMPLATE


def test_going_back_gives_the_published_file_without_what_was_skipped():
  tensors = published()
  back = TABLE.backward(TABLE.forward(tensors, TEMPLATE, "f.pth"))
  del tensors["norm.num_batches_tracked"]
  assert set(back) == set(tensors)
  for name, tensor in tensors.items():
    np.testing.assert_array_equal(back[name], tensor)


def test_results_are_contiguous_float32_whatever_was_stored():
  tensors = {name: tensor.astype(np.float16) for name, tensor in published().items()}
  kernel = TABLE.forward(tensors, TEMPLATE, "f.pth")["params"]["head"]["kernel"]
  assert kernel.dtype == np.float32 and kernel.flags.c_contiguous


def test_a_name_without_a_rule_is_an_error():
  with pytest.raises(WeightsError, match=r"f\.pth.*toy.*names without a place: extra\.weight"):
    TABLE.forward(published() | {"extra.weight": np.ones(2)}, TEMPLATE, "f.pth")


def test_a_name_whose_target_the_network_lacks_is_an_error():
  with pytest.raises(WeightsError, match=r"without a place: blocks\.4\.conv1\.weight"):
    TABLE.forward(published() | {"blocks.4.conv1.weight": np.ones((4, 2, 5, 7))}, TEMPLATE, "f.pth")


def test_a_target_left_empty_is_an_error():
  tensors = published()
  del tensors["head.weight"]
  with pytest.raises(WeightsError, match=r"lacks: params\.head\.kernel"):
    TABLE.forward(tensors, TEMPLATE, "f.pth")


@pytest.mark.parametrize("shape", [(3, 2), (2, 4), (2,), (2, 3, 1), ()])
def test_a_shape_that_does_not_fit_is_an_error(shape):
  with pytest.raises(WeightsError, match=r"shapes that do not fit: head\.weight"):
    TABLE.forward(published() | {"head.weight": np.ones(shape)}, TEMPLATE, "f.pth")


def test_all_problems_are_in_one_message_and_long_lists_are_cut():
  tensors = published() | {f"extra{i}": np.ones(1) for i in range(9)} | {"head.weight": np.ones((9, 9))}
  del tensors["norm.running_mean"]
  with pytest.raises(WeightsError, match=r"extra5 and 3 more;.*batch_stats\.norm\.mean.*head\.weight") as caught:
    TABLE.forward(tensors, TEMPLATE, "f.pth")
  assert "extra6" not in str(caught.value)


def test_placeholders_stand_for_digits_only():
  with pytest.raises(WeightsError, match=r"without a place: blocks\.x\.conv1\.weight"):
    TABLE.forward(published() | {"blocks.x.conv1.weight": np.ones((4, 2, 5, 7))}, TEMPLATE, "f.pth")


def test_two_rules_for_one_name_or_one_target_are_a_defect_of_the_table():
  twice = RuleTable("toy", (Rule("a", "params.a"), Rule("{i}", "params.n{i}"), Rule("a", "params.b")))
  with pytest.raises(ValueError, match="more than one rule"):
    twice.forward({"a": np.ones(1)}, {"params.a": (1,), "params.b": (1,)}, "f.pth")
  merging = RuleTable("toy", (Rule("a", "params.a"), Rule("b", "params.a")))
  with pytest.raises(ValueError, match="filled twice"):
    merging.forward({"a": np.ones(1), "b": np.ones(1)}, {"params.a": (1,)}, "f.pth")


def test_going_back_is_strict_too():
  variables = TABLE.forward(published(), TEMPLATE, "f.pth")
  with pytest.raises(WeightsError, match=r"without a place: params\.new"):
    TABLE.backward({**variables, "params": {**variables["params"], "new": np.ones(1)}})
  template = {"head.weight": (2, 3), "norm.running_mean": (6,), "blocks.3.conv1.weight": (4, 2, 5, 7), "more": (1,)}
  with pytest.raises(WeightsError, match="names not made: more"):
    TABLE.backward(variables, template)


@pytest.mark.parametrize(
  ("transform", "published_shape", "shape"),
  [
    (IDENTITY, (2, 3), (2, 3)),
    (LINEAR, (2, 3), (3, 2)),
    (CONV2D, (2, 3, 5, 7), (5, 7, 3, 2)),
    (CONV3D, (2, 3, 5, 7, 9), (5, 7, 9, 3, 2)),
    (CONV_TRANSPOSE2D, (3, 2, 5, 7), (5, 7, 2, 3)),
    (Transform(lambda a: a + 1, lambda a: a - 1), (2,), (2,)),
  ],
)
def test_transforms_undo_themselves(transform, published_shape, shape):
  array = np.arange(np.prod(published_shape), dtype=np.float32).reshape(published_shape)
  assert transform.forward(array).shape == shape
  np.testing.assert_array_equal(transform.backward(transform.forward(array)), array)
