"""One stage of `bench.accelerator` in its own process. Lines of JSON on standard output are its records."""

import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax

from bench import timing
from bench.accelerator_cases import Case
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
    for name in ("ceilings", "forward", "head", "correlation", "bank", "encoder", "paint", "vit")
  }
  result |= {"forward-many": cases.forward_many, "encoder-many": cases.encoder_many}
  result["localize-few"] = lambda sizes: cases.localize(sizes.organs[0], sizes)
  result["localize-many"] = lambda sizes: cases.localize(sizes.organs[1], sizes)
  for suffix, operands in (("", "default"), ("-bfloat16", "bfloat16")):
    result[f"step{suffix}"] = partial(cases.step, operands=operands)
    result[f"published-step{suffix}"] = partial(cases.published_step, operands=operands)
  result["step-untuned"] = result["step"]
  result["published-step-highest"] = partial(cases.published_step, operands="highest")
  for name in ("exactness", "forward_compiled"):
    if hasattr(cases, name):
      result[name.replace("_", "-")] = getattr(cases, name)
  return result


def work(stage: str, side: str, tiny: bool) -> None:
  """Times the cases of a stage; one that fails is recorded, and the next is tried."""
  # what others print goes to standard error: standard output is for records
  out, sys.stdout = sys.stdout, sys.stderr

  def say(fields: dict[str, Any]) -> None:
    print(json.dumps(fields), file=out, flush=True)

  # the peers alone need PyTorch
  cases = importlib.import_module("bench.accelerator_peers" if side == "peer" else "bench.accelerator_cases")
  if stage == "ceilings":
    say(_machine(side))
  for case in stages(cases)[stage](TINY if tiny else FULL):
    about = {"case": case.name, "operands": case.operands} | ({"note": case.note} if case.note else {})
    try:
      say(about | _measured(case) | _memory(side))
    except Exception as error:  # the next case may well run
      say(about | {"failed": f"{type(error).__name__}: {str(error)[:500]}"})


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


def _memory(side: str) -> dict[str, float]:
  """Most memory of the device so far, over all cases of the process."""
  if side == "peer":
    from bench import accelerator_peers

    peak = accelerator_peers.peak_gib()
  else:
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**30 or None
  return {} if peak is None else {"peak_gib": round(peak, 2)}
