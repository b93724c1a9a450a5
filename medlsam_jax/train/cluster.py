"""Many processes as one run: who the others are, and how long one may be silent."""

from __future__ import annotations

from typing import Any

import jax

from medlsam_jax.errors import ConfigError
from medlsam_jax.train.settings import ClusterSettings


def connect(settings: ClusterSettings) -> None:
  """Joins the processes of a run; must come before anything else asks JAX for its devices.

  A process that gives no sign of life for `timeout_seconds` ends the others with an error.

  Raises:
    ConfigError: fields that do not go together, or nobody answers.
  """
  if settings.kind == "none" or jax.distributed.is_initialized():
    return
  if settings.kind == "flags":
    if ":" not in settings.coordinator or not 0 <= settings.process < settings.processes:
      raise ConfigError(
        "cluster.kind flags needs cluster.coordinator HOST:PORT and cluster.process from 0 to cluster.processes - 1"
      )
    given: dict[str, Any] = {
      "coordinator_address": settings.coordinator,
      "num_processes": settings.processes,
      "process_id": settings.process,
    }
  else:
    given = {}
  try:
    jax.distributed.initialize(**given, initialization_timeout=300, heartbeat_timeout_seconds=settings.timeout_seconds)
  except (RuntimeError, ValueError) as error:
    raise ConfigError(f"cluster.kind {settings.kind}: the processes did not find each other ({error})") from error


def is_main() -> bool:
  """Whether this is the process that writes and speaks."""
  return jax.process_index() == 0
