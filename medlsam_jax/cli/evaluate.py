"""`medlsam evaluate`: results against truth, beside a trivial baseline; the only command that reads truth."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medlsam_jax import notices
from medlsam_jax.cli import options, segment
from medlsam_jax.errors import ConfigError, InputError

if TYPE_CHECKING:
  from medlsam_jax.cli.scoring import Case, Scoring
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
    "  medlsam evaluate --predictions out/ --truth test/",
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
  options.add_settings(parser, "search, confidence, segmentation, propagation, masks")
  options.add_quiet(parser)
  parser.set_defaults(run=run, boxes=None, points=None, made_up=False)


def run(arguments: argparse.Namespace, terminal: Terminal) -> int:
  """Scores every scan; 1 if any failed."""
  from medlsam_jax.cli import networks_and_banks
  from medlsam_jax.cli.search import settings_of
  from medlsam_jax.evaluation.truth_names import own_tables
  from medlsam_jax.io.atomic import require_writable

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
  """What each scan is scored by.

  Args:
    named: of `own_tables`.
    numbers: by scan, the label values of the results' organs.
    organs: to score; empty for all that truth names.

  Raises:
    InputError: nothing says which organ a value of truth is, or truth has no value for an organ.
  """
  from medlsam_jax.cli.scoring import Scoring, baseline_of
  from medlsam_jax.evaluation.truth_names import borrowed_tables

  tables, broken = named
  unnamed = {case.name: case.truth for case in cases if case.name not in tables | broken}
  borrowed, nameless = borrowed_tables(unnamed, numbers)
  tables = tables | borrowed
  reasons = broken | nameless
  if reasons and not tables:
    raise InputError(next(iter(reasons.values())))
  for name, why in reasons.items():
    terminal.warn(f"{name}: {why}")
  known = list(dict.fromkeys(organ for table in tables.values() for organ in table))
  organs = organs or known
  unknown = [organ for organ in organs if organ not in known]
  if unknown:
    raise InputError(f"{', '.join(unknown)}: no value in the truth's labels.json; name it there, or choose --organs")
  values = {name: {organ: table[organ] for organ in organs if organ in table} for name, table in tables.items()}
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


def cases_of(arguments: argparse.Namespace) -> list[Case]:
  """Scans and their truth.

  Raises:
    ConfigError: neither scans nor truth are named, or scans are missing for what was asked.
    InputError: no truth for a scan.
  """
  from medlsam_jax.cli.scoring import Case
  from medlsam_jax.io import label_files
  from medlsam_jax.io.scans import list_scans

  if arguments.query is None:
    if arguments.predictions is None:
      raise ConfigError("give --query PATH (scans with NAME_seg.nii.gz beside them), or --predictions with --truth")
    if arguments.truth is None:
      raise ConfigError("--predictions needs --truth DIR, or --query PATH of scans with their truth beside them")
    if arguments.templates is not None:
      raise ConfigError("the baseline of --templates is placed in scans: give them with --query PATH")
    label_maps = label_files.label_maps_in(Path(arguments.truth))
    if not label_maps:
      raise InputError(f"{arguments.truth}: no NAME_seg.nii.gz there, nor in folders of cases in it")
    return [Case(name, None, path) for name, path in label_maps.items()]
  cases, missing = [], []
  for scan in list_scans(arguments.query):
    folder = Path(arguments.truth) if arguments.truth else None
    truth = (
      label_files.label_map_for(scan.path, scan.name, folder) if folder else label_files.label_map_beside(scan.path)
    )
    if truth is not None:
      cases.append(Case(scan.name, scan, truth))
    elif not scan.wrong:
      missing.append(
        f"{scan}: no truth for it: {(folder or scan.path.parent) / (scan.name + '_seg.nii.gz')} is missing"
      )
  if not cases:
    raise InputError(missing[0] if missing else f"{arguments.query}: no scan can be read")
  for text in missing:
    notices.warn(f"{text}; left out")
  return cases


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
  from medlsam_jax.evaluation.report import Report
  from medlsam_jax.io.atomic import folder_for

  out, result = Path(arguments.out), Report(scoring.finish(), arguments.made_up, scoring.reasons)
  terminal.warn_replaced(out / f"{RESULT_NAME}.csv", out / f"{RESULT_NAME}.json")
  with folder_for(out):
    result.write_csv(out / f"{RESULT_NAME}.csv")
    result.write_json(out / f"{RESULT_NAME}.json")
  terminal.result()
  terminal.table(result.table(), footer=True)
  for line in result.notes():
    terminal.say(line)
  terminal.say(f"wrote {out / RESULT_NAME}.csv, {out / RESULT_NAME}.json")
  return 1 if result.summary()["failed_scans"] else 0
