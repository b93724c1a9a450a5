"""Measure whatever accelerator is there: its ceilings, then each stage of ours and of its PyTorch peer.

python -m bench.accelerator [--seconds N] [--compile-jobs N] [--only forward,step] [--out FILE] [--tiny]

Most important first. With `--compile-jobs N` ours are first compiled by N processes side by side into a cache that ends
with the run; whatever is timed has the machine for itself. Each figure is a line of JSON in FILE as soon as it is
known: a run that is cut off keeps what it has. On a CPU it is a dry run (`--tiny` makes the work small). PyTorch may be
missing.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.accelerator_plan import STAGES, Item
from bench.accelerator_run import Run


def table(records: Iterable[dict]) -> Table:
  """Ours beside the peer's; ratios below 1 are faster. Cold times say how many others compiled beside."""
  rows: dict[tuple[str, str], dict[str, dict]] = {}
  for record in records:
    if "median_ms" in record or "cold_s" in record:
      side = "cold" if "cold_s" in record else "compiled" if record.get("note") == "torch.compile" else record["side"]
      operands = " ".join([record["operands"], *STAGES[record["stage"]].flag.split("=")[:1]])
      rows.setdefault((record["case"], operands.strip()), {})[side] = record
  shown = Table(
    *("case", "operands", "ours ms", "peer ms", "ratio", "compiled peer ms"),
    *("cold s (beside)", "first s", "TFLOP/s", "peak GiB", "errors"),
  )
  for (case, operands), sides in rows.items():
    ours, peer, cold = sides.get("ours", {}), sides.get("peer", {}), sides.get("cold")
    ratio = f"{ours['median_ms'] / peer['median_ms']:.3f}" if ours and peer else "-"
    times = [f"{s['median_ms']:.2f}" if s else "-" for s in (ours, peer, sides.get("compiled", {}))]
    errors = ", ".join(f"{k} {v:.0e}" for k, v in ours.items() if "error" in k and isinstance(v, float))
    compiling = f"{cold['cold_s']:.1f} ({cold['beside']})" if cold else "-"
    cells = [str(ours.get(k, "-")) for k in ("first_s", "tflop_s", "peak_gib")]
    shown.add_row(case, operands, *times[:2], ratio, times[2], compiling, *cells, errors)
  return shown


def main() -> None:
  arguments, parser = _arguments()
  if arguments.worker:
    from bench import accelerator_worker

    kind, side, *items = arguments.worker
    return accelerator_worker.work(kind, side, [Item.parse(item) for item in items], arguments.tiny)
  chosen = arguments.only.split(",") if arguments.only else list(STAGES)
  if unknown := set(chosen) - set(STAGES):
    parser.error(f"unknown stages {', '.join(sorted(unknown))}")
  sides = ("ours", "peer") if importlib.util.find_spec("torch") else ("ours",)
  run = Run(arguments.seconds, arguments.out, arguments.tiny, sides)
  cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") if arguments.compile_jobs == 1 else "of the run"
  run.record(commit=_commit(), command=sys.argv[1:], cores=os.cpu_count(), compilation_cache=cache)
  compile_s = arguments.seconds / 2 if arguments.compile_seconds is None else arguments.compile_seconds
  run.all(chosen, arguments.compile_jobs, compile_s)
  Console(width=220).print(table(run.records))
  return None


def _arguments() -> tuple[argparse.Namespace, argparse.ArgumentParser]:
  parser = argparse.ArgumentParser(prog="python -m bench.accelerator", description=__doc__.splitlines()[0])
  parser.add_argument("--seconds", type=float, default=600.0, help="for everything (default: 600)")
  parser.add_argument("--compile-jobs", type=int, default=1, metavar="N",
                      help="processes that compile side by side before anything is timed (default: 1, each stage "
                           "compiles in its turn)")  # fmt: skip
  parser.add_argument("--compile-seconds", type=float, metavar="S",
                      help="for that; what is not compiled then waits for the end "
                           "(default: half of --seconds)")  # fmt: skip
  parser.add_argument("--only", help=f"stages, comma separated, among {', '.join(STAGES)}")
  parser.add_argument("--out", type=Path, default=Path("out/accelerator.jsonl"), help="where the figures are kept")
  parser.add_argument("--tiny", action="store_true", help="small work, for a dry run on a CPU")
  parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
  return parser.parse_args(), parser


def _commit() -> str | None:
  """Of the working tree, where it is one."""
  try:
    return subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    return None


if __name__ == "__main__":
  main()
