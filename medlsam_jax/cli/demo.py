"""`medlsam demo`: made-up patients from start to finish: templates, search, segmentation, scores, picture."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medlsam_jax.cli import options

if TYPE_CHECKING:
  from medlsam_jax.cli.terminal import Terminal

TEMPLATE_SEEDS, QUERY_SEEDS = (1, 2, 3), (4,)
"""Of phantoms; the packaged network was trained on others (1000 and up)."""
ORGANS = (
  "liver", "spleen", "kidney_right", "kidney_left", "stomach", "urinary_bladder", "aorta", "vertebrae_L3", "sacrum",
)  # fmt: skip
"""Organs of both soft tissue and bone that a box prompts for. The hips are left out: LiteMedSAM paints them at Dice .15
and .31 from the organ's true box, most of which is something else."""
NAME = "phantom_{seed:03d}"


def add_to(commands: Any) -> None:
  """Adds the parser."""
  parser = options.command(
    commands,
    "demo",
    "segment a made-up patient by three made-up templates, and score it",
    "  medlsam demo\n  downloads the LiteMedSAM weights once (39 MB), then takes under five minutes on two cores",
  )
  parser.add_argument("--out", default="out/demo", metavar="DIR", help="folder for everything (default: out/demo)")
  options.add_network(parser)
  parser.add_argument("--model", default="litemedsam", metavar="NAME_OR_FILE", help="network that paints")
  options.add_quiet(parser)
  parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, terminal: Terminal) -> int:
  """Makes the phantoms and evaluates on them."""
  from medlsam_jax.cli import main, sources
  from medlsam_jax.results.staging import require_writable
  from medlsam_jax.results.writing import PREVIEW

  out = Path(arguments.out)
  require_writable(out)
  sources.fetch(arguments.model, terminal)
  templates, queries = out / "templates", out / "query"
  _make_phantoms(templates, TEMPLATE_SEEDS, terminal)
  _make_phantoms(queries, QUERY_SEEDS, terminal)
  call = ["evaluate", "--templates", templates, "--query", queries, "--out", out, "--organs", ",".join(ORGANS)]
  call += ["--network", arguments.network, "--model", arguments.model, *(["--quiet"] if arguments.quiet else [])]
  evaluation = main.build_parser().parse_args([str(word) for word in call])
  evaluation.rest, evaluation.made_up = [], True
  code = evaluation.run(evaluation, terminal)
  for seed in QUERY_SEEDS:
    picture = out / (NAME.format(seed=seed) + PREVIEW)
    if picture.exists() and code == 0:
      terminal.result(f"picture: {picture.resolve()}")
  return code


def _make_phantoms(folder: Path, seeds: tuple[int, ...], terminal: Terminal) -> None:
  from medlsam_jax.data.phantom import write_phantoms
  from medlsam_jax.display import count

  done: list[int] = []

  with terminal.bar(f"making {count(len(seeds), 'phantom')}") as report:

    def step(seed: int) -> None:
      done.append(seed)
      report(len(done), len(seeds))

    write_phantoms(folder, seeds, name=NAME, progress=step)
