"""What a search says of the organs of a scan, as one value and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medlsam_jax import display
from medlsam_jax.finding import Finding
from medlsam_jax.template_masks.organ_crops import OrganCrop

COLUMNS = (
  "similarity: of the places found to the templates' points, 1 is identical; templates mm: how far apart single "
  "templates send it, - with one; in scan: share of the box where it should lie; box right, of a calibrated network: "
  "the probability that the box's IoU is above .5"
)
"""What the columns of `table` mean."""


class Findings(dict[str, Finding]):
  """Findings by organ: a dict that prints itself in one line, and as a table in notebooks.

  `crops`: what the bank's templates show of each organ, with their masks, for whoever paints the organs.
  """

  def __init__(
    self, findings: Mapping[str, Finding] | None = None, crops: Mapping[str, Sequence[OrganCrop]] | None = None
  ) -> None:
    super().__init__(findings or {})
    self.crops = dict(crops or {})

  def __repr__(self) -> str:
    by_verdict: dict[str, list[str]] = {}
    for organ, each in self.items():
      by_verdict.setdefault(each.verdict, []).append(organ)
    said = "; ".join(f"{len(organs)} {verdict} ({display.some(organs)})" for verdict, organs in by_verdict.items())
    return f"Findings of {display.count(len(self), 'organ')}{': ' if said else ''}{said}"

  def _repr_html_(self) -> str:
    heading, *rows = table(self)
    said = [[*row, "; ".join(each.doubts)] for row, each in zip(rows, self.values(), strict=True)]
    return display.html_table(f"{self!r}. {COLUMNS}", [[*heading, "doubts"], *said])


def table(findings: Mapping[str, Finding]) -> list[list[str]]:
  """One row of text per organ under a heading, the first of them; what differs from organ to organ."""
  calibrated = any(
    each.confidence is not None and each.confidence.right_probability is not None for each in findings.values()
  )
  rows = [["organ", "verdict", "similarity", "templates mm", "in scan", *(["box right"] if calibrated else [])]]
  for organ, each in findings.items():
    trust = each.confidence
    cells: tuple[str, ...] = ("-", "-", "-")
    if trust is not None:
      similarity = "-" if trust.similarity is None else f"{trust.similarity:.2f}"
      spread = "-" if trust.template_spread_mm is None else f"{trust.template_spread_mm:.0f}"
      cells = (similarity, spread, f"{trust.visible:.0%}")
    if calibrated:
      right = None if trust is None else trust.right_probability
      cells = (*cells, "-" if right is None else f"{right:.0%}")
    rows.append([organ, each.verdict, *cells])
  return rows
