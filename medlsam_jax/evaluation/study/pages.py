"""All tables of a study on one page: HTML that needs no other file, and Markdown to copy from."""

from __future__ import annotations

import html as markup
from collections.abc import Mapping, Sequence

import numpy as np

from medlsam_jax.evaluation.report import NOTE
from medlsam_jax.evaluation.study.report import METRICS, RULE, Measured
from medlsam_jax.pages.page import Section, items, page
from medlsam_jax.pages.plots import Group, box_plots
from medlsam_jax.pages.table import table


def markdown(
  measured: Sequence[Measured], about: Mapping[str, str], reasons: Mapping[str, str], note: str = NOTE
) -> str:
  """The page.

  Args:
    about: what was studied, at its top.
    reasons: scan -> why it, or a setting in it, failed.
    note: at its end.
  """
  parts = ["# Study", "\n".join(f"- {name}: {value}" for name, value in about.items()), RULE]
  for each in measured:
    parts.append(f"## {each.table.title}")
    parts.append(_table(each.means()) if each.rows else "Nothing measured yet.")
    if each.rows and len({row.organ for row in each.rows}) > 1:
      parts.append(f"By organ, {each.rows[0].way}:")
      parts.append(_table(each.by_organ()))
    parts += each.notes()
  if reasons:
    parts += ["## Failed", "\n".join(f"- {scan}: {why}" for scan, why in reasons.items())]
  return "\n\n".join([*parts, note]) + "\n"


def _table(rows: Sequence[Sequence[str]]) -> str:
  heading, *body = rows
  lines = ["| " + " | ".join(heading) + " |", "|---" * len(heading) + "|"]
  return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in body)])


def html(measured: Sequence[Measured], about: Mapping[str, str], reasons: Mapping[str, str], note: str = NOTE) -> str:
  """The same with a plot for each table: people's means by line, and of the first line labels by organ."""
  sections = [Section(each.table.title, _section(each)) for each in measured]
  if reasons:
    sections.append(Section("Failed", table(["scan", "why"], list(reasons.items()))))
  said = items([f"{name}: {value}" for name, value in about.items()])
  return page("Study", f"<p>{markup.escape(RULE)}</p>{said}", sections, note)


def _section(measured: Measured) -> str:
  if not measured.rows:
    return "<p>Nothing measured yet.</p>" + items(measured.notes())
  heading, *lines = ([cell.replace(" ", "\u00a0") for cell in line] for line in measured.means())
  parts = [table(heading, lines, keep_first=True), items(measured.notes())]
  for metric in (name for name in ("dice", "box_iou") if name in measured.table.metrics):
    title = METRICS[metric][0]
    if plot := box_plots(
      f"{title} of people", f"mean {title} of a person's organs", _people(measured, metric), ends=(0, 1)
    ):
      parts.append(f"<figure>{plot}</figure>")
  if len({row.organ for row in measured.rows}) > 1:
    heading, *lines = measured.by_organ()
    title = f"By organ, {markup.escape(measured.rows[0].way)}"
    parts.append(f"<details class=card><summary>{title}</summary>{table(heading, lines, keep_first=True)}</details>")
  return "\n".join(parts)


def _people(measured: Measured, metric: str) -> list[Group]:
  """Of each line every person's mean over their labels."""
  groups = []
  for line in measured.table.lines:
    people: dict[str, list[float]] = {}
    for row in measured.rows:
      value = getattr(row, metric)
      if row.way == line.title and value is not None:
        people.setdefault(row.scan, []).append(value)
    groups.append(Group(line.title, [float(np.mean(each)) for each in people.values()], list(people)))
  return groups
