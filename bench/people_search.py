"""Searches of labelled scans for `bench.real_people`, each kept under what it depends on, so that a cut run goes on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from medlsam_jax import metrics, pipeline
from medlsam_jax.evaluation.baseline import MeanBoxes
from medlsam_jax.evaluation.case import evaluate_case
from medlsam_jax.evaluation.feature_search import find_by_features
from medlsam_jax.evaluation.labelled import LabelledScan, read_labelled
from medlsam_jax.finding import OUTSIDE, Finding
from medlsam_jax.geometry import Box
from medlsam_jax.installation import version
from medlsam_jax.io.templates import Template, read_templates
from medlsam_jax.label_boxes import find_labels
from medlsam_jax.medlam.bank.bank import Bank, Mode
from medlsam_jax.medlam.bank.kept_outputs import KeptOutputs
from medlsam_jax.medlam.search.search_settings import SearchSettings
from medlsam_jax.network import Network

SCORES = ("box_iou", "wall_distance_mm", "point_error_mm", "baseline_box_iou", "baseline_wall_distance_mm")
"""Fields of `evaluation.case.Row` that are kept."""


@dataclasses.dataclass(frozen=True)
class Task:
  """One way to search a set of scans."""

  templates: tuple[str, ...]
  how: Literal["both", "head", "features"] = "both"
  """The whole search, its coarse step alone, or its fine step from mean boxes on (`evaluation.feature_search`)."""
  mode: Mode = "WPL"


@dataclasses.dataclass(frozen=True)
class Labelled:
  """Templates and queries of one region, and the organs that are looked for."""

  name: str
  templates: Mapping[str, Template]
  queries: Mapping[str, LabelledScan]
  organs: tuple[str, ...]

  @classmethod
  def read(
    cls,
    name: str,
    templates: Path,
    queries: Path,
    organs: Sequence[str] | None = None,
    template_names: Sequence[str] | None = None,
    query_names: Sequence[str] | None = None,
  ) -> Labelled:
    """Reads both folders; nobody is both.

    Raises:
      InputError: as `read_templates` and `read_labelled`.
    """
    read = {each.name: each for each in read_templates(templates, organs)}
    read = {each: read[each] for each in template_names or read}
    known = list(organs or dict.fromkeys(organ for each in read.values() for organ in each.organs))
    queries_by_name = {each.name: each for each in read_labelled(queries, known, query_names) if each.name not in read}
    return cls(name, read, queries_by_name, tuple(known))


class Study:
  """Searches with one network; what was searched before is read from `folder`."""

  def __init__(
    self,
    network: Network,
    settings: SearchSettings,
    folder: Path,
    seconds: float | None = None,
    template_edge: int | None = None,
  ):
    self.network, self.settings, self.template_edge = network, settings, template_edge
    self.missing = 0
    """Searches that were asked for and for which no time was left."""
    self._ends = float("inf") if seconds is None else time.monotonic() + seconds
    self._folder = folder
    self._kept_file = folder / "searches.jsonl"
    self._kept: dict[str, dict[str, Any]] = {}
    if self._kept_file.is_file():
      self._kept = {row["key"]: row for row in map(json.loads, self._kept_file.read_text().splitlines())}
    self._banks: dict[object, tuple[Bank, MeanBoxes]] = {}

  def one(self, data: Labelled, task: Task, query: str) -> dict[str, Any] | None:
    """One scan searched and scored, by organ; None where it was not searched before and no time is left.

    Returns:
      `query`, `seconds` of the search, and `rows`: the fields `SCORES` of each organ that truth has, whether its label
      is `whole`, the `verdict`, and whether it is `swapped` with the organ of the other side.
    """
    key = self._key(data, task, query)
    if key not in self._kept:
      if time.monotonic() > self._ends:
        self.missing += 1
        return None
      row = {"key": key, **self._searched(data, task, data.queries[query])}
      self._folder.mkdir(parents=True, exist_ok=True)
      with self._kept_file.open("a") as kept:
        kept.write(json.dumps(row) + "\n")
      self._kept[key] = row
      print(f"{data.name} {query}: {task.how}, {task.mode}, {len(task.templates)} templates", file=sys.stderr)
    return self._kept[key]

  def _key(self, data: Labelled, task: Task, query: str) -> str:
    """Everything that a result depends on, except the scans' own content; of settings those that are not the default,
    so that a new one leaves what was kept of the others."""
    default = dataclasses.asdict(SearchSettings())
    changed = {name: value for name, value in dataclasses.asdict(self.settings).items() if value != default[name]}
    said = [
      self.network.sha256, changed, dataclasses.asdict(task), self.template_edge, data.name,
      data.organs, query, self._number(data, query), version("medlsam_jax"),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]

  @staticmethod
  def _number(data: Labelled, query: str) -> int:
    """Seed of a query's search."""
    return list(data.queries).index(query)

  def _searched(self, data: Labelled, task: Task, query: LabelledScan) -> dict[str, Any]:
    bank, mean_boxes = self._bank_of(data, task)
    settings = dataclasses.replace(self.settings, feature_scales=()) if task.how == "head" else self.settings
    began = time.perf_counter()
    result: Mapping[str, Finding]
    if task.how == "features":
      result = find_by_features(self.network, bank, query.scan, mean_boxes)
    else:
      key = self._number(data, query.name)
      result = pipeline.localize(self.network, bank, query.scan, key=key, settings=settings)
    seconds = time.perf_counter() - began
    values = {organ: query.values[organ] for organ in data.organs if organ in query.values}
    scored = evaluate_case(query.name, result, None, query.labels, values, mean_boxes.place(query.scan))
    swapped = set(swaps(result, query))
    rows = [
      {
        "organ": row.organ, "whole": query.is_whole(row.organ), "verdict": row.verdict, "failed": bool(row.failure),
        "swapped": row.organ in swapped, **{name: getattr(row, name) for name in SCORES},
      }
      for row in scored
      if row.present
    ]  # fmt: skip
    return {"query": query.name, "seconds": seconds, "rows": rows}

  def _bank_of(self, data: Labelled, task: Task) -> tuple[Bank, MeanBoxes]:
    """The bank of a task's templates, whose outputs are computed once for all banks."""
    asked = (data.name, task.templates, task.mode)
    if asked not in self._banks:
      templates = [data.templates[name] for name in task.templates]
      bank = Bank.build(
        self.network,
        templates,
        task.mode,
        organs=[organ for organ in data.organs if any(organ in each.organs for each in templates)],
        template_edge=self.template_edge,
        kept=KeptOutputs(self._folder / "templates"),
      )
      self._banks[asked] = (bank, MeanBoxes.of(templates))
    return self._banks[asked]


def swaps(found: Mapping[str, Finding], query: LabelledScan) -> Iterator[str]:
  """Organs whose box lies rather on the truth of the organ of the other side."""
  where = find_labels(query.labels.array)
  truth = {}
  for organ, value in query.values.items():
    if (cut := where.get(value)) is not None:
      truth[organ] = Box.from_slices(cut)
  for organ, each in found.items():
    other = other_side(organ)
    if other in truth and organ in truth and each.verdict != OUTSIDE:
      inside = each.box.clipped(query.scan.grid.shape)
      if metrics.box_iou(inside, truth[other]) > metrics.box_iou(inside, truth[organ]):
        yield organ


def other_side(organ: str) -> str:
  """`kidney_left` for `kidney_right` and the reverse; an organ without sides is its own."""
  words = {"left": "right", "right": "left"}
  return "_".join(words.get(word, word) for word in organ.split("_"))
