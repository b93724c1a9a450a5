"""A cohort on a Ray cluster: Ray Data places actors, hands them scans, tries again and holds back; nothing here does.

What Ray gives back counts once: this process alone writes results, and its manifest says what is done. A machine may
vanish, and what it was given is given to another one; one that comes back late has nothing to write to.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import pickle
import re
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from medlsam_jax import notices
from medlsam_jax.cohort.outcome import MachineError, Outcome, ScanError, Written
from medlsam_jax.cohort.ray_worker import OUTCOME, SCAN, Actor, Orders, Packed
from medlsam_jax.errors import ConfigError
from medlsam_jax.installation import install_hint
from medlsam_jax.io.scans import ListedScan

TRIES = 10
"""Of a scan whose actors die, or one whose search takes more memory than any machine has would be tried for ever. A
machine that dies costs three, as Ray asks it again."""
_RESOURCE = re.compile(r"(\w+)=(\d+(?:\.\d+)?)")
_ARGUMENT = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
"""What Ray's own resources are called where an actor asks for them."""


@dataclasses.dataclass(frozen=True)
class RayOptions:
  """Which cluster, and what of it an actor takes."""

  address: str
  """`auto` (the one of this machine, or of RAY_ADDRESS), HOST:PORT, or `local`: one of this machine alone, for this
  run."""
  actor: Mapping[str, float] | None = None
  """Resources of an actor by Ray's names; None: a GPU or TPU where the cluster has one, else a CPU."""

  @classmethod
  def of(cls, address: str, actor: str | None) -> RayOptions:
    """Of the words of a command line: `CPU=4,GPU=1`.

    Raises:
      ConfigError: they are no such words.
    """
    if actor is None:
      return cls(address)
    matches = [_RESOURCE.fullmatch(word.strip()) for word in actor.split(",")]
    named = {match[1]: float(match[2]) for match in matches if match}
    if not all(matches) or len(named) < len(matches) or not any(named.values()):
      raise ConfigError(f"--ray-actor {actor}: give what an actor takes, such as CPU=4 or CPU=8,GPU=1")
    return cls(address, named)


def require_ray() -> ModuleType:
  """Ray, where it is installed.

  Raises:
    ConfigError: it is not.
  """
  try:
    import ray
    import ray.data
  except ImportError as error:
    raise ConfigError(
      f"a cluster of Ray needs packages that are not here ({error.name}); run: {install_hint('ray')}"
    ) from error
  return ray


@contextlib.contextmanager
def connected(options: RayOptions | None) -> Iterator[None]:
  """Within, this process belongs to the cluster, if one is named; a connection that there was before stays.

  Raises:
    ConfigError: Ray is not installed, or nothing answers at the address.
  """
  ray = None if options is None else require_ray()
  if ray is None or options is None or ray.is_initialized():
    yield
    return
  # nothing is sent anywhere about a cluster that is begun here, and what goes wrong beneath is told by whom it meets:
  # Ray's own statistics, when they lay on a machine that died, say so in a traceback every few seconds
  for name, value in (("USAGE_STATS_ENABLED", "0"), ("BACKEND_LOG_LEVEL", "fatal"), ("IGNORE_UNHANDLED_ERRORS", "1")):
    os.environ.setdefault(f"RAY_{name}", value)
  with _own_signals():
    try:
      ray.init(address=options.address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except Exception as error:  # Ray raises what it likes, `Exception` itself among it
      said = next(iter(str(error).splitlines()), type(error).__name__)
      raise ConfigError(f"--ray {options.address}: no cluster that can be used ({said})") from error
  try:
    yield
  finally:
    ray.shutdown()


class RayStages:
  """Runs scans on the cluster; gives outcomes as they come, in any order. A context manager, within `connected`.

  Args:
    options: of the cluster.
    orders: for every actor.
    scans: none twice.
    publish: writes what an actor packed.

  Raises:
    ConfigError: `orders.make` cannot be sent to another process.
  """

  devices = 1
  """At least; how many actors there are is seen by who did a scan."""

  def __init__(
    self, options: RayOptions, orders: Orders, scans: Sequence[ListedScan], publish: Callable[[Packed], Written]
  ) -> None:
    self._options, self._orders, self._scans, self._publish = options, orders, scans, publish

  def __enter__(self) -> RayStages:
    return self

  def __exit__(self, *_: object) -> None:
    return

  def __iter__(self) -> Iterator[Outcome[Written]]:
    left = {scan.name: scan for scan in self._scans}
    # what is left then may have died of another scan of its actor: once more, each alone
    for at_once in (self._orders.at_once, 1):
      for packed in self._outcomes(list(left.values()), at_once):
        scan = left.pop(packed.scan.name, None)
        if scan is not None:  # else done a second time, because who did it first was thought dead
          yield self._published(scan, packed)
    for scan in left.values():
      yield Outcome(scan, error=ScanError(
        f"its worker died or vanished, {TRIES} times; if others are done, this scan may need more memory than the "
        "machines have"
      ))  # fmt: skip

  def _published(self, scan: ListedScan, packed: Outcome[Packed]) -> Outcome[Written]:
    outcome = Outcome[Written](scan, packed.about, None, packed.error, packed.seconds, packed.worker, packed.warned)
    if packed.result is not None:
      try:
        outcome.result = self._publish(packed.result)
      except Exception as error:
        outcome.error = error
    return outcome

  def _outcomes(self, scans: Sequence[ListedScan], at_once: int) -> Iterator[Outcome[Packed]]:
    if not scans:
      return
    ray = require_ray()
    batches = self._dataset(ray, scans, at_once).iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0)
    try:
      for batch in batches:
        for content in batch[OUTCOME]:
          yield pickle.loads(content)
    except ray.exceptions.RayError as error:
      lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
      raise MachineError(f"Ray gave up: {lines[-1].strip()}") from error

  def _dataset(self, ray: ModuleType, scans: Sequence[ListedScan], at_once: int) -> Any:
    """A row of an outcome for each scan, made when it is asked for."""
    # of this machine's folder an actor knows nothing
    rows = [{SCAN: pickle.dumps(dataclasses.replace(scan, path=Path(os.path.abspath(scan.path))))} for scan in scans]
    try:
      orders = ray.put(self._orders)
    except TypeError as error:
      raise ConfigError(f"what makes results cannot be sent to other processes: {error}") from error
    actor = dict(self._options.actor or _usual_actor(ray.cluster_resources()))
    fitting = _fitting(actor, [node["Resources"] for node in ray.nodes() if node["Alive"]])
    if not fitting:
      words = ",".join(f"{name}={count:g}" for name, count in actor.items())
      notices.warn(f"no machine of the cluster has {words} for an actor; waiting for one that has")
    pool = ray.data.ActorPoolStrategy(
      min_size=1,
      max_size=len(rows),
      initial_size=min(max(fitting, 1), len(rows)),
      max_concurrent_calls_per_actor=at_once,
      max_tasks_in_flight_per_actor=at_once,
      enable_true_multi_threading=True,
    )
    asked = {argument: actor.pop(name) for name, argument in _ARGUMENT.items() if name in actor}
    with _quiet(ray):
      return ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        Actor, compute=pool, fn_constructor_args=(orders,), resources=actor, max_task_retries=TRIES - 1, **asked
      )


def _usual_actor(cluster: Mapping[str, float]) -> dict[str, float]:
  return next(({name: 1.0} for name in ("GPU", "TPU") if cluster.get(name, 0) >= 1), {"CPU": 1.0})


def _fitting(actor: Mapping[str, float], machines: Sequence[Mapping[str, float]]) -> int:
  """Actors that the machines have room for when nothing else runs there."""
  wanted = {name: count for name, count in actor.items() if count}
  return sum(min(math.floor(each.get(name, 0) / count) for name, count in wanted.items()) for each in machines)


@contextlib.contextmanager
def _quiet(ray: ModuleType) -> Iterator[None]:
  """A data set that is begun within loses single rows rather than all, and draws and prints nothing."""
  context = ray.data.DataContext.get_current().copy()
  context.max_errored_blocks = -1
  context.enable_progress_bars = False
  context.print_on_execution_start = False
  logging.getLogger("ray.data").setLevel(logging.CRITICAL)
  with ray.data.DataContext.current(context), warnings.catch_warnings():
    # of `max_task_retries`, which goes with Ray 2.64 (the ceiling in pyproject.toml) and has no other name yet
    warnings.filterwarnings("ignore", "`ray_remote_args`", DeprecationWarning)
    yield


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
  """What SIGTERM does stays: Ray sets a handler of its own when it begins."""
  before = signal.getsignal(signal.SIGTERM)
  try:
    yield
  finally:
    if before is not None and threading.current_thread() is threading.main_thread():
      signal.signal(signal.SIGTERM, before)
