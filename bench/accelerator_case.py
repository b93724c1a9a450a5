"""One thing that `bench.accelerator` times, and the operands that it is timed with.

Operands: `highest` asks for float32 products, `default` for what the platform does with float32 operands (TF32 on GPU,
bfloat16 on TPU), `bfloat16` has operands of that type. On a CPU the first two are the same.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

OPERANDS = ("highest", "default", "bfloat16")
GB = 1e9


@dataclasses.dataclass(frozen=True)
class Case:
  """One thing to time; what `make` gives is called once unmeasured (it compiles), then again and again."""

  name: str
  operands: str
  make: Callable[[], Callable[[], Any]]
  tflop: float | None = None
  gigabytes: float | None = None
  figures: Callable[[Any], dict[str, float]] = lambda result: {}
  """Further figures, of the first call's result."""
  runs: int = 20
  times: int = 1
  """What is timed is so small a part of the work, whose other parts are like it."""
  note: str = ""


def traced(operands: str, call: Callable[[], Any]) -> Callable[[], Any]:
  """The call with its programs traced at that precision."""

  def run() -> Any:
    with jax.default_matmul_precision("highest" if operands == "highest" else "default"):
      return call()

  return run


def said(dtype: str) -> str:
  """What the library's own programs ask for with operands of that type."""
  return "highest" if dtype == "float32" else dtype


def dtype_of(operands: str) -> Any:
  return jnp.bfloat16 if operands == "bfloat16" else jnp.float32


def relative(found: Any, exact: Any) -> float:
  """Largest error over the largest number."""
  error = jnp.abs(found.astype(jnp.float32) - exact.astype(jnp.float32)).max()
  return float(error / jnp.abs(exact.astype(jnp.float32)).max())


def error_against_highest() -> Callable[[str, Any], dict[str, float]]:
  """Figures of a result by its operands: its error against the result of `highest`, which comes first."""
  exact = list[Any]()

  def error(operands: str, result: Any) -> dict[str, float]:
    if operands == "highest":
      exact.append(result)
    return {"error": relative(result, exact[0])} if exact and operands != "highest" else {}

  return error
