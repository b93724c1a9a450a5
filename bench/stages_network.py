"""The localization network alone: forward passes and gradients."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.common import Row, gflop_of, network, patches, peer
from bench.timing import seconds
from medlsam_jax.volume_layers import convolution

WIDTH = 24
PATCHES = 6
DTYPES = (("float32", jnp.float32), ("bfloat16", jnp.bfloat16))


def forward() -> Iterator[Row]:
  """Six patches through the whole network, to half resolution, and through encoder and head alone."""
  ours, given = network(WIDTH), patches(PATCHES)
  exact = None
  for name, dtype in DTYPES:
    module = ours.module.clone(dtype=dtype)
    peers = {decoder: peer("forward", WIDTH, name, given, decoder, runs=2) for decoder in (True, False)}
    cases = (
      ("with decoder", (4, 2, 1), peers[True], 0.6 if name == "float32" else 0.8),
      ("encoder and head", (), peers[False], 0.6 if name == "float32" else 0.8),
    )
    for stage, scales, theirs, target in cases:
      # one patch at a time, as the search runs them on a CPU
      run = jax.jit(lambda v, p, m=module, s=scales: jax.lax.map(lambda x: m.apply(v, x[None], feature_scales=s), p))
      result = np.asarray(jax.tree.leaves(run(ours.variables, given))[-1])
      note = ""
      if name == "float32":
        exact = {**(exact or {}), stage: result}
      else:
        note = f"error of the position {np.abs(result - exact[stage]).max() / np.abs(exact[stage]).max():.0e}"
      taken = seconds(partial(run, ours.variables, given), 2)
      work = PATCHES * gflop_of(module, scales)
      yield Row(f"forward {stage}, width {WIDTH}, 6 patches", taken, theirs, target, work, name, note)
    if name == "bfloat16":
      run = jax.jit(lambda v, p, m=module: jax.lax.map(lambda x: m.apply(v, x[None], feature_scales=(4, 2)), p))
      taken = seconds(partial(run, ours.variables, given), 2)
      whole = peer("forward", WIDTH, "float32", given, True, runs=2)
      work = PATCHES * gflop_of(module, (4, 2))
      note = "does less work than the peer's whole forward in float32"
      yield Row(f"forward to half resolution (fast), width {WIDTH}, 6 patches", taken, whole, 0.15, work, name, note)


def gradient() -> Iterator[Row]:
  """Gradient of a sum over all outputs for three patches."""
  for width in (8, 24):
    ours, given = network(width), patches(3)
    for name, dtype in DTYPES:
      module = ours.module.clone(dtype=dtype)

      def total(params: Any, given: Any, module: Any = module) -> Any:
        out = module.apply({"params": params}, given)
        return out.position.sum() + sum(f.astype(jnp.float32).mean() for f in out.features.values())

      run = jax.jit(jax.grad(total))
      params = {k: v for k, v in ours.variables["params"].items() if k != "classification"}
      theirs = peer("gradient", width, name, given, runs=1)
      taken = seconds(partial(run, params, given), 1)
      work = 3 * 3 * gflop_of(module, (1,))
      yield Row(f"gradient, width {width}, 3 patches", taken, theirs, 0.7, work, name)


SHAPES = (
  (64, 1, 48), (64, 48, 48), (64, 144, 96), (64, 96, 96), (32, 48, 48), (32, 144, 96), (16, 288, 96), (8, 576, 192),
  (4, 192, 384),
)  # fmt: skip
"""Edge of the volume and channels in and out, of convolutions of a network of width 24."""


def lowerings() -> Iterator[Row]:
  """Each way to convolve on a CPU, and the one that is taken there, for one patch."""
  ways = {
    "taken": convolution.conv3,
    "planes": convolution._conv3_planes,
    "stacked": convolution._conv3_stacked,
    "winograd": convolution._conv3_winograd,
  }
  rng = np.random.default_rng(0)
  for edge, inside, outside in SHAPES:
    x = jnp.asarray(rng.standard_normal((1, edge, edge, edge, inside), dtype=np.float32))
    kernel = jnp.asarray(rng.standard_normal((3, 3, 3, inside, outside), dtype=np.float32))
    taken = {name: seconds(partial(jax.jit(way), x, kernel)) for name, way in ways.items()}
    quickest = min(taken, key=lambda name: taken[name])
    for name, time in taken.items():
      work, note = 2 * 27 * edge**3 * inside * outside / 1e9, "the quickest" if name == quickest else ""
      yield Row(f"convolution of {edge}^3, {inside} to {outside} channels, {name}", time, gflop=work, note=note)


STAGES: dict[str, Callable[[], Iterator[Row]]] = {"forward": forward, "gradient": gradient, "lowerings": lowerings}
