"""What is known of the scans of a cohort that are done, and what is odd about each; nothing here judges."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from jaxtyping import Float

from medlsam_jax.cohort.layout import Layout
from medlsam_jax.cohort.likeness import Likeness
from medlsam_jax.cohort.manifest import Record
from medlsam_jax.finding import FOUND

LOOK_FROM = 8.0
"""Score from which a scan is among those to look at: one grave reason, or several slight ones."""


@dataclasses.dataclass
class Looked:
  """One scan that is done, and what is odd about it."""

  record: Record
  source: str = ""
  """What the scan calls itself in its doubts."""
  of_search: tuple[str, ...] = ()
  """What the search doubts of the scan as a whole."""
  reasons: dict[str, float] = dataclasses.field(default_factory=dict)
  """In words, and how odd."""

  @property
  def score(self) -> float:
    """By which scans are ordered."""
    return sum(self.reasons.values())

  @property
  def in_words(self) -> list[str]:
    """The reasons, the oddest first."""
    return sorted(self.reasons, key=lambda reason: -self.reasons[reason])

  @property
  def is_to_look_at(self) -> bool:
    """Whether what is odd about it is worth a look, and not only worth noting."""
    return self.score >= LOOK_FROM


@dataclasses.dataclass(frozen=True, eq=False)
class Quality:
  """Of a cohort; arrays in the order of `scans` and `organs`."""

  scans: list[Looked]
  organs: list[str]
  failed: list[Record]
  verdicts: list[list[str]]
  """By scan and organ; empty where a scan was not asked for an organ."""
  middles_mm: Float[np.ndarray, "scans organs 3"]
  """Of the boxes, RAS mm of the scan's own world."""
  log_ml: Float[np.ndarray, "scans organs"]
  """Logarithm of the painted volume in ml; of the box's, in a cohort that was only localized."""
  similarity: Float[np.ndarray, "scans organs"]
  """To the templates; NaN where no features were compared."""
  axis_codes: list[str]
  """How the axes of each scan's file run, such as RAS."""
  field_mm: Float[np.ndarray, "scans 2 3"]
  """Low and high corner of what each scan shows, RAS mm."""
  is_painted: bool
  deviation: Float[np.ndarray, "scans organs"]
  """Of the organ's place, standard deviations."""
  layout: Layout
  templates: Layout | None
  handed: Float[np.ndarray, " scans"]
  """Of the layout of its organs: 1 as it should be, -1 in a mirror."""
  likeness: Likeness
  """Of the scans' pictures to each other."""

  @functools.cached_property
  def size_off(self) -> Float[np.ndarray, "scans organs"]:
    """How far each size is from the median of those that were found, in logarithms and standard deviations; NaN where
    an organ is not found, or nothing says what is usual."""
    found = np.array([[each == FOUND for each in row] for row in self.verdicts], bool).reshape(self.log_ml.shape)
    off = (self.log_ml - self.layout.log_ml) / self.layout.log_ml_spread
    return np.where(found, off, np.nan)

  @property
  def in_order(self) -> list[int]:
    """The scans, the oddest first."""
    return sorted(range(len(self.scans)), key=lambda row: (-self.scans[row].score, self.scans[row].record.scan))

  @property
  def to_look_at(self) -> list[int]:
    """Scans to look at, the oddest first."""
    return [row for row in self.in_order if self.scans[row].is_to_look_at]

  @property
  def noted(self) -> list[int]:
    """Scans of which something is noted that is no reason to look at them, the oddest first."""
    return [row for row in self.in_order if self.scans[row].reasons and not self.scans[row].is_to_look_at]
