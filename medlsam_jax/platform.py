"""How exact products and convolutions are: said in every program, never left to the platform or to a user's setting.

What float32 operands are multiplied in by default differs: float32 on a CPU, TF32 (10 bits) on GPU, bfloat16 (7 bits)
on TPU. `exact` programs ask for float32 everywhere; on a CPU that changes nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal

import jax
import jax.numpy as jnp

Precision = Literal["highest", "default"]


def asked(dtype: Any, float32: Precision = "highest") -> AbstractContextManager[Any]:
  """What is traced within asks for the precision that operands of `dtype` are meant to have.

  Args:
    dtype: of the operands. Beside bfloat16 ones, the few products of float32 operands take the platform's default.
    float32: what float32 operands mean: `highest` is float32 arithmetic, `default` the platform's.
  """
  return jax.default_matmul_precision(float32 if jnp.dtype(dtype) == jnp.float32 else "default")


def of_module(function: Callable[..., Any]) -> Callable[..., Any]:
  """`function` of a module and more, traced at the precision that the module's `dtype` asks for."""

  @functools.wraps(function)
  def traced(module: Any, *arguments: Any, **named: Any) -> Any:
    with asked(module.dtype):
      return function(module, *arguments, **named)

  return traced
