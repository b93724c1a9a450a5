"""The work of a study: one scan, one setting, rows. What several settings share is done once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from medlsam_jax import pipeline
from medlsam_jax.errors import InputError
from medlsam_jax.evaluation.baseline import MeanBoxes
from medlsam_jax.evaluation.case import evaluate_case, missing_box
from medlsam_jax.evaluation.comparison import Truth
from medlsam_jax.evaluation.feature_search import find_by_features
from medlsam_jax.evaluation.study.settings import Boxes, Setting
from medlsam_jax.finding import Finding
from medlsam_jax.geometry import Box, Grid, Volume
from medlsam_jax.io.labels import LabelMap
from medlsam_jax.io.templates import Template
from medlsam_jax.label_boxes import find_labels
from medlsam_jax.medlam.bank.bank import Bank, Mode
from medlsam_jax.medlam.bank.kept_outputs import KeptOutputs
from medlsam_jax.network import Network
from medlsam_jax.progress import Progress

MOST_BANKS = 6
"""That are held in memory; each may be large."""
MARGIN_MM = 30.0
"""Around the labels, of a scan that is cut to them."""


@dataclasses.dataclass(frozen=True)
class StudyRow:
  """One organ of one scan in one line of a table; None where a metric does not apply. Failures score the worst."""

  scan: str
  way: str
  organ: str
  failure: str
  """Why there is no result; empty where there is one."""
  box_iou: float | None = None
  box_iou_published: float | None = None
  wall_distance_mm: float | None = None
  point_error_mm: float | None = None
  dice: float | None = None
  surface_dice_2mm: float | None = None
  surface_dice_5mm: float | None = None


class Painter(Protocol):
  """What paints; `cli.ways.Way` is one."""

  @property
  def title(self) -> str:
    """What it is called."""
    ...

  @property
  def identity(self) -> dict[str, object]:
    """All that its masks depend on beside scan, boxes and bank."""
    ...

  def paint(self, scan: Volume, boxes: Mapping[str, Finding], bank: Bank | None, progress: Progress) -> LabelMap:
    """The label map of a scan."""
    ...


class Finder:
  """Boxes of any setting; banks and mean boxes are made once.

  Args:
    templates: by name; a bank of whole organs is built of all of them, and of it each choice taken.
    organs: to look for; of a choice of templates those that one of them has.
    kept: the network's outputs at template points, so that banks grow out of each other.
  """

  def __init__(
    self,
    network: Network,
    templates: Mapping[str, Template],
    organs: Sequence[str],
    kept: KeptOutputs | None = None,
    seed: int = 0,
    template_edge: int | None = None,
  ):
    self.network, self.templates, self.organs, self.seed, self.edge = network, templates, organs, seed, template_edge
    self._kept = kept
    self._built: dict[tuple[tuple[str, ...], Mode, float], Bank] = {}
    self._mean_boxes = functools.lru_cache(maxsize=None)(self._means)

  def find(self, scan: Volume, boxes: Boxes, progress: Progress | None = None) -> Mapping[str, Finding]:
    """Of a source that looks at no label.

    Raises:
      InputError: as `pipeline.localize` and `MeanBoxes.place`.
    """
    if boxes.source == "mean":
      placed = self._mean_boxes(boxes.templates).place(scan)
      return {organ: Finding.of_boxes(organ, 0, [box]) for organ, box in placed.items() if organ in self.organs}
    bank = self.bank(boxes)
    if boxes.source == "features":
      return find_by_features(self.network, bank, scan, self._mean_boxes(boxes.templates))
    assert boxes.search is not None
    return pipeline.localize(self.network, bank, scan, self.seed, settings=boxes.search, progress=progress)

  def bank(self, boxes: Boxes, progress: Progress | None = None) -> Bank:
    """The bank of boxes that a search finds; `progress` hears of its building, which what it raises ends."""
    names = boxes.templates
    pool = names if boxes.mode == "SPL" else tuple(self.templates)  # how many parts there are is up to the choice
    key = (pool, boxes.mode, boxes.interval_mm)
    if key not in self._built:
      while len(self._built) >= MOST_BANKS:
        self._built.pop(next(iter(self._built)))
      self._built[key] = self._build(pool, boxes, progress)
    organs = {
      organ: each.only(own)
      for organ, each in self._built[key].organs.items()
      if (own := [name for name in names if name in each.templates])
    }
    return dataclasses.replace(self._built[key], organs=organs)

  def _build(self, names: tuple[str, ...], boxes: Boxes, progress: Progress | None) -> Bank:
    chosen = [self.templates[name] for name in names]
    organs = [organ for organ in self.organs if any(organ in each.organs for each in chosen)]
    return Bank.build(
      self.network,
      chosen,
      boxes.mode,
      boxes.interval_mm,
      organs=organs,
      template_edge=self.edge,
      progress=progress,
      kept=self._kept,
    )

  def _means(self, names: tuple[str, ...]) -> MeanBoxes:
    return MeanBoxes.of([self.templates[name] for name in names])


class Asked:
  """A scan that settings are asked of: what two of them share is found once.

  Args:
    labels: truth on the scan's voxels.
    values: organs to score and their values in `labels`.
  """

  def __init__(self, finder: Finder, name: str, scan: Volume, labels: Volume, values: Mapping[str, int]):
    self._finder, self._name, self._scan, self._labels, self._values = finder, name, scan, labels, values
    self._truth = Truth(name, labels, values)
    self._found: dict[Boxes, Mapping[str, Finding]] = {}

  def rows(self, setting: Setting, painter: Painter | None, progress: Progress) -> list[StudyRow]:
    """Scores of each organ that is there; `way` is left empty.

    Raises:
      MedlsamError: the scan cannot be searched or painted.
    """
    boxes = setting.boxes
    if boxes.cropped:
      return self._cropped.rows(dataclasses.replace(setting, boxes=_whole(boxes)), painter, progress)
    if boxes not in self._found:
      self._found[boxes] = self._boxes(boxes, progress)
    found = self._found[boxes]
    rows = self._box_rows(None if boxes.source in ("labels", "slices") else found)
    if painter is None:
      return rows
    bank = None
    if boxes.source == "found":
      bank = self._finder.bank(boxes)
    return _with_masks(rows, self._truth, painter.paint(self._scan, found, bank, progress))

  def failed(self, setting: Setting, why: str) -> list[StudyRow]:
    """Rows of a setting that failed in this scan."""
    rows = self._box_rows({}) if setting.boxes.source not in ("labels", "slices") else self._box_rows(None)
    rows = rows if setting.painter is None else _with_masks(rows, self._truth, None)
    return [dataclasses.replace(row, failure=why) for row in rows]

  def _boxes(self, boxes: Boxes, progress: Progress) -> Mapping[str, Finding]:
    if boxes.source in ("labels", "slices"):
      return self._truth.boxes(each_slice=boxes.source == "slices")
    return self._finder.find(self._scan, boxes, progress)

  def _box_rows(self, found: Mapping[str, Finding] | None) -> list[StudyRow]:
    """Of boxes against truth; without scores where they are its own."""
    scored = evaluate_case(self._name, found, None, self._labels, self._values, expected=("boxes",))
    names = ("box_iou", "box_iou_published", "wall_distance_mm", "point_error_mm")
    return [
      StudyRow(self._name, "", row.organ, row.failure, **{name: getattr(row, name) for name in names})
      if found is not None
      else StudyRow(self._name, "", row.organ, "")
      for row in scored
      if row.present
    ]

  @functools.cached_property
  def _cropped(self) -> Asked:
    """The same cut to its labels."""
    where = find_labels(self._labels.array)
    seen = [where[value] for value in self._values.values() if value in where]
    if not seen:
      raise InputError(f"{self._name}: none of the organs is labelled, so there is nothing to cut it to")
    margin = np.ceil(MARGIN_MM / self._scan.spacing_mm).astype(int)
    around = Box.around([Box.from_slices(each) for each in seen])
    low, high = np.maximum(around.array()[0] - margin, 0).astype(int), around.array()[1].astype(int) + margin + 1
    cut = tuple(slice(*pair) for pair in zip(low.tolist(), high.tolist(), strict=True))
    scan, labels = (cut_volume(volume, cut) for volume in (self._scan, self._labels))
    return Asked(self._finder, self._name, scan, labels, self._values)


def unplaced_rows(scan: str, organs: Iterable[str], setting: Setting, why: str, diagonal_mm: float) -> list[StudyRow]:
  """Rows of a setting that failed in a scan of which it is known what is in it, and not where.

  Args:
    diagonal_mm: what distances count, since the scan's own diagonal is not known.
  """
  scores = {} if setting.boxes.source in ("labels", "slices") else missing_box(diagonal_mm)
  if setting.painter is not None:
    scores |= {"dice": 0.0, "surface_dice_2mm": 0.0, "surface_dice_5mm": 0.0}
  return [StudyRow(scan, "", organ, why, **scores) for organ in organs]


def cut_volume(volume: Volume, where: tuple[slice, ...]) -> Volume:
  """The part of a volume that slices with a start hold, at its place in the world; a tilted file's grid is let go."""
  array = np.ascontiguousarray(volume.array[where])
  affine = volume.grid.affine.copy()
  first = np.array([float(each.start) for each in reversed(where)])
  affine[:3, 3] = volume.grid.affine[:3, :3] @ first + volume.grid.affine[:3, 3]
  shape = (array.shape[0], array.shape[1], array.shape[2])
  return dataclasses.replace(volume, array=array, grid=Grid(shape, affine), file_grid=None, file_array=None)


def _whole(boxes: Boxes) -> Boxes:
  return dataclasses.replace(boxes, cropped=False)


def _with_masks(rows: Sequence[StudyRow], truth: Truth, painted: LabelMap | None) -> list[StudyRow]:
  """The same rows with scores of masks."""
  masks = {row.organ: row for row in truth.rows("", painted, "" if painted is not None else "not painted")}
  joined = []
  for row in rows:
    mask = masks[row.organ]
    failure = "; ".join(dict.fromkeys(each for each in (row.failure, mask.failure) if each))
    scores = {name: getattr(mask, name) for name in ("dice", "surface_dice_2mm", "surface_dice_5mm")}
    joined.append(dataclasses.replace(row, failure=failure, **scores))
  return joined
