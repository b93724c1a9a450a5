"""How far to trust a found organ, and whether it is in the scan at all; in scan voxels (z, y, x) or mm."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from medlsam_jax.geometry import Box, Grid
from medlsam_jax.localization import boxes

Verdict = Literal["found", "partly outside", "outside field of view", "uncertain"]


@dataclasses.dataclass(frozen=True)
class Thresholds:
  """Where one verdict ends and the next begins.

  The first three were chosen for the packaged network on one set of cropped phantoms, and measured on another by
  `bench/absence.py` (model card); the last three only catch what has gone badly wrong.
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
  besides = []
  if thresholds.outside_visible < confidence.visible < thresholds.found_visible:
    besides.append(f"{confidence.visible:.0%} of the box where it should lie is inside the scan")
  if confidence.template_spread_mm is None:
    besides.append("one template alone shows it, so that no other can contradict")
  return (*grave_doubts(confidence, thresholds), *besides)


def doubted(verdict: str, scan_doubts: Sequence[str]) -> str:
  """The verdict in a scan that has doubts of its own: nothing is found there for certain, and nothing partly."""
  return "uncertain" if scan_doubts and verdict in ("found", "partly outside") else verdict


def target_box(targets: Float[np.ndarray, "parts 6 3"]) -> Box:
  """Box around the targets of all parts."""
  return Box.around(boxes.part_boxes(targets))
