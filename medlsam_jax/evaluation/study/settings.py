"""What one number of a table is asked of: where boxes come from, and what paints in them."""

from __future__ import annotations

import dataclasses
from typing import Literal

from medlsam_jax.medlam.bank.bank import Mode
from medlsam_jax.medlam.search.search_settings import SearchSettings

Source = Literal["found", "features", "mean", "labels", "slices"]
"""Of boxes: MedLAM's search; its fine step alone, from mean boxes on; the templates' mean boxes; and, both an oracle's,
the labels' own box, or that of each of their slices."""


@dataclasses.dataclass(frozen=True)
class Boxes:
  """Where boxes come from."""

  source: Source = "found"
  templates: tuple[str, ...] = ()
  """Names, in order; none for an oracle's boxes."""
  search: SearchSettings | None = None
  mode: Mode = "WPL"
  interval_mm: float = 12.0
  cropped: bool = False
  """Whether the scan is cut to the surroundings of its labels, an oracle's cut."""


@dataclasses.dataclass(frozen=True)
class Setting:
  """Boxes, and what paints in them; without a painter the boxes alone are scored."""

  boxes: Boxes
  painter: str | None = None
  """Its title."""

  def question(self) -> dict[str, object]:
    """All that it says as plain values."""
    return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Line:
  """A line of a table: one setting, or several draws that are one answer together."""

  title: str
  settings: tuple[Setting, ...] = ()
  missing: str = ""
  """Why it cannot be measured here; it stands in the table all the same."""
  published: str = ""
  """Key of the published numbers beside it (`evaluation.study.published`)."""


@dataclasses.dataclass(frozen=True)
class Table:
  """Lines that are held against the first of them that is measured."""

  name: str
  title: str
  lines: tuple[Line, ...]
  metrics: tuple[str, ...]
  note: str = ""

  @property
  def settings(self) -> list[Setting]:
    """All that it needs, each once."""
    return list(dict.fromkeys(setting for line in self.lines for setting in line.settings))
