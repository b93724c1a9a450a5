"""A picture of a result: three planes through each organ, box and mask outlined, in radiological display."""

from __future__ import annotations

import dataclasses
import math
import os
import textwrap
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Integer, Num
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle

from medlsam_jax.finding import FOUND, GIVEN, OUTSIDE, PARTLY_OUTSIDE, UNCERTAIN, Finding
from medlsam_jax.geometry import DISPLAY_AXIS_CODES, Box, Grid, Volume, display_view, reorient_corners
from medlsam_jax.io import colours
from medlsam_jax.io import preview_marks as marks
from medlsam_jax.io.atomic import atomically
from medlsam_jax.io.labels import LabelMap
from medlsam_jax.label_boxes import LabelBox, find_labels

SOFT_TISSUE_HU = (-160.0, 240.0)
LUNG_HU = (-1350.0, 150.0)
VERDICT_COLOURS = {FOUND: "#8fd694", GIVEN: "#8fd694", PARTLY_OUTSIDE: "#f2c14e", UNCERTAIN: "#f2994e"}
DOUBT_COLOUR = VERDICT_COLOURS[UNCERTAIN]

_PANEL_INCHES = 2.35
_TITLE_INCHES = 0.34
_REASON_INCHES = 0.14
"""Height of a line of small print."""
_LETTERS_PER_INCH = 15
"""Of that print, a little less than fit."""
_DPI = 110
_LEAST_VIEW_MM = 150.0
_CONTEXT = 1.35
"""Edge of the view over the longest edge of what is shown."""
_MIN_CONTEXT_MM = 50.0
_GAP = 0.012
"""Space beside a panel, and twice that between two organs, as a share of three panels."""


@dataclasses.dataclass(frozen=True)
class _Plane:
  """How a plane is cut from (slice, row, column) = (up, backward, to the patient's left)."""

  name: str
  across: int
  down: int
  right: int
  up_is_up: bool
  edges: tuple[str, str, str, str]
  """Letters at the left, right, top and bottom edge."""


_PLANES = (
  _Plane("axial", 0, 1, 2, False, ("R", "L", "A", "P")),
  _Plane("coronal", 1, 0, 2, True, ("R", "L", "S", "I")),
  _Plane("sagittal", 2, 0, 1, True, ("A", "P", "S", "I")),
)


@dataclasses.dataclass(frozen=True, eq=False)
class _Scene:
  """Scan and labels in display order (slice, row, column)."""

  scan: Num[np.ndarray, "slice row column"]
  labels: Integer[np.ndarray, "slice row column"] | None
  where: dict[int, LabelBox]
  spacing_mm: Float[np.ndarray, "3"]
  grid: Grid
  organs: dict[int, tuple[str, tuple[float, float, float]]]
  """Name and colour by label value."""

  @classmethod
  def of(cls, scan: Volume, labels: LabelMap | None) -> _Scene:
    order, _ = scan.grid.axes_to(DISPLAY_AXIS_CODES)
    view = None if labels is None else display_view(labels.array, labels.grid)
    where = {} if view is None else find_labels(view)
    names = {} if labels is None else labels.names
    organs = {value: (organ, colours.of(place)) for place, (organ, value) in enumerate(names.items())}
    return cls(display_view(scan.array, scan.grid), view, where, scan.spacing_mm[list(order)], scan.grid, organs)

  def mask_box(self, value: int) -> tuple[slice, ...] | None:
    """Where an organ is painted."""
    return self.where.get(value)

  def box(self, box: Box) -> Float[np.ndarray, "2 3"]:
    """Outer edges of a box of scan voxels, mm from the outer corner of the first display voxel."""
    low, high = reorient_corners(box, self.grid, DISPLAY_AXIS_CODES)
    return np.stack([low, high + 1]) * self.spacing_mm

  def centre(self, value: int, edges_mm: Float[np.ndarray, "2 3"]) -> tuple[int, int, int]:
    """Voxel to cut through: the one of the mask nearest to its centre of mass, else the middle of the box."""
    cut = self.mask_box(value)
    if cut is not None and self.labels is not None:
      inside = np.argwhere(self.labels[cut] == value)
      nearest = inside[np.square(inside - inside.mean(0)).sum(1).argmin()] + [s.start for s in cut]
    else:
      nearest = np.floor(edges_mm.mean(0) / self.spacing_mm)
    chosen = np.clip(nearest, 0, np.array(self.scan.shape) - 1).astype(int)
    return int(chosen[0]), int(chosen[1]), int(chosen[2])


def write_preview(
  path: str | os.PathLike[str], name: str, scan: Volume, findings: Mapping[str, Finding], labels: LabelMap | None
) -> None:
  """Writes a PNG; organs outside the field of view are listed under it.

  Raises:
    OutputError: the file cannot be written.
  """
  shown = {organ: each for organ, each in findings.items() if each.verdict != OUTSIDE}
  gone = [organ for organ in findings if organ not in shown]
  scene = _Scene.of(scan, labels)
  columns = 1 if len(shown) < 3 else 2
  rows = max(1, math.ceil(len(shown) / columns))
  width = columns * 3 * _PANEL_INCHES + 0.25
  doubts = [line for doubt in scan.doubts for line in _wrapped(doubt.removeprefix(f"{scan.source}: "), width)]
  reasons = {organ: _reasons(each, scan, width / columns) for organ, each in shown.items()}
  title = _TITLE_INCHES + _REASON_INCHES * max((len(lines) for lines in reasons.values()), default=0)
  header = 0.4 + _REASON_INCHES * len(doubts)
  footer = 0.32 + 0.2 * math.ceil(len(gone) / 8)
  height = header + 0.15 + rows * (_PANEL_INCHES + title) + footer
  figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="#101214")
  figure.text(0.5, 1 - 0.2 / height, name, color="white", ha="center", va="center", fontsize=13, weight="bold")
  figure.text(
    0.5, 1 - 0.36 / height, "\n".join(doubts), color=DOUBT_COLOUR, ha="center", va="top", fontsize=8, linespacing=1.2
  )
  _caption(figure, height, gone, labels is not None)
  top, bottom = 1 - header / height, footer / height
  step = (top - bottom) / rows
  outline = {organ: colours.of(number) for number, organ in enumerate(findings)}
  for number, (organ, each) in enumerate(shown.items()):
    row, column = divmod(number, columns)
    area = (column / columns, top - (row + 1) * step, 1 / columns, step)
    heading = _Heading(organ, each.verdict, verdict_colour(each.verdict, scan), reasons[organ], title / height)
    _organ(figure, area, heading, each, scene, outline[organ])
  with atomically(path, ".png") as part:
    figure.savefig(part, format="png", facecolor=figure.get_facecolor())


def verdict_colour(verdict: str, scan: Volume) -> str:
  """Green only where nothing speaks against it: never in a scan that has doubts of its own."""
  colour = VERDICT_COLOURS.get(verdict, "white")
  return DOUBT_COLOUR if scan.doubts and colour == VERDICT_COLOURS[FOUND] else colour


def _reasons(finding: Finding, scan: Volume, width_inches: float) -> list[str]:
  """What speaks against an organ besides the doubts of the scan, which stand at the top of the picture."""
  own = [doubt for doubt in finding.doubts if doubt not in scan.doubts]
  return _wrapped("; ".join(own), width_inches)


def _wrapped(text: str, width_inches: float) -> list[str]:
  return textwrap.wrap(text, int(width_inches * _LETTERS_PER_INCH))


def _caption(figure: Figure, height: float, gone: list[str], painted: bool) -> None:
  lines = [", ".join(gone[start : start + 8]) for start in range(0, len(gone), 8)]
  if lines:
    lines[0] = f"Outside the field of view: {lines[0]}"
  what = "solid line: mask, faint: other organs, " if painted else ""
  lines.append(f"{what}dashed line: box.  Radiological display, patient's right on the left.  Research use only.")
  figure.text(0.5, 0.1 / height, "\n".join(lines), color="#b8bec4", ha="center", va="bottom", fontsize=8)


@dataclasses.dataclass(frozen=True)
class _Heading:
  """What stands above an organ's panels."""

  organ: str
  verdict: str
  colour: str
  reasons: list[str]
  height: float
  """As a share of the figure."""

  def draw(self, figure: Figure | SubFigure, centre: float, top: float, remark: str) -> None:
    """Organ and verdict, and under them why."""
    line = self.height * _TITLE_INCHES / (_TITLE_INCHES + _REASON_INCHES * len(self.reasons))
    text, reasons = f"{self.organ}: {self.verdict}{remark}", "\n".join(self.reasons)
    figure.text(centre, top - line * 0.55, text, ha="center", va="center", fontsize=11, color=self.colour)
    below = top - line * 0.9
    figure.text(centre, below, reasons, ha="center", va="top", fontsize=8, linespacing=1.2, color=self.colour)


def _organ(
  figure: Figure | SubFigure,
  area: tuple[float, float, float, float],
  heading: _Heading,
  finding: Finding,
  scene: _Scene,
  colour: tuple[float, float, float],
) -> None:
  """Three panels side by side under a heading, in `area` (left, bottom, width, height) of the figure."""
  left, bottom, width, height = area
  edges_mm = scene.box(finding.box)
  centre = scene.centre(finding.value, edges_mm)
  painted = scene.mask_box(finding.value) is not None
  remark = "" if painted or scene.labels is None else ", nothing painted"
  heading.draw(figure, left + width / 2, bottom + height, remark)
  view_mm = _view_mm(scene, finding.value, edges_mm, centre)
  shown = _Shown(finding.organ, finding.value, centre, edges_mm, view_mm, _window_hu(scene, centre), colour)
  panel = (1 - 8 * _GAP) / 3
  for number, plane in enumerate(_PLANES):
    start = left + width * (2 * _GAP + number * (panel + 2 * _GAP))
    axes = figure.add_axes((start, bottom, width * panel, height - heading.height))
    _draw(axes, plane, scene, shown)


def _view_mm(
  scene: _Scene, value: int, edges_mm: Float[np.ndarray, "2 3"], centre: tuple[int, int, int]
) -> Float[np.ndarray, "2 3"]:
  """Low and high edge of a cube around box and mask, the same scale in the three planes."""
  low, high = edges_mm.copy()
  cut = scene.mask_box(value)
  if cut is not None:
    low = np.minimum(low, [s.start * step for s, step in zip(cut, scene.spacing_mm, strict=True)])
    high = np.maximum(high, [s.stop * step for s, step in zip(cut, scene.spacing_mm, strict=True)])
  size_mm = np.array(scene.scan.shape) * scene.spacing_mm
  low, high = np.clip(low, 0, size_mm), np.clip(high, 0, size_mm)
  extent = float((high - low).max())
  edge = min(max(extent * _CONTEXT, extent + _MIN_CONTEXT_MM, _LEAST_VIEW_MM), float(size_mm.max()))
  # along an axis on which the scan is shorter than the view it lies in the middle
  middle = np.where(size_mm <= edge, size_mm / 2, np.clip((low + high) / 2, edge / 2, size_mm - edge / 2))
  return np.stack([middle - edge / 2, middle + edge / 2])


def _window_hu(scene: _Scene, centre: tuple[int, int, int]) -> tuple[float, float]:
  around = tuple(slice(max(0, c - 2), c + 3) for c in centre)
  return LUNG_HU if np.median(scene.scan[around]) < -400 else SOFT_TISSUE_HU


@dataclasses.dataclass(frozen=True, eq=False)
class _Shown:
  """What the three panels of an organ have in common."""

  organ: str
  value: int
  centre: tuple[int, int, int]
  edges_mm: Float[np.ndarray, "2 3"]
  """Of the organ's box."""
  view_mm: Float[np.ndarray, "2 3"]
  window_hu: tuple[float, float]
  colour: tuple[float, float, float]


def _draw(axes: Axes, plane: _Plane, scene: _Scene, shown: _Shown) -> None:
  centre, view_mm = shown.centre, shown.view_mm
  cut: list[slice | int] = [slice(None)] * 3
  cut[plane.across] = centre[plane.across]
  image = scene.scan[tuple(cut)]
  step_down, step_right = scene.spacing_mm[plane.down], scene.spacing_mm[plane.right]
  rows, columns = image.shape
  height = rows * step_down
  extent = (0, columns * step_right, *((0, height) if plane.up_is_up else (height, 0)))
  axes.imshow(
    image,
    cmap="gray",
    vmin=shown.window_hu[0],
    vmax=shown.window_hu[1],
    extent=extent,
    aspect="equal",
    origin="lower" if plane.up_is_up else "upper",
    interpolation="bilinear",
  )
  if scene.labels is not None:
    labels, steps = scene.labels[tuple(cut)], (float(step_down), float(step_right))
    marks.others(axes, labels, shown.value, scene.organs, steps, view_mm[:, [plane.down, plane.right]])
    mask = np.pad(labels == shown.value, 1)
    if mask.any():
      x = (np.arange(columns + 2) - 0.5) * step_right
      y = (np.arange(rows + 2) - 0.5) * step_down
      axes.contour(x, y, mask.astype(np.float32), levels=[0.5], colors=[shown.colour], linewidths=1.3)
  low, high = shown.edges_mm
  if low[plane.across] <= (centre[plane.across] + 0.5) * scene.spacing_mm[plane.across] <= high[plane.across]:
    corner = (low[plane.right], low[plane.down])
    size = (high[plane.right] - low[plane.right], high[plane.down] - low[plane.down])
    axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor="white", linewidth=0.9, linestyle=(0, (4, 3))))
    highest = high[plane.down] if plane.up_is_up else low[plane.down]
    marks.own_name(axes, shown.organ, shown.colour, (float(corner[0] + size[0] / 2), float(highest)))
  axes.set_xlim(view_mm[0, plane.right], view_mm[1, plane.right])
  span = view_mm[:, plane.down]
  axes.set_ylim(*(span if plane.up_is_up else span[::-1]))
  axes.set_facecolor("black")
  axes.set_xticks([])
  axes.set_yticks([])
  for spine in axes.spines.values():
    spine.set_visible(False)
  marks.letters(axes, plane.edges, plane.name)
  marks.scale(axes, float(np.ptp(view_mm[:, plane.right])))
