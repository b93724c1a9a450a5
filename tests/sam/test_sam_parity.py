"""Prompt encoder, decoder and LiteMedSAM against numbers of the published programs."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medlsam_jax.io.weights.fetch import cached_weights
from medlsam_jax.io.weights.rules import RuleTable, shapes_of
from medlsam_jax.io.weights.torch_file import read_tensors
from medlsam_jax.loading import load
from medlsam_jax.sam.network.mask_decoder import MaskDecoder
from medlsam_jax.sam.network.prompt_encoder import PromptEncoder
from medlsam_jax.sam.network.published import MASK_DECODER_RULES, PROMPT_ENCODER_RULES

GOLDEN = Path(__file__).parents[1] / "golden"
LITEMEDSAM_LABELS = (5, 1, 6, 32, 87)


@pytest.fixture(scope="module")
def tiny():
  """SAM's decoder half at width 32 with the random weights of the fixture: `decode(multimask, **prompts)`."""
  encoder, decoder = PromptEncoder(32, 240, 15), MaskDecoder(mlp_width=64, heads=4, iou_width=64)
  key, grid = jax.random.key(0), jnp.zeros((1, 15, 15, 32))
  templates = {
    "prompt_encoder": jax.eval_shape(lambda: encoder.init(key, boxes=jnp.zeros((1, 4))))["params"],
    "mask_decoder": jax.eval_shape(
      lambda: decoder.init(key, grid, grid, jnp.zeros((1, 2, 32)), jnp.zeros((1, 1, 1, 32)))
    )["params"],
  }
  tensors = read_tensors(GOLDEN / "sam_tiny_random.pth")
  tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("image_encoder.")}
  table = RuleTable("sam decoder", PROMPT_ENCODER_RULES + MASK_DECODER_RULES)
  params = table.forward(tensors, shapes_of({"params": templates}), "sam_tiny_random.pth")["params"]
  golden = np.load(GOLDEN / "sam_tiny_forward.npz")
  embedding = golden["embedding"].transpose(0, 2, 3, 1)

  @functools.partial(jax.jit, static_argnums=(0, 1))
  def answer(multimask, dtype, prompts):
    variables = {"params": params["prompt_encoder"]}
    sparse, dense = encoder.apply(variables, **prompts)
    position = encoder.apply(variables, method="image_positions")
    typed = decoder.clone(dtype=dtype)
    return typed.apply({"params": params["mask_decoder"]}, embedding, position, sparse, dense, multimask)

  def decode(multimask, dtype=jnp.float32, **prompts):
    return answer(multimask, dtype, prompts)

  return decode, golden


def tiny_prompts(golden, kind):
  points = {"points": golden["points_xy"], "labels": golden["point_labels"]}
  box = {"boxes": golden["box_xyxy"]}
  mask = {"masks": golden["mask_input"].transpose(0, 2, 3, 1)}
  return {"points": points, "box": box, "point_box_mask": points | box | mask}[kind]


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("kind", ["points", "box", "point_box_mask"])
def test_decoder_equals_sam_for_every_kind_of_prompt(tiny, kind, multimask):
  decode, golden = tiny
  logits, iou = decode(multimask, **tiny_prompts(golden, kind))
  name = f"{kind}_multi{int(multimask)}"
  np.testing.assert_allclose(logits, golden[f"{name}_logits"], atol=5e-6)
  np.testing.assert_allclose(iou, golden[f"{name}_iou"], atol=5e-6)


def test_prompts_of_one_image_are_answered_as_if_alone(tiny):
  decode, golden = tiny
  boxes = np.concatenate([golden["box_xyxy"], golden["box_xyxy"] + 17])
  together, _ = decode(False, boxes=boxes)
  for index in range(2):
    alone, _ = decode(False, boxes=boxes[index : index + 1])
    np.testing.assert_allclose(together[index], alone[0], atol=5e-6)


@pytest.mark.parametrize("kind", ["points", "box", "point_box_mask"])
def test_bfloat16_operands_stay_near_and_answer_in_float32(tiny, kind):
  decode, golden = tiny
  exact, _ = decode(False, **tiny_prompts(golden, kind))
  near, _ = decode(False, dtype=jnp.bfloat16, **tiny_prompts(golden, kind))
  assert near.dtype == jnp.float32
  assert 0 < np.abs(near - exact).max() < 0.05 * np.abs(exact).max()


@pytest.fixture(scope="module")
def litemedsam():
  if not cached_weights("litemedsam").is_file():
    pytest.skip("LiteMedSAM is not in the cache; run: medlsam weights get litemedsam")
  return load("litemedsam")


@pytest.fixture(scope="module")
def golden_slice():
  return np.load(GOLDEN / "litemedsam_forward.npz")


@pytest.fixture(scope="module")
def embedding(litemedsam, golden_slice):
  images = jnp.repeat(jnp.asarray(golden_slice["image_z6"])[None, ..., None], 3, -1)
  return jax.jit(lambda v, i: litemedsam.module.apply(v, i, method="encode"))(litemedsam.variables, images)


def test_litemedsam_embeds_as_published(embedding, golden_slice):
  ours = np.asarray(embedding)[0].transpose(2, 0, 1)[::8, ::4, ::4]
  np.testing.assert_allclose(ours, golden_slice["embedding_z6"], atol=1e-3)


def test_litemedsam_segments_as_published(litemedsam, embedding, golden_slice):
  boxes = np.stack([golden_slice[f"box_z6_l{label}"] for label in LITEMEDSAM_LABELS])
  decode = jax.jit(lambda v, e, b: litemedsam.module.apply(v, e, boxes=b, method="decode"))
  logits, iou = decode(litemedsam.variables, embedding, boxes)
  for index, label in enumerate(LITEMEDSAM_LABELS):
    expected = golden_slice[f"logits_z6_l{label}"]
    np.testing.assert_allclose(logits[index, 0], expected, atol=2e-3)
    assert np.mean((logits[index, 0] > 0) == (expected > 0)) >= 0.999
    np.testing.assert_allclose(iou[index], golden_slice[f"iou_z6_l{label}"][0], atol=1e-4)
