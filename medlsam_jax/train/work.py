"""Work of a program that nothing runs: multiplications and additions of its products and convolutions, by its jaxpr."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import jax
from jax.extend import core
from jaxtyping import PyTree


def flop_of(function: Callable[..., object], *arguments: PyTree) -> float:
  """Floating point operations of the products and convolutions of `function`, as an accelerator would run it.

  What is worked out again for a backward pass (rematerialisation) counts again.

  Args:
    function: what is traced.
    arguments: arrays or shapes (`jax.ShapeDtypeStruct`), in trees.
  """
  return _of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of_jaxpr(jaxpr: core.Jaxpr) -> float:
  by_platform = any(each.primitive.name == "platform_index" for each in jaxpr.eqns)
  return sum(_of_equation(each, by_platform) for each in jaxpr.eqns)


def _of_equation(equation: core.JaxprEqn, by_platform: bool) -> float:
  name, params = equation.primitive.name, equation.params
  if name == "dot_general":
    (contracted, _), _ = params["dimension_numbers"]
    inner = math.prod(_shape(equation.invars[0])[axis] for axis in contracted)
    return 2.0 * math.prod(_shape(equation.outvars[0])) * inner
  if name == "conv_general_dilated":
    kernel, numbers = _shape(equation.invars[1]), params["dimension_numbers"]
    taps = math.prod(kernel[axis] for axis in numbers.rhs_spec[1:])
    return 2.0 * math.prod(_shape(equation.outvars[0])) * taps
  if name == "cond":
    branches = [_of_jaxpr(branch.jaxpr) for branch in params["branches"]]
    return branches[-1] if by_platform else max(branches)
  inside = sum(_of_jaxpr(inner) for value in params.values() for inner in _jaxprs(value))
  return inside * params["length"] if name == "scan" else inside


def _shape(variable: core.Var | core.Literal) -> tuple[int, ...]:
  return cast(jax.core.ShapedArray, variable.aval).shape


def _jaxprs(value: object) -> list[core.Jaxpr]:
  """Programs within a parameter of an equation."""
  if isinstance(value, core.ClosedJaxpr):
    return [value.jaxpr]
  return [value] if isinstance(value, core.Jaxpr) else []
