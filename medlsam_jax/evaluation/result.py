"""A result in memory as what `evaluate_case` scores: the same numbers as from its files, which need not be read."""

from __future__ import annotations

from collections.abc import Mapping

from medlsam_jax.evaluation.case import Row, evaluate_case
from medlsam_jax.geometry import Box, Volume
from medlsam_jax.io import boxes_file
from medlsam_jax.io.alignment import align_labels
from medlsam_jax.io.scan_result import ScanResult


def evaluate_result(
  result: ScanResult,
  truth: Volume,
  values: Mapping[str, int],
  baseline_boxes: Mapping[str, Box] | None = None,
  *,
  resample: bool = False,
) -> list[Row]:
  """`evaluate_case` on the voxels of the scan.

  Args:
    truth: label map of the scan, on any grid over its voxels.
    values: organs to score and their values in `truth`.
    baseline_boxes: of `MeanBoxes.place`, scored beside the findings.
    resample: take the nearest label of a truth that lies on another grid, instead of refusing it.

  Raises:
    InputError: truth does not lie on the voxels of the scan.
  """
  scan = result.scan
  findings = boxes_file.as_written(result.findings, scan)
  labels = None if result.labels is None else result.labels.as_saved()
  laid = align_labels(truth, scan.grid, scan.source, scan.file_grid, resample=resample)
  return evaluate_case(result.name, findings, labels, laid, values, baseline_boxes)
