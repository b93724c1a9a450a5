"""Scores on the page: means and box plots by organ, volumes against true ones, the worst cases."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from medlsam_jax.evaluation.case import Row
from medlsam_jax.evaluation.report import METRICS, Report
from medlsam_jax.pages.page import items
from medlsam_jax.pages.plots import Group, box_plots, near_ends, scatter
from medlsam_jax.pages.table import Cell, Markup, number, table
from medlsam_jax.report.cases import Links

MOST_ROWS = 40
"""Of the worst cases; the CSV of the evaluation has all."""
_PLOTTED = {
  "dice": ("Dice", (0.0, 1.0)),
  "box_iou": ("box IoU", (0.0, 1.0)),
  "wall_distance_mm": ("distance between the walls of the boxes, mm (dots at the edge lie beyond)", None),
  "hd95_mm": ("HD95, mm (dots at the edge lie beyond)", None),
}
"""What stands under the axis, and its ends; None where a failure, of the scan's diagonal, would squeeze all others."""
_WORST = ("dice", "box_iou", "wall_distance_mm", "hd95_mm")


def evaluation_part(scores: Report, links: Links) -> str:
  """HTML of the section."""
  # the last note stands at the top of the page
  parts = [_organs(scores), items([line.strip() for line in scores.notes()[:-1]])]
  for metric, (unit, ends) in _PLOTTED.items():
    groups = _groups(scores.rows, metric)
    if plot := box_plots(f"{METRICS[metric][0]} by organ", unit, groups, ends=ends or near_ends(groups)):
      parts += [f"<h3>{METRICS[metric][0]} by organ</h3>", f"<figure>{plot}</figure>"]
  if pairs := [row for row in scores.rows if row.present and row.true_ml and row.predicted_ml is not None]:
    parts += ["<h3>Volumes against true ones</h3>", _volumes(pairs)]
  if worst := _worst(scores.rows, links):
    parts += ["<h3>Worst cases</h3>", worst]
  parts += ["<h3>Is the organ there at all?</h3>", _presence(scores)]
  return "\n".join(parts)


def _organs(scores: Report) -> str:
  summary = scores.summary()
  metrics = [name for name in METRICS if name in summary["mean_over_organs"]]
  rows: list[list[Cell]] = []
  for organ, each in summary["organs"].items():
    rows.append(
      [organ, each["present"], each["failed"], *(_mean(each.get(name), METRICS[name][1]) for name in metrics)]
    )
  total = sum(each["present"] for each in summary["organs"].values())
  means = [number(summary["mean_over_organs"][name], METRICS[name][1]) for name in metrics]
  footer = ["mean over organs", total, summary["failed"], *means]
  headings = ["organ", "scans", "failed", *(METRICS[name][0] for name in metrics)]
  return table(headings, rows, caption="Mean ± standard deviation", footer=footer, keep_first=True)


def _mean(statistic: dict[str, float] | None, places: int) -> Cell:
  if statistic is None:
    return None
  spread = f' <span class="soft">± {number(statistic["sd"], places)}</span>' if statistic["n"] > 1 else ""
  return Markup.sorted_by(number(statistic["mean"], places) + spread, statistic["mean"])


def _groups(rows: Sequence[Row], metric: str) -> list[Group]:
  groups = []
  for organ in dict.fromkeys(row.organ for row in rows):
    given = [(row, value) for row in rows if row.organ == organ and (value := getattr(row, metric)) is not None]
    groups.append(Group(organ, [value for _, value in given], [row.scan for row, _ in given]))
  return groups


def _volumes(pairs: Sequence[Row]) -> str:
  """A table of differences, and a plot; an organ of which nothing was painted counts with 0 ml."""
  rows: list[list[Cell]] = []
  for organ in dict.fromkeys(row.organ for row in pairs):
    own = [row for row in pairs if row.organ == organ]
    true, ours = (np.array([getattr(row, name) for row in own], float) for name in ("true_ml", "predicted_ml"))
    share = 100 * (ours - true) / true
    spread = float(share.std(ddof=1)) if len(own) > 1 else math.nan
    apart = [float(np.mean(ours - true)), float(np.mean(share)), spread]
    rows.append([organ, len(own), float(np.median(true)), float(np.median(ours)), *apart])
  headings = ["organ", "scans", "true ml (median)", "ours ml (median)", "ours less true, ml (mean)", "%", "% (std)"]
  points = [(f"{row.scan}, {row.organ}", row.true_ml or 0.0, row.predicted_ml or 0.0) for row in pairs]
  plot = scatter("Volumes against true ones", "true volume, ml", "volume in the result, ml", points)
  return table(headings, rows, keep_first=True) + (f"<figure>{plot}</figure>" if plot else "")


def _worst(rows: Sequence[Row], links: Links) -> str:
  """By Dice, else by the box's IoU, the lowest first."""
  metric = "dice" if any(row.dice is not None for row in rows) else "box_iou"
  given = sorted((row for row in rows if getattr(row, metric) is not None), key=lambda row: getattr(row, metric))
  known = [name for name in _WORST if any(getattr(row, name) is not None for row in given)]
  volumes = [name for name in ("predicted_ml", "true_ml") if any(getattr(row, name) is not None for row in given)]
  lines: list[list[Cell]] = []
  for row in given[:MOST_ROWS]:
    scores = [_score(getattr(row, name), METRICS[name][1]) for name in known]
    lines.append(
      [links.to(row.scan), row.organ, row.verdict, *scores, *(getattr(row, name) for name in volumes), row.failure]
    )
  titles = {"predicted_ml": "ours ml", "true_ml": "true ml"}
  headings = ["scan", "organ", "verdict", *(METRICS[name][0] for name in known), *(titles[name] for name in volumes)]
  rest = len(given) - MOST_ROWS
  more = f'<p class="soft">{rest} better ones are in evaluation.csv.</p>' if rest > 0 else ""
  return table([*headings, "missing"], lines, keep_first=True) + more if lines else ""


def _score(value: float | None, places: int) -> Cell:
  return None if value is None else Markup.sorted_by(number(value, places), float(value))


def _presence(scores: Report) -> str:
  names = {"in_truth": "in truth", "not_in_truth": "not in truth"}
  rows: list[list[Cell]] = []
  for key, each in scores.summary()["presence"].items():
    counts = [each[name] for name in ("n", "called_present", "uncertain", "called_absent", "no_finding")]
    rows.append([names[key], *counts, each.get("painted_though_absent")])
  headings = [
    "organ is",
    "cases",
    "called present",
    "uncertain",
    "called absent",
    "no finding",
    "painted though absent",
  ]
  return table(headings, rows)
