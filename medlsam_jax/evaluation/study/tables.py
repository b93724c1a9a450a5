"""The tables: for each its lines, and the settings behind them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from medlsam_jax.evaluation.study import published
from medlsam_jax.evaluation.study.settings import Boxes, Line, Setting, Table
from medlsam_jax.medlam.bank.bank import Mode
from medlsam_jax.medlam.search.search_settings import EXACT, SearchSettings

BOX_METRICS = ("box_iou", "box_iou_published", "wall_distance_mm", "point_error_mm")
MASK_METRICS = ("dice", "surface_dice_2mm", "surface_dice_5mm")
NO_PAINTER = "no network that paints is here"
ORACLE = "Boxes of labels are an oracle's: nobody has them in use."


@dataclasses.dataclass(frozen=True)
class Plan:
  """What all tables have in common."""

  templates: tuple[str, ...]
  """All that there are: the first `count` of them are those of every table but the one of numbers of templates."""
  count: int
  search: SearchSettings
  scales: tuple[int, ...]
  """Strides that the network has features at."""
  mode: Mode = "WPL"
  interval_mm: float = 12.0
  counts: tuple[int, ...] = (1, 3, 5, 7)
  repeats: int = 3
  intervals_mm: tuple[float, ...] = (6.0, 15.0, 30.0)
  painters: tuple[str, ...] = ()
  """Titles of what can paint here."""
  missing: Mapping[str, str] = dataclasses.field(default_factory=dict)
  """Title of what was asked for and cannot -> why."""

  @property
  def main(self) -> Boxes:
    """Boxes of the search as it is."""
    return Boxes("found", self.templates[: self.count], self.search, self.mode, self.interval_mm)


def localization(plan: Plan) -> Table:
  """By organ, beside mean boxes."""
  mean = Boxes("mean", plan.main.templates)
  lines = (Line("MedLAM", (Setting(plan.main),), published="five"), Line("mean boxes, no search", (Setting(mean),)))
  note = (
    "IoU: overlap of boxes of whole voxels, cut to the scan; IoU max-min: as the published program counts it; ALE: "
    "mean distance between the six extreme points and the true ones."
  )
  return Table("localization", f"Localization, {plan.count} templates", lines, BOX_METRICS, note)


def templates(plan: Plan) -> Table:
  """How many templates."""
  lines = []
  for count in plan.counts:
    title = f"{count} template{'s' if count > 1 else ''}"
    if count > len(plan.templates):
      lines.append(Line(title, missing=f"there are {len(plan.templates)}", published=f"templates {count}"))
      continue
    drawn = draws(plan.templates, count, plan.repeats, plan.main.templates)
    settings = tuple(Setting(dataclasses.replace(plan.main, templates=names)) for names in drawn)
    lines.append(Line(f"{title}, drawn {len(drawn)} times", settings, published=f"templates {count}"))
  note = (
    "A label counts with its mean over the draws, and an organ that none of the drawn templates has as not found. "
    "Intervals know of the people, not of the choice of templates."
  )
  return Table("templates", "Number of templates", tuple(lines), BOX_METRICS, note)


def draws(names: Sequence[str], count: int, repeats: int, first: Sequence[str] = ()) -> list[tuple[str, ...]]:
  """Choices of templates, the same ones every time: `first` where these are so many, and others drawn."""
  if count >= len(names):
    return [tuple(names)]
  rng = np.random.default_rng(count)
  chosen = [tuple(first)] if count == len(first) else []
  for _ in range(100 * repeats):  # there may be fewer choices than repeats
    if len(chosen) >= repeats:
      break
    drawn = tuple(names[k] for k in sorted(rng.choice(len(names), count, replace=False)))
    if drawn not in chosen:
      chosen.append(drawn)
  return chosen[:repeats]


def scales(plan: Plan) -> Table:
  """What finds the organs."""
  strides = sorted(plan.scales, reverse=True)
  base = dataclasses.replace(plan.main, search=EXACT, mode="WPL")
  lines = [_scaled(base, f"head and features at {_strides(strides)}", tuple(strides))]
  lines.append(dataclasses.replace(_scaled(base, "position head alone", ()), published="head"))
  features = dataclasses.replace(base, source="features", search=None)
  lines.append(Line("features alone, from mean boxes on", (Setting(features),), published="features"))
  lines += [
    _scaled(base, f"head and features at {_strides(strides[:n])}", tuple(strides[:n])) for n in range(1, len(strides))
  ]
  for stride in (4, 2, 1):
    if stride not in strides:
      lines.append(Line(f"head and features at {_strides([stride])}", missing="the network has none"))
  return Table("scales", "Head and features apart (published search)", tuple(lines), BOX_METRICS)


def intervals(plan: Plan) -> Table:
  """Organs whole and cut along z."""
  painter = plan.painters[0] if plan.painters else None
  whole = dataclasses.replace(plan.main, mode="WPL", interval_mm=12.0)
  lines = [Line("WPL", (Setting(whole, painter),), published="WPL")]
  for height in plan.intervals_mm:
    cut = dataclasses.replace(whole, mode="SPL", interval_mm=height)
    lines.append(Line(f"SPL, {height:g} mm", (Setting(cut, painter),), published=f"SPL {height:g}"))
  metrics = BOX_METRICS if painter is None else (*BOX_METRICS, *MASK_METRICS)
  note = f"No Dice: {NO_PAINTER}." if painter is None else f"Masks by {painter}."
  return Table("intervals", "Organs whole (WPL) and cut along z (SPL)", tuple(lines), metrics, note)


def models(plan: Plan) -> Table:
  """What paints."""
  lines = [_painted(plan.main, title, "found") for title in plan.painters]
  lines += [Line(title, missing=why, published=f"{title} found") for title, why in plan.missing.items()]
  return Table("models", "Painters on boxes that MedLAM found", tuple(lines), MASK_METRICS)


def boxes(plan: Plan) -> Table:
  """Automatic boxes and those of labels."""
  lines = []
  for title in plan.painters:
    for said, where in (
      ("boxes found", plan.main),
      ("boxes of labels", Boxes("labels")),
      ("box of each slice", Boxes("slices")),
    ):
      if where.source == "found" or title not in ("templates", "prompted"):
        key = {"found": "found", "labels": "", "slices": "labels"}[where.source]
        lines.append(Line(f"{title}, {said}", (Setting(where, title),), published=key and f"{title} {key}"))
  lines += [Line(title, missing=why, published=f"{title} found") for title, why in plan.missing.items()]
  note = f"{ORACLE} The published manual boxes are of each slice."
  return Table("boxes", "Boxes found against boxes of labels", tuple(lines), MASK_METRICS, note)


def crops(plan: Plan) -> Table:
  """Whole scans and cut ones."""
  cut = dataclasses.replace(plan.main, cropped=True)
  lines = (Line("whole scans", (Setting(plan.main),)), Line("cut to the labels and 30 mm around", (Setting(cut),)))
  note = (
    "Where to cut is taken from the labels, as an oracle would; an organ that is missing has the own scan's diagonal."
  )
  return Table("crops", "Whole and cropped scans", lines, BOX_METRICS, note)


TABLES: dict[str, Callable[[Plan], Table]] = {
  each.__name__: each for each in (localization, templates, scales, intervals, models, boxes, crops)
}


def made(name: str, plan: Plan) -> Table:
  """A table by its name. Published numbers are of five templates, and stand beside none that are of more or fewer."""
  table = TABLES[name](plan)
  if plan.count == published.COUNT:
    return table
  kept = [line.published if line.published.startswith("templates") else "" for line in table.lines]
  lines = (dataclasses.replace(line, published=key) for line, key in zip(table.lines, kept, strict=True))
  return dataclasses.replace(table, lines=tuple(lines))


def _painted(where: Boxes, title: str, key: str) -> Line:
  return Line(title, (Setting(where, title),), published=f"{title} {key}")


def _scaled(base: Boxes, title: str, strides: tuple[int, ...]) -> Line:
  search = dataclasses.replace(EXACT, feature_scales=strides)
  key = f"scales {','.join(map(str, strides))}"
  return Line(title, (Setting(dataclasses.replace(base, search=search)),), published=key)


def _strides(strides: Sequence[int]) -> str:
  words = {4: "a quarter", 2: "half", 1: "full"}
  return " and ".join(words[stride] for stride in strides) + " resolution"
