"""The processes of `bench.accelerator`: compile side by side, then time one after the other; keep every record."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from bench.accelerator_plan import STAGES, Item, compile_jobs, groups, items_of

Kind = Literal["compile", "time"]
Cache = Literal["warm", "cold"]
START_S = 60.0
"""Until a process has begun its first stage."""
LIMIT_S: dict[Cache, float] = {"warm": 90.0, "cold": 300.0}
"""Of one stage: with its programs in the cache, and without."""
MEMORY_SHARE = 1.8
"""Of the device's memory, for all processes that compile side by side: they do not take their most at one time."""


class Run:
  """Runs the processes within the time, and writes their records.

  While something is timed nothing else is on the device, compiling included: XLA tries kernels out on it and takes its
  memory. A process ends before the next one is timed, which gives its memory back.

  Args:
    seconds: for everything.
    out: where records are written, one line of JSON each as soon as it is known.
    tiny: small work, for a dry run.
    sides: `ours`, and `peer` where PyTorch is.
  """

  def __init__(self, seconds: float, out: Path, tiny: bool, sides: Sequence[str]):
    self.began, self.seconds, self.tiny, self.sides = time.monotonic(), seconds, tiny, sides
    self.records: list[dict] = []
    self.compiled: set[Item] = set()
    self.cache: str | None = None
    out.parent.mkdir(parents=True, exist_ok=True)
    self.file = out.open("w")
    self._writing, self._processes = threading.Lock(), set[int]()

  @property
  def left_s(self) -> float:
    """Until the time is over."""
    return self.seconds - (time.monotonic() - self.began)

  def record(self, **fields: Any) -> None:
    """One line, at once."""
    with self._writing:
      fields["at_s"] = round(time.monotonic() - self.began, 1)
      self.records.append(fields)
      for place in (self.file, sys.stdout):
        print(json.dumps(fields), file=place, flush=True)

  def all(self, chosen: Collection[str], compile_jobs_at_once: int, compile_s: float) -> None:
    """Every stage, or as many as the time allows; what is cut off or never began is named.

    With one job at once each stage compiles in its turn. With more, stages are first compiled into a cache, side by
    side and for at most `compile_s`; those that are in the cache are timed then, and the others in the time that is
    left.
    """
    if compile_jobs_at_once <= 1:
      self._time_cold(chosen)
    else:
      with tempfile.TemporaryDirectory(prefix="accelerator-cache-", ignore_cleanup_errors=True) as self.cache:
        self._compile(chosen, compile_jobs_at_once, min(compile_s, self.left_s))
        self._time_warm(chosen)
        self._time_cold(chosen)
    self.file.close()

  def _compile(self, chosen: Collection[str], at_once: int, budget_s: float) -> None:
    end, jobs = time.monotonic() + budget_s, compile_jobs(chosen)
    share = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{min(MEMORY_SHARE / at_once, 0.9):.3f}"}

    def work(job: list[Item]) -> None:
      if time.monotonic() < end:
        self._process("compile", "ours", job, end, budget_s, share)

    with ThreadPoolExecutor(at_once) as pool:
      list(pool.map(work, jobs))
    asked = {item for job in jobs for item in job}
    self.record(phase="compile", jobs_at_once=at_once, compiled=len(self.compiled), of=len(asked))

  def _time_warm(self, chosen: Collection[str]) -> None:
    """What is in the cache."""
    ready = {name for name in chosen if any(item in self.compiled for item in items_of(name))}
    for group in groups(ready):
      for side in self.sides:
        self._stages(side, group, "warm")

  def _time_cold(self, chosen: Collection[str]) -> None:
    """What is not in the cache, ours stage by stage; the peer first where ours has already had its chance to compile.

    The peer needs little time: so half of the row is there when the time ends while ours compiles.
    """
    for (name,) in groups(chosen, 1):
      sides = [side for side in self.sides if side in STAGES[name].sides]
      for side in sides if self.cache is None else reversed(sides):
        self._stages(side, [name], "cold")

  def _stages(self, side: str, names: Sequence[str], cache: Cache) -> None:
    """A side of some stages, in as few processes as crashes allow."""
    todo = [item for name in names if side in STAGES[name].sides for item in self._not_timed(side, name, cache)]
    while todo:
      if self.left_s <= 0:
        for stage in dict.fromkeys(item.stage for item in todo):
          self.record(stage=stage, side=side, cut="not begun within the time")
        return
      todo = self._process("time", side, todo, self.began + self.seconds, LIMIT_S[cache], {})

  def _not_timed(self, side: str, name: str, cache: Cache) -> list[Item]:
    """Those of a stage's cases that are due."""
    seen = {(r.get("side"), r.get("stage")) for r in self.records if r.get("kind") != "compile"}
    if side == "peer":
      return [] if (side, name) in seen else [Item(name)]
    if self.cache is None:
      return [Item(name)]
    return [item for item in items_of(name) if (item in self.compiled) == (cache == "warm")]

  def _process(
    self, kind: Kind, side: str, items: Sequence[Item], end: float, limit_s: float, more: dict[str, str]
  ) -> list[Item]:
    """Runs some items in a process, until `end` of the clock at most; gives the items that it did not come to."""
    stages = list(dict.fromkeys(item.stage for item in items))
    environment = os.environ | self._environment(side, STAGES[stages[0]].flag) | more
    begun = list[str]()
    with (
      tempfile.TemporaryFile("w+", errors="replace") as log,
      subprocess.Popen(self._command(kind, side, items), stdout=subprocess.PIPE, stderr=log, text=True, env=environment,
                       start_new_session=True) as process,
    ):  # fmt: skip
      self._processes.add(process.pid)
      watch = _Watch(process, min(START_S + limit_s, end - time.monotonic()))
      try:
        for line in process.stdout or ():
          if line.startswith("{"):
            self._take(json.loads(line), kind, side, begun)
            if '"begin"' in line:
              watch.allow(min(limit_s, end - time.monotonic()))
        failed = process.wait()
      finally:
        watch.stop()
        _kill(process)
        self._processes.discard(process.pid)
      log.seek(0)
      stage = begun[-1] if begun else stages[0]
      if watch.ended_it:
        self.record(kind=kind, stage=stage, side=side, cut=f"after {watch.allowed_s:.0f} s")
      elif failed:
        self.record(kind=kind, stage=stage, side=side, failed=log.read()[-600:].strip())
    ended = watch.ended_it or failed
    return [item for item in items if item.stage in stages[stages.index(stage) + 1 :]] if ended else []

  def _command(self, kind: Kind, side: str, items: Sequence[Item]) -> list[str]:
    worker = ["--worker", kind, side, *map(str, items)]
    return [sys.executable, "-m", "bench.accelerator", *["--tiny"] * self.tiny, *worker]

  def _take(self, fields: dict[str, Any], kind: Kind, side: str, begun: list[str]) -> None:
    """A line of a process: a stage begins, or a record."""
    if "begin" in fields:
      begun.append(fields["begin"])
      return
    number = fields.pop("number", None)
    if kind == "compile":
      fields["beside"] = len(self._processes) - 1
      if "failed" not in fields:
        self.compiled.add(Item(fields["stage"], number))
    self.record(kind=kind, side=side, **fields)

  def _environment(self, side: str, flag: str) -> dict[str, str]:
    given = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "2"}
    if side == "peer":
      given["JAX_PLATFORMS"] = "cpu"  # its helpers use JAX: they are to leave the device alone
    if self.cache is not None:
      given |= {"JAX_COMPILATION_CACHE_DIR": self.cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    if flag:
      given["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"
    return given


class _Watch:
  """Ends a process that takes longer than it is allowed to."""

  def __init__(self, process: subprocess.Popen, allowed_s: float):
    self._process, self.ended_it = process, False
    self._start(allowed_s)

  def _start(self, allowed_s: float) -> None:
    self.allowed_s = max(allowed_s, 0.0)
    self._timer = threading.Timer(self.allowed_s, self._end)
    self._timer.daemon = True
    self._timer.start()

  def allow(self, seconds: float) -> None:
    """From now on."""
    self._timer.cancel()
    self._start(seconds)

  def stop(self) -> None:
    """The process is over."""
    self._timer.cancel()

  def _end(self) -> None:
    self.ended_it = True
    _kill(self._process)


def _kill(process: subprocess.Popen) -> None:
  """The process and those that it started, such as compilers."""
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, signal.SIGKILL)
