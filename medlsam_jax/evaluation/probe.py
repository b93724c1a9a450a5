"""Few-shot localization of held-out phantoms: the figure by which a pre-training run is judged while it trains.

Templates and queries are people whom no run trains or validates on. The search knows nothing of their labels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from medlsam_jax import pipeline
from medlsam_jax.data.phantom import Phantom, make_phantom
from medlsam_jax.data.templates import Template
from medlsam_jax.errors import ConfigError
from medlsam_jax.evaluation.baseline import MeanBoxes
from medlsam_jax.evaluation.case import Row, evaluate_case
from medlsam_jax.evaluation.feature_search import find_by_features
from medlsam_jax.evaluation.localization import Found
from medlsam_jax.geometry import Volume
from medlsam_jax.localization.bank import Bank
from medlsam_jax.localization.search_settings import SearchSettings
from medlsam_jax.models.network import Network

ORGANS = ("liver", "spleen", "kidney_right", "kidney_left", "urinary_bladder", "aorta", "sacrum", "hip_left")
TEMPLATE_SEEDS, QUERY_SEEDS = (2_000_001, 2_000_002, 2_000_003), (2_000_004, 2_000_005)


@dataclasses.dataclass(frozen=True)
class Probe:
  """Phantoms to search, made once and used for every checkpoint."""

  templates: tuple[Template, ...]
  queries: tuple[Phantom, ...]
  organs: tuple[str, ...]

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
    if not template_seeds or not query_seeds or set(template_seeds) & set(query_seeds):
      raise ConfigError("a probe needs templates and queries, and nobody may be both")
    templates = []
    for seed in template_seeds:
      phantom = make_phantom(seed, spacing_mm)
      values = {organ: value for organ, value in phantom.names.items() if organ in organs}
      templates.append(Template(f"phantom_{seed}", phantom.scan, phantom.labels, values, {}))
    queries = [make_phantom(seed, spacing_mm) for seed in query_seeds]
    return cls(tuple(templates), tuple(queries), tuple(organs))

  def __call__(self, network: Network) -> dict[str, float]:
    """Means over queries and organs that are in the field of view, and those of the trivial baseline.

    Returns:
      `probe_box_iou`, `probe_wall_mm`, `probe_ale_mm` (point error), `probe_baseline_iou`, `probe_baseline_wall_mm`.
      An organ that was not found counts as IoU 0 and with the scan's diagonal.
    """
    found = self._scores(network, lambda n, bank, scan: pipeline.localize(network, bank, scan, key=n))
    return {f"probe_{name}": value for name, value in found.items()}

  def parts(self, network: Network) -> dict[str, float]:
    """What the position head finds alone, and what the features find alone from the templates' mean boxes on.

    The latter does not depend on the head: networks whose objectives leave it untrained are compared by it.

    Returns:
      `box_iou`, `wall_mm` and `ale_mm` with `head_` and `features_` before them.
    """
    coarse, mean_boxes = SearchSettings(feature_scales=()), MeanBoxes.of(self.templates)
    head = self._scores(network, lambda n, bank, scan: pipeline.localize(network, bank, scan, key=n, settings=coarse))
    features = self._scores(network, lambda _, bank, scan: find_by_features(network, bank, scan, mean_boxes))
    named = {"head": head, "features": features}
    return {f"{part}_{name}": each[name] for part, each in named.items() for name in ("box_iou", "wall_mm", "ale_mm")}

  def _scores(self, network: Network, search: Callable[[int, Bank, Volume], Mapping[str, Found]]) -> dict[str, float]:
    """Means over the queries of a search, which is given the query's number, the templates' bank and the scan."""
    bank = Bank.build(network, self.templates, mode="WPL")
    mean_boxes = MeanBoxes.of(self.templates)
    rows: list[Row] = []
    for number, query in enumerate(self.queries):
      found = search(number, bank, query.scan)
      values = {organ: query.names[organ] for organ in self.organs if organ in query.names and organ in bank.organs}
      rows += evaluate_case(f"query {number}", found, None, query.labels, values, mean_boxes.place(query.scan))
    scores = {
      "box_iou": "box_iou", "wall_mm": "wall_distance_mm", "ale_mm": "point_error_mm",
      "baseline_iou": "baseline_box_iou", "baseline_wall_mm": "baseline_wall_distance_mm",
    }  # fmt: skip
    means = {}
    for name, field in scores.items():
      known = [value for row in rows if (value := getattr(row, field)) is not None]
      if known:
        means[name] = float(np.mean(known))
    return means
