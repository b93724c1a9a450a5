"""How far to trust a result, and whether the organ is in the scan at all; in scan voxels (z, y, x) or mm."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from medlsam_jax.finding import FOUND, OUTSIDE, PARTLY_OUTSIDE, UNCERTAIN, Confidence, Verdict, part_boxes
from medlsam_jax.geometry import Box, Grid


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
    return OUTSIDE
  if grave_doubts(confidence, thresholds):
    return UNCERTAIN
  return FOUND if confidence.visible >= thresholds.found_visible else PARTLY_OUTSIDE


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


def target_box(targets: Float[np.ndarray, "parts 6 3"]) -> Box:
  """Box around the targets of all parts."""
  return Box.around(part_boxes(targets))
