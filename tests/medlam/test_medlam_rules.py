from pathlib import Path

import jax
import numpy as np
import pytest

from medlsam_jax.errors import WeightsError
from medlsam_jax.io.weights.kinds import is_medlam
from medlsam_jax.io.weights.rules import shapes_of
from medlsam_jax.io.weights.torch_file import read_tensors
from medlsam_jax.medlam.network.medlam import MedLAM, init_variables
from medlsam_jax.medlam.network.published import TABLE, settings

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def tensors():
  return read_tensors(GOLDEN / "medlam_random.pth")


def template(**sizes):
  return shapes_of(jax.eval_shape(lambda: init_variables(MedLAM(**sizes), jax.random.key(0))))


def shapes(tensors):
  return {name: tensor.shape for name, tensor in tensors.items()}


def test_sizes_are_read_off_the_shapes(tensors):
  expected = {"kind": "medlam", "base_channels": "2", "patch_edge": "64", "working_grid": "published"}
  assert is_medlam(shapes(tensors))
  assert settings(shapes(tensors), "f.pth") == expected
  released = shapes(tensors) | {
    "conv0_1.model.conv1_1.Conv.weight": (48, 1, 3, 3, 3),
    "conv4_2.model.conv1_1.Conv.weight": (384, 192, 3, 3, 3),
    "fc1.weight": (192, 384 * 27),
  }
  assert settings(released, "f.pth") | {"base_channels": "24", "patch_edge": "48"} == settings(released, "f.pth")


@pytest.mark.parametrize(
  "change",
  [
    {"fc1.weight": (16, 2047)},
    {"fc1.weight": (16,)},
    {"conv0_1.model.conv1_1.Conv.weight": (4, 2, 3, 3, 3)},
    {"conv0_1.model.conv1_1.Conv.weight": (5, 1, 3, 3, 3)},
    {"conv4_2.model.conv1_1.Conv.weight": (16, 16, 3, 3, 3)},
    {"conv4_2.model.conv1_1.Conv.weight": ()},
  ],
)
def test_sizes_that_no_medlam_has_are_refused(tensors, change):
  with pytest.raises(WeightsError, match=r"f\.pth: named like MedLAM"):
    settings(shapes(tensors) | change, "f.pth")


def test_every_tensor_finds_its_place_and_its_layout(tensors):
  variables = TABLE.forward(tensors, template(base_channels=2), "f.pth")
  kernel = variables["params"]["conv5"]["first"]["kernel"]
  assert kernel.shape == (3, 3, 3, 48, 16)
  assert kernel[0, 1, 2, 40, 7] == tensors["conv5_1.model.conv1_1.Conv.weight"][7, 40, 0, 1, 2]
  assert variables["params"]["fc1"]["kernel"][1000, 3] == tensors["fc1.weight"][3, 1000]
  assert variables["params"]["classification"]["kernel"].shape == (1, 1, 1, 8, 3)
  assert len(jax.tree.leaves(variables)) == len(tensors) == 44


def test_going_back_gives_the_published_tensors(tensors):
  variables = TABLE.forward(tensors, template(base_channels=2), "f.pth")
  back = TABLE.backward(variables, shapes(tensors))
  for name, tensor in tensors.items():
    np.testing.assert_array_equal(back[name], tensor)


def test_a_network_of_another_width_is_not_filled(tensors):
  with pytest.raises(WeightsError, match="shapes that do not fit"):
    TABLE.forward(tensors, template(base_channels=3), "f.pth")
