"""Programs are the ones of the machine they are lowered for, and say how exact their products are: read in their text.

And what is set by backend without a program: memory, and how much goes into a call.
"""

import ctypes
import functools
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lowered import HOST, PLATFORMS, lowered, products, shaped, text_of

from medlsam_jax import platform
from medlsam_jax.medlam.network.medlam import MedLAM, init_variables
from medlsam_jax.medlam.pretraining.crops import Batch
from medlsam_jax.medlam.pretraining.settings import PretrainSettings
from medlsam_jax.medlam.pretraining.step import abstract_state, make_step
from medlsam_jax.medlam.search import programs
from medlsam_jax.notices import MedlsamWarning
from medlsam_jax.sam.network.image_encoder import Block
from medlsam_jax.sam3d import parameters
from medlsam_jax.sam3d.network.sam3d import Sam3D
from medlsam_jax.sam3d.network.variants import SAM3D_TINY
from medlsam_jax.train import sharding
from medlsam_jax.typed_settings import from_mapping

SCALES, POINTS = (4, 2), programs.POINTS_PER_CALL
PROGRAMS = ("positions", "template_outputs", "best_moves", "template_moves")
SOURCES = Path(platform.__file__).parent
_CONVOLVED = re.compile(r"stablehlo\.convolution\b.*: \(tensor<([\dx]+x\w+)>, ")
_CONVOLUTION = re.compile(r"stablehlo\.convolution\b.*: \(tensor<\S*x(\w+)>, tensor<\S*x(\w+)>\) -> tensor<\S*x(\w+)>")
_MADE = re.compile(r"stablehlo\.(\w+)\b.* tensor<([\dx]+)xf32>$", re.MULTILINE)
_FUSED = {"add", "broadcast_in_dim", "convert", "divide", "maximum", "multiply", "select", "subtract"}
"""What XLA works out on the way from one array in memory to the next."""


def convolved(text):
  """Shapes of what convolutions run over, without their kernels."""
  return {tuple(map(int, shape.split("x")[:-1])) for shape in _CONVOLVED.findall(text)}


def search_arguments(name, dtype, backend="gpu"):
  """What a program takes: the network as `prepare` gives it where that backend runs, and shapes."""
  module = MedLAM(base_channels=1, feature_scales=SCALES, dtype=jnp.dtype(dtype))
  variables = jax.eval_shape(lambda: init_variables(module, jax.random.key(0)))
  network = programs.Prepared(module, variables, platform.patches_together(backend))
  patches = shaped(POINTS, 64, 64, 64, 1)
  if name == "positions":
    return network, patches
  if name == "template_outputs":
    return network, patches, shaped(POINTS, dtype=jnp.bool_), SCALES, 8
  if name == "template_moves":
    taps = {s: shaped(POINTS, 2, 3, *(8 // s,) * 3, 4) for s in SCALES}
    return network, patches, shaped(POINTS, 2, 3, dtype=jnp.bool_), taps, 12
  taps = {s: shaped(POINTS, 2, *(8 // s,) * 3, 4) for s in SCALES}
  return network, patches, shaped(POINTS, 2, dtype=jnp.bool_), taps


@pytest.mark.parametrize("target", PLATFORMS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_search_for_an_accelerator_is_xlas_own_convolution_of_all_patches_at_once(name, target):
  shapes = convolved(text_of(getattr(programs, name), search_arguments(name, "bfloat16"), target))
  assert (POINTS, 64, 64, 64, 1) in shapes and (POINTS, 4, 4, 4, 8) in shapes
  assert {(len(shape), shape[0]) for shape in shapes} == {(5, POINTS)}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_search_for_a_cpu_convolves_planes_of_one_patch_at_a_time(name):
  shapes = convolved(text_of(getattr(programs, name), search_arguments(name, "float32", "cpu"), "cpu"))
  assert {len(shape) for shape in shapes} == {4}
  assert max(np.prod(shape) for shape in shapes) < POINTS * 64**3


@pytest.mark.parametrize(("target", "ranks"), [("cpu", {4}), ("cuda", {5}), ("tpu", {5})])
def test_a_network_and_its_gradient_are_those_of_the_machine_they_are_lowered_for(target, ranks):
  module = MedLAM(base_channels=4, feature_scales=(4,), patch_edge=32)

  def loss(variables, patches):
    out = module.apply(variables, patches)
    return out.position.sum() + out.features[4].sum()

  variables = jax.eval_shape(lambda: init_variables(module, jax.random.key(0)))
  text = text_of(jax.jit(jax.value_and_grad(loss)), (variables, shaped(2, 32, 32, 32, 1)), target)
  assert {len(shape) for shape in convolved(text)} == ranks


@pytest.mark.parametrize("target", PLATFORMS)
@pytest.mark.parametrize("gradient", [False, True])
def test_a_network_of_bfloat16_keeps_nothing_wider_between_its_layers(gradient, target):
  """Neither a convolution's operands and results nor what is joined, pooled and doubled; sums alone read float32."""
  module, count = MedLAM(base_channels=4, feature_scales=(4, 1), patch_edge=32, dtype=jnp.bfloat16), 7

  def loss(variables, patches):
    out = module.apply(variables, patches)
    return out.position.sum() + sum(volume.sum(dtype=jnp.float32) for volume in out.features.values())

  variables = jax.eval_shape(lambda: init_variables(module, jax.random.key(0)))
  run = jax.jit(jax.grad(loss) if gradient else loss)
  text = text_of(run, (variables, shaped(count, 32, 32, 32, 1)), target)
  convolutions = _CONVOLUTION.findall(text)
  assert len(convolutions) >= 18 and set(convolutions) == {("bf16", "bf16", "bf16")}
  edges = {f"{edge}x{edge}x{edge}x" for edge in (32, 16, 8, 4)}
  wide = {kind for kind, shape in _MADE.findall(text) if any(f"{count}x{edge}" in f"{shape}x" for edge in edges)}
  assert "convert" in wide and wide <= _FUSED


@pytest.mark.parametrize(("target", "loops"), [("cpu", True), ("cuda", False), ("tpu", False)])
def test_an_image_encoder_attends_head_by_head_on_a_cpu_alone(target, loops):
  block = Block(heads=4, window=0, tables=8, dtype=jnp.float32)
  x = shaped(2, 8, 8, 16)
  variables = jax.eval_shape(block.init, jax.random.key(0), x)
  assert ("stablehlo.while" in text_of(jax.jit(block.apply), (variables, x), target)) == loops


def test_no_other_file_decides_by_the_backend():
  words = re.compile(r"default_backend|platform_dependent|mallopt|JAX_PLATFORMS")
  found = {p.name for p in SOURCES.rglob("*.py") if words.search(p.read_text())}
  assert found == {"platform.py"}


def test_what_goes_into_a_call_depends_on_the_backend():
  assert [platform.fast_dtype(name) for name in ("cpu", "gpu", "tpu")] == ["float32", "bfloat16", "bfloat16"]
  assert [platform.patches_together(name) for name in ("cpu", "gpu", "tpu")] == [False, True, True]
  assert platform.compiler_options_for_one_run("gpu") is None
  with mock.patch.object(jax, "default_backend", lambda: "gpu"):
    assert platform.fast_dtype() == "bfloat16" and platform.patches_together() and platform.images_at_once() > 1
  with mock.patch.object(jax, "default_backend", lambda: "cpu"):
    assert platform.fast_dtype() == "float32" and not platform.patches_together() and platform.images_at_once() == 1


def test_the_peak_of_a_device_is_known_by_its_kind_and_a_cpu_has_none():
  def of(platform_name, kind):
    return platform.peak_flop_s(SimpleNamespace(platform=platform_name, device_kind=kind))

  assert of("gpu", "NVIDIA H100 80GB HBM3") == 989e12 and of("cpu", "cpu") is None
  with pytest.warns(MedlsamWarning, match="NVIDIA Z1: its peak"):
    assert of("gpu", "NVIDIA Z1") is None


def test_importing_it_loads_no_jax():
  code = "import sys, medlsam_jax.platform; assert not {'jax', 'numpy'} & set(sys.modules)"
  subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def allocator(monkeypatch):
  """What is asked of a stand-in for the C library's allocator, in an environment that asks for nothing."""
  told = []
  library = type("C", (), {"mallopt": staticmethod(lambda option, value: told.append((option, value)))})
  monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
  monkeypatch.setattr(os, "confstr", lambda _: "glibc")
  monkeypatch.setattr(platform.importlib.util, "find_spec", lambda _: None)
  for name in [n for n in os.environ if n.startswith("MALLOC_") or n in ("GLIBC_TUNABLES", "JAX_PLATFORMS")]:
    monkeypatch.delenv(name)
  return told


@pytest.mark.parametrize(
  ("plugin", "wanted", "kept"),
  [
    (None, "", True), (None, "cpu", True), ("jax_plugins", "cpu", True), ("jax_plugins", "cpu,cuda", True),
    ("jax_plugins", "", False), ("libtpu", "", False), ("jax_plugins", "cuda,cpu", False), (None, "tpu", False),
  ],
)  # fmt: skip
def test_freed_memory_is_kept_where_jax_can_run_on_a_cpu_alone(allocator, monkeypatch, plugin, wanted, kept):
  monkeypatch.setenv("JAX_PLATFORMS", wanted)
  monkeypatch.setattr(platform.importlib.util, "find_spec", lambda name: name == plugin or None)
  platform.keep_freed_memory()
  assert ((-8, 1) in allocator) == kept and bool(allocator) == kept


def test_settings_of_the_users_own_win(allocator, monkeypatch):
  monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
  platform.keep_freed_memory()
  assert allocator == []


def test_another_c_library_is_left_alone(allocator, monkeypatch):
  def no_such_setting(_):
    raise ValueError("unrecognized configuration name")

  monkeypatch.setattr(os, "confstr", no_such_setting)
  platform.keep_freed_memory()
  assert allocator == []


@pytest.mark.parametrize("target", PLATFORMS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_an_exact_search_multiplies_in_float32_everywhere(name, target):
  found = lowered(getattr(programs, name), search_arguments(name, "float32"), target)
  assert {kind for kind, *_ in found} == {"convolution", "dot_general"}
  assert {(a, b, highest) for _, a, b, highest in found} == {("f32", "f32", True)}


@pytest.mark.parametrize("target", PLATFORMS)
@pytest.mark.parametrize("name", ["positions", "best_moves", "template_moves"])
def test_a_fast_search_has_bfloat16_operands_and_asks_for_nothing_of_them(name, target):
  found = lowered(getattr(programs, name), search_arguments(name, "bfloat16"), target)
  convolutions = {each for each in found if each[0] == "convolution"}
  assert convolutions == {("convolution", "bf16", "bf16", False)}
  assert not any(highest for _, a, _, highest in found if a == "bf16")


@pytest.mark.parametrize(("target", "parts"), [("cpu", 2), ("cuda", 0), ("tpu", 0)])
def test_all_queries_of_an_image_attend_at_once_but_on_a_cpu(target, parts):
  block = Block(2, 0, 64, jnp.bfloat16)
  variables = jax.eval_shape(block.init, jax.random.key(0), jnp.zeros((1, 64, 64, 32)))
  text = text_of(jax.jit(block.apply), (variables, shaped(1, 64, 64, 32)), target)
  assert ("stablehlo.while" in text) == bool(parts)
  assert ("2x4096x4096xf32" in text) != bool(parts)


def test_images_attend_one_after_the_other_where_all_at_once_would_fill_the_memory():
  block = Block(2, 0, 64, jnp.bfloat16)
  variables = jax.eval_shape(block.init, jax.random.key(0), jnp.zeros((1, 64, 64, 32)))
  text = text_of(jax.jit(block.apply), (variables, shaped(3, 64, 64, 32)), "cuda")
  assert text.count("stablehlo.while") == 1 and "3x2x4096x4096" not in text and "2x4096x4096xf32" in text


def volumetric(dtype):
  """A network over volumes, and what its program takes."""
  module = Sam3D(SAM3D_TINY, dtype=jnp.dtype(dtype), remat=True)
  prompts = (shaped(1, 16, 16, 16), shaped(1, 2, 6, 3), shaped(1, 2, 6, dtype=jnp.int32))
  return module, (*parameters.split(parameters.shapes(module)), *prompts)


@pytest.mark.parametrize("target", PLATFORMS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_volumetric_network_multiplies_as_its_dtype_says(dtype, target):
  module, arguments = volumetric(dtype)
  found = lowered(jax.jit(functools.partial(parameters.apply, module)), arguments, target)
  if dtype == "float32":
    assert {(a, b, highest) for _, a, b, highest in found} == {("f32", "f32", True)}
  else:
    assert {each[1:] for each in found if each[0] == "convolution"} == {("bf16", "bf16", False)}
    assert sum(each[1:] == ("bf16", "bf16", False) for each in found) > 0.8 * len(found)
    assert not any(highest for _, a, _, highest in found if a == "bf16")


@pytest.mark.parametrize("target", PLATFORMS)
def test_its_gradient_is_exact_where_the_whole_step_asks_for_it(target):
  module, arguments = volumetric("float32")

  def gradient(*arguments):
    with platform.asked(module.dtype):
      return jax.grad(lambda *each: parameters.apply(module, *each).sum())(*arguments)

  found = lowered(jax.jit(gradient), arguments, target)
  assert {(a, b, highest) for _, a, b, highest in found} == {("f32", "f32", True)}


def step_of(**network):
  settings = from_mapping(
    PretrainSettings, {"network": {"base_channels": 1, **network}, "data": {"scans_per_step": 1, "points_per_patch": 2}}
  )
  mesh = sharding.make_mesh(settings.mesh, jax.devices()[:1])
  place = sharding.batch_sharding(mesh)
  batch = Batch(*(jax.ShapeDtypeStruct((1, 2, *rest), jnp.float32, sharding=place) for rest in ((80,) * 3, (3,))))
  return make_step(settings, mesh), (abstract_state(settings, mesh), batch)


@pytest.mark.parametrize("target", PLATFORMS)
def test_the_published_step_multiplies_in_float32_and_another_may_ask_for_less(target):
  exact = lowered(*step_of(), target)
  assert {kind for kind, *_ in exact} == {"convolution", "dot_general"}
  assert {(a, b, highest) for _, a, b, highest in exact} == {("f32", "f32", True)}
  quick = lowered(*step_of(precision="default"), target)
  assert [each[:3] for each in quick] == [each[:3] for each in exact]
  assert not any(highest for kind, *_, highest in quick if kind == "convolution")


@pytest.mark.parametrize("target", PLATFORMS)
def test_the_published_step_runs_all_views_together_and_never_leaves_the_device(target):
  text = text_of(*step_of(), target)
  assert not re.search(HOST, text) and "f64" not in text
  views = 4  # of two patches
  assert {(len(shape), shape[0]) for shape in convolved(text)} == {(5, views)}
  assert text.count("stablehlo.while") == 1  # warps, of a scan's patches in turn


@pytest.mark.parametrize(("dtype", "other"), [("float32", "default"), ("bfloat16", "highest")])
def test_a_setting_of_the_user_changes_no_program(dtype, other):
  def text():
    return programs.positions.trace(*arguments).lower(lowering_platforms=("tpu",)).as_text()

  arguments = search_arguments("positions", dtype)
  plain = text()
  with jax.default_matmul_precision(other):
    assert text() == plain


def test_on_a_cpu_asking_changes_no_bit():
  module, rng = MedLAM(base_channels=8, feature_scales=(), patch_edge=16), np.random.default_rng(0)
  shapes = jax.eval_shape(lambda: init_variables(module, jax.random.key(0)))
  variables = jax.tree.map(lambda s: rng.standard_normal(s.shape, np.float32), shapes)
  patch = rng.random((1, 16, 16, 16, 1), np.float32)
  results = []
  for wanted in ("highest", "default"):
    with jax.default_matmul_precision(wanted):
      results.append(jax.jit(lambda v, p: module.apply(v, p))(variables, patch))
  for exact, plain in zip(*map(jax.tree.leaves, results), strict=True):
    assert np.array_equal(exact, plain)


def test_operands_that_are_not_float32_are_left_to_the_platform():
  def product(a, b):
    return a @ b

  for dtype, wanted in ((jnp.float32, True), (jnp.bfloat16, False)):
    with platform.asked(dtype):
      text = jax.jit(product).trace(shaped(2, 2), shaped(2, 2)).lower(lowering_platforms=("tpu",)).as_text()
    assert products(text) == [("dot_general", "f32", "f32", wanted)]
