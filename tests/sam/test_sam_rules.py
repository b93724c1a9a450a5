"""The tables of the released SAM family, by names and shapes of their files alone: no weights needed."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sam_weights import published_shapes

from medlsam_jax.errors import WeightsError
from medlsam_jax.io.weights import rules
from medlsam_jax.io.weights.kinds import detect_kind, settle_kind
from medlsam_jax.io.weights.rules import shapes_of
from medlsam_jax.sam.network.published import LITEMEDSAM_TABLE, MOBILESAM_TABLE, TABLES
from medlsam_jax.sam.network.sam import LITEMEDSAM, VARIANTS, Sam

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


KINDS = ("litemedsam", "mobilesam", "sam-vit-b", "sam-vit-l", "sam-vit-h", "medsam")


@pytest.mark.parametrize("kind", KINDS)
def test_every_published_list_of_names_and_shapes_fills_its_network(kind, monkeypatch):
  """ViT-H is 2.5 GB: its tensors are views of one number, and converting may not copy them."""
  monkeypatch.setattr(rules.np, "ascontiguousarray", lambda array, dtype=None: array)
  shapes = published_shapes(kind)
  source = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
  edge = VARIANTS[kind].image_size
  template = jax.eval_shape(
    lambda: Sam(VARIANTS[kind]).init(jax.random.key(0), jnp.zeros((1, edge, edge, 3)), jnp.zeros((1, 4)))
  )
  variables = TABLES[kind].forward(source, shapes_of(template), "released")
  assert shapes_of(variables) == shapes_of(template)
  back = TABLES[kind].backward(variables, {n: s for n, s in shapes.items() if not is_skipped(kind, n)})
  assert all(back[name].shape == shapes[name] for name in back)


def is_skipped(kind, name):
  return any(rules._match(skip.source, name) is not None for skip in TABLES[kind].skips)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_another_variant_says_which_it_is(kind):
  """MedSAM's file has the names and shapes of SAM ViT-B: only there the user may choose."""
  detected = detect_kind(published_shapes(kind), "f.pth")
  assert detected == ("sam-vit-b" if kind == "medsam" else kind)
  assert settle_kind(detected, kind, None, "f.pth") == kind
  for other in {"sam-vit-b", "sam-vit-l", "litemedsam", "mobilesam"} - {detected}:
    with pytest.raises(WeightsError, match=rf"f\.pth: wanted kind {other}, but the file is .*{detected}"):
      settle_kind(detected, other, None, "f.pth")


def test_every_table_is_found_by_its_kind():
  assert {kind: table.kind for kind, table in TABLES.items()} == {kind: kind for kind in TABLES}
