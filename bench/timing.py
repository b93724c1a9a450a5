"""Timing in one process: the best of a few runs after a warm-up, and what the machine could do at best."""

import platform
import resource
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def seconds(call: Callable[[], Any], runs: int = 3, warm: bool = True) -> float:
  """Smallest wall time of `runs` calls, after one that is not counted (it compiles) unless `warm` is false."""
  if warm:
    jax.block_until_ready(call())
  best = float("inf")
  for _ in range(runs):
    began = time.perf_counter()
    jax.block_until_ready(call())
    best = min(best, time.perf_counter() - began)
  return best


def mean_seconds(call: Callable[[], Any], runs: int) -> float:
  """Mean wall time of `runs` calls: for work that is prepared ahead, where one call alone may find it ready."""
  began = time.perf_counter()
  for _ in range(runs):
    jax.block_until_ready(call())
  return (time.perf_counter() - began) / runs


def matrix_product_gflops(dtype: Any) -> float:
  """Speed of a 4096 x 768 x 3072 product with float32 accumulation: the limit that shares refer to."""
  a, b = jnp.ones((4096, 768), dtype), jnp.ones((768, 3072), dtype)
  product = jax.jit(
    lambda a, b: jax.lax.dot_general(a, b, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32)
  )
  return 2 * 4096 * 768 * 3072 / seconds(lambda: product(a, b), 5) / 1e9


def peak_memory_gib() -> float:
  """Largest resident set of this process so far."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def machine() -> dict[str, str]:
  """What a reader must know of the machine to compare figures."""
  model = platform.processor() or platform.machine()
  try:
    with open("/proc/cpuinfo") as info:
      model = next(line.split(":")[1].strip() for line in info if line.startswith("model name"))
  except (OSError, StopIteration):
    pass
  return {"processor": model, "devices": str(jax.devices()), "jax": jax.__version__, "system": platform.platform()}
