"""Dice of held-out scans, organs being painted as they are in use, by the boxes of their labels ("oracle cubes").

These boxes come from the truth: they measure how well boxes are filled, not whether they are found.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from medlsam_jax.geometry import Box, Volume
from medlsam_jax.label_boxes import find_labels
from medlsam_jax.metrics import dice
from medlsam_jax.sam3d.cube_predictor import CubePredictor
from medlsam_jax.sam3d.painting import paint_cubes


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
  """A scan that is not learned from."""

  name: str
  source: str
  scan: Volume
  labels: np.ndarray
  values: Mapping[str, int]


def validated(scans: Sequence[HeldOut], predictor: CubePredictor) -> dict[str, dict[str, float]]:
  """Scan -> organ -> Dice, each organ painted for itself, as if nothing else were asked for."""
  scores: dict[str, dict[str, float]] = {}
  for each in scans:
    boxes = find_labels(each.labels)
    for organ, value in each.values.items():
      if value in boxes:
        painted = paint_cubes(each.scan, {organ: [Box.from_slices(boxes[value])]}, {organ: 1}, predictor)
        scores.setdefault(each.name, {})[organ] = dice(painted > 0, each.labels == value)
  return scores
