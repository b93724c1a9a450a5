"""Volumes of a cohort's organs: which are odd, and a table with a row for each scan."""

from __future__ import annotations

import csv
import io
import math

import numpy as np
from jaxtyping import Float

from medlsam_jax.cohort.layout import ENOUGH_SCANS
from medlsam_jax.cohort.looked import Quality
from medlsam_jax.cohort.oddities import FAR
from medlsam_jax.finding import FOUND
from medlsam_jax.pages.table import spreadsheet_text

VOLUMES = "cohort_volumes.csv"
RULE = (
  "An organ's deviation is robust: the logarithm of its volume less the median of the scans in which it is found, over "
  "a standard deviation by what half and four fifths of the scans say (the greater one, at least .15, which is a "
  f"factor of 1.16). It is given where at least {ENOUGH_SCANS} scans show the organ and this one has it found; from "
  f"{FAR:g} on a volume is marked as an outlier."
)


def volume_ml(quality: Quality, row: int, column: int) -> float | None:
  """Of an organ in a scan; None where the scan does not have it, or nobody asked."""
  value = float(quality.log_ml[row, column])
  return math.exp(value) if math.isfinite(value) else None


def deviation(quality: Quality) -> Float[np.ndarray, "scans organs"]:
  """By `RULE`, negative for small ones; NaN where it is not given."""
  found = np.array([[each == FOUND for each in row] for row in quality.verdicts], bool).reshape(quality.log_ml.shape)
  return np.where(found.sum(0) >= ENOUGH_SCANS, quality.size_off, np.nan)


def to_csv(quality: Quality) -> str:
  """For each scan a row, for each organ its volume (of its box, in a cohort without masks), deviation and verdict."""
  text = io.StringIO()
  rows = csv.writer(text, lineterminator="\n")
  size = "ml" if quality.is_painted else "box_ml"
  heads = (f"{organ}_{what}" for organ in quality.organs for what in (size, "deviation", "verdict"))
  rows.writerow(["scan", *map(spreadsheet_text, heads)])
  off = deviation(quality)
  for row in sorted(range(len(quality.scans)), key=lambda each: quality.scans[each].record.scan):
    cells = [spreadsheet_text(quality.scans[row].record.scan)]
    for column, verdict in enumerate(quality.verdicts[row]):
      size_ml, apart = volume_ml(quality, row, column), float(off[row, column])
      cells += ["" if size_ml is None else f"{size_ml:.4g}", f"{apart:.2f}" if math.isfinite(apart) else "", verdict]
    rows.writerow(cells)
  return text.getvalue()
