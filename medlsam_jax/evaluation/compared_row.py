"""One organ of one scan, painted one of several ways."""

from __future__ import annotations

import dataclasses
from typing import Literal

Source = Literal["labels", "found"]
"""Where boxes come from: the truth (an oracle, which nobody has in use), or MedLAM's search."""


@dataclasses.dataclass(frozen=True)
class ComparedRow:
  """One organ of one scan, painted one way. A mask that is missing scores 0 everywhere."""

  scan: str
  way: str
  organ: str
  failure: str
  """Why there is no mask; empty where there is one."""
  dice: float
  surface_dice_2mm: float
  surface_dice_5mm: float
