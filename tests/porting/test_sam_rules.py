"""The table of the released LiteMedSAM file, by its names and shapes alone: no weights needed."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medlsam_jax.errors import WeightsError
from medlsam_jax.models.sam.sam import LITEMEDSAM, Sam
from medlsam_jax.porting.rules import shapes_of
from medlsam_jax.porting.sam import LITEMEDSAM_TABLE, MOBILESAM_TABLE, TABLES

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def template():
  key = jax.random.key(0)
  return shapes_of(jax.eval_shape(lambda: Sam(LITEMEDSAM).init(key, jnp.zeros((1, 256, 256, 3)), jnp.zeros((1, 4)))))


@pytest.fixture(scope="module")
def published():
  rng = np.random.default_rng(0)
  shapes = json.loads((GOLDEN / "litemedsam_names.json").read_text())
  return {name: rng.random(shape, dtype=np.float32) for name, shape in shapes.items()}


def test_released_names_fill_the_network_exactly_and_come_back(published, template):
  variables = LITEMEDSAM_TABLE.forward(published, template, "released")
  assert set(shapes_of(variables)) == set(template)
  back = LITEMEDSAM_TABLE.backward(variables)
  kept = {name for name in published if not name.endswith("num_batches_tracked")}
  assert set(back) == kept
  for name in kept:
    np.testing.assert_array_equal(back[name], published[name])


@pytest.mark.parametrize(
  "name", ["mask_decoder.iou_token.weight", "image_encoder.layers.2.blocks.3.local_conv.bn.running_var"]
)
def test_a_missing_tensor_is_refused_by_its_name_here(published, template, name):
  with pytest.raises(WeightsError, match=r"iou_token|stage2_block3\.local\.norm\.var"):
    LITEMEDSAM_TABLE.forward({k: v for k, v in published.items() if k != name}, template, "released")


def test_an_unknown_tensor_is_refused_by_name(published, template):
  with pytest.raises(WeightsError, match=r"image_encoder\.head\.weight"):
    LITEMEDSAM_TABLE.forward({**published, "image_encoder.head.weight": np.zeros((1, 1))}, template, "released")


def test_mobilesam_leaves_its_unused_classifier_behind(published, template):
  extra = {"image_encoder.head.weight": np.zeros((1, 1)), "image_encoder.norm_head.bias": np.zeros(1)}
  MOBILESAM_TABLE.forward({**published, **extra}, template, "released")


def test_every_table_is_found_by_its_kind():
  assert {kind: table.kind for kind, table in TABLES.items()} == {kind: kind for kind in TABLES}
