"""`medlsam evaluate`: results against truth, beside a trivial baseline; the only command that reads truth."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medlsam_jax import notices
from medlsam_jax.cli import options, segment
from medlsam_jax.errors import ConfigError, InputError

if TYPE_CHECKING:
  from medlsam_jax.cli.terminal import Terminal
  from medlsam_jax.evaluation.baseline import MeanBoxes
  from medlsam_jax.evaluation.report import Report
  from medlsam_jax.io.scans import ListedScan

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
  parser.set_defaults(run=run, boxes=None, made_up=False)


@dataclass(frozen=True)
class Case:
  """One scan to score; `scan` is None where only results and truth are there."""

  name: str
  scan: ListedScan | None
  truth: Path


def run(arguments: argparse.Namespace, terminal: Terminal) -> int:
  """Scores every scan; 1 if any failed."""
  from medlsam_jax.cli import job, sources
  from medlsam_jax.evaluation.report import Report
  from medlsam_jax.evaluation.truth_names import borrowed_tables, own_tables
  from medlsam_jax.io.atomic import require_writable

  cases = cases_of(arguments)
  tables, broken = own_tables({case.name: case.truth for case in cases}, arguments.labels)
  unnamed = {case.name: case.truth for case in cases if case.name not in tables | broken}
  settings = job.settings_of(arguments)
  failed: dict[str, str] = {}
  if arguments.predictions is None:
    sources.check_search(arguments)
  else:
    check_predictions(arguments)
  require_writable(arguments.out)
  if arguments.predictions is None:
    summary, search = _make(arguments, settings, [case.scan for case in cases if case.scan], terminal)
    failed, organs = dict(summary.failed), list(search.bank.organs)
    numbers = {case.name: {name: organ.value for name, organ in search.bank.organs.items()} for case in cases}
  else:
    numbers = numbers_of(Path(arguments.predictions), cases)
    organs = arguments.organs or list(dict.fromkeys(organ for each in numbers.values() for organ in each))
  borrowed, nameless = borrowed_tables(unnamed, numbers)
  tables |= borrowed
  for name, why in (broken | nameless).items():
    if not tables:
      raise InputError(why)
    terminal.warn(f"{name}: {why}")
    failed.setdefault(name, why)
  named = list(dict.fromkeys(organ for table in tables.values() for organ in table))
  organs = organs or named
  unknown = [organ for organ in organs if organ not in named]
  if unknown:
    raise InputError(f"{', '.join(unknown)}: no value in the truth's labels.json; name it there, or choose --organs")
  values = {name: {organ: table[organ] for organ in organs if organ in table} for name, table in tables.items()}
  rows, reasons = _score(arguments, cases, organs, values, failed, terminal)
  return tell(Path(arguments.out), Report(rows, arguments.made_up, reasons), terminal)


def check_predictions(arguments: argparse.Namespace) -> None:
  """Refuses options of making results together with `--predictions`.

  Raises:
    ConfigError: there is one.
  """
  building = ("bank", "save_bank", "mode", "interval_mm", "template_edge")
  made = (*building, "steps", "search", "masks", "model", "preset", "propagate", "axes", "config")
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
  from medlsam_jax.io import beside
  from medlsam_jax.io.scans import list_scans

  if arguments.query is None:
    if arguments.predictions is None:
      raise ConfigError("give --query PATH (scans with NAME_seg.nii.gz beside them), or --predictions with --truth")
    if arguments.truth is None:
      raise ConfigError("--predictions needs --truth DIR, or --query PATH of scans with their truth beside them")
    if arguments.templates is not None:
      raise ConfigError("the baseline of --templates is placed in scans: give them with --query PATH")
    found = beside.label_maps_in(Path(arguments.truth))
    if not found:
      raise InputError(f"{arguments.truth}: no NAME_seg.nii.gz there, nor in folders of cases in it")
    return [Case(name, None, path) for name, path in found.items()]
  cases, missing = [], []
  for scan in list_scans(arguments.query):
    folder = Path(arguments.truth) if arguments.truth else None
    truth = beside.label_map_for(scan.path, scan.name, folder) if folder else beside.label_map_beside(scan.path)
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
  from medlsam_jax.io.writing import BOXES

  found: dict[str, dict[str, int]] = {}
  for case in cases:
    path = predictions / (case.name + BOXES)
    organs = None
    with contextlib.suppress(InputError):
      organs = read_json(path).get("organs") if path.is_file() else None
    found[case.name] = {}
    for organ, entry in organs.items() if isinstance(organs, dict) else ():
      label = entry.get("label") if isinstance(entry, dict) else None
      found[case.name][organ] = label if isinstance(label, int) else 0
  return found


def _make(arguments: argparse.Namespace, settings: Any, queries: list[ListedScan], terminal: Terminal) -> Any:
  from medlsam_jax.cli import localize

  make = localize.localize_all if arguments.no_masks else segment.segment_all
  return make(arguments, settings, queries, terminal)


def _score(
  arguments: argparse.Namespace,
  cases: Sequence[Case],
  organs: Sequence[str],
  values: Mapping[str, dict[str, int]],
  failed: Mapping[str, str],
  terminal: Terminal,
) -> tuple[list[Any], dict[str, str]]:
  """Rows of all scans, and why those that could not be scored could not; a scan without a result stays in as failed."""
  folder = Path(arguments.predictions or arguments.out)
  tasks = _expected(arguments, folder, cases)
  baseline = _baseline(arguments, cases, organs, terminal)
  rows: list[Any] = []
  reasons = dict(failed)
  with terminal.bar("scoring") as report:
    for number, case in enumerate(cases, 1):
      try:
        if case.name not in reasons:
          rows += _score_case(arguments, case, folder, tasks, values[case.name], baseline)
      except InputError as error:
        reasons[case.name] = str(error)
        terminal.warn(f"{case.name}: {error}")
      if case.name in reasons and case.name in values:
        rows += _failed_case(case, tasks, values[case.name], reasons)
      report(number, len(cases))
  if not rows:
    raise InputError(f"no scan could be scored: {'; '.join(reasons.values())}")
  return rows, reasons


def _score_case(
  arguments: argparse.Namespace,
  case: Case,
  folder: Path,
  tasks: Sequence[str],
  values: dict[str, int],
  baseline: MeanBoxes | None,
) -> list[Any]:
  """Rows of one scan from its result files."""
  from medlsam_jax.evaluation.saved import evaluate_saved
  from medlsam_jax.io.nifti import read_label_nifti
  from medlsam_jax.io.writing import BOXES, LABELS

  scan = placed = None
  if baseline is not None and case.scan is not None:
    scan = options.reading(arguments).read(case.scan, alone=False)
    placed = baseline.place(scan)
  boxes = folder / (case.name + BOXES) if "boxes" in tasks else None
  masks = folder / (case.name + LABELS) if "masks" in tasks else None
  truth = read_label_nifti(case.truth)
  return evaluate_saved(case.name, boxes, masks, truth, values, placed, scan=scan, resample=arguments.resample)


def _failed_case(case: Case, tasks: Sequence[Any], values: dict[str, int], reasons: dict[str, str]) -> list[Any]:
  """Rows of a scan that failed, none where truth cannot be read either."""
  from medlsam_jax.evaluation.case import evaluate_case
  from medlsam_jax.io.nifti import read_label_nifti

  try:
    truth = read_label_nifti(case.truth)
  except InputError as error:
    reasons[case.name] = str(error)
    return []
  return evaluate_case(case.name, None, None, truth, values, expected=tuple(tasks))


def _baseline(
  arguments: argparse.Namespace, cases: Sequence[Case], organs: Sequence[str], terminal: Terminal
) -> MeanBoxes | None:
  """The templates' mean boxes, where there are templates; warns of scans that are among them."""
  from medlsam_jax.cli import sources
  from medlsam_jax.evaluation.baseline import MeanBoxes
  from medlsam_jax.io.packaged import NAMES

  region = arguments.bank if arguments.bank in NAMES else None
  if arguments.templates is None and region is None:
    return None
  with terminal.bar("placing the baseline"):
    templates = sources.templates_of(arguments.templates, region, list(organs), arguments.labels)
  used = {Path(template.scan.source).resolve() for template in templates}
  for case in cases:
    if case.scan is not None and case.scan.path.resolve() in used:
      terminal.warn(f"{case.scan} is one of the templates too: its scores say nothing about new scans")
  return MeanBoxes.of(templates)


def _expected(arguments: argparse.Namespace, folder: Path, cases: Sequence[Case]) -> tuple[str, ...]:
  """What is to be scored, of boxes and masks: what was made, or what any scan has."""
  from medlsam_jax.io.writing import BOXES, LABELS

  if arguments.predictions is None:
    return ("boxes",) if arguments.no_masks else ("boxes", "masks")
  boxes = any((folder / (case.name + BOXES)).is_file() for case in cases)
  masks = not arguments.no_masks and any((folder / (case.name + LABELS)).is_file() for case in cases)
  if not boxes and not masks:
    names = ", ".join(case.name for case in cases[:5])
    raise InputError(f"{folder}: no results for any scan ({names}); expected NAME_boxes.json or NAME_seg.nii.gz")
  return (*(["boxes"] if boxes else []), *(["masks"] if masks else []))


def tell(out: Path, result: Report, terminal: Terminal) -> int:
  """Prints and writes the scores; 1 if a scan failed."""
  from medlsam_jax.io.atomic import folder_for

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
