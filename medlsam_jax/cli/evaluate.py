"""`medlsam evaluate`: results against truth, beside a trivial baseline; the only command that reads truth."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medlsam_jax.cli import compare, options, segment
from medlsam_jax.errors import ConfigError, InputError

if TYPE_CHECKING:
  from medlsam_jax.cli.cases import Case
  from medlsam_jax.cli.scoring import Scoring
  from medlsam_jax.cli.terminal import Terminal
  from medlsam_jax.evaluation.case import Task
  from medlsam_jax.pipeline import PipelineSettings

RESULT_NAME = "evaluation"


def add_to(commands: options.Commands) -> None:
  """Adds the parser."""
  parser = options.command(
    commands,
    "evaluate",
    "score boxes and masks against true labels, per organ, beside a trivial baseline",
    "  medlsam evaluate --templates templates/ --query test/ --out scores/\n"
    "  localizes and segments every scan of test/, scores it against NAME_seg.nii.gz beside it, and writes\n"
    "  scores/evaluation.csv and scores/evaluation.json. Results that are there already:\n"
    "  medlsam evaluate --predictions out/ --truth test/\n" + compare.EXAMPLE,
  )
  options.add_query(parser, required=False)
  parser.add_argument(
    "--truth", metavar="DIR", help="folder of NAME_seg.nii.gz, or of folders of cases (default: beside each scan)"
  )
  parser.add_argument(
    "--predictions", metavar="DIR", help="results to score (NAME_seg.nii.gz, NAME_boxes.json) instead of making them"
  )
  parser.add_argument("--no-masks", action="store_true", help="localize only")
  parser.add_argument(
    "--resample",
    action="store_true",
    help="score a truth or a label map on another grid than its scan too, each voxel taking the nearest label",
  )
  options.add_organs(parser)
  options.add_search(parser)
  segment.add_painting(parser.add_argument_group("how they are painted"))
  compare.add_to(parser.add_argument_group("comparing ways to paint"))
  options.add_settings(parser, "search, confidence, segmentation, propagation, masks")
  options.add_quiet(parser)
  parser.set_defaults(run=run, boxes=None, points=None, made_up=False, output_type=["nifti"])


def run(arguments: argparse.Namespace, terminal: Terminal) -> int:
  """Scores every scan; 1 if any failed."""
  from medlsam_jax.cli import networks_and_banks
  from medlsam_jax.cli.cases import cases_of
  from medlsam_jax.cli.search import settings_of
  from medlsam_jax.evaluation.truth_names import own_tables
  from medlsam_jax.io.atomic import require_writable

  if arguments.compare:
    return _compare(arguments, terminal)
  compare.check_unused(arguments)
  cases = cases_of(arguments)
  named = own_tables({case.name: case.truth for case in cases}, arguments.labels)
  settings = settings_of(arguments)
  if arguments.predictions is None:
    networks_and_banks.check_search(arguments)
    require_writable(arguments.out)
    return _make_and_score(arguments, settings, cases, named, terminal)
  check_predictions(arguments)
  require_writable(arguments.out)
  folder = Path(arguments.predictions)
  numbers = numbers_of(folder, cases)
  organs = arguments.organs or list(dict.fromkeys(organ for each in numbers.values() for organ in each))
  scoring = _scoring(arguments, cases, named, numbers, organs, terminal)
  for case in cases:
    scoring.add_files(case, folder)
  return tell(arguments, scoring, terminal)


def _compare(arguments: argparse.Namespace, terminal: Terminal) -> int:
  """Paints every scan in several ways, as far as that was not done before, and scores it; 1 if any failed."""
  from medlsam_jax.cli.comparing import Comparing

  compare.check(arguments)
  return Comparing.prepare(arguments, terminal).run()


def _make_and_score(
  arguments: argparse.Namespace,
  settings: PipelineSettings,
  cases: Sequence[Case],
  named: tuple[dict[str, dict[str, int]], dict[str, str]],
  terminal: Terminal,
) -> int:
  """Scores each result as it is made; of a scan that was done before, the files that it left."""
  from medlsam_jax.cli import localize
  from medlsam_jax.cli.painting import Painter
  from medlsam_jax.cli.search import Search

  painter = None if arguments.no_masks else Painter.prepare(arguments, settings, terminal)
  search = Search.prepare(arguments, settings, terminal)
  numbers = {case.name: {name: organ.value for name, organ in search.bank.organs.items()} for case in cases}
  scoring = _scoring(arguments, cases, named, numbers, list(search.bank.organs), terminal)
  queries = [case.scan for case in cases if case.scan]
  if painter is None:
    summary = localize.localize_all(arguments, queries, search, terminal, scoring.add)
  else:
    summary = segment.segment_all(arguments, queries, search, painter, terminal, scoring.add)
  scoring.reasons = summary.failed | {n: why for n, why in scoring.reasons.items() if n not in summary.failed}
  for name in summary.skipped:
    scoring.add_files(scoring.cases[name], Path(arguments.out))
  return tell(arguments, scoring, terminal)


def _scoring(
  arguments: argparse.Namespace,
  cases: Sequence[Case],
  named: tuple[dict[str, dict[str, int]], dict[str, str]],
  numbers: Mapping[str, Mapping[str, int]],
  organs: Sequence[str],
  terminal: Terminal,
) -> Scoring:
  """What each scan is scored by; arguments and errors as of `values_of`."""
  from medlsam_jax.cli.cases import values_of
  from medlsam_jax.cli.scoring import Scoring, baseline_of

  values, organs, reasons = values_of(cases, named, numbers, organs, terminal)
  tasks = _expected(arguments, cases)
  baseline = baseline_of(arguments, cases, organs, terminal)
  return Scoring(arguments, {case.name: case for case in cases}, values, tasks, baseline, terminal, reasons)


def check_predictions(arguments: argparse.Namespace) -> None:
  """Refuses options of making results together with `--predictions`.

  Raises:
    ConfigError: there is one.
  """
  building = ("bank", "save_bank", "mode", "interval_mm", "template_edge")
  made = (*building, "steps", "search", "masks", "model", "dtype", "preset", "propagate", "axes", "config")
  for option in (*made, "rest"):
    if getattr(arguments, option):
      name = arguments.rest[0] if option == "rest" else "--" + option.replace("_", "-")
      raise ConfigError(f"{name} is about making results; with --predictions they are only scored: leave it away")


def numbers_of(predictions: Path, cases: Sequence[Case]) -> dict[str, dict[str, int]]:
  """By scan: every organ that its boxes file names, and the label value there where it states one, else 0.

  A file that cannot be read names none; scoring its scan says so.
  """
  from medlsam_jax.io.point_files import read_json
  from medlsam_jax.io.scan_result import BOXES

  numbers: dict[str, dict[str, int]] = {}
  for case in cases:
    path = predictions / (case.name + BOXES)
    organs = None
    with contextlib.suppress(InputError):
      organs = read_json(path).get("organs") if path.is_file() else None
    numbers[case.name] = {}
    for organ, entry in organs.items() if isinstance(organs, dict) else ():
      label = entry.get("label") if isinstance(entry, dict) else None
      numbers[case.name][organ] = label if isinstance(label, int) else 0
  return numbers


def _expected(arguments: argparse.Namespace, cases: Sequence[Case]) -> tuple[Task, ...]:
  """What is to be scored, of boxes and masks: what was made, or what any scan has."""
  from medlsam_jax.io.scan_result import BOXES, LABELS

  if arguments.predictions is None:
    return ("boxes",) if arguments.no_masks else ("boxes", "masks")
  folder = Path(arguments.predictions)
  boxes = any((folder / (case.name + BOXES)).is_file() for case in cases)
  masks = not arguments.no_masks and any((folder / (case.name + LABELS)).is_file() for case in cases)
  if not boxes and not masks:
    names = ", ".join(case.name for case in cases[:5])
    raise InputError(f"{folder}: no results for any scan ({names}); expected NAME_boxes.json or NAME_seg.nii.gz")
  return ("boxes", "masks") if boxes and masks else ("boxes",) if boxes else ("masks",)


def tell(arguments: argparse.Namespace, scoring: Scoring, terminal: Terminal) -> int:
  """Prints and writes the scores; 1 if a scan failed."""
  from medlsam_jax.evaluation.origins import read_origins
  from medlsam_jax.evaluation.report import Report
  from medlsam_jax.installation import version
  from medlsam_jax.io.atomic import folder_for

  out, result = Path(arguments.out), Report(scoring.finish(), arguments.made_up, scoring.reasons)
  about = {
    "made_with": read_origins(Path(arguments.predictions or out), scoring.cases),
    "scored_with": {name: version(name) for name in ("medlsam_jax", "numpy", "scipy")},
  }
  terminal.warn_replaced(out / f"{RESULT_NAME}.csv", out / f"{RESULT_NAME}.json")
  with folder_for(out):
    result.write_csv(out / f"{RESULT_NAME}.csv")
    result.write_json(out / f"{RESULT_NAME}.json", about)
  terminal.result()
  terminal.table(result.table(), footer=True)
  for line in result.notes():
    terminal.say(line)
  terminal.say(f"wrote {out / RESULT_NAME}.csv, {out / RESULT_NAME}.json")
  return 1 if result.summary()["failed_scans"] else 0
