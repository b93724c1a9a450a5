"""What a command sets before JAX and NumPy load: a lasting cache of compiled programs, a thriftier allocator, and
silence of the libraries beneath.

All only in a process that has not loaded JAX yet: a script or notebook that calls `main` keeps its own settings.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from medlsam_jax.platform import keep_freed_memory

COMPILED_VARIABLE = "MEDLSAM_COMPILED"
"""Environment variable: another folder for compiled programs, or `off`."""
COMPILED_LIMIT_BYTES = 1 << 29
"""Compiled programs unused for longest are dropped beyond this."""

_JAX_FOLDER = "JAX_COMPILATION_CACHE_DIR"
_JAX_SETTINGS = {
  # programs here take from half a second to a minute to compile, and there are few: keep all
  "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
  "JAX_COMPILATION_CACHE_MAX_SIZE": str(COMPILED_LIMIT_BYTES),
}
_READ_ONLY = {
  "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1e9",  # as long as no program takes: none is written
  "JAX_COMPILATION_CACHE_MAX_SIZE": "-1",  # a limit is kept by files that say when each was used
  "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
}


def prepare(warn: Callable[[str], None], training: bool = False) -> None:
  """Sets all, where JAX is not loaded yet; `warn` hears why programs cannot be kept.

  The allocator's settings are for inference on a CPU (`platform.keep_freed_memory`): a command that trains has glibc's.
  """
  if "jax" in sys.modules:
    return
  quieten_libraries()
  keep_compiled_programs(warn)
  if not training:
    keep_freed_memory()


def quieten_libraries() -> None:
  """Keeps notes of XLA and of absl's users (Orbax, Grain) from the terminal; what ends a command is an exception.

  XLA logs every compilation of over two minutes as an error, with a request to file a bug. The environment's own
  `TF_CPP_MIN_LOG_LEVEL` wins.
  """
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  try:
    from absl import logging
  except ImportError:  # only the extra `train` brings it
    return
  logging.set_verbosity(logging.ERROR)


def keep_compiled_programs(warn: Callable[[str], None]) -> None:
  """Makes JAX keep compiled programs in the user's cache directory, unless its own settings name a folder.

  Where the folder cannot be written the command goes on without, which `warn` is told once.
  """
  wanted = os.environ.get(COMPILED_VARIABLE)
  if named := os.environ.get(_JAX_FOLDER):
    _check_named(named, warn)
    return
  if wanted == "off":
    return
  folder = compiled_folder(wanted)
  if reason := _refused(folder):
    warn(
      f"{folder}: compiled programs cannot be kept there ({reason}), so that every command compiles anew; set "
      f"{COMPILED_VARIABLE} to another folder, or to off"
    )
    return
  os.environ[_JAX_FOLDER] = str(folder)
  for name, value in _JAX_SETTINGS.items():
    os.environ.setdefault(name, value)


def _check_named(folder: str, warn: Callable[[str], None]) -> None:
  """Keeps JAX from trying to write where it cannot, a warning for each program: what is there is only read."""
  reason = "" if "://" in folder else _refused(Path(folder))
  if not reason:
    return
  is_there = os.path.isdir(folder)
  rest = "those that are there are used" if is_there else "every command compiles anew"
  warn(f"{_JAX_FOLDER}={folder}: compiled programs cannot be kept there ({reason}); {rest}")
  os.environ |= _READ_ONLY
  if not is_there:
    del os.environ[_JAX_FOLDER]


def _refused(folder: Path) -> str:
  """Why a folder cannot be made or written; empty where it can."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()
  except OSError as error:
    return error.strerror or str(error)
  return ""


def compiled_folder(wanted: str | None = None) -> Path:
  """The folder for programs of this kind of processor: home directories are shared, machine code is not."""
  from medlsam_jax.io.weights.fetch import cache_folder

  return (Path(wanted) if wanted else cache_folder() / "compiled") / _processor()


def _processor() -> str:
  try:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    lines = []
  features = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
  return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:12]}"
