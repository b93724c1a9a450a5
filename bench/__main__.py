"""Time the stages and print one table: `python -m bench [--only forward,encode] [--json out/bench.json]`."""

import argparse
import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from bench import stages, timing


def main() -> None:
  parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
  parser.add_argument("--only", help=f"stages, comma separated, among {', '.join(stages.STAGES)}")
  parser.add_argument("--json", type=Path, default=Path("out/bench.json"), help="where the figures are kept")
  arguments = parser.parse_args()
  chosen = arguments.only.split(",") if arguments.only else list(stages.STAGES)
  machine = timing.machine() | {
    "matrix product float32 GFLOP/s": f"{timing.matrix_product_gflops(jnp.float32):.0f}",
    "matrix product bfloat16 GFLOP/s": f"{timing.matrix_product_gflops(jnp.bfloat16):.0f}",
  }
  table = Table("stage", "ours s", "peer s", "ratio", "note", title="; ".join(f"{k} {v}" for k, v in machine.items()))
  rows = []
  console = Console(width=150)
  for name in chosen:
    with console.status(name):
      for row in stages.STAGES[name]():
        rows.append(dataclasses.asdict(row))
        peer = "-" if row.peer_s is None else f"{row.peer_s:.2f}"
        ratio = "-" if row.peer_s is None else f"{row.ours_s / row.peer_s:.3f}"
        table.add_row(row.stage, f"{row.ours_s:.3f}", peer, ratio, row.note)
        console.print(f"{row.stage}: {row.ours_s:.3f} s, peer {peer} s, ratio {ratio} {row.note}")
  console.print(table)
  arguments.json.parent.mkdir(parents=True, exist_ok=True)
  arguments.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))


if __name__ == "__main__":
  main()
