"""What the jitted programs are on machines that are not at hand."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lowered import HOST, PLATFORMS, VOLUMES_OF_DOUBLES, text_with_doubles

from medlsam_jax.medlam.network.medlam import MedLAM, init_variables
from medlsam_jax.medlam.search import patches, programs

SCALES = (4, 2)
EDGE, POINTS, SEATS = 64, programs.POINTS_PER_CALL, 2
_MODULE = MedLAM(base_channels=1, feature_scales=SCALES)


def _arguments(name):
  """Shapes that the search and the bank call a program with, and its static arguments."""
  variables = jax.eval_shape(lambda: init_variables(_MODULE, jax.random.key(0)))
  network = programs.Prepared(_MODULE.clone(dtype=jnp.dtype("bfloat16")), variables, patches_together=True)
  patches = jax.ShapeDtypeStruct((POINTS, EDGE, EDGE, EDGE, 1), jnp.float32)
  if name == "positions":
    return (network, patches)
  if name == "template_outputs":
    return (network, patches, jax.ShapeDtypeStruct((POINTS,), jnp.bool_), SCALES, 8)
  if name == "template_moves":
    taps = {s: jax.ShapeDtypeStruct((POINTS, SEATS, 3, *(8 // s,) * 3, 4), jnp.float32) for s in SCALES}
    shown = jax.ShapeDtypeStruct((POINTS, SEATS, 3), jnp.bool_)
    return (network, patches, shown, taps, 12)
  taps = {s: jax.ShapeDtypeStruct((POINTS, SEATS, *(8 // s,) * 3, 4), jnp.float32) for s in SCALES}
  return (network, patches, jax.ShapeDtypeStruct((POINTS, SEATS), jnp.bool_), taps)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", ["positions", "template_outputs", "best_moves", "template_moves"])
def test_programs_stay_on_the_device_in_single_precision_and_loop_over_nothing(name, platform):
  text = text_with_doubles(getattr(programs, name), _arguments(name), platform)
  assert "stablehlo.convolution" in text
  assert not re.search(VOLUMES_OF_DOUBLES, text)
  assert not re.search(HOST, text)
  assert "stablehlo.while" not in text


@pytest.mark.parametrize("platform", PLATFORMS)
def test_cutting_patches_stays_on_the_device_too(platform):
  scan, centres = (jax.ShapeDtypeStruct(*each) for each in (((96, 64, 128), jnp.float32), ((POINTS, 3), jnp.int32)))
  text = text_with_doubles(patches.cut, (scan, centres), platform)
  assert f"tensor<{POINTS}x{EDGE}x{EDGE}x{EDGE}x1xf32>" in text
  assert not re.search(f"{VOLUMES_OF_DOUBLES}|{HOST}|stablehlo.while", text)


def test_points_of_a_patch_are_compared_in_turn_where_their_maps_would_not_fit(monkeypatch):
  """A loop over two halves of the points, in which all patches are still compared together."""
  network, cubes, used, taps = _arguments("best_moves")
  monkeypatch.setattr(programs, "MAPS_HELD", POINTS * SEATS * programs.correlation.numbers_held(EDGE, 2, 4) - 1)
  text = jax.jit(programs.best_moves.__wrapped__).trace(network, cubes, used, taps)
  text = text.lower(lowering_platforms=("cuda",)).as_text()
  assert text.count("stablehlo.while") == 1


def test_a_double_or_a_callback_would_be_seen():
  def bad(x):
    jax.debug.callback(lambda _: None, x)
    return x.astype(jnp.float64) + np.float64(1)

  with jax.enable_x64(True):
    text = jax.jit(bad).lower(jax.ShapeDtypeStruct((2, 2, 2), jnp.float32)).as_text()
  assert re.search(VOLUMES_OF_DOUBLES, text)
  assert re.search(HOST, text)
