"""Measure whatever accelerator is there: its ceilings, then each stage of ours and of its PyTorch peer.

python -m bench.accelerator [--seconds N] [--only forward,correlation] [--out FILE] [--tiny]

Every stage runs in a process of its own, one after the other, most important first. Each figure is a line of JSON in
FILE as soon as it is known: a run that is cut off keeps what it has. On a CPU it is a dry run (`--tiny` makes the work
small). PyTorch may be missing.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_BOTH = ("ours", "peer")
STAGES = {
  "ceilings": _BOTH, "forward": _BOTH, "correlation": _BOTH, "localize-few": _BOTH, "exactness": ("ours",),
  "encoder": _BOTH, "step": _BOTH, "localize-many": _BOTH, "head": _BOTH, "encoder-many": _BOTH, "bank": _BOTH,
  "paint": _BOTH, "vit": _BOTH, "published-step": _BOTH, "forward-many": _BOTH, "step-untuned": ("ours",),
  "step-bfloat16": _BOTH, "published-step-bfloat16": _BOTH, "published-step-highest": _BOTH,
  "forward-compiled": ("peer",),
}  # fmt: skip
"""Most important first, with the sides that have it."""
FLAGS = {"step-untuned": "--xla_gpu_autotune_level=0"}
"""Of XLA, for stages that are run a second time to see what the flag is worth."""
LIMIT_S = 300.0
"""Of one process."""


class Run:
  """Runs one process after another, and writes their records.

  Only one at a time may touch the device, compiling included: XLA tries kernels out on it and takes its memory.
  """

  def __init__(self, seconds: float, out: Path, tiny: bool):
    self.began, self.seconds, self.tiny = time.monotonic(), seconds, tiny
    self.records: list[dict] = []
    out.parent.mkdir(parents=True, exist_ok=True)
    self.file = out.open("w")

  def record(self, **fields: Any) -> None:
    """One line, at once."""
    fields["at_s"] = round(time.monotonic() - self.began, 1)
    self.records.append(fields)
    for place in (self.file, sys.stdout):
      print(json.dumps(fields), file=place, flush=True)

  def all(self, jobs: Sequence[tuple[str, str]]) -> None:
    """Every job, or as many as the time allows; what is cut off or never began is named."""
    for stage, side in jobs:
      left = self.seconds - (time.monotonic() - self.began)
      if left <= 0:
        self.record(stage=stage, side=side, cut="not begun within the time")
        continue
      self._one(stage, side, min(left, LIMIT_S))
    self.file.close()

  def _one(self, stage: str, side: str, limit_s: float) -> None:
    command = [sys.executable, "-m", "bench.accelerator", "--worker", f"{stage}:{side}", *["--tiny"] * self.tiny]
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "2"}
    if side == "peer":
      environment["JAX_PLATFORMS"] = "cpu"  # its helpers use JAX: they are to leave the device alone
    if stage in FLAGS:
      environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {FLAGS[stage]}"
    with tempfile.TemporaryFile("w+", errors="replace") as log:
      process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, start_new_session=True
      )
      late = threading.Event()
      timer = threading.Timer(limit_s, lambda: (late.set(), _kill(process)))
      timer.start()
      try:
        for line in process.stdout or ():
          if line.startswith("{"):
            self.record(stage=stage, side=side, **json.loads(line))
        failed = process.wait()
      finally:
        timer.cancel()
        _kill(process)
      log.seek(0)
      if late.is_set():
        self.record(stage=stage, side=side, cut=f"after {limit_s:.0f} s")
      elif failed:
        self.record(stage=stage, side=side, failed=log.read()[-600:].strip())


def _kill(process: subprocess.Popen) -> None:
  """The process and those that it started, such as compilers."""
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, signal.SIGKILL)


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
  parser.add_argument("--worker", help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.worker:
    from bench import accelerator_worker

    return accelerator_worker.work(*arguments.worker.split(":"), tiny=arguments.tiny)
  chosen = arguments.only.split(",") if arguments.only else list(STAGES)
  if unknown := set(chosen) - set(STAGES):
    parser.error(f"unknown stages {', '.join(sorted(unknown))}")
  sides = ("ours", "peer") if importlib.util.find_spec("torch") else ("ours",)
  run = Run(arguments.seconds, arguments.out, arguments.tiny)
  cache = os.environ.get("JAX_COMPILATION_CACHE_DIR")
  run.record(commit=_commit(), command=sys.argv[1:], cores=os.cpu_count(), compilation_cache=cache)
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
