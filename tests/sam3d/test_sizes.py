"""Shapes, work and numbers of parameters at the published size, of which nothing is computed."""

import functools

import jax
import jax.numpy as jnp
import pytest

from medlsam_jax.errors import ConfigError
from medlsam_jax.sam3d import parameters
from medlsam_jax.sam3d.network import sam3d as network
from medlsam_jax.sam3d.network.sam3d import Sam3D
from medlsam_jax.sam3d.network.variants import SAM3D_LITEMEDSAM, SAM3D_TINY, SAM3D_VIT_B, SAM3D_VIT_H, Sam3DVariant
from medlsam_jax.train.work import flop_of

RELATIVE = 25_462_400
"""Trained parameters of the relative with one prompt module."""
TABLE = {
  "embedding along depth": 13_056,
  "depth table": 24_576,
  "relative positions along depth": 46_336,
  "norms of the blocks": 36_864,
  "adapters": 7_220_736,
  "necks": 7_868_416,
  "labels": 2_048,
  "prompt module": 3_164_160,
  "decoder": 7_088_256,
  "filled boxes": 3_712,
}
OURS = ("labels", "filled boxes")


def inputs(variant, cubes=1, organs=3, points=7):
  edge = variant.cube_edge
  volume = jax.ShapeDtypeStruct((cubes, edge, edge, edge), jnp.float32)
  places = jax.ShapeDtypeStruct((cubes, organs, points, 3), jnp.float32)
  return volume, places, jax.ShapeDtypeStruct((cubes, organs, points), jnp.int32)


@functools.cache
def trees(variant):
  return parameters.split(parameters.shapes(Sam3D(variant)))


def test_the_trained_count_is_the_relatives_and_that_of_labels_and_boxes():
  counts = parameters.count_by_part(parameters.shapes(Sam3D()))
  assert counts == TABLE
  assert sum(leaf.size for leaf in jax.tree.leaves(trees(SAM3D_VIT_B)[0])) == sum(TABLE.values())
  assert sum(TABLE.values()) - sum(TABLE[part] for part in OURS) == RELATIVE
  assert sum(TABLE.values()) == pytest.approx(RELATIVE, rel=0.01)


def test_the_docstring_shows_that_table():
  lines = [line.split() for line in network.__doc__.splitlines()]
  for part, count in TABLE.items():
    shown = [line for line in lines if line[: len(part.split())] == part.split() and f"{count:,}" in line]
    assert shown or (part in OURS and f"{count:,} more for {part}," in network.__doc__), part


@pytest.mark.parametrize("variant", [SAM3D_VIT_B, SAM3D_VIT_H, SAM3D_LITEMEDSAM, SAM3D_TINY], ids=lambda v: v.name)
def test_cubes_and_prompts_of_several_organs_give_a_mask_of_each(variant):
  trained, frozen = trees(variant)
  logits = jax.eval_shape(functools.partial(parameters.apply, Sam3D(variant)), trained, frozen, *inputs(variant, 2))
  assert logits.shape == (2, 3, *(variant.cube_edge,) * 3) and logits.dtype == jnp.float32


def test_parts_have_the_published_shapes():
  module, params = Sam3D(), parameters.joined(*trees(SAM3D_VIT_B))
  volume, places, labels = inputs(SAM3D_VIT_B)

  def parts(params, volume, places, labels):
    def run(m):
      tokens = m.encoder(volume)
      necks = [neck(x) for neck, x in zip(m.necks, tokens, strict=True)]
      return tokens, necks, m.prompts(necks[-1], places, labels), m.decoder.by_scale[0](necks[0]), m.encode(volume)

    return module.apply({"params": params}, method=run)

  tokens, necks, prompted, scale, encoded = jax.eval_shape(parts, params, volume, places, labels)
  assert [x.shape for x in tokens] == [(1, 32, 32, 32, 768)] * 4
  assert [x.shape for x in necks] == [(1, 32, 32, 32, 256)] * 4
  assert prompted.shape == (3, 32, 32, 32, 256)
  assert scale.shape == encoded.shared.shape == (1, 64, 64, 64, 128)
  assert params["decoder"]["join"].shape == (3, 3, 3, 4 * 128 + 1, 128)
  assert params["encoder"]["depth_position"].shape == (32, 768)
  assert params["encoder"]["block2"]["relative_z"].shape == (127, 64), "that of a global block of SAM"
  assert params["encoder"]["block0"]["relative_z"].shape == (27, 64), "that of a window of SAM"


def by_hand(organs):
  """Multiplications of the published network on one cube, in the order of the program."""
  tokens, width, neck, out, queries = 32**3, 768, 256, 128, 10 + 7
  patch = 128 * 32**2 * 16**2 * width  # each of 128 slices, one channel
  windows = 64 * 12 * 512 * (2 * 512 * 64 + 3 * 8 * 64)  # both products and three biases of each head
  block = tokens * 12 * width**2 + windows + tokens * width**2  # the adapter has half the width, twice
  necks = 4 * tokens * (width * neck + 27 * neck**2)
  scales = tokens * 27 * (neck * out + out**2)
  join = 64**3 * 27 * out
  shared = 3 * scales + join * (3 * out + 1)
  own = scales + join * (out + 2)  # and the box's channel
  attention = 2 * (2 * tokens * neck * neck // 2 + 2 * tokens * neck * neck // 2)  # keys and values, queries and out
  mixing = 2 * 2 * 2 * tokens * queries * neck // 2
  return 2 * (patch + 12 * block + necks + shared + organs * (own + attention + mixing))


def counted(organs):
  trained, frozen = trees(SAM3D_VIT_B)
  return flop_of(functools.partial(parameters.apply, Sam3D()), trained, frozen, *inputs(SAM3D_VIT_B, organs=organs))


def test_work_is_that_of_the_layers_written_out_and_small_for_one_more_organ():
  one, three = counted(1), counted(3)
  assert one == pytest.approx(by_hand(1), rel=0.002) and three == pytest.approx(by_hand(3), rel=0.002)
  assert (three - one) / 2 < 0.05 * one


def test_sizes_that_cannot_go_together_are_refused():
  base = SAM3D_VIT_B.base
  for sizes, words in (
    ({"image_edge": 500}, "multiple of cube_edge"),
    ({"cube_edge": 32, "image_edge": 512}, "even number of voxels a token"),
    ({"window": 7}, "multiple of window 7"),
    ({"taps": (2, 5, 8, 12)}, "rising numbers below 12"),
    ({"taps": (2, 8, 5, 11)}, "rising numbers"),
  ):
    with pytest.raises(ConfigError, match=words):
      Sam3DVariant("x", base, **sizes)
  assert SAM3D_LITEMEDSAM.grid == 32 and SAM3D_LITEMEDSAM.depth == 8
