"""The localization network alone: forward passes and gradients."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.common import HAVE_TORCH, Row, for_torch, gflop_of, network, patches, peer
from bench.timing import seconds

WIDTH = 24
PATCHES = 6
DTYPES = (("float32", jnp.float32), ("bfloat16", jnp.bfloat16))


def forward() -> Iterator[Row]:
  """Six patches through the whole network, to half resolution, and through encoder and head alone."""
  ours, given = network(WIDTH), patches(PATCHES)
  exact = None
  for name, dtype in DTYPES:
    module = ours.module.clone(dtype=dtype)
    peers = {decoder: peer(partial(_peer_forward, name, given, decoder)) for decoder in (True, False)}
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
      whole = peer(partial(_peer_forward, "float32", given, True))
      work = PATCHES * gflop_of(module, (4, 2))
      note = "does less work than the peer's whole forward in float32"
      yield Row(f"forward to half resolution (fast), width {WIDTH}, 6 patches", taken, whole, 0.15, work, name, note)


def _peer_forward(dtype: str, given: np.ndarray, decoder: bool) -> float:
  import torch

  from bench import peer_torch

  module = peer_torch.PeerMedLAM(WIDTH).eval().to(getattr(torch, dtype))
  return seconds(partial(module, for_torch(given).to(getattr(torch, dtype)), decoder), 2)


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
      theirs = _peer_gradient(width, name, given) if HAVE_TORCH else None
      taken = seconds(partial(run, params, given), 1)
      work = 3 * 3 * gflop_of(module, (1,))
      yield Row(f"gradient, width {width}, 3 patches", taken, theirs, 0.7, work, name)


def _peer_gradient(width: int, dtype: str, given: np.ndarray) -> float:
  import torch

  from bench import peer_torch

  module = peer_torch.PeerMedLAM(width).to(getattr(torch, dtype))
  batch = for_torch(given).to(getattr(torch, dtype))

  def step() -> None:
    module.zero_grad()
    position, features = module(batch, True)
    (position.sum() + sum(f.mean() for f in features)).backward()

  return seconds(step, 1)


STAGES: dict[str, Callable[[], Iterator[Row]]] = {"forward": forward, "gradient": gradient}
