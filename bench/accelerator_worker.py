"""Some stages of `bench.accelerator` in a process of their own. Lines of JSON on standard output are its records."""

import gc
import importlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax

from bench import timing
from bench.accelerator_case import Case
from bench.accelerator_plan import Item
from bench.accelerator_sizes import FULL, TINY, Sizes

Stage = Callable[[Sizes], Iterator[Case]]
BUDGET_S = 0.8
"""For the timed runs of a case."""
FEW = 3
"""Up to so many timed runs are of calls so long that one more before them, to warm up, would change nothing."""


def stages(cases: Any) -> dict[str, Callable[[Sizes], Iterator[Case]]]:
  """A side's stages by name; `cases` is its module."""
  result: dict[str, Stage] = {
    name: getattr(cases, name)
    for name in ("ceilings", "forward", "head", "correlation", "bank", "encoder", "paint", "vit", "cubes")
  }
  result |= {"forward-many": cases.forward_many, "encoder-many": cases.encoder_many, "cube-step": cases.cube_step}
  result["localize-few"] = lambda sizes: cases.localize(sizes.organs[0], sizes)
  result["localize-many"] = lambda sizes: cases.localize(sizes.organs[1], sizes)
  for suffix, operands in (("", "default"), ("-bfloat16", "bfloat16")):
    result[f"step{suffix}"] = partial(cases.step, operands=operands)
    result[f"published-step{suffix}"] = partial(cases.published_step, operands=operands)
  for name, plain in (("step-untuned", "step"), ("forward-channels-last", "forward"),
                      ("step-bfloat16-channels-last", "step-bfloat16")):  # fmt: skip
    result[name] = result[plain]
  result["published-step-highest"] = partial(cases.published_step, operands="highest")
  for name in ("exactness", "forward_compiled"):
    if hasattr(cases, name):
      result[name.replace("_", "-")] = getattr(cases, name)
  return result


def work(kind: str, side: str, items: Sequence[Item], tiny: bool) -> None:
  """Compiles or times cases, stage by stage; one that fails is recorded, and the next is tried.

  Args:
    kind: `compile` calls each once, to have its programs compiled; `time` times it.
    side: `ours` or `peer`.
    items: which; neighbours of one stage share what the stage prepares.
    tiny: small work, for a dry run.
  """
  # what others print goes to standard error: standard output is for records
  out, sys.stdout = sys.stdout, sys.stderr

  def say(fields: dict[str, Any]) -> None:
    print(json.dumps(fields), file=out, flush=True)

  # the peers alone need PyTorch
  known = stages(importlib.import_module("bench.accelerator_peers" if side == "peer" else "bench.accelerator_cases"))
  compiling, peak = _Compiling(), _Peak(side)
  for stage, group in itertools.groupby(items, lambda item: item.stage):
    numbers = [item.case for item in group]
    say({"begin": stage})
    if stage == "ceilings" and kind == "time":
      say({"stage": stage} | _machine(side))
    try:
      for number, case in enumerate(known[stage](TINY if tiny else FULL)):
        if numbers != [None] and number not in numbers:
          continue
        about = {"stage": stage, "number": number, "case": case.name, "operands": case.operands}
        about |= {"note": case.note} if case.note else {}
        try:
          say(about | (_compiled(case) if kind == "compile" else _measured(case)) | compiling.taken() | peak.grown())
        except Exception as error:  # the next case may well run
          say(about | {"failed": _words(error)})
        gc.collect()
    except Exception as error:  # so may the next stage, where this one's scans or networks could not be made
      say({"stage": stage, "failed": _words(error)})


def _words(error: Exception) -> str:
  return f"{type(error).__name__}: {str(error)[:500]}"


class _Compiling:
  """Counts programs that JAX compiled or read from its cache."""

  def __init__(self) -> None:
    self._programs, self._seconds, self._hits = 0, 0.0, 0
    jax.monitoring.register_event_duration_secs_listener(self._lasted)
    jax.monitoring.register_event_listener(self._happened)

  def _lasted(self, event: str, seconds: float, **_: Any) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
      self._programs, self._seconds = self._programs + 1, self._seconds + seconds

  def _happened(self, event: str, **_: Any) -> None:
    self._hits += event == "/jax/compilation_cache/cache_hits"

  def taken(self) -> dict[str, float]:
    """Since the last call; `xla_s` is the time in XLA, or for reading."""
    found = {"programs": self._programs, "from_cache": self._hits, "xla_s": round(self._seconds, 2)}
    self._programs, self._seconds, self._hits = 0, 0.0, 0
    return found if found["programs"] else {}


def _compiled(case: Case) -> dict[str, float]:
  """The first call from nothing."""
  began = time.perf_counter()
  timing.finish(case.make()())
  return {"cold_s": round(time.perf_counter() - began, 2)}


def _measured(case: Case) -> dict[str, Any]:
  """First call, figures of its result, and steady time."""
  began = time.perf_counter()
  call = case.make()
  result = timing.finish(call())
  first_s = time.perf_counter() - began
  figures = case.figures(result)
  del result
  if case.runs > FEW:
    timing.finish(call())
  taken = timing.steady(call, case.runs, BUDGET_S)
  found: dict[str, Any] = {"first_s": round(first_s, 2), "runs": taken.runs}
  for name, value in (("median_ms", taken.median), ("least_ms", taken.least)):
    found[name] = round(1e3 * case.times * value, 3)
  if case.tflop is not None:
    found["tflop_s"] = round(case.tflop / taken.median, 2)
  if case.gigabytes is not None:
    found["gb_s"] = round(case.gigabytes / taken.median)
  return found | figures


def _machine(side: str) -> dict[str, Any]:
  if side == "peer":
    from bench import accelerator_peers

    return accelerator_peers.device()
  device = jax.devices()[0]
  return timing.machine() | {"platform": device.platform, "device_kind": device.device_kind}


class _Peak:
  """The most memory of the device that the process has taken, of which only growth can be told from earlier cases."""

  def __init__(self, side: str):
    self._side, self._before = side, 0.0

  def grown(self) -> dict[str, float]:
    """What a case brought the peak to; nothing where it stayed below what one before it took."""
    if self._side == "peer":
      from bench import accelerator_peers

      peak = accelerator_peers.peak_gib() or 0.0
    else:
      peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**30
    before, self._before = self._before, max(peak, self._before)
    return {"peak_gib": round(peak, 2)} if peak > before else {}
