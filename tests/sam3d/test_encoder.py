"""The frozen path against SAM's own layers on equal slices, and each new layer against its definition."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from tiny_sam3d import LITE, ON_LITE, ON_VIT, at_start, base, made_up

from medlsam_jax.sam.network.image_encoder import Block
from medlsam_jax.sam.network.layers import Conv
from medlsam_jax.sam.network.tiny_vit import TinyViT, TinyViTBlock
from medlsam_jax.sam3d import parameters
from medlsam_jax.sam3d.network.encoder import enlarged
from medlsam_jax.sam3d.network.layers import Adapter, DepthEmbedding
from medlsam_jax.volume_layers.ops import resize_linear


def drawn(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})
def encoded(module, params, volume):
  return module.apply({"params": params}, volume, method=lambda m, volume: m.encoder(volume))


def is_block(module, method):
  return isinstance(module, TinyViTBlock) and method == "__call__"


def in_plane(params):
  """Of a block of volumes, the parameters that SAM's block of images has."""
  return {name: leaf for name, leaf in params.items() if name != "relative_z"}


def test_on_equal_slices_every_block_gives_what_sams_own_layers_give():
  """Untrained adapters; SAM's patch embedding of three equal channels, its pooled positions, and its blocks in 2D.

  SAM's blocks are told the cubes' edge as their window, and the shift: as it came, SAM's window is another. Positions
  along depth differ and cancel, because all depths hold the same values.
  """
  variant, params = ON_VIT.variant, at_start(ON_VIT)["encoder"]
  image, sizes = drawn(1, 16, 16), variant.base.encoder
  tapped = encoded(ON_VIT, at_start(ON_VIT), np.repeat(image[:, None], 16, 1))

  rgb = jnp.repeat(enlarged(image[None], variant.image_edge)[0, ..., None], 3, -1)
  x = Conv(sizes.width, sizes.patch, sizes.patch).apply({"params": params["patch"]}, rgb)
  x = x + params["position"].reshape(1, 4, 2, 4, 2, 32).mean((2, 4))
  for index, ours in enumerate(tapped):
    assert np.abs(params[f"block{index}"]["relative_z"]).max() > 0.1
    block = Block(sizes.heads, variant.window, sizes.tables(index), shift=(1, 0)[index % 2])
    x = block.apply({"params": in_plane(params[f"block{index}"])}, x)
    assert ours.shape == (1, 4, 4, 4, 32)
    np.testing.assert_allclose(ours, np.repeat(np.asarray(x)[:, None], 4, 1), atol=2e-4, err_msg=f"block{index}")


def test_slices_that_differ_do_not_give_what_slices_alone_give():
  """Or the test above would hold for a network that never looks along depth."""
  volume = drawn(1, 16, 16, 16)
  together = encoded(ON_VIT, at_start(ON_VIT), volume)[1]
  alone = encoded(ON_VIT, at_start(ON_VIT), np.repeat(volume[:, 5:6], 16, 1))[1]
  assert np.abs(together[:, 1] - alone[:, 1]).max() > 0.1


def test_the_first_block_gives_sams_own_features():
  """Of one image: SAM's `image_encoder` with that window and grid, stopped after its first block."""
  variant, params = ON_VIT.variant, at_start(ON_VIT)["encoder"]
  block, sizes = params["block1"], variant.base.encoder
  x = drawn(2, 4, 4, 4, 32)
  x[:] = x[:, :1]
  ours = Block(sizes.heads, variant.window, sizes.tables(1)).apply({"params": block}, x)
  sams = Block(sizes.heads, variant.window, sizes.tables(1)).apply({"params": in_plane(block)}, x[:, 0])
  np.testing.assert_allclose(ours[:, 3], sams, atol=2e-5)
  adapted = Adapter().apply({"params": params["adapter1"]}, x)
  np.testing.assert_array_equal(adapted, x)


def test_each_slab_of_equal_slices_gives_what_tinyvit_gives_of_its_slice():
  """Its attention stays within slices, so that slabs may differ while adapters add nothing."""
  params, network = at_start(ON_LITE), base(LITE)
  slices = drawn(1, 4, 16, 16)
  tapped = encoded(ON_LITE, params, np.repeat(slices, 4, 1))
  variables = {name: tree["image_encoder"] for name, tree in network.variables.items()}
  images = jnp.repeat(slices[0, ..., None], 3, -1)
  encoder = TinyViT(sizes=LITE.encoder)
  capture = functools.partial(encoder.apply, capture_intermediates=is_block)
  _, state = jax.jit(capture)(variables, images)
  for ours, name in zip(tapped, ("stage2_block0", "stage2_block1", "stage3_block0", "stage3_block1"), strict=True):
    theirs = state["intermediates"][name]["__call__"][0]
    np.testing.assert_allclose(ours[0], theirs, atol=1e-4 * np.abs(theirs).max(), err_msg=name)


@pytest.mark.parametrize("shift", [0, 1])
def test_attention_in_cubes_equals_a_loop_over_queries_and_keys(shift):
  """Written out: a key counts where both lie in one cube of the shifted lattice, with a bias for each axis."""
  edge, window, channels = 6, 3, 4
  block = Block(1, window, tables=window, shift=shift)
  x = drawn(1, edge, edge, edge, channels)
  p = made_up(jax.eval_shape(block.init, jax.random.key(0), x)["params"], 3)
  p["mlp_out"] = jax.tree.map(np.zeros_like, p["mlp_out"])
  result = np.asarray(jax.jit(block.apply)({"params": p}, x))[0]

  flat = x.reshape(-1, channels)
  normed = (flat - flat.mean(-1, keepdims=True)) / np.sqrt(flat.var(-1, keepdims=True) + 1e-6)
  normed = normed * p["norm1"]["scale"] + p["norm1"]["bias"]
  query, key, value = np.split(normed @ p["qkv"]["kernel"] + p["qkv"]["bias"], 3, -1)
  places = np.array(list(itertools.product(range(edge), repeat=3)))
  cube = (places + window - shift) // window
  mixed = np.zeros_like(query)
  for i in range(len(places)):
    near = np.flatnonzero((cube == cube[i]).all(-1))
    logits = query[i] @ key[near].T / np.sqrt(channels)
    for axis, name in enumerate("zyx"):
      rows = p[f"relative_{name}"][places[i, axis] - places[near, axis] + window - 1]
      logits = logits + rows @ query[i]
    weights = np.exp(logits - logits.max())
    mixed[i] = weights / weights.sum() @ value[near]
  expected = flat + mixed @ p["project"]["kernel"] + p["project"]["bias"]
  np.testing.assert_allclose(result.reshape(-1, channels), expected, atol=1e-4)


@pytest.mark.parametrize(("taps", "zoom"), [(8, 2), (4, 1), (16, 4)])
def test_embedding_along_depth_equals_enlarging_first(taps, zoom):
  """The published order: the volume enlarged along depth, then a kernel over as many slices as its stride."""
  x = drawn(1, 3 * taps // zoom, 2, 2, 5)
  layer = DepthEmbedding(taps, zoom)
  p = {"kernel": drawn(taps, 5, seed=1), "bias": drawn(5, seed=2)}
  large = resize_linear(x, (x.shape[1] * zoom, 2, 2))
  expected = jnp.einsum("nstyxc,tc->nsyxc", large.reshape(1, 3, taps, 2, 2, 5), p["kernel"]) + p["bias"]
  np.testing.assert_allclose(layer.apply({"params": p}, x), expected, atol=1e-5)


def test_an_adapter_is_its_definition_in_both_forms():
  x = drawn(1, 3, 4, 5, 6)
  p = made_up(jax.eval_shape(Adapter().init, jax.random.key(0), x)["params"])
  inner = np.maximum(0, x @ p["down"]["kernel"] + p["down"]["bias"])
  inner = jax.lax.conv_general_dilated(
    inner, p["depthwise"]["kernel"], (1, 1, 1), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    feature_group_count=3,
  )  # fmt: skip
  added = np.maximum(0, inner + p["depthwise"]["bias"]) @ p["up"]["kernel"] + p["up"]["bias"]
  np.testing.assert_allclose(Adapter(True).apply({"params": p}, x), x + added, atol=1e-5)
  np.testing.assert_allclose(Adapter(False).apply({"params": p}, x), x + np.maximum(0, added), atol=1e-5)


def test_the_published_start_is_a_setting():
  """The table along depth starts at ones, and adapters add something."""
  published = ON_VIT.clone(variant=dataclasses.replace(ON_VIT.variant, starts_as_base=False))
  params = flatten_dict(parameters.drawn(published, jax.random.key(0)), sep="/")
  assert (params["encoder/depth_position"] == 1).all()
  assert np.abs(params["encoder/adapter0/up/kernel"]).max() > 0
  assert np.ptp(params["encoder/depth/kernel"]) > 0
