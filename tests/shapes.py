"""Holds arrays against the shapes and dtypes that our annotations promise, while the tests run.

Only annotations that speak of arrays are checked: the rest is mypy's, and tests may hand over stand-ins for it.
A named tuple is opened: its fields are held against their own annotations wherever a function takes or returns one.
"""

import typing
from types import UnionType
from typing import Annotated, Any, Union

import jax
import numpy as np
from beartype import BeartypeConf, beartype
from beartype.door import is_bearable
from beartype.vale import Is
from jaxtyping import AbstractArray, jaxtyped

_TAKEN = {jax.Array: jax.Array | np.ndarray | np.generic, np.ndarray: np.ndarray | np.generic}
_CONF = BeartypeConf(is_pep484_tower=True)  # an int is a float


def check(function: Any) -> Any:
  """`function` with those of its annotations checked that speak of arrays: the checker of jaxtyping's import hook."""
  hints = {name: _opened(hint) for name, hint in function.__annotations__.items()}
  unread = [hint for hint in hints.values() if isinstance(hint, str) and "[" in hint and "Array" in hint]
  if unread:
    raise TypeError(f"{function.__qualname__}: {unread} name something that is imported for mypy only")
  function.__annotations__ = {name: hint for name, hint in hints.items() if _speaks_of_arrays(hint)}
  return beartype(conf=_CONF)(function)


def _speaks_of_arrays(hint: Any) -> bool:
  return "jaxtyping" in repr(hint) or "beartype.vale" in repr(hint)


def _opened(hint: Any, taken: Any = None) -> Any:
  """The hint, with the fields of named tuples looked at, and what JAX and numpy take for their arrays taken too.

  JAX takes host arrays wherever it takes its own; a batch goes to the device as the named tuple that it is, and a state
  may be one of shapes alone; numpy answers with a scalar where an array has no axes left.
  """
  if isinstance(hint, type) and issubclass(hint, AbstractArray):
    known = hint.array_type in _TAKEN
    return hint.dtype[taken or _TAKEN[hint.array_type], hint.dim_str] if known else hint
  if isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields"):
    fields = {
      name: _opened(field, _TAKEN[jax.Array] | jax.ShapeDtypeStruct)
      for name, field in typing.get_type_hints(hint).items()
      if _speaks_of_arrays(field)
    }

    def fields_hold(value: Any) -> bool:
      return _hold(value, fields)

    return Annotated[hint, Is[fields_hold]] if fields else hint
  parts = tuple(_opened(part, taken) for part in typing.get_args(hint))
  if not _speaks_of_arrays(hint) or not parts:
    return hint
  return Union[parts] if isinstance(hint, UnionType) else typing.get_origin(hint)[parts]  # noqa: UP007


def _hold(value: Any, fields: dict[str, Any]) -> bool:
  given = {
    name: field for name, field in fields.items() if getattr(value, name) is not value._field_defaults.get(name, ...)
  }
  with jaxtyped("context"):  # sizes of its own: a field's `n` is not the function's
    return all(is_bearable(getattr(value, name), field, conf=_CONF) for name, field in given.items())
