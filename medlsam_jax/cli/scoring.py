"""Scores of the scans of `evaluate`: of each result as it is made, or of the files that it left."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medlsam_jax import metrics
from medlsam_jax.cli import networks_and_banks, options
from medlsam_jax.cli.cases import Case, truth_of_failed
from medlsam_jax.cli.terminal import Terminal
from medlsam_jax.errors import InputError
from medlsam_jax.evaluation.baseline import MeanBoxes
from medlsam_jax.evaluation.case import Row, Task, evaluate_case, unplaced_rows
from medlsam_jax.evaluation.result import evaluate_result
from medlsam_jax.evaluation.saved import SavedFiles, evaluate_saved
from medlsam_jax.geometry import Volume
from medlsam_jax.io.dicom_labels import is_drawn
from medlsam_jax.io.label_maps import read_label_map
from medlsam_jax.io.packaged_banks import NAMES
from medlsam_jax.io.scan_result import BOXES, LABELS, ScanResult


@dataclass
class Scoring:
  """Collects rows by scan; a scan that cannot be scored stays in as failed."""

  arguments: argparse.Namespace
  cases: Mapping[str, Case]
  values: Mapping[str, dict[str, int]]
  """By scan, organs and their values in its truth; a scan without them is not scored."""
  tasks: tuple[Task, ...]
  baseline: MeanBoxes | None
  terminal: Terminal
  reasons: dict[str, str] = field(default_factory=dict)
  """Why scans could not be scored."""
  rows: dict[str, list[Row]] = field(default_factory=dict)
  longest_mm: float = 0.0
  """The longest diagonal of the truths that were read."""

  def add(self, result: ScanResult) -> None:
    """Scores a result that was just made."""

    def rows(truth: Volume, values: Mapping[str, int]) -> list[Row]:
      placed = None if self.baseline is None else self.baseline.place(result.scan)
      return evaluate_result(result, truth, values, placed, resample=self.arguments.resample)

    self._score(self.cases[result.name], rows, lambda: result.scan)

  def add_files(self, case: Case, folder: Path) -> None:
    """Scores what a folder has of a scan."""

    @functools.cache
    def read() -> Volume | None:
      return None if case.scan is None else options.reading(self.arguments).read(case.scan, alone=False)

    def rows(truth: Volume, values: Mapping[str, int]) -> list[Row]:
      scan = placed = None
      if self.baseline is not None and (scan := read()) is not None:
        placed = self.baseline.place(scan)
      boxes = folder / (case.name + BOXES) if "boxes" in self.tasks else None
      masks = folder / (case.name + LABELS) if "masks" in self.tasks else None
      files = SavedFiles(case.name, boxes, masks)
      return evaluate_saved(files, truth, values, placed, scan=scan, resample=self.arguments.resample)

    self._score(case, rows, read)

  def finish(self) -> list[Row]:
    """All rows in the order of the cases.

    Raises:
      InputError: no scan could be scored.
    """
    for name in self.reasons:
      if name in self.values and name not in self.rows and (rows := self._failed(self.cases[name])) is not None:
        self.rows[name] = rows
    if self.longest_mm:  # DICOM truth without its scan: distances count the longest diagonal of the others
      for name in self.reasons:
        if name in self.values and name not in self.rows:
          self.rows[name] = unplaced_rows(name, self.values[name], self.longest_mm, self.tasks)
    rows = [row for name in self.cases for row in self.rows.get(name, ())]
    if not rows:
      raise InputError(f"no scan could be scored: {'; '.join(self.reasons.values())}")
    return rows

  def _score(
    self,
    case: Case,
    rows: Callable[[Volume, Mapping[str, int]], list[Row]],
    scan: Callable[[], Volume | None],
  ) -> None:
    """Scores a scan, whose voxels are read where truth is laid on them."""
    if case.name in self.reasons or case.name not in self.values:
      return
    try:
      with self.terminal.bar(f"{case.name}: scoring"):
        place = scan() if is_drawn(case.truth) else None
        truth = read_label_map(case.truth, self.values[case.name], place)
        self.rows[case.name] = rows(truth, self.values[case.name])
        self.longest_mm = max(self.longest_mm, metrics.diagonal_mm(truth.grid))
    except InputError as error:
      self.reasons[case.name] = str(error)
      self.terminal.warn(f"{case.name}: {error}")

  def _failed(self, case: Case) -> list[Row] | None:
    """Rows of a scan that failed, none where truth cannot be read either; None where it cannot be placed."""
    values = self.values[case.name]
    try:
      truth = truth_of_failed(case, values, options.reading(self.arguments))
    except InputError as error:
      self.reasons[case.name] = str(error)
      return []
    if truth is None:
      return None
    self.longest_mm = max(self.longest_mm, metrics.diagonal_mm(truth.grid))
    return evaluate_case(case.name, None, None, truth, values, expected=self.tasks)


def baseline_of(
  arguments: argparse.Namespace, cases: Sequence[Case], organs: Sequence[str], terminal: Terminal
) -> MeanBoxes | None:
  """The templates' mean boxes, where there are templates; warns of scans that are among them."""
  region = arguments.bank if arguments.bank in NAMES else None
  if arguments.templates is None and region is None:
    return None
  with terminal.bar("placing the baseline"):
    templates = networks_and_banks.templates_of(arguments.templates, region, list(organs), arguments.labels)
  used = {Path(template.scan.source).resolve() for template in templates}
  for case in cases:
    if case.scan is not None and case.scan.path.resolve() in used:
      terminal.warn(f"{case.scan} is one of the templates too: its scores say nothing about new scans")
  return MeanBoxes.of(templates)
