"""Scans to score and their truth: which label map is whose, and which organ a value of it is."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medlsam_jax import notices
from medlsam_jax.cli.terminal import Terminal
from medlsam_jax.errors import ConfigError, InputError, MedlsamError
from medlsam_jax.evaluation.truth_names import borrowed_tables
from medlsam_jax.geometry import Volume
from medlsam_jax.io import label_files
from medlsam_jax.io.dicom_labels import is_drawn
from medlsam_jax.io.label_maps import read_label_map
from medlsam_jax.io.scans import ListedScan, ReadingOptions, list_scans


@dataclass(frozen=True)
class Case:
  """One scan to score; `scan` is None where only results and truth are there."""

  name: str
  scan: ListedScan | None
  truth: Path


def cases_of(arguments: argparse.Namespace) -> list[Case]:
  """Scans and their truth.

  Raises:
    ConfigError: neither scans nor truth are named, or scans are missing for what was asked.
    InputError: no truth for a scan.
  """
  if arguments.query is None:
    if arguments.predictions is None:
      raise ConfigError("give --query PATH (scans with NAME_seg.nii.gz beside them), or --predictions with --truth")
    if arguments.truth is None:
      raise ConfigError("--predictions needs --truth DIR, or --query PATH of scans with their truth beside them")
    if arguments.templates is not None:
      raise ConfigError("the baseline of --templates is placed in scans: give them with --query PATH")
    label_maps = label_files.label_maps_in(Path(arguments.truth))
    if not label_maps:
      raise InputError(
        f"{arguments.truth}: no NAME_seg.nii.gz there, nor in folders of cases in it (truth in DICOM needs its scans: "
        "give --query)"
      )
    return [Case(name, None, path) for name, path in label_maps.items()]
  cases, missing = [], []
  for scan in list_scans(arguments.query):
    folder = Path(arguments.truth) if arguments.truth else None
    try:
      truth = (
        label_files.label_map_for(scan.path, scan.name, folder) if folder else label_files.label_map_beside(scan.path)
      )
    except InputError as error:
      missing.append(str(error))
      continue
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


def values_of(
  cases: Sequence[Case],
  named: tuple[dict[str, dict[str, int]], dict[str, str]],
  numbers: Mapping[str, Mapping[str, int]],
  organs: Sequence[str],
  terminal: Terminal,
) -> tuple[dict[str, dict[str, int]], list[str], dict[str, str]]:
  """By scan the values of organs in its truth; the organs; and why scans cannot be scored, which is warned of.

  Args:
    named: of `truth_names.own_tables`.
    numbers: by scan, the label values of the results' organs.
    organs: to score; empty for all that truth names.

  Raises:
    InputError: nothing says which organ a value of truth is, or truth has no value for an organ.
  """
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
  organs = list(organs) or known
  unknown = [organ for organ in organs if organ not in known]
  if unknown:
    raise InputError(f"{', '.join(unknown)}: no value in the truth's labels.json; name it there, or choose --organs")
  values = {name: {organ: table[organ] for organ in organs if organ in table} for name, table in tables.items()}
  return values, organs, reasons


def truth_of_failed(case: Case, values: Mapping[str, int], reading: ReadingOptions) -> Volume | None:
  """Truth of a scan that failed, on its own voxels; DICOM, which has none, on those of the scan.

  Args:
    values: organs, and their values in it.

  Returns:
    None where DICOM labels lack their scan: then it is known which organs are drawn, and not where.

  Raises:
    InputError: truth itself cannot be read.
  """
  scan = None
  if is_drawn(case.truth):
    with contextlib.suppress(MedlsamError):
      scan = None if case.scan is None else reading.read(case.scan, alone=False)
    if scan is None:
      return None
  return read_label_map(case.truth, values, scan)
