"""Time the stages and print one table: `python -m bench [--only forward,encode] [--json FILE] [--against FILE]`."""

import argparse
import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from bench import stages_cubes, stages_network, stages_paint, stages_sam, stages_search, stages_training, timing
from bench.common import Row

STAGES = stages_network.STAGES | stages_search.STAGES | stages_paint.STAGES | stages_sam.STAGES | stages_training.STAGES
STAGES |= stages_cubes.STAGES
COLUMNS = ("stage", "operands", "ours s", "peer s", "ratio", "target", "share of limit", "memory GiB", "note")


def main() -> None:
  parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
  parser.add_argument("--only", help=f"stages, comma separated, among {', '.join(STAGES)}")
  parser.add_argument("--json", type=Path, default=Path("out/bench.json"), help="where the figures are kept")
  parser.add_argument("--against", type=Path, help="an earlier JSON: adds its time to each note")
  arguments = parser.parse_args()
  chosen = arguments.only.split(",") if arguments.only else list(STAGES)
  earlier = {(row["stage"], row["dtype"]): row for row in _rows_of(arguments.against)}
  limits = {name: timing.matrix_product_gflops(getattr(jnp, name)) for name in ("float32", "bfloat16")}
  machine = timing.machine() | {f"matrix product {name} GFLOP/s": f"{speed:.0f}" for name, speed in limits.items()}
  rows, lines, console = [], [], Console(width=190)
  for name in chosen:
    with console.status(name):
      for row in STAGES[name]():
        memory = timing.peak_memory_gib()
        rows.append(dataclasses.asdict(row) | {"peak_memory_gib": memory})
        lines.append(_line(row, limits, memory, earlier.get((row.stage, row.dtype))))
        console.print("  ".join(lines[-1]))
        # kept as we go: a run that is cut off still leaves its figures
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))
  table = Table(*COLUMNS, title="; ".join(f"{key} {value}" for key, value in machine.items()))
  for line in lines:
    table.add_row(*line)
  console.print(table)


def _rows_of(path: Path | None) -> list[dict]:
  return json.loads(path.read_text())["rows"] if path else []


def _line(row: Row, limits: dict[str, float], memory: float, before: dict | None) -> tuple[str, ...]:
  peer = "-" if row.peer_s is None else f"{row.peer_s:.2f}"
  ratio = "-" if row.peer_s is None else f"{row.ours_s / row.peer_s:.3f}"
  share = "-" if row.gflop is None else f"{row.gflop / row.ours_s / limits[row.dtype]:.2f}"
  note = row.note + (f" (before: {before['ours_s']:.3f} s)" if before else "")
  target = "-" if row.target is None else f"{row.target:g}"
  return row.stage, row.dtype, f"{row.ours_s:.3f}", peer, ratio, target, share, f"{memory:.1f}", note


if __name__ == "__main__":
  main()
