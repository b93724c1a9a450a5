"""Measure whatever accelerator is there: its ceilings, then each stage of ours and of its PyTorch peer.

python -m bench.accelerator [--seconds N] [--only forward,correlation] [--out FILE] [--tiny]

Every stage runs in a process of its own. Several compile at a time, but while one is timed the others are stopped, so
that nothing else uses the device. Each figure is a line of JSON in FILE as soon as it is known: a run that is cut off
keeps what it has. On a CPU it is a dry run (`--tiny` makes the work small). PyTorch may be missing.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.table import Table

STAGES = {
  "ceilings": ("ours", "peer"),
  "forward": ("ours", "peer"),
  "head": ("ours", "peer"),
  "step": ("ours", "peer"),
  "correlation": ("ours", "peer"),
  "localize-few": ("ours", "peer"),
  "localize-many": ("ours", "peer"),
  "exactness": ("ours",),
  "bank": ("ours", "peer"),
  "encoder": ("ours", "peer"),
  "encoder-many": ("ours", "peer"),
  "paint": ("ours", "peer"),
  "published-step": ("ours", "peer"),
  "vit": ("ours", "peer"),
  "forward-many": ("ours", "peer"),
  "step-untuned": ("ours",),
  "step-bfloat16": ("ours", "peer"),
  "published-step-bfloat16": ("ours", "peer"),
  "forward-compiled": ("peer",),
}
"""Most important first, with the sides that have it."""
FLAGS = {"step-untuned": "--xla_gpu_autotune_level=0"}
"""Of XLA, for stages that are run a second time to see what the flag is worth."""
SETTLE_S = 0.05
"""After others are stopped, until what they have sent to the device is done."""
LIMIT_S = 420.0
"""Of one process, while it is not stopped."""


@dataclasses.dataclass(eq=False)
class Worker:
  """A running stage."""

  stage: str
  side: str
  process: subprocess.Popen
  log: IO[str]
  began: float
  waiting: bool = False
  """For its turn on the device."""
  stops: list[tuple[float, float]] = dataclasses.field(default_factory=list)
  """When it was stopped, and when it went on."""

  def signal(self, number: signal.Signals) -> None:
    """To the process and those that it started, such as compilers."""
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self.process.pid, number)

  def stopped_s(self, since: float, until: float) -> float:
    """Seconds of a span that it was stopped."""
    return sum(max(0.0, min(b, until) - max(a, since)) for a, b in self.stops)

  def last_words(self) -> str:
    """The end of what it said, for a record of its failure."""
    self.log.seek(0)
    return self.log.read()[-600:].strip()


class Run:
  """Starts workers, lends the device to one after the other, and writes their records."""

  def __init__(self, arguments: argparse.Namespace):
    self.began, self.arguments = time.monotonic(), arguments
    self.deadline = self.began + arguments.seconds
    self.events: queue.Queue[tuple[Worker, dict | None]] = queue.Queue()
    self.workers: list[Worker] = []
    self.records: list[dict] = []
    self.turn: Worker | None = None
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    self.file = arguments.out.open("w")

  def record(self, **fields: Any) -> None:
    """One line, at once."""
    fields["at_s"] = round(time.monotonic() - self.began, 1)
    self.records.append(fields)
    for place in (self.file, sys.stdout):
      print(json.dumps(fields), file=place, flush=True)

  def all(self, jobs: list[tuple[str, str]]) -> None:
    """Every job, or as many as the time allows; what is cut off or never began is named."""
    left = list(jobs)
    try:
      while left or self.workers:
        while left and self.turn is None and len(self.workers) < self.arguments.parallel:
          self._start(*left.pop(0))
        now = time.monotonic()
        if now > self.deadline:
          break
        with contextlib.suppress(queue.Empty):
          self._handle(*self.events.get(timeout=min(1.0, self.deadline - now)))
        self._end_the_late()
        self._lend(jobs)
    finally:
      for worker in self.workers:
        worker.signal(signal.SIGKILL)
        self.record(stage=worker.stage, side=worker.side, cut=f"at the end of the time; {worker.last_words()[-200:]}")
      for stage, side in left:
        self.record(stage=stage, side=side, cut="not begun within the time")
      self.file.close()

  def _start(self, stage: str, side: str) -> None:
    command = [sys.executable, "-m", "bench.accelerator", "--worker", f"{stage}:{side}"]
    command += ["--tiny"] * self.arguments.tiny
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "2"}
    if side == "peer":
      environment["JAX_PLATFORMS"] = "cpu"  # its helpers use JAX: they are to leave the device alone
    if stage in FLAGS:
      environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {FLAGS[stage]}"
    log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (the worker's, as long as it lives)
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                               env=environment, start_new_session=True)  # fmt: skip
    worker = Worker(stage, side, process, log, time.monotonic())
    self.workers.append(worker)
    threading.Thread(target=self._listen, args=(worker,), daemon=True).start()

  def _listen(self, worker: Worker) -> None:
    for line in worker.process.stdout or ():
      if line.startswith("{"):
        self.events.put((worker, json.loads(line)))
    self.events.put((worker, None))

  def _handle(self, worker: Worker, event: dict | None) -> None:
    if event is None:
      worker.process.wait()
      if worker in self.workers:
        self.workers.remove(worker)
        if worker.process.returncode:
          self.record(stage=worker.stage, side=worker.side, failed=worker.last_words())
      self._give_back(worker)
    elif event.pop("ask", False):
      worker.waiting = True
    else:
      self._give_back(worker)
      since, until = event.pop("first_span", (0.0, 0.0))
      if until:
        event["first_s"] = round(until - since - worker.stopped_s(since, until), 2)
      self.record(stage=worker.stage, side=worker.side, **event)

  def _lend(self, order: list[tuple[str, str]]) -> None:
    """The device to the most important that waits, if nobody has it; the others stand still meanwhile."""
    waiting = sorted((w for w in self.workers if w.waiting), key=lambda w: order.index((w.stage, w.side)))
    if self.turn is not None or not waiting:
      return
    self.turn, self.lent = waiting[0], time.monotonic()
    self.turn.waiting = False
    for other in self.workers:
      if other is not self.turn:
        other.signal(signal.SIGSTOP)
    time.sleep(SETTLE_S)
    try:
      print("go", file=self.turn.process.stdin, flush=True)
    except BrokenPipeError:
      self._give_back(self.turn)

  def _give_back(self, worker: Worker) -> None:
    if worker is not self.turn:
      return
    self.turn, now = None, time.monotonic()
    for other in self.workers:
      if other is not worker:
        other.signal(signal.SIGCONT)
        other.stops.append((self.lent, now))

  def _end_the_late(self) -> None:
    now = time.monotonic()
    for worker in list(self.workers):
      late = now - worker.began - worker.stopped_s(worker.began, now) > LIMIT_S
      if late and self.turn in (worker, None):
        self.workers.remove(worker)
        worker.signal(signal.SIGKILL)
        self.record(stage=worker.stage, side=worker.side, cut=f"after {LIMIT_S:.0f} s")
        self._give_back(worker)


def table(records: Iterable[dict]) -> Table:
  """Ours beside the peer's; ratios below 1 are faster."""
  rows: dict[tuple[str, str], dict[str, dict]] = {}
  for record in records:
    if "median_ms" in record:
      side = "compiled" if record.get("note") == "torch.compile" else record["side"]
      operands = " ".join([record["operands"], *FLAGS.get(record["stage"], "").split("=")[:1]])
      rows.setdefault((record["case"], operands.strip()), {})[side] = record
  shown = Table(
    "case", "operands", "ours ms", "peer ms", "ratio", "compiled peer ms", "first s", "TFLOP/s", "peak GiB", "errors"
  )
  for (case, operands), sides in rows.items():
    ours, peer = sides.get("ours", {}), sides.get("peer", {})
    ratio = f"{ours['median_ms'] / peer['median_ms']:.3f}" if ours and peer else "-"
    times = [f"{s['median_ms']:.2f}" if s else "-" for s in (ours, peer, sides.get("compiled", {}))]
    errors = ", ".join(f"{k} {v:.0e}" for k, v in ours.items() if "error" in k and isinstance(v, float))
    cells = [str(ours.get(k, "-")) for k in ("first_s", "tflop_s", "peak_gib")]
    shown.add_row(case, operands, *times[:2], ratio, times[2], *cells, errors)
  return shown


def main() -> None:
  parser = argparse.ArgumentParser(prog="python -m bench.accelerator", description=__doc__.splitlines()[0])
  parser.add_argument("--seconds", type=float, default=600.0, help="for everything (default: 600)")
  parser.add_argument("--only", help=f"stages, comma separated, among {', '.join(STAGES)}")
  parser.add_argument("--out", type=Path, default=Path("out/accelerator.jsonl"), help="where the figures are kept")
  parser.add_argument("--tiny", action="store_true", help="small work, for a dry run on a CPU")
  parser.add_argument("--parallel", type=int, default=max(1, (os.cpu_count() or 1) - 2),
                      help="processes at a time (default: two less than processors)")  # fmt: skip
  parser.add_argument("--worker", help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.worker:
    from bench import accelerator_worker

    return accelerator_worker.work(*arguments.worker.split(":"), tiny=arguments.tiny)
  chosen = arguments.only.split(",") if arguments.only else list(STAGES)
  if unknown := set(chosen) - set(STAGES):
    parser.error(f"unknown stages {', '.join(sorted(unknown))}")
  sides = ("ours", "peer") if importlib.util.find_spec("torch") else ("ours",)
  run = Run(arguments)
  run.record(commit=_commit(), command=sys.argv[1:], cores=os.cpu_count(), parallel=arguments.parallel,
             compilation_cache=os.environ.get("JAX_COMPILATION_CACHE_DIR"))  # fmt: skip
  run.all([(stage, side) for stage in STAGES if stage in chosen for side in STAGES[stage] if side in sides])
  Console(width=200).print(table(run.records))


def _commit() -> str | None:
  """Of the working tree, where it is one."""
  try:
    return subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    return None


if __name__ == "__main__":
  main()
