"""How good a bank is by its own templates: each localized by the others, held against its own marks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from medlsam_jax.evaluation.case import Row, evaluate_case
from medlsam_jax.evaluation.localization import score_finding
from medlsam_jax.finding import Finding
from medlsam_jax.geometry import Box, faces_from_points
from medlsam_jax.io.templates import Template
from medlsam_jax.medlam.bank.bank import Bank
from medlsam_jax.medlam.bank.leave_one_out import leave_one_out
from medlsam_jax.medlam.search.starts import Key
from medlsam_jax.network import Network
from medlsam_jax.progress import Progress


@dataclasses.dataclass(frozen=True)
class Checked:
  """What a check says of an organ, over the templates that have it."""

  box_iou: float
  """Mean; a template whose organ was not found counts as 0."""
  wall_distance_mm: float
  """Mean."""
  templates: int


def score_template(template: Template, findings: Mapping[str, Finding]) -> list[Row]:
  """Rows of `evaluation.case` for one template's findings, whether its organs are masks or points."""
  rows = list[Row]()
  masks = {organ: value for organ, value in template.values.items() if organ in findings}
  if template.labels is not None and masks:
    rows += evaluate_case(template.name, findings, None, template.labels, masks, expected=("boxes",))
  for organ, points in template.points.items():
    if organ in findings:
      ordered = faces_from_points(points)
      low, high = np.rint(points.min(0)), np.rint(points.max(0))
      box = Box.from_corners(low, high)
      scores = score_finding(findings[organ], box, ordered, template.scan.grid)
      rows.append(Row(template.name, organ, True, findings[organ].verdict, "", **vars(scores)))
  return rows


def check(
  network: Network, bank: Bank, templates: Sequence[Template], key: Key = 0, progress: Progress | None = None
) -> list[Row]:
  """A row for each organ of each template that another template has, too; none of fewer than two templates.

  Raises:
    TemplateError, InputError: as `leave_one_out`.
  """
  if len(bank.templates) < 2:
    return []
  pairs = leave_one_out(network, bank, templates, key=key, progress=progress)
  return [row for template, findings in pairs for row in score_template(template, findings)]


def by_organ(rows: Sequence[Row]) -> dict[str, Checked]:
  """Means over the templates that show an organ."""
  result = {}
  for organ in dict.fromkeys(row.organ for row in rows):
    scored = [row for row in rows if row.organ == organ and row.box_iou is not None]
    if scored:
      iou = float(np.mean([row.box_iou for row in scored]))
      wall_mm = float(np.mean([row.wall_distance_mm for row in scored]))
      result[organ] = Checked(iou, wall_mm, len(scored))
  return result
