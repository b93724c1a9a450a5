"""The MedLAM network: published numbers, only the stages asked for, gradients through the CPU lowering."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from medlam_weights import drawn
from quick_programs import QUICK

from medlsam_jax import platform
from medlsam_jax.loading import load
from medlsam_jax.medlam.network.medlam import MedLAM, init_variables
from medlsam_jax.volume_layers import convolution, ops

GOLDEN = Path(__file__).parents[1] / "golden"
SAMPLED = {4: ("feature0", 4), 2: ("feature1", 8), 1: ("feature2", 16)}


@pytest.fixture(scope="module")
def golden():
  return dict(np.load(GOLDEN / "medlam_forward.npz"))


@pytest.fixture(scope="module")
def output(golden):
  network = load(GOLDEN / "medlam_random.pth")
  patches = np.random.default_rng(int(golden["seed"])).random((2, 1, 64, 64, 64), dtype=np.float32)
  return jax.jit(lambda v, p: network.module.apply(v, p, classify=True))(network.variables, patches[:, 0, ..., None])


def test_position_equals_the_published_head(output, golden):
  np.testing.assert_allclose(output.position, golden["fc_position"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stride", SAMPLED)
def test_features_equal_the_published_decoder(output, golden, stride):
  name, step = SAMPLED[stride]
  ours = np.moveaxis(np.asarray(output.features[stride]), -1, 1)[:, :, ::step, ::step, ::step]
  np.testing.assert_allclose(ours, golden[name], rtol=1e-4, atol=1e-4)


def test_probability_equals_the_published_classification(output, golden):
  ours = np.moveaxis(np.asarray(output.probability), -1, 1)[:, :, ::16, ::16, ::16]
  np.testing.assert_allclose(ours, golden["prob"], rtol=1e-4, atol=1e-5)


def small(**settings):
  module = MedLAM(base_channels=2, patch_edge=16, **settings)
  return module, drawn(module, jax.random.key(0)), jax.random.uniform(jax.random.key(1), (2, 16, 16, 16, 1))


def test_published_width_has_the_published_number_of_parameters():
  shapes = jax.eval_shape(lambda: init_variables(MedLAM(), jax.random.key(0)))
  assert len(jax.tree.leaves(shapes)) == 44
  assert round(sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) / 1e6, 2) == 15.07


@pytest.mark.slow
def test_stages_that_no_asked_feature_needs_cost_nothing():
  module, variables, patches = small()

  def flops(scales):
    run = jax.jit(lambda v, p: module.apply(v, p, feature_scales=scales))
    return run.lower(variables, patches).cost_analysis()["flops"]

  # by the shares of the multiply-adds: encoder about 10 %, the full-resolution stage about 77 %
  assert flops(()) < 0.75 * flops((4, 2))
  assert flops((4, 2)) < 0.5 * flops((4, 2, 1))


@pytest.mark.slow
def test_asking_for_fewer_features_changes_none_of_the_rest():
  module, variables, patches = small()
  whole, part = module.apply(variables, patches), module.apply(variables, patches, feature_scales=(2,))
  assert list(part.features) == [2]
  np.testing.assert_allclose(part.features[2], whole.features[2], rtol=1e-6)
  np.testing.assert_allclose(part.position, whole.position, rtol=1e-6)


def test_a_network_without_full_resolution_refuses_to_invent_it():
  module, variables, patches = small(feature_scales=(4, 2))
  assert "conv8" not in variables["params"]
  with pytest.raises(ValueError, match=r"\[1\]"):
    jax.eval_shape(lambda: module.apply(variables, patches, feature_scales=(1,)))


def test_wrong_patch_edge_is_refused():
  module, variables, _ = small()
  with pytest.raises(ValueError, match="edge 16"):
    module.apply(variables, jnp.zeros((1, 24, 16, 16, 1)))


def test_bfloat16_operands_stay_near_float32():
  module, variables, patches = small()
  near = module.clone(dtype=jnp.bfloat16)
  fast, exact = (jax.jit(m.apply, compiler_options=QUICK)(variables, patches) for m in (near, module))
  assert fast.position.dtype == jnp.float32
  np.testing.assert_allclose(fast.position, exact.position, atol=0.1 * np.abs(exact.position).max())


SHAPES = {
  "odd depth": (2, 5, 6, 7, 3, 4),
  "one channel": (2, 8, 6, 7, 1, 4),
  "few channels": (1, 12, 5, 6, 3, 2),
  "winograd": (2, 8, 6, 5, 9, 4),
  "winograd, more out than in": (1, 16, 4, 5, 9, 12),
  "shallow": (1, 4, 6, 5, 9, 10),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_convolution_and_its_gradients_equal_the_direct_form(shape):
  *size, channels, out = shape
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], (*size, channels))
  kernel = jax.random.normal(keys[1], (3, 3, 3, channels, out))
  weight = jax.random.normal(keys[2], (*size, out))

  def direct(x, kernel):
    numbers = ("NDHWC", "DHWIO", "NDHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1, 1), "SAME", dimension_numbers=numbers)

  np.testing.assert_allclose(
    convolution.conv3(x, kernel), direct(x, kernel), rtol=0, atol=1e-5 * float(np.abs(direct(x, kernel)).max())
  )
  ours = jax.grad(lambda *a: (convolution.conv3(*a) * weight).sum(), (0, 1))(x, kernel)
  expected = jax.grad(lambda *a: (direct(*a) * weight).sum(), (0, 1))(x, kernel)
  for a, b in zip(ours, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


def test_large_patches_are_convolved_one_by_one_with_the_same_result(monkeypatch):
  x = jax.random.normal(jax.random.key(0), (2, 8, 4, 5, 9))
  kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 9, 4))
  together = convolution.conv3(x, kernel)
  monkeypatch.setattr(convolution, "_LARGE", 1)
  np.testing.assert_allclose(convolution.conv3(x, kernel), together, rtol=0, atol=1e-5 * np.abs(together).max())


@pytest.mark.parametrize("channels", [2, 9])
def test_native_lowering_has_the_same_gradient_as_the_cpu_one(channels):
  x = jax.random.normal(jax.random.key(0), (1, 8, 5, 6, channels))
  gradient = jax.random.normal(jax.random.key(1), (1, 8, 5, 6, 3))
  expected = convolution._kernel_gradient_native(x, gradient)
  np.testing.assert_allclose(
    convolution._kernel_gradient_cpu(x, gradient), expected, rtol=0, atol=1e-5 * np.abs(expected).max()
  )


@pytest.mark.parametrize("lowering", ["native", "cpu"])
def test_a_kernel_gradient_of_bfloat16_operands_is_that_of_their_numbers(lowering):
  keys = jax.random.split(jax.random.key(0))
  x, gradient = (jax.random.normal(k, (1, 8, 5, 6, c), jnp.bfloat16) for k, c in zip(keys, (9, 3), strict=True))
  expected = convolution._kernel_gradient_native(x.astype(jnp.float32), gradient.astype(jnp.float32))
  result = getattr(convolution, f"_kernel_gradient_{lowering}")(x, gradient)
  assert result.dtype == jnp.float32
  np.testing.assert_allclose(result, expected, rtol=2**-8, atol=1e-5 * np.abs(expected).max())


def test_upsampling_by_two_equals_the_half_pixel_resize():
  x = jax.random.normal(jax.random.key(0), (1, 3, 4, 5, 2))
  np.testing.assert_allclose(ops.upsample2(x), ops.resize_linear(x, (6, 8, 10)), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_rematerialisation_keeps_parameters_outputs_and_gradients_and_takes_less_memory(monkeypatch):
  monkeypatch.setattr(platform, "by_backend", lambda *arrays, accelerator, **_: accelerator(*arrays))
  patches = jax.random.uniform(jax.random.key(1), (8, 16, 16, 16, 1))
  found = []
  for remat in (False, True):
    module, variables, _ = small(remat=remat, dropout=0.0, feature_scales=(4,))

    def loss(v, module=module):
      out = module.apply(v, patches, featured=(3, 4), train=True)
      return sum(jnp.sin(f).sum() for f in out.features.values()) + out.position.sum()

    lowered = jax.jit(jax.value_and_grad(loss)).lower(variables)
    program = lowered.compile({"xla_backend_optimization_level": 0})
    found.append((variables, program(variables), program.memory_analysis().temp_size_in_bytes))
  (plain, values, kept), (again, values_again, less) = found
  jax.tree.map(np.testing.assert_array_equal, plain, again)
  for a, b in zip(jax.tree.leaves(values), jax.tree.leaves(values_again), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * max(np.abs(a).max(), 1e-3))
  assert less < 0.8 * kept
