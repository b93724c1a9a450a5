"""`medlsam segment`: label maps of organs in one scan or many, from templates or from boxes of the user's own."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from medlsam_jax.cli import cohort, options

if TYPE_CHECKING:
  from medlsam_jax.cli.many_scans import Summary
  from medlsam_jax.cli.painting import Painter
  from medlsam_jax.cli.results import Make, Read
  from medlsam_jax.cli.search import Search
  from medlsam_jax.cli.terminal import Terminal
  from medlsam_jax.finding import Finding
  from medlsam_jax.geometry import Volume
  from medlsam_jax.io.scan_result import ScanResult
  from medlsam_jax.io.scans import ListedScan
  from medlsam_jax.pipeline import PipelineSettings


def add_to(commands: options.Commands) -> None:
  """Adds the parser."""
  parser = options.command(
    commands,
    "segment",
    "find organs in one scan or many and paint them",
    "  medlsam segment --templates templates/ --query patient_ct.nii.gz\n"
    "  writes out/patient_seg.nii.gz, out/patient_boxes.json, out/patient_boxes.mrk.json (3D Slicer) and\n"
    "  out/patient_preview.png. After correcting a box in one of the two box files:\n"
    "  medlsam segment --boxes out/patient_boxes.json --query patient_ct.nii.gz --out corrected/\n"
    + cohort.EXAMPLE.format(command="segment"),
  )
  options.add_query(parser, required=False)
  cohort.add_to(parser)
  options.add_organs(parser)
  options.add_search(parser)
  group = parser.add_argument_group("how they are painted")
  group.add_argument(
    "--boxes",
    metavar="FILE",
    help="boxes for the one scan instead of a search: a NAME_boxes.json, 3D Slicer ROIs or points (.mrk.json, .fcsv), "
    "or a JSON of six points per organ",
  )
  group.add_argument(
    "--points",
    metavar="FILE",
    help="places by which a network for volumes mends its masks in the one scan, as point lists of 3D Slicer "
    "(.mrk.json, .fcsv) or JSON: those called ORGAN are in it, those called 'not ORGAN' are not",
  )
  add_painting(group)
  add_output(parser.add_argument_group("what is written"))
  options.add_settings(parser, "search, confidence, segmentation, propagation, masks")
  options.add_quiet(parser)
  parser.set_defaults(run=run)


def add_output(group: options.Options) -> None:
  """`--output-type`."""
  group.add_argument(
    "--output-type",
    type=options.names,
    metavar="A,B",
    default=["nifti"],
    help="formats of the label map (default: nifti): nifti; nifti-each, a file for each organ; dicom-seg, "
    "dicom-seg-labelmap, rtstruct, which refer to the scan's DICOM series; seg-nrrd for 3D Slicer; nrrd; mha; ctbl and "
    "itksnap, tables of names and colours for 3D Slicer and ITK-SNAP",
  )


def add_painting(group: options.Options) -> None:
  """`--masks`, `--model`, `--dtype`, `--preset`, `--propagate`, `--axes`, `--clean-up`."""
  group.add_argument(
    "--masks",
    choices=("auto", "templates", "network", "prompted"),
    help="templates: their own masks, laid over the scan where the organ was found; network: --model, prompted by the "
    "boxes; prompted: --model, prompted by the templates' masks slice by slice, if it was fine-tuned to that (`medlsam "
    "finetune --bank`); auto: templates for the organs that they have a mask of, unless an option of the network is "
    "given (default: auto)",
  )
  group.add_argument(
    "--model",
    metavar="NAME_OR_FILE",
    help="network that paints; published weights are fetched once (default: litemedsam, where one is needed). A file "
    "of `medlsam finetune --model sam3d-...` paints volumes instead of slices",
  )
  group.add_argument(
    "--dtype",
    choices=("float32", "bfloat16"),
    help="network: operands of its products (default: bfloat16 for litemedsam on a GPU or TPU, else float32)",
  )
  group.add_argument(
    "--preset",
    choices=("litemedsam", "medlsam"),
    help="network: window, scaling and margin as its own, or as in the MedLSAM paper (default: litemedsam)",
  )
  group.add_argument(
    "--propagate",
    action="store_true",
    help="network: prompt an organ's middle slice by its box, and each further slice by the mask of the one before",
  )
  group.add_argument(
    "--axes",
    choices=("axial", "coronal", "sagittal", "all"),
    help="network: planes to cut; `all` cuts all three and takes what two of them agree on (default: axial)",
  )
  group.add_argument("--clean-up", action="store_true", help="keep each organ's largest piece, and fill its holes")


def run(arguments: argparse.Namespace, terminal: Terminal) -> int:
  """Segments every scan; 1 if any failed."""
  from medlsam_jax.cli import networks_and_banks, own_boxes
  from medlsam_jax.cli.painting import Painter
  from medlsam_jax.cli.search import Search, settings_of
  from medlsam_jax.io import label_formats
  from medlsam_jax.io.atomic import require_writable
  from medlsam_jax.io.scans import list_scans

  cohort.settle(arguments)
  label_formats.check(arguments.output_type)
  settings = settings_of(arguments)
  if arguments.list is not None:
    return _run_list(arguments, settings, terminal)
  if arguments.boxes is not None:
    own_boxes.check_boxes(arguments)
  else:
    networks_and_banks.check_search(arguments)
  queries = list_scans(arguments.query)
  own_boxes.check_boxes_queries(arguments, queries)
  require_writable(arguments.out)
  # a network that is named comes first: weights that cannot be had are told before a bank is built
  painter = Painter.prepare(arguments, settings, terminal)
  search = Search.prepare(arguments, settings, terminal) if arguments.boxes is None else None
  return segment_all(arguments, queries, search, painter, terminal).exit_code


def _run_list(arguments: argparse.Namespace, settings: PipelineSettings, terminal: Terminal) -> int:
  from medlsam_jax.cli import networks_and_banks
  from medlsam_jax.cli.painting import Painter
  from medlsam_jax.cli.search import Search
  from medlsam_jax.cohort.run import opened
  from medlsam_jax.errors import ConfigError
  from medlsam_jax.io.scans import list_scans

  for option in ("boxes", "points"):
    if getattr(arguments, option) is not None:
      raise ConfigError(f"--{option} is for one scan: give it by --query")
  networks_and_banks.check_search(arguments)
  scans = list_scans(arguments.list)
  with opened(arguments.out, cohort.options_of(arguments)) as folder:
    painter = Painter.prepare(arguments, settings, terminal)
    search = Search.prepare(arguments, settings, terminal)
    made_by = cohort.made_by(arguments, search, painter)
    make = _maker(arguments, search, painter, terminal)
    report = cohort.run_cohort(arguments, folder, scans, make, made_by, search.bank, arguments.output_type, terminal)
  search.finish(bool(report.failed))
  return report.exit_code


def segment_all(
  arguments: argparse.Namespace,
  queries: Sequence[ListedScan],
  search: Search | None,
  painter: Painter,
  terminal: Terminal,
  then: Callable[[ScanResult], None] | None = None,
) -> Summary:
  """Segments scans with the options of the command; also what `evaluate` and `demo` run.

  Without a search the boxes are those of `--boxes`.
  """
  from medlsam_jax.cli.results import make_all

  make = _maker(arguments, search, painter, terminal)
  summary = make_all(arguments, queries, make, arguments.output_type, terminal, then)
  if search is not None:
    search.finish(bool(summary.failed))
  return summary


def _maker(arguments: argparse.Namespace, search: Search | None, painter: Painter, terminal: Terminal) -> Make:
  from medlsam_jax import platform
  from medlsam_jax.cli import own_boxes, painting
  from medlsam_jax.io import label_formats
  from medlsam_jax.io.scan_result import ScanResult

  outputs = arguments.output_type
  if search is not None:
    painter.bank = search.bank
  painters = {platform.device().id: painter}

  def make(listed: ListedScan, title: str, read: Read) -> tuple[ScanResult, Mapping[str, object]]:
    def checked(listed: ListedScan) -> Volume:
      return label_formats.check_scan(read(listed), outputs)

    findings: Mapping[str, Finding]
    if search is not None:
      scan, findings = search.run(listed, title, terminal, checked)
      provenance = search.provenance()
    else:
      scan, findings = own_boxes.given_boxes(arguments, listed, title, terminal, checked)
      provenance = own_boxes.provenance_of_boxes(arguments)
    # on another device a network is loaded when the first organ needs it there
    here = painters.setdefault(platform.device().id, dataclasses.replace(painter, network=None))
    labels, how = here.run(scan, findings, title)
    return ScanResult(listed.name, scan, findings, labels, outputs), painting.merged(provenance, how)

  return make
