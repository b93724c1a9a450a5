"""What a search says of organs, in voxels (z, y, x) of the scan."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol, cast

import numpy as np
from jaxtyping import Float

from medlsam_jax import display
from medlsam_jax.geometry import Box
from medlsam_jax.medlam.search import boxes
from medlsam_jax.medlam.search.confidence import Confidence, Verdict, doubted
from medlsam_jax.template_masks.organ_crops import OrganCrop

COLUMNS = (
  "similarity: of the places found to the templates' points, 1 is identical; templates mm: how far apart single "
  "templates send it, - with one; in scan: share of the box where it should lie; box right, of a calibrated network: "
  "the probability that the box's IoU is above .5"
)
"""What the columns of `table` mean."""


class Judged(Protocol):
  """What `table` shows of an organ."""

  @property
  def verdict(self) -> str:
    """Of the search, or `given`."""
    ...

  @property
  def confidence(self) -> Confidence | None:
    """What the verdict rests on; None where nothing was searched."""
    ...


@dataclasses.dataclass(frozen=True, eq=False)
class Finding:
  """Where an organ is, and how far to trust that."""

  organ: str
  value: int
  """Label value for results."""
  points: Float[np.ndarray, "parts 6 3"]
  """Scan voxels in the order of `FACES`, part after part from the feet up (one part unless SPL); may lie outside."""
  verdict: Verdict
  confidence: Confidence
  doubts: tuple[str, ...] = ()
  """What speaks against it, a sentence each: of the scan first, then of the search."""

  def __repr__(self) -> str:
    similarity = "" if self.confidence.similarity is None else f", similarity {self.confidence.similarity:.2f}"
    why = f" ({'; '.join(self.doubts)})" if self.doubts else ""
    return f"Finding {self.organ}: {self.verdict}{why}, box {display.extent(self.box.low, self.box.high)}{similarity}"

  @property
  def parts(self) -> list[Box]:
    """Box of each part."""
    return boxes.part_boxes(self.points)

  @property
  def box(self) -> Box:
    """Smallest box around all parts."""
    return Box.around(self.parts)

  @property
  def whole_points(self) -> Float[np.ndarray, "6 3"]:
    """Six extreme points of the organ as a whole."""
    return boxes.whole_points(self.points)

  def in_doubtful_scan(self, scan_doubts: Sequence[str]) -> Finding:
    """The same with the doubts of the scan, under which it is not `found`."""
    verdict = cast(Verdict, doubted(self.verdict, scan_doubts))
    return dataclasses.replace(self, verdict=verdict, doubts=tuple(dict.fromkeys((*scan_doubts, *self.doubts))))


class Findings(dict[str, Finding]):
  """Findings by organ: a dict that prints itself in one line, and as a table in notebooks.

  `crops`: what the bank's templates show of each organ, with their masks, for whoever paints what was found.
  """

  def __init__(
    self, found: Mapping[str, Finding] | None = None, crops: Mapping[str, Sequence[OrganCrop]] | None = None
  ) -> None:
    super().__init__(found or {})
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


def table(found: Mapping[str, Judged]) -> list[list[str]]:
  """One row of text per organ under a heading, the first of them; what differs from organ to organ."""
  calibrated = any(
    each.confidence is not None and each.confidence.right_probability is not None for each in found.values()
  )
  rows = [["organ", "verdict", "similarity", "templates mm", "in scan", *(["box right"] if calibrated else [])]]
  for organ, each in found.items():
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
