"""Programs as accelerators run them, compiled for a CPU where a platform's compiler is not at hand."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar
from unittest import mock

import jax

from medlsam_jax import platform

R = TypeVar("R")


def _of_accelerator(*arrays: jax.Array, accelerator: Callable[..., R], **_: Callable[..., R]) -> R:
  return accelerator(*arrays)


@contextlib.contextmanager
def as_on_accelerator() -> Iterator[None]:
  """The ways of accelerators, XLA's own 3D convolution first, in place of the CPU's in all that is traced meanwhile."""
  with mock.patch.object(platform, "by_backend", _of_accelerator):
    yield
