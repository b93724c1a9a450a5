"""The pictures of `docs/concepts.md` and the first one of the README, made by the program from scans in the package.

  python tools/draw_concepts.py [BANK.safetensors] [six_clicks] [searched] [masks] [verdicts] [result]

Building the bank takes longest; BANK is one that was built of the same templates. The scans are those of the demo: five
people as templates, one as query.
"""

import functools
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

import medlsam_jax as ml
from medlsam_jax.finding import whole_points
from medlsam_jax.geometry import DISPLAY_AXIS_CODES, display_view, reorient_corners
from medlsam_jax.io import colours
from medlsam_jax.io.labels import LabelMap
from medlsam_jax.io.packaged_banks import folder_of
from medlsam_jax.io.preview import write_preview

DOCS = Path(__file__).resolve().parents[1] / "docs"
FIGURES = DOCS / "figures"
ORGAN = "parotid_gland_left"
PLANES = (("axial", 0, 1, 2), ("coronal", 1, 0, 2), ("sagittal", 2, 0, 1))
"""Name, axis that is cut across, rows and columns, of arrays in display order (up, backward, to the patient's left)."""
WINDOW_HU = (-160, 240)
MARK = {"marker": "o", "s": 42, "edgecolors": "black", "linewidths": 0.8, "zorder": 5}


class View:
  """A scan in display order, of which panels are drawn in mm."""

  def __init__(self, scan: ml.Volume):
    self.scan, self.image = scan, display_view(scan.array, scan.grid)
    order, _ = scan.grid.axes_to(DISPLAY_AXIS_CODES)
    self.spacing = scan.spacing_mm[list(order)]

  def shown(self, array: np.ndarray) -> np.ndarray:
    """An array of the scan's own voxels in display order."""
    return display_view(array, self.scan.grid)

  def edges_mm(self, box: ml.Box) -> np.ndarray:
    """Low and high edge of a box, mm."""
    low, high = reorient_corners(box, self.scan.grid, DISPLAY_AXIS_CODES)
    return np.stack([low, high + 1]) * self.spacing

  def points_mm(self, points: np.ndarray) -> np.ndarray:
    """Middles of voxels, mm."""
    return np.stack([self.edges_mm(ml.Box(tuple(point), tuple(point))).mean(0) for point in points])

  def panel(self, axes: Axes, plane: int, at_mm: np.ndarray, view: np.ndarray | None = None) -> None:
    """A plane through `at_mm`; `view`, low and high mm, is what is shown of it."""
    _, across, down, right = PLANES[plane]
    image = np.take(self.image, int(at_mm[across] / self.spacing[across]), across)
    self.overlay(axes, plane, image, interpolation="bicubic", cmap="gray", vmin=WINDOW_HU[0], vmax=WINDOW_HU[1])
    low, high = (np.zeros(3), np.array(self.image.shape) * self.spacing) if view is None else view
    axes.set_xlim(low[right], high[right])
    axes.set_ylim(*((low[down], high[down]) if down == 0 else (high[down], low[down])))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor("black")

  def overlay(self, axes: Axes, plane: int, image: np.ndarray, **how: object) -> None:
    """An image of a plane, or one in colour upon it."""
    _, _, down, right = PLANES[plane]
    rows, columns = image.shape[:2]
    extent = (0, columns * self.spacing[right], 0, rows * self.spacing[down])
    flipped = extent if down == 0 else (extent[0], extent[1], extent[3], extent[2])
    axes.imshow(image, extent=flipped, origin="lower" if down == 0 else "upper", **{"interpolation": "nearest"} | how)

  def outline(self, axes: Axes, plane: int, mask: np.ndarray, at_mm: np.ndarray, colour: object, width: float) -> None:
    """Of a mask in display order."""
    _, across, down, right = PLANES[plane]
    cut = np.take(mask, int(at_mm[across] / self.spacing[across]), across).astype(float)
    if cut.any() and not cut.all():
      y, x = (
        (np.arange(count) + 0.5) * self.spacing[axis] for count, axis in zip(cut.shape, (down, right), strict=True)
      )
      axes.contour(x, y, cut, levels=[0.5], colors=[colour], linewidths=width)

  def frame(self, axes: Axes, plane: int, box: ml.Box, colour: object, **how: object) -> None:
    """The edges of a box."""
    _, _, down, right = PLANES[plane]
    low, high = self.edges_mm(box)
    size = high - low
    how = {"fill": False, "edgecolor": colour, "linewidth": 1.4, "linestyle": "--"} | how
    axes.add_patch(Rectangle((low[right], low[down]), size[right], size[down], **how))

  def around(self, box: ml.Box, margin_mm: float) -> np.ndarray:
    """Low and high mm of a cube around a box."""
    low, high = self.edges_mm(box)
    half = (high - low).max() / 2 + margin_mm
    return np.stack([(low + high) / 2 - half, (low + high) / 2 + half])


def panels(count: int, size: float = 3.0) -> tuple[pyplot.Figure, Sequence[Axes]]:
  """Square panels side by side."""
  figure, axes = pyplot.subplots(1, count, figsize=(count * size, size + 0.35), dpi=110, facecolor="#101214")
  figure.subplots_adjust(0.01, 0.02, 0.99, 0.88, 0.03)
  return figure, axes


def titled(axes: Axes, text: str) -> None:
  """A heading on dark ground."""
  axes.set_title(text, color="white", fontsize=10)


def save(figure: pyplot.Figure, path: Path) -> None:
  """Writes and forgets it."""
  figure.savefig(path, facecolor=figure.get_facecolor(), metadata={"Software": None})
  pyplot.close(figure)
  print(path, f"{path.stat().st_size / 1000:.0f} kB")


def draw_result(view: View, found: dict[str, ml.Finding], labels: LabelMap) -> None:
  """All organs of the demo in three planes: the README's first picture."""
  figure, axes = panels(3, 4.0)
  figure.subplots_adjust(0.01, 0.1, 0.99, 0.93, 0.03)
  shown = view.shown(labels.array)
  paints = {organ: colours.of(number) for number, organ in enumerate(found)}
  edges = np.stack([view.edges_mm(finding.box) for finding in found.values()])
  middle, half = (edges[:, 0].min(0) + edges[:, 1].max(0)) / 2, (edges[:, 1].max(0) - edges[:, 0].min(0)).max() / 2
  centres = {organ: view.edges_mm(finding.box).mean(0) for organ, finding in found.items()}
  cuts = (centres["parotid_gland_left"], centres["parotid_gland_left"], centres["spinal_cord"])
  for plane, at in enumerate(cuts):
    _, across, *_ = PLANES[plane]
    view.panel(axes[plane], plane, at, np.stack([middle - half - 12, middle + half + 12]))
    titled(axes[plane], PLANES[plane][0])
    cut = np.take(shown, int(at[across] / view.spacing[across]), across)
    paint = np.zeros((*cut.shape, 4))
    for organ, finding in found.items():
      paint[cut == labels.names[organ]] = (*paints[organ], 0.45)
      view.outline(axes[plane], plane, shown == labels.names[organ], at, paints[organ], 1.6)
      low, high = view.edges_mm(finding.box)
      if low[across] <= at[across] <= high[across]:
        view.frame(axes[plane], plane, finding.box, paints[organ], linewidth=1.1)
    view.overlay(axes[plane], plane, paint)
  keys = [Patch(color=paints[organ], label=organ.replace("_", " ")) for organ in found]
  figure.legend(handles=keys, loc="lower center", ncols=len(keys), frameon=False, labelcolor="white", fontsize=10)
  save(figure, DOCS / "result.png")


def draw_six_clicks(template: ml.Volume, mask: np.ndarray) -> None:
  """What a person marks in a template: six points, which say a box."""
  view = View(template)
  voxels = np.argwhere(mask)
  ends = [voxels[voxels[:, axis].argmin()] for axis in range(3)] + [
    voxels[voxels[:, axis].argmax()] for axis in range(3)
  ]
  box = ml.Box(tuple(voxels.min(0)), tuple(voxels.max(0)))
  points = view.points_mm(np.array(ends, float))
  at = points.mean(0)
  figure, axes = panels(3)
  for plane, (name, _, down, right) in enumerate(PLANES):
    view.panel(axes[plane], plane, at, view.around(box, 25))
    view.outline(axes[plane], plane, view.shown(mask), at, colours.of(1), 1.2)
    view.frame(axes[plane], plane, box, "white")
    axes[plane].scatter(points[:, right], points[:, down], color=colours.of(3), **MARK)
    titled(axes[plane], name)
  save(figure, FIGURES / "six_clicks.png")


def draw_search(view: View, finding: ml.Finding) -> None:
  """What each template alone finds in the query, and the box that comes of it."""
  agreement = finding.confidence.agreement
  figure, axes = panels(3)
  at = view.edges_mm(finding.box).mean(0)
  for plane, (name, _, down, right) in enumerate(PLANES):
    view.panel(axes[plane], plane, at, view.around(finding.box, 25))
    view.frame(axes[plane], plane, finding.box, "white")
    for number, points in enumerate(agreement.points):
      mm = view.points_mm(whole_points(points))
      axes[plane].scatter(mm[:, right], mm[:, down], color=colours.of(number), **MARK)
    titled(axes[plane], name)
  save(figure, FIGURES / "search.png")


def draw_masks(view: View, bank: ml.Bank, found: dict[str, ml.Finding], labels: LabelMap) -> None:
  """Each template's mask after registration, and what is made of all."""
  one = {ORGAN: found[ORGAN]}
  figure, axes = panels(2)
  mask = view.shown(labels.array) == labels.names[ORGAN]
  at = view.edges_mm(found[ORGAN].box).mean(0)
  for axis, title in zip(axes, ("each template's mask, registered", "the mask that is written"), strict=True):
    view.panel(axis, 0, at, view.around(found[ORGAN].box, 20))
    view.frame(axis, 0, found[ORGAN].box, "white")
    titled(axis, title)
  for number, name in enumerate(bank.templates):
    alone = bank.subset([ORGAN])
    for other in bank.templates:
      alone = alone if other == name else alone.without(other)
    single = ml.segment(view.scan, one, bank=alone)
    view.outline(axes[0], 0, view.shown(single.array) > 0, at, colours.of(number), 1.0)
  view.outline(axes[1], 0, mask, at, colours.of(1), 2.0)
  save(figure, FIGURES / "masks.png")


@functools.cache
def bank_of(path: str) -> ml.Bank:
  """The bank that was given, or one built now."""
  return ml.Bank.load(path) if path else ml.Bank.build(ml.load("open"), ml.packaged_templates("headneck"), mode="WPL")


@functools.cache
def query() -> ml.Volume:
  """The demo's scan."""
  return ml.read_volume(next(folder_of("demo").glob("*_ct.nii.gz")))


def search(bank: str, organs: Sequence[str] | None = None, scan: ml.Volume | None = None) -> dict[str, ml.Finding]:
  """Organs of the demo's scan, or of another."""
  return ml.localize(ml.load("open"), bank_of(bank), scan or query(), key=0, organs=organs)


def verdicts(bank: str) -> None:
  """The lower half of the scan alone: organs are gone or cut."""
  half = query().array[: len(query().array) // 2]
  lower = ml.Volume(half, ml.Grid(half.shape, query().affine))
  write_preview(FIGURES / "verdicts.png", "half of the scan", lower, search(bank, scan=lower), None)


def masks(bank: str) -> None:
  """One organ, painted by each template and by all."""
  found = search(bank, [ORGAN])
  draw_masks(View(query()), bank_of(bank), found, ml.segment(query(), found))


def result(bank: str) -> None:
  """Everything that the demo finds."""
  found = search(bank)
  draw_result(View(query()), found, ml.segment(query(), found))


def six_clicks(bank: str) -> None:
  """Of the first template."""
  template = ml.packaged_templates("headneck", [ORGAN])[0]
  draw_six_clicks(template.scan, template.labels.array == template.values[ORGAN])


def searched(bank: str) -> None:
  """One organ by each template."""
  draw_search(View(query()), search(bank, [ORGAN])[ORGAN])


if __name__ == "__main__":
  FIGURES.mkdir(exist_ok=True)
  kept = next((word for word in sys.argv[1:] if word.endswith(".safetensors")), "")
  asked = [word for word in sys.argv[1:] if word != kept]
  for draw in (six_clicks, searched, masks, verdicts, result):
    if not asked or draw.__name__ in asked:
      draw(kept)
