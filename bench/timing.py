"""Timing in one process: the best of a few runs after a warm-up, and what the machine could do at best."""

import dataclasses
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Steady:
  """Times of a call that has run before, in seconds."""

  median: float
  least: float
  runs: int


def finish(result: Any) -> Any:
  """Waits until a device has computed `result`, of JAX or of PyTorch."""
  jax.block_until_ready(result)
  torch = sys.modules.get("torch")
  if torch is not None and torch.cuda.is_initialized():
    torch.cuda.synchronize()
  return result


def steady(call: Callable[[], Any], most_runs: int, budget_s: float) -> Steady:
  """Times of up to `most_runs` calls, no more of them than fit into the budget, but at least one."""
  taken: list[float] = []
  while not taken or (len(taken) < most_runs and sum(taken) < budget_s):
    began = time.perf_counter()
    finish(call())
    taken.append(time.perf_counter() - began)
  return Steady(statistics.median(taken), min(taken), len(taken))


def seconds(call: Callable[[], Any], runs: int = 3, warm: bool = True) -> float:
  """Smallest wall time of `runs` calls, after one that is not counted (it compiles) unless `warm` is false."""
  if warm:
    finish(call())
  best = float("inf")
  for _ in range(runs):
    began = time.perf_counter()
    finish(call())
    best = min(best, time.perf_counter() - began)
  return best


def mean_seconds(call: Callable[[], Any], runs: int) -> float:
  """Mean wall time of `runs` calls: for work that is prepared ahead, where one call alone may find it ready."""
  began = time.perf_counter()
  for _ in range(runs):
    finish(call())
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
