"""Programs as accelerators run them, compiled for a CPU where a platform's compiler is not at hand."""

import contextlib
from collections.abc import Iterator
from unittest import mock

from medlsam_jax.volume_layers import convolution


@contextlib.contextmanager
def accelerator_convolution() -> Iterator[None]:
  """XLA's own 3D convolution in place of the CPU's plane-wise one, in all that is traced meanwhile."""
  native = {
    "_conv3_cpu": convolution._conv3_native, "_kernel_gradient_cpu": convolution._kernel_gradient_native,
  }  # fmt: skip
  with mock.patch.multiple(convolution, **native):
    yield
