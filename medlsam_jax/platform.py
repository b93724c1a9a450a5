"""Every decision that depends on the machine's backend: lowering, precision, patches and images a call, memory.

A program may be lowered for another machine than the one that traces it. What is traced therefore never asks for the
backend's name: it leaves the choice to the lowering (`by_backend`), or is told by its caller (`patches_together`).

Precision is said in every program, never left to the platform or to a user's setting. What float32 operands are
multiplied in by default differs: float32 on a CPU, TF32 (10 bits) on GPU, bfloat16 (7 bits) on TPU. `exact` programs
ask for float32 everywhere; on a CPU that changes nothing.

Importing this loads no JAX: the command line sets the memory before.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Concatenate, Literal, ParamSpec, Protocol, TypeVar

from medlsam_jax import notices
from medlsam_jax.errors import DeviceError

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
_NO_START = ("DNN library initialization failed", "CUDNN_STATUS_INTERNAL_ERROR", "CUDNN_STATUS_NOT_INITIALIZED")
"""In errors of a GPU on which another program has left no memory for cuDNN, or whose driver is none for it."""
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


@functools.cache
def require_devices() -> None:
  """Lets JAX find its devices, and says once why all runs on the CPU where a GPU or TPU was meant to be used.

  Whatever asks JAX for its devices first does it through this: networks are loaded, meshes made.

  Raises:
    DeviceError: none of those that `JAX_PLATFORMS` names can be used; or, without it, JAX does not start with the GPU
      or TPU that it sees, because of an old driver for instance.
  """
  import jax

  with _complaints() as told:
    try:
      found = jax.devices()
    except (RuntimeError, AssertionError) as error:
      wanted = os.environ.get("JAX_PLATFORMS")
      what = f"JAX_PLATFORMS={wanted}: no such device can be used" if wanted else "the GPU or TPU here cannot be used"
      reason = "; ".join([*map(_first_line, told), *filter(None, str(error).splitlines()[:1])])
      raise DeviceError(f"{what} ({reason}); with JAX_PLATFORMS=cpu all runs on the CPU") from error
  if found[0].platform == "cpu" and (told or may_have_accelerator()):
    reason = "; ".join(map(_first_line, told)) or "its plugin for JAX is installed, but finds no device"
    notices.warn(
      f"all runs on the CPU, no GPU or TPU can be used: {reason}. JAX_PLATFORMS=cpu in the environment says that this "
      "is meant"
    )
  else:
    for record in told:
      logging.getLogger(record.name).handle(record)


@contextlib.contextmanager
def _complaints() -> Iterator[list[logging.LogRecord]]:
  """What JAX logs meanwhile about its devices, kept from the terminal: tracebacks of a dozen lines among it."""
  logger, told = logging.getLogger("jax._src.xla_bridge"), list[logging.LogRecord]()
  handler, before = _Listener(told), logger.propagate
  logger.addHandler(handler)
  logger.propagate = False
  try:
    yield told
  finally:
    logger.removeHandler(handler)
    logger.propagate = before


class _Listener(logging.Handler):
  """Keeps warnings and errors."""

  def __init__(self, told: list[logging.LogRecord]) -> None:
    super().__init__(logging.WARNING)
    self._told = told

  def emit(self, record: logging.LogRecord) -> None:
    """Keeps one."""
    self._told.append(record)


def _first_line(record: logging.LogRecord) -> str:
  """What was logged or, where an error was, that and what it came from."""
  error = record.exc_info[1] if record.exc_info else None
  if error is None:
    return " ".join(record.getMessage().split()).rstrip(".")
  return " because of ".join(" ".join(str(each).split()).rstrip(".") for each in (error, error.__cause__) if each)


def backend() -> str:
  """Name of the backend that runs programs: `cpu`, `gpu` or `tpu`. Not for use while tracing."""
  import jax

  require_devices()
  return jax.default_backend()


def device() -> jax.Device:
  """The device that takes what is not told where to go: of this thread, where one was set for it."""
  import jax

  require_devices()
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


def widened(dtype: jax.typing.DTypeLike) -> str:
  """What a user who asks for operands of `dtype` in a network over volumes should know; empty where they save time."""
  import jax.numpy as jnp

  if backend() != "cpu" or jnp.dtype(dtype) == jnp.float32:
    return ""
  return (
    f"a CPU widens {jnp.dtype(dtype).name} operands of 3D convolutions to float32: they save no time here, and results "
    "are less exact; float32 is as quick"
  )


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
  return any(word in str(error) for word in ("RESOURCE_EXHAUSTED", "CUDA_ERROR_OUT_OF_MEMORY"))


def fewer(error: Exception, before: int, what: str) -> int:
  """How much to give the device at once after a call of `before` for which its memory did not suffice: half.

  Said in a line; `what` is their name, of which a device is given several at once.

  Raises:
    DeviceError: it was a single one.
    Exception: `error` itself, where it says something else.
  """
  if not memory_is_full(error):
    raise error
  if before == 1:
    raise DeviceError(f"the memory of {device()} is full, {what} going there singly already ({MORE_MEMORY})") from error
  notices.warn(f"the memory of {device()} is full: from now on {before // 2} {what} go there at once, not {before}")
  return before // 2


def explained(error: Exception) -> str:
  """What the device has refused and what to do about it, in a line; empty where an error says something else."""
  said = str(error)
  first = next(iter(said.splitlines()), "")
  if memory_is_full(error):
    return f"the device's memory is full ({MORE_MEMORY}): {first}"
  if any(word in said for word in _NO_START):
    return (
      f"the GPU's libraries do not start: its memory is taken ({MORE_MEMORY}), or its driver and they do not go "
      f"together: {first}"
    )
  return ""


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
