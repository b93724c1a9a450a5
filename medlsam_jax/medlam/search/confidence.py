"""How far to trust a found organ, and whether it is in the scan at all; in scan voxels (z, y, x) or mm."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from medlsam_jax.geometry import Box, Grid
from medlsam_jax.medlam.search import boxes

Verdict = Literal["found", "partly outside", "outside field of view", "uncertain"]


@dataclasses.dataclass(frozen=True)
class Thresholds:
  """Where one verdict ends and the next begins.

  The first three were chosen for the network `tiny` on one set of cropped phantoms, and measured on another by
  `bench/absence.py` (model card); the last three only catch what has gone badly wrong. A network whose header is
  calibrated (`medlam.search.doubt`) is judged by that, and of these `margin_mm` and `found_visible` alone count.
  """

  margin_mm: float = 12.0
  """A target this far beyond the edge of the scan still counts as inside: about the error of the coarse step."""
  found_visible: float = 0.9
  """Visible share of the organ's target box from which the organ counts as wholly inside."""
  outside_visible: float = 0.3
  """Visible share up to which it counts as outside the field of view."""
  similarity: float = 0.5
  """Mean best similarity below which a finding is uncertain."""
  agent_spread_mm: float = 60.0
  """Spread between agents above which it is uncertain."""
  template_spread_mm: float = 60.0
  """Spread between templates above which it is uncertain."""


@dataclasses.dataclass(frozen=True, eq=False)
class Agreement:
  """What the templates say of an organ, each searched on its own; a by-product of such a search, at no cost.

  Points in scan voxels (z, y, x), in the order of `FACES`; those of one part unless the organ was cut (SPL).
  """

  templates: tuple[str, ...]
  points: Float[np.ndarray, "templates parts 6 3"]
  """Where each template alone finds the points."""
  similarity: Float[np.ndarray, "templates parts 6"]
  """Of what is there to the template's own point: 1 is identical, [-1, 1]."""
  weights: Float[np.ndarray, "templates parts 6"]
  """Share of each template in the point that the search gives, 1 together; of faces that a template finds crossed, and
  that are exchanged in `points`, each keeps the other's."""
  spacing_mm: Float[np.ndarray, "3"]

  @property
  def by_template(self) -> dict[str, float]:
    """Similarity to each template, mean over points."""
    return dict(zip(self.templates, self.similarity.mean((1, 2)).tolist(), strict=True))

  @property
  def faces_mm(self) -> Float[np.ndarray, "templates 2 3"]:
    """Low and high corner of the organ's whole box by each template alone, mm along the scan's axes."""
    found = [Box.around(boxes.part_boxes(points)).array() for points in self.points]
    return np.stack(found) * self.spacing_mm

  @property
  def face_spread_mm(self) -> float:
    """Standard deviation over templates of where a face lies, root mean square over the six; 0 for one template."""
    return float(np.sqrt(self.faces_mm.var(0).mean()))

  @property
  def face_spread(self) -> float:
    """The same with each face's deviation in edges of the mean box along its axis, voxels of the rim included."""
    faces = self.faces_mm
    edges_mm = (faces[:, 1] - faces[:, 0]).mean(0) + self.spacing_mm
    return float(np.sqrt((faces.var(0) / np.square(edges_mm)).mean()))


@dataclasses.dataclass(frozen=True, eq=False)
class Confidence:
  """What a verdict rests on."""

  targets: Float[np.ndarray, "parts 6 3"]
  """Where the coarse step sent each point, before it was brought back into the scan: scan voxels, order of `FACES`."""
  outside: Bool[np.ndarray, "parts 6"]
  """Which of these lie outside the scan, by any distance."""
  visible: float
  """Share of the box around the targets that lies inside the scan (widened by `Thresholds.margin_mm`)."""
  similarity: float | None
  """Best similarity of each point, mean over points; mean over templates and scales, so that numbers of different
  searches compare: 1 is identical, [-1, 1]. None when no features were used."""
  agent_spread_mm: float
  """Root mean square distance of the targets that each agent alone would give from their mean, mean over points."""
  template_spread_mm: float | None
  """The same for the targets by each template alone; None with one template."""
  agreement: Agreement | None = None
  """What single templates say; None where the search compared with their mean alone."""
  right_probability: float | None = None
  """That the box's IoU is above .5 (`medlam.search.doubt`); None where the network is not calibrated."""
  gone_probability: float | None = None
  """That nothing of the organ is in the scan; None as above."""

  def __repr__(self) -> str:
    similarity = "none" if self.similarity is None else f"{self.similarity:.2f}"
    templates = "one" if self.template_spread_mm is None else f"{self.template_spread_mm:.0f} mm apart"
    agents = f"agents {self.agent_spread_mm:.0f} mm apart"
    return f"Confidence: similarity {similarity}, templates {templates}, {agents}, {self.visible:.0%} inside the scan"


def spread_mm(targets_mm: Float[np.ndarray, "alternatives points 3"]) -> float:
  """Root mean square distance of alternatives from their mean, mean over points."""
  away = np.square(targets_mm - targets_mm.mean(0)).sum(-1)
  return float(np.sqrt(away.mean(0)).mean())


def outside_scan(points: Float[np.ndarray, "*n 3"], scan: Grid) -> Bool[np.ndarray, "*n"]:
  """Which points lie beyond the outer edge of the scan's voxels."""
  return np.any((points < -0.5) | (points > np.array(scan.shape) - 0.5), axis=-1)


def visible_share(box: Box, scan: Grid, margin_mm: float = 0.0) -> float:
  """Share of a box's volume (inclusive voxels) inside the scan widened by a margin on each side."""
  margin = margin_mm / scan.spacing_mm
  low, high = np.array(box.low) - 0.5, np.array(box.high) + 0.5
  inside = np.minimum(high, np.array(scan.shape) - 0.5 + margin) - np.maximum(low, -0.5 - margin)
  return float(np.prod(np.maximum(inside, 0) / (high - low)))


def judge(confidence: Confidence, thresholds: Thresholds) -> Verdict:
  """The verdict: the field of view first, from the targets before clamping, then doubts about what lies inside it."""
  if confidence.visible <= thresholds.outside_visible:
    return "outside field of view"
  if grave_doubts(confidence, thresholds):
    return "uncertain"
  return "found" if confidence.visible >= thresholds.found_visible else "partly outside"


def grave_doubts(confidence: Confidence, thresholds: Thresholds) -> tuple[str, ...]:
  """What makes a finding uncertain, in words."""
  doubts = []
  if confidence.similarity is not None and confidence.similarity < thresholds.similarity:
    low = f"similarity {confidence.similarity:.2f} is below {thresholds.similarity:g}"
    doubts.append(f"{low}: what is there looks unlike the templates")
  if confidence.agent_spread_mm > thresholds.agent_spread_mm:
    doubts.append(f"agents that start at different places send it {confidence.agent_spread_mm:.0f} mm apart")
  if confidence.template_spread_mm is not None and confidence.template_spread_mm > thresholds.template_spread_mm:
    doubts.append(f"single templates send it {confidence.template_spread_mm:.0f} mm apart")
  return tuple(doubts)


def doubts(confidence: Confidence, thresholds: Thresholds) -> tuple[str, ...]:
  """All that speaks against a finding, in words: what makes it uncertain, and what a reader should know besides."""
  return (*grave_doubts(confidence, thresholds), *besides(confidence, thresholds))


def besides(confidence: Confidence, thresholds: Thresholds) -> tuple[str, ...]:
  """What a reader should know besides the verdict."""
  said = []
  if thresholds.outside_visible < confidence.visible < thresholds.found_visible:
    said.append(f"{confidence.visible:.0%} of the box where it should lie is inside the scan")
  if confidence.template_spread_mm is None:
    said.append("one template alone shows it, so that no other can contradict")
  return tuple(said)


def doubted(verdict: str, scan_doubts: Sequence[str]) -> str:
  """The verdict in a scan that has doubts of its own: nothing is found there for certain, and nothing partly."""
  return "uncertain" if scan_doubts and verdict in ("found", "partly outside") else verdict


def target_box(targets: Float[np.ndarray, "parts 6 3"]) -> Box:
  """Box around the targets of all parts."""
  return Box.around(boxes.part_boxes(targets))
