"""Ways to paint beside each other on the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medlsam_jax import display
from medlsam_jax.evaluation.comparison_report import METRICS, Comparison
from medlsam_jax.pages.page import items
from medlsam_jax.pages.plots import Group, box_plots
from medlsam_jax.pages.table import table
from medlsam_jax.report.configuration import told


def comparison_part(comparison: Comparison, said: Mapping[str, Any]) -> str:
  """HTML of the section.

  Args:
    comparison: what was read of its file.
    said: the whole file, for networks, settings and versions.
  """
  heading, *lines = comparison.table()
  parts = [
    f"<p>{display.count(len({row.scan for row in comparison.rows}), 'scan')}. A mask that is missing counts 0. Plots "
    "are of all labels.</p>",
    table(heading, lines, keep_first=True), items([line.strip() for line in comparison.notes()]),
  ]  # fmt: skip
  for metric in ("dice", "surface_dice_2mm"):
    if plot := box_plots(
      f"{METRICS[metric]} by organ and way", METRICS[metric], _groups(comparison, metric), ends=(0, 1)
    ):
      parts += [f"<h3>{METRICS[metric]} by organ and way</h3>", f"<figure>{plot}</figure>"]
  about = {name: said[name] for name in ("ways", "search", "versions") if isinstance(said.get(name), Mapping)}
  return "\n".join([*parts, *([f"<h3>Made with</h3>{told(about)}"] if about else [])])


def _groups(comparison: Comparison, metric: str) -> list[Group]:
  groups = []
  for organ in dict.fromkeys(row.organ for row in comparison.rows):
    for way in comparison.seconds:
      own = [row for row in comparison.rows if (row.organ, row.way) == (organ, way)]
      groups.append(Group(f"{organ}, {way}", [getattr(row, metric) for row in own], [row.scan for row in own]))
  return groups
