"""Objectives compared fairly: the same network, phantoms, steps and seed for each, judged by the same probe.

python -m bench.objectives --workdir runs/objectives [--steps 300] [--only uam,mss]

Trains one network for each entry of `RUNS` with `medlsam pretrain` (a stopped comparison goes on where it was), probes
three of its checkpoints, and writes WORKDIR/objectives.md (the table) and objectives.png (the curves). For an objective
of your own add a line to `RUNS`.

The probe searches phantoms of other seeds of the generator that trained the networks: it says which objective learns
faster there, and nothing of patients.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt

from medlsam_jax.cli.probe import network_of
from medlsam_jax.evaluation.probe import Probe
from medlsam_jax.medlam.pretraining import export

RUNS = {
  "uam": {"uam.weight": 1e-3},
  "mss": {"mss.weight": 20.0},
  "uam+mss": {"uam.weight": 1e-3, "mss.weight": 20.0},
  "relative_position": {"relative_position.weight": 100.0},
  "voxel_infonce": {"voxel_infonce.weight": 1.0},
  "masked_volume": {"masked_volume.weight": 10.0, "masked_volume.stride": 2},
  "vicreg": {"vicreg.weight": 0.1, "vicreg.stride": 2},
}
"""Settings of the objectives by run; UAM and MSS are off unless named. Stride 2 is where the search compares."""
POINTS = 3
"""Checkpoints that are probed."""
COLUMNS = {
  "probe_box_iou": "search: IoU", "probe_wall_mm": "wall mm", "head_box_iou": "head alone: IoU",
  "head_wall_mm": "wall mm", "features_box_iou": "features alone: IoU", "features_wall_mm": "wall mm",
}  # fmt: skip


def main() -> None:
  parser = argparse.ArgumentParser(prog="python -m bench.objectives", description=__doc__)
  parser.add_argument("--workdir", type=Path, required=True, help="folder of the runs")
  parser.add_argument("--steps", type=int, default=300, help="of each run (default: 300)")
  parser.add_argument("--only", help=f"runs, comma separated, among {', '.join(RUNS)}")
  arguments = parser.parse_args()
  chosen, probe, results = arguments.only.split(",") if arguments.only else list(RUNS), Probe.of_phantoms(), {}
  for name in chosen:
    place, every = arguments.workdir / name, arguments.steps // POINTS
    subprocess.run(command(name, place, arguments.steps, every), check=True)
    results[name] = _probed(probe, place, [every * (i + 1) for i in range(POINTS)])
    table = as_table(results)
    (arguments.workdir / "objectives.md").write_text(table)
    _draw(results, arguments.workdir / "objectives.png")
  print(table)


def command(name: str, place: Path, steps: int, every: int) -> list[str]:
  """The pre-training call of one run."""
  settings = {
    "network.base_channels": 4, "data.dense_patches": 1, "data.points_per_patch": 32,
    "optimizer.total_steps": steps, "optimizer.learning_rate": 1e-3, "optimizer.warmup_steps": 30,
    "checkpoint.every_steps": every, "checkpoint.keep_last": POINTS, "validate_every_steps": every,
  }  # fmt: skip
  objectives = {"uam.weight": 0.0, "mss.weight": 0.0} | RUNS[name]
  settings |= {f"objectives.{key}": value for key, value in objectives.items()}
  program = [sys.executable, "-m", "medlsam_jax.cli.main", "pretrain", "--quiet"]
  program += ["--config", "configs/medlam.py:tiny", "--workdir", str(place)]
  return program + [f"--{key}={value}" for key, value in settings.items()]


def _probed(probe: Probe, place: Path, steps: list[int]) -> dict[int, dict[str, float]]:
  """Figures by step; kept beside the run, so that they are worked out once."""
  kept = place / "probe.json"
  result = {int(step): figures for step, figures in json.loads(kept.read_text()).items()} if kept.exists() else {}
  for step in steps:
    if step not in result:
      params, settings, _ = export.read_network(place, step)
      network = network_of(params, settings, place.name)
      result[step] = probe(network, parts=True)
      kept.write_text(json.dumps(result, indent=1))
  return {step: result[step] for step in steps}


def as_table(results: dict[str, dict[int, dict[str, float]]]) -> str:
  """Markdown, a line for each run and step."""
  lines = ["| objective | steps | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
  for name, by_step in results.items():
    for step, figures in by_step.items():
      cells = [f"{figures[column]:.3f}" if "iou" in column else f"{figures[column]:.1f}" for column in COLUMNS]
      lines.append(f"| {name} | {step} | " + " | ".join(cells) + " |")
  last = next(iter(next(iter(results.values())).values()))
  baseline = f"{last['probe_baseline_iou']:.3f} | {last['probe_baseline_wall_mm']:.1f}"
  lines.append(f"| mean boxes, no network | | {baseline} | | | | |")
  return "\n".join(lines) + "\n"


def _draw(results: dict[str, dict[int, dict[str, float]]], output: Path) -> None:
  figure, axes = plt.subplots(1, 3, figsize=(12, 4), sharey=True, layout="constrained")
  titles = {"probe_box_iou": "search", "head_box_iou": "position head alone", "features_box_iou": "features alone"}
  for axis, (column, title) in zip(axes, titles.items(), strict=True):
    for name, by_step in results.items():
      axis.plot(list(by_step), [figures[column] for figures in by_step.values()], marker="o", label=name)
    axis.set(title=title, xlabel="steps")
  first = next(iter(next(iter(results.values())).values()))
  axes[0].axhline(first["probe_baseline_iou"], color="grey", linestyle=":", label="mean boxes")
  axes[0].set_ylabel("box IoU on held-out phantoms")
  figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize="small")
  figure.savefig(output, dpi=100)
  plt.close(figure)


if __name__ == "__main__":
  main()
