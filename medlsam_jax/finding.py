"""Where an organ lies in a scan, whoever said so: a search, a saved file, or a box of the user's own.

All points and boxes are in voxels (z, y, x) of the scan and may lie outside it. How a search comes to its verdict is
in `medlam.search.confidence` and `medlam.search.doubt`; here is what a result says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import numpy as np
from jaxtyping import Bool, Float, Num

from medlsam_jax import display
from medlsam_jax.geometry import FACES, Box

Verdict = Literal["found", "partly outside", "outside field of view", "uncertain", "given"]
FOUND: Final = "found"
PARTLY_OUTSIDE: Final = "partly outside"
OUTSIDE: Final = "outside field of view"
"""The organ is not in the scan; nothing is painted for it."""
UNCERTAIN: Final = "uncertain"
GIVEN: Final = "given"
"""A box of the user's own: nothing was searched."""


def part_boxes(points: Num[np.ndarray, "parts 6 3"]) -> list[Box]:
  """The box that each part's six points span."""
  return [Box.of_points(part) for part in points]


def whole_points(points: Num[np.ndarray, "parts 6 3"]) -> Float[np.ndarray, "6 3"]:
  """Six points of the whole organ: for each face, the outermost of its parts' points (the first among equals)."""
  points = np.asarray(points, float)
  half = len(FACES) // 2
  chosen = [points[:, axis, axis].argmin() for axis in range(half)]
  chosen += [points[:, half + axis, axis].argmax() for axis in range(half)]
  return points[chosen, np.arange(len(FACES))]


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
    return np.stack([Box.around(part_boxes(points)).array() for points in self.points]) * self.spacing_mm

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
  """What the verdict of a search rests on."""

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


@dataclasses.dataclass(frozen=True, eq=False)
class Finding:
  """Where an organ is, and how far to trust that."""

  organ: str
  value: int
  """Label value for results; 0 where a file states none."""
  points: Float[np.ndarray, "parts 6 3"]
  """In the order of `FACES`, part after part from the feet up (one part unless SPL)."""
  verdict: str
  """A `Verdict`, or what stands in a file."""
  confidence: Confidence | None = None
  """What the verdict rests on; None where nothing was searched, and in a file that was read."""
  doubts: tuple[str, ...] = ()
  """What speaks against it, a sentence each: of the scan first, then of the search."""
  boxes: tuple[Box, ...] | None = None
  """Of each part, where they were given; None where they are those that the points span."""
  confidence_said: Mapping[str, object] | None = None
  """The `confidence` entry of the file that it was read from, for the files that it is written to."""

  @classmethod
  def of_boxes(
    cls,
    organ: str,
    value: int,
    boxes: Sequence[Box],
    verdict: str = GIVEN,
    *,
    points: Float[np.ndarray, "6 3"] | None = None,
    doubts: tuple[str, ...] = (),
  ) -> Finding:
    """By the boxes of its parts; the points are those that the boxes came from, else the middles of their faces."""
    marked = np.stack([_face_middles(box) for box in boxes]) if points is None else points[None]
    return cls(organ, value, marked, verdict, doubts=doubts, boxes=tuple(boxes))

  def __repr__(self) -> str:
    trust = self.confidence
    similarity = "" if trust is None or trust.similarity is None else f", similarity {trust.similarity:.2f}"
    why = f" ({'; '.join(self.doubts)})" if self.doubts else ""
    return f"Finding {self.organ}: {self.verdict}{why}, box {display.extent(self.box.low, self.box.high)}{similarity}"

  @property
  def parts(self) -> list[Box]:
    """Box of each part."""
    return part_boxes(self.points) if self.boxes is None else list(self.boxes)

  @property
  def box(self) -> Box:
    """Smallest box around all parts."""
    return Box.around(self.parts)

  @property
  def whole_points(self) -> Float[np.ndarray, "6 3"]:
    """Six extreme points of the organ as a whole."""
    return whole_points(self.points)

  def in_doubtful_scan(self, scan_doubts: Sequence[str]) -> Finding:
    """The same with the doubts of the scan, under which it is not `found`; a box of the user's own stays `given`."""
    doubts = tuple(dict.fromkeys((*scan_doubts, *self.doubts)))
    return dataclasses.replace(self, verdict=doubted(self.verdict, scan_doubts), doubts=doubts)


def doubted(verdict: str, scan_doubts: Sequence[str]) -> str:
  """The verdict in a scan that has doubts of its own: nothing is found there for certain, and nothing partly."""
  return UNCERTAIN if scan_doubts and verdict in (FOUND, PARTLY_OUTSIDE) else verdict


def _face_middles(box: Box) -> Float[np.ndarray, "6 3"]:
  points = np.repeat(box.array().mean(0)[None], len(FACES), 0)
  for axis in range(3):
    points[axis, axis], points[axis + 3, axis] = box.low[axis], box.high[axis]
  return points


GivenBoxes = Finding.of_boxes
"""The name that earlier pages and notebooks made boxes of the user's own by."""
