"""`medlsam demo`: a patient from start to finish: templates, search, segmentation, scores, picture."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from medlsam_jax.cli import options

if TYPE_CHECKING:
  from medlsam_jax.cli.terminal import Terminal

BANK = "headneck"
TEMPLATE_SEEDS, QUERY_SEEDS = (1, 2, 3), (4,)
"""Of phantoms; the packaged networks were trained on others (1000 and up)."""
ORGANS = (
  "liver", "spleen", "kidney_right", "kidney_left", "stomach", "urinary_bladder", "aorta", "vertebrae_L3", "sacrum",
)  # fmt: skip
"""Organs of both soft tissue and bone that a box prompts for. The hips are left out: LiteMedSAM paints them at Dice .15
and .31 from the organ's true box, most of which is something else."""
NAME = "phantom_{seed:03d}"


def add_to(commands: options.Commands) -> None:
  """Adds the parser."""
  parser = options.command(
    commands,
    "demo",
    "segment a person's head and neck by five others, and score it",
    "  medlsam demo\n  medlsam demo --phantoms --network tiny   # made-up patients; LiteMedSAM paints (39 MB, once)",
  )
  parser.add_argument("--phantoms", action="store_true", help="made-up patients in place of the scans in the package")
  parser.add_argument("--out", default="out/demo", metavar="DIR", help="folder for everything (default: out/demo)")
  options.add_network(parser)
  parser.add_argument(
    "--model",
    metavar="NAME_OR_FILE",
    help="network that paints (default: the templates' own masks; with --phantoms litemedsam)",
  )
  options.add_quiet(parser)
  parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, terminal: Terminal) -> int:
  """Evaluates on the packaged scans, or makes phantoms and evaluates on them."""
  from medlsam_jax.cli import evaluate
  from medlsam_jax.cli.parsing import Parser
  from medlsam_jax.io.atomic import require_writable
  from medlsam_jax.io.scan_result import PREVIEW
  from medlsam_jax.pipeline import PAINTER

  out = Path(arguments.out)
  require_writable(out)
  if arguments.phantoms:
    arguments.model = arguments.model or PAINTER
  call, names = _phantoms(arguments, terminal) if arguments.phantoms else _people()
  call += ["--out", out, "--network", arguments.network]
  call += ["--model", arguments.model] if arguments.model else []
  call += ["--quiet"] if arguments.quiet else []
  parser: argparse.ArgumentParser = Parser(prog="medlsam")
  evaluate.add_to(parser.add_subparsers())
  evaluation = parser.parse_args(["evaluate", *(str(word) for word in call)])
  evaluation.rest, evaluation.made_up = [], arguments.phantoms
  code = evaluate.run(evaluation, terminal)
  if not arguments.phantoms:
    terminal.say("One person, whom the network has seen without labels: this shows the program, not its accuracy.")
  for name in names:
    picture = out / (name + PREVIEW)
    if picture.exists() and code == 0:
      terminal.result(f"picture: {picture.resolve()}")
  return code


def _people() -> tuple[list[object], list[str]]:
  """What to evaluate: the scan in the package by those of the bank; and the names of the results."""
  from medlsam_jax.io.packaged_banks import DEMO_QUERY, folder_of
  from medlsam_jax.io.scans import list_scans

  query = folder_of(DEMO_QUERY)
  return ["--bank", BANK, "--query", query], [scan.name for scan in list_scans(query)]


def _phantoms(arguments: argparse.Namespace, terminal: Terminal) -> tuple[list[object], list[str]]:
  """The same of made-up patients, which are written into the folder of the results."""
  from medlsam_jax.cli import networks_and_banks

  networks_and_banks.fetch(arguments.model, terminal)
  out = Path(arguments.out)
  templates, queries = out / "templates", out / "query"
  _make_phantoms(templates, TEMPLATE_SEEDS, terminal)
  _make_phantoms(queries, QUERY_SEEDS, terminal)
  call = ["--templates", templates, "--query", queries, "--organs", ",".join(ORGANS)]
  return call, [NAME.format(seed=seed) for seed in QUERY_SEEDS]


def _make_phantoms(folder: Path, seeds: tuple[int, ...], terminal: Terminal) -> None:
  from medlsam_jax.display import count
  from medlsam_jax.phantom.people import write_phantoms

  done: list[int] = []

  with terminal.bar(f"making {count(len(seeds), 'phantom')}") as report:

    def step(seed: int) -> None:
      done.append(seed)
      report(len(done), len(seeds))

    write_phantoms(folder, seeds, name=NAME, progress=step)
