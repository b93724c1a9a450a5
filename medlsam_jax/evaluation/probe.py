"""Few-shot localization of people that a network has not seen: the figure by which a pre-training run is judged.

Templates and queries are phantoms whom no run trains or validates on, or labelled scans of two folders. The search
knows nothing of the queries' labels.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from medlsam_jax import display, pipeline
from medlsam_jax.errors import ConfigError
from medlsam_jax.evaluation.baseline import MeanBoxes
from medlsam_jax.evaluation.case import Row, evaluate_case
from medlsam_jax.evaluation.feature_search import find_by_features
from medlsam_jax.evaluation.labelled import LabelledScan, read_labelled
from medlsam_jax.finding import Finding
from medlsam_jax.geometry import Volume
from medlsam_jax.io.templates import Template, read_templates
from medlsam_jax.medlam.bank.bank import Bank
from medlsam_jax.medlam.search.search_settings import SearchSettings
from medlsam_jax.network import Network
from medlsam_jax.phantom.people import make_phantom

ORGANS = ("liver", "spleen", "kidney_right", "kidney_left", "urinary_bladder", "aorta", "sacrum", "hip_left")
TEMPLATE_SEEDS, QUERY_SEEDS = (2_000_001, 2_000_002, 2_000_003), (2_000_004, 2_000_005)

_SCORES = {
  "box_iou": "box_iou",
  "wall_mm": "wall_distance_mm",
  "ale_mm": "point_error_mm",
  "baseline_iou": "baseline_box_iou",
  "baseline_wall_mm": "baseline_wall_distance_mm",
}
"""What figures are called, and the field of a row that each is the mean of."""

_Search = Callable[[int, Volume], Mapping[str, Finding]]
"""The query's number and its scan -> findings."""


@dataclasses.dataclass(frozen=True)
class Probe:
  """Scans to search, made or read once and used for every checkpoint."""

  templates: tuple[Template, ...]
  queries: tuple[LabelledScan, ...]
  organs: tuple[str, ...]
  search: str | SearchSettings = "exact"
  """As `pipeline.localize` takes it."""

  @classmethod
  def of_phantoms(
    cls,
    template_seeds: Sequence[int] = TEMPLATE_SEEDS,
    query_seeds: Sequence[int] = QUERY_SEEDS,
    organs: Sequence[str] = ORGANS,
    spacing_mm: tuple[float, float, float] = (3.0, 3.0, 3.0),
  ) -> Probe:
    """The probe of some subjects.

    Raises:
      ConfigError: nobody to learn from or to search, or one who is both.
    """
    _check_people(template_seeds, query_seeds)
    templates = []
    for seed in template_seeds:
      phantom = make_phantom(seed, spacing_mm)
      values = {organ: value for organ, value in phantom.names.items() if organ in organs}
      templates.append(Template(f"phantom_{seed}", phantom.scan, phantom.labels, values, {}))
    made = ((seed, make_phantom(seed, spacing_mm)) for seed in query_seeds)
    queries = [LabelledScan(f"phantom_{seed}", each.scan, each.labels, each.names) for seed, each in made]
    return cls(tuple(templates), tuple(queries), tuple(organs))

  @classmethod
  def of_folders(
    cls,
    templates: str | os.PathLike[str],
    queries: str | os.PathLike[str],
    organs: Sequence[str] | None = None,
    *,
    template_names: Sequence[str] | None = None,
    count: int | None = None,
    search: str | SearchSettings = "exact",
  ) -> Probe:
    """The probe of real scans: a folder of templates, and one of queries with label maps beside them.

    Args:
      templates, queries: folders as `io.templates.read_templates` takes them; `sound.json` in the latter says which
        labels are whole (`evaluation.labelled`).
      organs: names; None takes all that the templates have.
      template_names: of the templates to use; None takes all.
      count: queries to search, the first in order of their names; None takes all.
      search: as `pipeline.localize` takes it.

    Raises:
      ConfigError: a template that is also a query, or no query with an organ of the templates.
      InputError: as `read_templates` and `read_labelled`; a name that no template has.
    """
    read = [each for each in read_templates(templates, organs) if template_names is None or each.name in template_names]
    missing = sorted(set(template_names or ()) - {each.name for each in read})
    if missing:
      raise ConfigError(f"{templates}: no template is called {display.some(missing)}")
    wanted = tuple(organs or dict.fromkeys(organ for each in read for organ in each.organs))
    labelled = [each for each in read_labelled(queries) if set(each.values) & set(wanted)][:count]
    if not labelled:
      raise ConfigError(f"{queries}: no scan with a label of {display.some(wanted)}")
    _check_people([each.name for each in read], [each.name for each in labelled])
    return cls(tuple(read), tuple(labelled), wanted, search)

  def __call__(self, network: Network, parts: bool = False) -> dict[str, float]:
    """Means over queries and organs that are in the field of view, and those of the trivial baseline.

    Args:
      network: a MedLAM; its bank (WPL) is built once.
      parts: besides, what the position head finds alone, and what the features find alone from the templates' mean
        boxes on. The latter does not depend on the head: networks whose objectives leave it untrained are compared by
        it.

    Returns:
      `probe_box_iou`, `probe_wall_mm`, `probe_ale_mm` (point error), `probe_baseline_iou`, `probe_baseline_wall_mm`,
      and `probe_labels`, how many they are means of. An organ that was not found counts as IoU 0 and with the scan's
      diagonal. Where it is known which labels are whole, these are means over them, and `probe_all_...` over all. With
      `parts`, `box_iou`, `wall_mm` and `ale_mm` with `head_` and `features_` before them besides.
    """
    bank, mean_boxes = Bank.build(network, self.templates, mode="WPL"), MeanBoxes.of(self.templates)

    def localized(settings: str | SearchSettings) -> _Search:
      return lambda number, scan: pipeline.localize(network, bank, scan, key=number, settings=settings)

    scores = self._scores(bank, mean_boxes, localized(self.search))
    result = {f"probe_{name}": value for name, value in scores.items()}
    if parts:
      head = self._scores(bank, mean_boxes, localized(SearchSettings(feature_scales=())))
      features = self._scores(bank, mean_boxes, lambda _, scan: find_by_features(network, bank, scan, mean_boxes))
      for part, each in {"head": head, "features": features}.items():
        result |= {f"{part}_{name}": each[name] for name in ("box_iou", "wall_mm", "ale_mm") if name in each}
    return result

  def _scores(self, bank: Bank, mean_boxes: MeanBoxes, search: _Search) -> dict[str, float]:
    """Means over the queries of a search."""
    whole: list[Row] = []
    every: list[Row] = []
    for number, query in enumerate(self.queries):
      result = search(number, query.scan)
      values = {organ: query.values[organ] for organ in self.organs if organ in query.values and organ in bank.organs}
      rows = evaluate_case(query.name, result, None, query.labels, values, mean_boxes.place(query.scan))
      every += rows
      whole += [row for row in rows if query.is_whole(row.organ)]
    known = any(query.sound is not None for query in self.queries)
    return _means(whole) | ({f"all_{name}": value for name, value in _means(every).items()} if known else {})


def _means(rows: Sequence[Row]) -> dict[str, float]:
  """Means of the rows whose organ is in the field of view, and how many these are."""
  means: dict[str, float] = {"labels": sum(row.present for row in rows)}
  for name, field in _SCORES.items():
    known = [value for row in rows if (value := getattr(row, field)) is not None]
    if known:
      means[name] = float(np.mean(known))
  return means


def _check_people(templates: Sequence[object], queries: Sequence[object]) -> None:
  both = sorted(map(str, set(templates) & set(queries)))
  if both or not templates or not queries:
    named = f" ({display.some(both)})" if both else ""
    raise ConfigError(f"a probe needs templates and queries, and nobody may be both{named}")
