"""`medlsam study`; of it `prompts`: which of them work on labelled scans; reads truth, to make prompts and to score."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from medlsam_jax.cli import options, study_all
from medlsam_jax.errors import ConfigError

if TYPE_CHECKING:
  from medlsam_jax.cli.terminal import Terminal
  from medlsam_jax.geometry import Volume
  from medlsam_jax.network import Network
  from medlsam_jax.sam.labelled_slices import LabelledSlices

NAME = "prompt_study"


def add_to(commands: options.Commands) -> None:
  """Adds the parser."""
  parser = options.command(
    commands, "study", "measure what finds and what paints, on labelled scans", "  medlsam study all --data labelled/"
  )
  studies = parser.add_subparsers(dest="study", metavar="STUDY", required=True)
  study_all.add_to(studies)
  prompts = options.command(
    studies,
    "prompts",
    "compare prompts (points, boxes, everything) on labelled scans",
    "  medlsam study prompts --scans labelled/ --slice-step 10 --out study/\n"
    "  labelled/ holds NAME_ct.nii.gz, NAME_seg.nii.gz and labels.json, as templates do. Writes\n"
    f"  study/{NAME}.html and study/{NAME}.csv.",
  )
  prompts.add_argument("--scans", required=True, metavar="PATH", help="folder or list of scans with label maps")
  prompts.add_argument("--out", default="out", metavar="DIR", help="folder for the report (default: out)")
  prompts.add_argument("--model", default="litemedsam", metavar="NAME_OR_FILE", help="network (default: litemedsam)")
  options.add_organs(prompts)
  options.add_reading(prompts, "the scans")
  prompts.add_argument("--modes", type=options.names, metavar="S1,S2", help="of S1 to S6 (default: all)")
  prompts.add_argument("--window", default="soft_tissue", help="CT window: soft_tissue, lung, brain or bone")
  prompts.add_argument("--slice-step", type=options.positive_int, default=1, metavar="N", help="every Nth slice")
  smallest = "leave out organs that are smaller in a slice, pixels of an image of 256 an edge (default: 100)"
  prompts.add_argument("--least-pixels", type=float, default=100.0, metavar="N", help=smallest)
  prompts.add_argument(
    "--grid", type=options.positive_int, default=32, metavar="N", help="points a side in everything mode (default: 32)"
  )
  prompts.add_argument("--no-disturbing", action="store_true", help="leave out moved and enlarged prompts")
  prompts.add_argument(
    "--seed", type=options.whole_number, default=0, help="draws how prompts are disturbed (default: 0)"
  )
  options.add_quiet(prompts)
  prompts.set_defaults(run=run_prompts)


def run_prompts(arguments: argparse.Namespace, terminal: Terminal) -> int:
  """Asks, scores and writes the report."""
  from medlsam_jax.cli import networks_and_banks
  from medlsam_jax.display import count
  from medlsam_jax.errors import InputError
  from medlsam_jax.evaluation import prompt_report, prompts
  from medlsam_jax.evaluation.prompt_making import MODES, not_meant_for
  from medlsam_jax.io.atomic import folder_for, require_writable
  from medlsam_jax.io.templates import read_templates
  from medlsam_jax.sam.everything import EverythingSettings
  from medlsam_jax.sam.labelled_slices import LabelledScan, LabelledSlices

  modes = tuple(arguments.modes or MODES)
  unknown = [mode for mode in modes if mode not in MODES]
  if unknown:
    raise ConfigError(f"--modes: {', '.join(unknown)} unknown; known are {', '.join(MODES)}")
  require_writable(arguments.out)
  with terminal.bar("reading scans"):
    given = read_templates(arguments.scans, arguments.organs, **vars(options.reading(arguments)))
    read = [t for t in given if t.labels is not None and t.values]
    scans = [LabelledScan.of(t.name, t.scan, t.labels, t.values) for t in read if t.labels is not None]
  predictor = networks_and_banks.predictor_of(arguments.model, terminal)
  strange = not_meant_for(predictor.variant, modes)
  if strange:
    terminal.warn(strange)
  slices = LabelledSlices(
    scans,
    predictor.fit_of,
    predictor.variant.pixels,
    predictor.low_size,
    (arguments.window,),
    arguments.slice_step,
    arguments.least_pixels,
  )
  if not len(slices):
    raise InputError(f"{arguments.scans}: no slice shows an organ with {arguments.least_pixels:g} pixels")
  spacings = [_pixel_mm(template.scan) for template in read]
  everything = EverythingSettings(points_per_side=arguments.grid, predicted_iou=0.0, stability=0.0)
  settings = prompts.StudySettings(modes, not arguments.no_disturbing, everything, arguments.seed)
  with terminal.bar(f"asking about {count(len(slices), 'slice')}") as bar:
    rows = prompts.run_study(slices, spacings, predictor, settings, bar)
  about = _about(arguments, slices, predictor.network, strange)
  out = Path(arguments.out)
  terminal.warn_replaced(out / f"{NAME}.html", out / f"{NAME}.csv")
  with folder_for(out):
    prompt_report.write_csv(out / f"{NAME}.csv", rows)
    prompt_report.write_html(out / f"{NAME}.html", rows, about)
  terminal.table(prompt_report.mode_table(rows))
  terminal.result(f"wrote {out / NAME}.html, {out / NAME}.csv")
  return 0


def _about(arguments: argparse.Namespace, slices: LabelledSlices, network: Network, strange: str) -> dict[str, str]:
  """What the report says at its top."""
  indices = sorted({str(item.index) for item in slices.items}, key=int)
  about = {
    "scans": ", ".join(scan.name for scan in slices.scans),
    "slices": f"{len(slices)}: every {arguments.slice_step}. (from below: {', '.join(indices)})",
    "organs": ", ".join(slices.organs),
    "network": f"{network.source} ({network.sha256[:12]})",
    "window": arguments.window,
    "everything mode": f"{arguments.grid} x {arguments.grid} points, no filters",
  }
  return about | ({"not meant for it": strange} if strange else {})


def _pixel_mm(scan: Volume) -> tuple[float, float]:
  """Height and width of a pixel of the slices that are asked about."""
  from medlsam_jax.geometry import DISPLAY_AXIS_CODES

  order, _ = scan.grid.axes_to(DISPLAY_AXIS_CODES)
  _, high, wide = scan.spacing_mm[list(order)]
  return float(high), float(wide)
