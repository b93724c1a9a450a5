"""What is trained and what is frozen: rules, gradients, decay, bases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict
from tiny_sam3d import LITE, ON_LITE, ON_VIT, VIT, at_start, base, made_up

from medlsam_jax.errors import WeightsError
from medlsam_jax.network import Network
from medlsam_jax.sam.network.sam import Sam
from medlsam_jax.sam3d import parameters
from medlsam_jax.sam3d.network.prompts import FACES, POSITIVE, points_of_box
from medlsam_jax.sam3d.network.sam3d import Sam3D
from medlsam_jax.sam3d.network.variants import SAM3D_LITEMEDSAM, SAM3D_VIT_B
from medlsam_jax.sam3d.parameters import Origin

EDGE = ON_VIT.variant.cube_edge
VOLUME = np.random.default_rng(0).normal(size=(1, EDGE, EDGE, EDGE)).astype(np.float32)
POINTS = np.stack([points_of_box(np.array([[2, 3, 4], [9, 9, 12]]))] * 2)[None].astype(np.float32)
LABELS = np.array([[FACES, (POSITIVE, 0, 0, 1, 1, 1)]], np.int32)
WANTED = np.random.default_rng(1).normal(size=(1, 2, EDGE, EDGE, EDGE)).astype(np.float32)
NO_GRADIENT = "key/bias"
"""Adds the same to all logits of a query, and so nothing to their softmax."""


def loss(module, trained, frozen):
  return jnp.mean(parameters.apply(module, trained, frozen, VOLUME, POINTS, LABELS) * WANTED)


QUICK = {"xla_backend_optimization_level": 0}
"""Compiling takes longer than running."""
gradient = jax.jit(jax.grad(loss, argnums=1), static_argnums=0, compiler_options=QUICK)


def names(tree):
  return set(flatten_dict(tree, sep="/"))


def flat(tree):
  return flatten_dict(tree, sep="/")


@pytest.mark.parametrize("variant", [SAM3D_VIT_B, SAM3D_LITEMEDSAM], ids=lambda v: v.name)
def test_every_parameter_is_named_by_one_rule_and_split_loses_none(variant):
  params = parameters.shapes(Sam3D(variant))
  trained, frozen = parameters.split(params)
  assert names(trained) | names(frozen) == names(params) and not names(trained) & names(frozen)
  assert flat(parameters.joined(trained, frozen)) == flat(params)


def test_a_name_that_no_rule_knows_is_a_defect():
  with pytest.raises(ValueError, match="encoder/block0/novel is named by 0 rules"):
    parameters.split({"encoder": {"block0": {"novel": np.zeros(1)}}})


@pytest.mark.slow
@pytest.mark.parametrize("module", [ON_VIT, ON_LITE], ids=["vit", "tinyvit"])
def test_gradients_reach_every_trained_parameter_and_no_frozen_one(module):
  trained, frozen = parameters.split(made_up(parameters.shapes(module), 7))
  found = flat(gradient(module, trained, frozen))
  assert set(found) == names(trained) and not set(found) & names(frozen)
  for name, each in found.items():
    size = np.abs(each).max()
    assert size > 1e-9 or name.endswith(NO_GRADIENT), name
    assert size < 1e-6 or not name.endswith(NO_GRADIENT), name


@pytest.mark.slow
def test_adapters_that_start_as_nothing_learn():
  """At the start the last layer alone has a gradient; after one step all have."""
  trained, frozen = parameters.split(at_start(ON_VIT))
  first = gradient(ON_VIT, trained, frozen)
  before, moved = flat(first), jax.tree.map(lambda p, g: p - 0.1 * g, trained, first)
  after = flat(gradient(ON_VIT, moved, frozen))
  for index in range(ON_VIT.variant.depth):
    name = f"encoder/adapter{index}/"
    assert np.abs(before[name + "up/kernel"]).max() > 1e-7 and np.abs(before[name + "down/kernel"]).max() == 0
    assert np.abs(after[name + "down/kernel"]).max() > 0 and np.abs(after[name + "depthwise/kernel"]).max() > 0


def test_decay_and_optimizer_state_touch_trained_parameters_alone():
  """A step of AdamW with strong decay and no gradient at all: what it sees shrinks, what is frozen stays."""
  params = made_up(parameters.shapes(ON_VIT), 7)
  trained, frozen = parameters.split(params)
  optimizer = optax.adamw(0.1, weight_decay=1.0)
  state = optimizer.init(trained)
  updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, trained), state, trained)
  after = flat(parameters.joined(optax.apply_updates(trained, updates), frozen))
  for name, before in flat(params).items():
    same = np.array_equal(after[name], before)
    assert same == (parameters.origin(name) is Origin.FROZEN), name
  moments = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
  assert moments == 2 * sum(leaf.size for leaf in jax.tree.leaves(trained))


@pytest.mark.slow
@pytest.mark.parametrize(("module", "control"), [(ON_VIT, False), (ON_LITE, True)], ids=["adapted", "from scratch"])
def test_rematerialisation_changes_no_gradient(module, control):
  params = made_up(parameters.shapes(module), 7)
  trained, frozen = (params, {}) if control else parameters.split(params)
  kept, anew = (flat(gradient(module.clone(remat=remat), trained, frozen)) for remat in (False, True))
  assert not control or np.abs(kept["encoder/embed0/kernel"]).max() > 1e-9
  for name in kept:
    np.testing.assert_allclose(anew[name], kept[name], rtol=1e-3, atol=1e-6, err_msg=name)


def test_training_starts_from_the_base():
  """Frozen and tuned parameters are the base's, positions along depth the mean of the plane's, adapters nothing."""
  network = base(VIT)
  params = flat(parameters.start(ON_VIT, network, jax.random.key(0)))
  theirs = flat(network.params["image_encoder"])
  for name, leaf in params.items():
    if parameters.origin(name) is not Origin.NEW:
      np.testing.assert_array_equal(leaf, theirs[name.removeprefix("encoder/")], err_msg=name)
  block = "encoder/block1/relative_"
  np.testing.assert_allclose(params[block + "z"], (params[block + "y"] + params[block + "x"]) / 2)
  assert (params["encoder/depth_position"] == 0).all() and (params["encoder/adapter0/up/kernel"] == 0).all()
  assert params["encoder/depth/kernel"] == pytest.approx(1 / VIT.encoder.patch)


def test_another_network_is_refused_as_a_base():
  with pytest.raises(WeightsError, match=r"lite-tiny\.safetensors: a lite-tiny network; sam3d-tiny adapts sam-tiny"):
    parameters.base_params(ON_VIT, base(LITE))
  folded = Network(Sam(LITE, folded=True), base(LITE).variables, LITE.name, "folded.safetensors")
  with pytest.raises(WeightsError, match=r"folded\.safetensors: its batch norm is folded; load it with for_training"):
    parameters.base_params(ON_LITE, folded)


def test_a_base_that_lacks_a_weight_is_refused_with_its_name():
  variables = jax.tree.map(lambda leaf: leaf, base(VIT).variables)
  del variables["params"]["image_encoder"]["block2"]["qkv"]["bias"]
  lame = Network(Sam(VIT), variables, VIT.name, "lame.safetensors")
  with pytest.raises(WeightsError, match=r"lame\.safetensors: .*other weights or shapes: encoder/block2/qkv/bias"):
    parameters.base_params(ON_VIT, lame)


def test_bfloat16_operands_stay_near_and_answer_in_float32():
  trained, frozen = parameters.split(made_up(parameters.shapes(ON_VIT), 7))
  call = jax.jit(parameters.apply, static_argnums=0, compiler_options=QUICK)
  exact, near = (
    call(ON_VIT.clone(dtype=dtype), trained, frozen, VOLUME, POINTS, LABELS) for dtype in (jnp.float32, jnp.bfloat16)
  )
  assert near.dtype == jnp.float32
  assert 0 < np.sqrt(np.mean((near - exact) ** 2)) < 0.05 * np.std(exact)


def test_cubes_of_another_size_are_refused():
  small = functools.partial(parameters.apply, ON_VIT, *parameters.split(parameters.shapes(ON_VIT)))
  with pytest.raises(ValueError, match="takes 16 voxels an edge"):
    jax.eval_shape(small, VOLUME[:, 1:, 1:, 1:], POINTS, LABELS)


def test_a_random_base_with_batch_norm_passes_on_values_of_one_size_and_no_zeros():
  params = flatten_dict(parameters.scratch(ON_LITE, jax.random.key(0)), sep="/")
  assert params.keys() == flatten_dict(parameters.shapes(ON_LITE), sep="/").keys()
  noise = np.random.default_rng(0).random((10_000, 1))
  kernel, bias = (np.asarray(params[f"encoder/embed0/{name}"]) for name in ("kernel", "bias"))
  seen = noise * kernel[0, 0].sum(0) + bias
  np.testing.assert_allclose(seen.mean(0), 0, atol=0.1)
  np.testing.assert_allclose(seen.std(0), 1, atol=0.1)
  assert np.abs(bias).min() > 0.5  # of air
