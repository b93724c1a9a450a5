"""Every decision that depends on the machine's backend: lowering, precision, patches and images a call, memory.

A program may be lowered for another machine than the one that traces it. What is traced therefore never asks for the
backend's name: it leaves the choice to the lowering (`by_backend`), or is told by its caller (`patches_together`).

Precision is said in every program, never left to the platform or to a user's setting. What float32 operands are
multiplied in by default differs: float32 on a CPU, TF32 (10 bits) on GPU, bfloat16 (7 bits) on TPU. `exact` programs
ask for float32 everywhere; on a CPU that changes nothing.

Importing this loads no JAX: the command line sets the memory before.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Concatenate, Literal, ParamSpec, Protocol, TypeVar

from medlsam_jax import notices

if TYPE_CHECKING:
  import jax
  import jax.typing

Precision = Literal["highest", "default"]
P = ParamSpec("P")
R = TypeVar("R")

MORE_MEMORY = (
  "end what else uses the device, or let a program there take only what it needs: XLA_PYTHON_CLIENT_PREALLOCATE=false; "
  "JAX_PLATFORMS=cpu does without it"
)
"""What to do where a device's memory is full."""
_IMAGES_AT_ONCE = 16
_PEAK_TFLOP_S = {
  # NVIDIA's data sheets, dense
  "NVIDIA A100-SXM4-40GB": 312, "NVIDIA A100-SXM4-80GB": 312, "NVIDIA A100-PCIE-40GB": 312,
  "NVIDIA A100 80GB PCIe": 312, "NVIDIA H100 80GB HBM3": 989, "NVIDIA H100 PCIe": 756, "NVIDIA H200": 989,
  "NVIDIA L4": 121,
  # cloud.google.com/tpu/docs
  "TPU v4": 275, "TPU v5 lite": 197, "TPU v5": 459, "TPU v6 lite": 918,
}  # fmt: skip
"""Of products of bfloat16 operands, by `device_kind`."""
# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


class Computes(Protocol):
  """What has a type of operands: a module, or one with its weights."""

  @property
  def dtype(self) -> jax.typing.DTypeLike:
    """Of the operands of products."""
    ...


Computing = TypeVar("Computing", bound=Computes)


def backend() -> str:
  """Name of the backend that runs programs: `cpu`, `gpu` or `tpu`. Not for use while tracing."""
  import jax

  return jax.default_backend()


def device() -> jax.Device:
  """The device that takes what is not told where to go: of this thread, where one was set for it."""
  import jax

  chosen = jax.default_device.value
  return chosen if isinstance(chosen, jax.Device) else jax.local_devices(backend=chosen)[0]


def devices_for(scans: int) -> list[jax.Device]:
  """Devices of this process that each work on some of so many scans; empty where the usual one takes all."""
  if scans < 2:
    return []
  import jax

  devices = jax.local_devices()
  return devices if len(devices) > 1 else []


def on(device: jax.Device) -> AbstractContextManager[object]:
  """Within, in this thread, `device` is the one that takes what is not told where to go."""
  import jax

  return jax.default_device(device)


def peak_flop_s(device: jax.Device) -> float | None:
  """Floating point operations a second that products of bfloat16 operands reach at most.

  None on a CPU and, with a warning, on a device that the table lacks.
  """
  if device.platform == "cpu":
    return None
  if device.device_kind not in _PEAK_TFLOP_S:
    notices.warn(f"{device.device_kind}: its peak is not known here; the run's records are without mfu")
    return None
  return _PEAK_TFLOP_S[device.device_kind] * 1e12


def by_backend(*arrays: jax.Array, cpu: Callable[..., R], accelerator: Callable[..., R]) -> R:
  """`cpu(*arrays)` in a program lowered for a CPU, `accelerator(*arrays)` in one for anything else."""
  from jax import lax

  return lax.platform_dependent(*arrays, cpu=cpu, default=accelerator)


def asked(dtype: jax.typing.DTypeLike, float32: Precision = "highest") -> AbstractContextManager[object]:
  """What is traced within asks for the precision that operands of `dtype` are meant to have.

  Args:
    dtype: of the operands. Beside bfloat16 ones, the few products of float32 operands take the platform's default.
    float32: what float32 operands mean: `highest` is float32 arithmetic, `default` the platform's.
  """
  import jax
  import jax.numpy as jnp

  return jax.default_matmul_precision(float32 if jnp.dtype(dtype) == jnp.float32 else "default")


def at_its_precision(function: Callable[Concatenate[Computing, P], R]) -> Callable[Concatenate[Computing, P], R]:
  """`function` of a network and more, traced at the precision that the network's `dtype` asks for."""

  @functools.wraps(function)
  def traced(network: Computing, *arguments: P.args, **named: P.kwargs) -> R:
    with asked(network.dtype):
      return function(network, *arguments, **named)

  return traced


def fast_dtype(name: str | None = None) -> str:
  """Type of operands that the backend (by default the one that runs) is fastest with.

  A CPU widens bfloat16 to float32 before it multiplies, and gains nothing.
  """
  return "float32" if (name or backend()) == "cpu" else "bfloat16"


def patches_together(name: str | None = None) -> bool:
  """Whether the patches of a call go through a 3D network together on the backend (by default the one that runs).

  Where they do, they are cut on the device from a scan that lies there, and no call of a search is waited for before
  the next (`medlam.search`). On a CPU one fills the machine already, and memory stays that of a single patch.
  """
  return (name or backend()) != "cpu"


def images_at_once() -> int:
  """Images that one call of an image encoder takes: more than one gain nothing on a CPU."""
  return 1 if backend() == "cpu" else _IMAGES_AT_ONCE


def slices_together(name: str | None = None) -> bool:
  """Whether slices are painted in batches on the backend (by default the one that runs).

  A CPU gains nothing from batches, and looks only at the part of a slice that a mask reaches.
  """
  return (name or backend()) != "cpu"


def compiler_options_for_one_run(name: str) -> dict[str, int] | None:
  """Of a program that runs once and briefly: a CPU would optimise dozens of random draws for half a minute."""
  return {"xla_backend_optimization_level": 0} if name == "cpu" else None


def memory_is_full(error: Exception) -> bool:
  """Whether an error of a program says that the device's memory did not suffice."""
  return "RESOURCE_EXHAUSTED" in str(error)


def may_have_accelerator() -> bool:
  """Whether JAX may find a GPU or TPU, as far as can be told without loading it: a plugin for one is installed.

  `JAX_PLATFORMS` in the environment decides where it is set.
  """
  wanted = os.environ.get("JAX_PLATFORMS")
  if wanted:
    return wanted.split(",")[0].strip() != "cpu"
  return any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu"))


def keep_freed_memory() -> None:
  """Tells glibc to keep freed memory for the next array instead of giving it back; does nothing elsewhere.

  For inference on a CPU alone, before JAX loads. XLA on a CPU takes and frees its buffers around every program. By
  default glibc maps each large one afresh from the system, which then clears it page by page: 12 of 64 processor
  seconds of `segment` went there, and 1 of 57 does now (`localize` gains little). The price is memory that is free but
  not given back, up to the largest amount in use at once: 1.5 instead of 1.2 GiB for 512x512x400 voxels.
  `bench/README.md` says how that was measured. Training has many threads that allocate beside each other, which one
  heap would make wait, and with an accelerator the buffers are not on the host: both keep glibc's own settings.
  """
  if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ) or may_have_accelerator():
    return
  try:
    mallopt = ctypes.CDLL(None).mallopt
    os.confstr("CS_GNU_LIBC_VERSION")
  except (OSError, AttributeError, TypeError, ValueError):
    return  # another C library: its mallopt, if any, means something else
  mallopt(_M_ARENA_MAX, 1)  # one heap for all threads, or each would keep its own
  mallopt(_M_MMAP_MAX, 0)
  mallopt(_M_TRIM_THRESHOLD, -1)  # never; a number would end at 2 GiB
  mallopt(_M_TOP_PAD, 64 << 20)
