"""How likely a result's box is right, and the organ there: fitted on real scans, kept in the network's header.

Each is a logistic model over what a search says of itself anyway (`measures`). The coefficients belong to the weights:
`python -m bench.absence --fit` finds them on labelled scans and writes them into the header of the weights file. A
network without them, and a search that does not say all that they rest on, is judged by `confidence.Thresholds` alone.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from jaxtyping import Float

from medlsam_jax.errors import WeightsError
from medlsam_jax.finding import FOUND, OUTSIDE, PARTLY_OUTSIDE, UNCERTAIN, Confidence, Finding, Verdict
from medlsam_jax.geometry import Grid
from medlsam_jax.medlam.search import confidence
from medlsam_jax.medlam.search.confidence import Thresholds
from medlsam_jax.network import Network

HEADER_KEY = "doubt"
RIGHT_IOU = 0.5
"""Box IoU above which a box counts as right."""
TURNED = {"upside down": 0, "mirrored": 2}
"""Ways in which scans are stored wrongly, and the working axis that runs the other way in them."""


@dataclasses.dataclass(frozen=True)
class Logistic:
  """Probability from measures by name; one that is not known counts as its mean."""

  measures: tuple[str, ...]
  mean: tuple[float, ...]
  scale: tuple[float, ...]
  weights: tuple[float, ...]
  bias: float

  def __call__(self, known: Mapping[str, float]) -> float:
    """The probability, in (0, 1)."""
    values = np.array([known.get(name, math.nan) for name in self.measures])
    standard = np.nan_to_num((values - np.array(self.mean)) / np.array(self.scale))
    return float(1 / (1 + np.exp(-np.clip(standard @ np.array(self.weights) + self.bias, -30, 30))))

  @classmethod
  def of(cls, said: Mapping[str, Any]) -> Logistic:
    """From a header.

    Raises:
      ValueError, KeyError, TypeError: it is none.
    """
    names = tuple(map(str, said["measures"]))
    numbers = [tuple(map(float, said[field])) for field in ("mean", "scale", "weights")]
    bias = float(said["bias"])
    if any(len(each) != len(names) for each in numbers) or not np.isfinite([*sum(numbers, ()), bias]).all():
      raise ValueError(f"{len(names)} measures with other or infinite numbers")
    if min(numbers[1], default=1.0) <= 0:
      raise ValueError("a scale that is not above 0")
    return cls(names, numbers[0], numbers[1], numbers[2], bias)


@dataclasses.dataclass(frozen=True)
class Calibration:
  """What a network's header says of doubt."""

  right: Logistic
  """That the box's IoU is above `RIGHT_IOU`."""
  gone: Logistic
  """That nothing of the organ is in the scan."""
  gone_from: float
  """Probability of `gone` from which an organ is called outside the field of view."""
  uncertain_below: float
  """Probability of `right` below which it is called uncertain."""
  turned_by: float
  """By how much the organs of a doubtful scan must look more like the templates once it is turned, for it to be named
  as upside down or mirrored (median similarity)."""

  def to_header(self) -> dict[str, str]:
    """As the header of a weights file holds it."""
    return {HEADER_KEY: json.dumps(dataclasses.asdict(self))}


def calibration_of(network: Network) -> Calibration | None:
  """That of a network; None where its header has none.

  Raises:
    WeightsError: a damaged header.
  """
  text = network.header.get(HEADER_KEY)
  return None if text is None else _read(text, network.source)


@functools.lru_cache(maxsize=8)
def _read(text: str, source: str) -> Calibration:
  try:
    said = json.loads(text)
    limits = {name: float(said[name]) for name in ("gone_from", "uncertain_below", "turned_by")}
    if not np.isfinite(list(limits.values())).all():
      raise ValueError("a limit that is no number")
    return Calibration(Logistic.of(said["right"]), Logistic.of(said["gone"]), **limits)
  except (ValueError, KeyError, TypeError, RecursionError) as error:
    raise WeightsError(f"{source}: its header's {HEADER_KEY!r} is damaged ({error!r})") from error


def measures(findings: Mapping[str, Finding], scan: Grid) -> dict[str, dict[str, float]]:
  """What speaks for and against each organ of one search; lengths as log(1 + mm). What does not apply is left out.

  - `similarity`, `similarity_scan`: of the organ, and the median over all organs of the search;
  - `visible`, `within`, `depth`: share of the target's box in the scan, share of the box, and how far inside the
    scan the middle of the target lies (per 100 mm, below 0 outside);
  - `agents`, `templates`: spread of the coarse targets over agents and over templates;
  - `faces`, `faces_mm`, `similarity_best`: spread of the faces over templates relative to the box and in mm, and
    the best template's similarity, where each template was searched on its own;
  - `moved`, `shape`, `size`: how far the fine step moved the organ as a whole, how much its points disagree on that
    (the targets have the templates' shape), and how the edges of box and target differ (log);
  - `company`: how far its move is from the median move of the other organs.
  """
  moves = {organ: _moves_mm(each, scan) for organ, each in findings.items()}
  whole_scan = median_similarity(findings)
  result = {}
  for organ, each in findings.items():
    others = [move.mean(0) for name, move in moves.items() if name != organ]
    said = _of_search(each, scan) | _of_move(moves[organ], others)
    if not math.isnan(whole_scan):
      said["similarity_scan"] = whole_scan
    result[organ] = said
  return result


def _moves_mm(finding: Finding, scan: Grid) -> Float[np.ndarray, "points 3"]:
  """From the coarse targets to the points of the result, mm along the scan's axes."""
  return ((finding.points - trust_in(finding).targets) * scan.spacing_mm).reshape(-1, 3)


def _of_search(finding: Finding, scan: Grid) -> dict[str, float]:
  trust = trust_in(finding)
  target, box = confidence.target_box(trust.targets), finding.box
  middle = target.array().mean(0)
  depth_mm = (np.minimum(middle + 0.5, np.array(scan.shape) - 0.5 - middle) * scan.spacing_mm).min()
  edges = [(each.array()[1] - each.array()[0]) * scan.spacing_mm + 3.0 for each in (box, target)]
  said = {
    "visible": trust.visible,
    "within": confidence.visible_share(box, scan),
    "depth": float(np.clip(depth_mm, -100, 100)) / 100,
    "agents": math.log1p(trust.agent_spread_mm),
    "size": float(np.sqrt(np.square(np.log(np.maximum(edges[0], 3) / np.maximum(edges[1], 3))).mean())),
  }
  if trust.similarity is not None:
    said["similarity"] = trust.similarity
  if trust.template_spread_mm is not None:
    said["templates"] = math.log1p(trust.template_spread_mm)
  if trust.agreement is not None and len(trust.agreement.templates) > 1:
    said["faces"] = math.log(trust.agreement.face_spread + 0.01)
    said["faces_mm"] = math.log1p(trust.agreement.face_spread_mm)
    said["similarity_best"] = max(trust.agreement.by_template.values())
  return said


def _of_move(moves: Float[np.ndarray, "points 3"], others: list[Float[np.ndarray, "3"]]) -> dict[str, float]:
  whole = moves.mean(0)
  said = {
    "moved": math.log1p(float(np.linalg.norm(whole))),
    "shape": math.log1p(float(np.sqrt(np.square(moves - whole).sum(-1).mean()))),
  }
  if len(others) > 1:
    said["company"] = math.log1p(float(np.linalg.norm(whole - np.median(others, axis=0))))
  return said


def judged(
  findings: dict[str, Finding], scan: Grid, calibration: Calibration, thresholds: Thresholds
) -> dict[str, Finding]:
  """The findings with probabilities, verdicts and doubts by a calibration.

  Of the thresholds, `found_visible` alone still counts: it says from when on an organ is wholly inside.
  """
  return {
    organ: judge(findings[organ], known, calibration, thresholds) for organ, known in measures(findings, scan).items()
  }


def judge(finding: Finding, known: Mapping[str, float], calibration: Calibration, thresholds: Thresholds) -> Finding:
  """One finding by its measures; as it was where the search does not give all that the calibration rests on.

  A search that compares with the mean of the templates has no spread over them. Only `company` may be missing, which
  takes several organs.
  """
  if not {*calibration.right.measures, *calibration.gone.measures} <= {*known, "company"}:
    return finding
  right, gone = calibration.right(known), calibration.gone(known)
  searched = trust_in(finding)
  trust = dataclasses.replace(searched, right_probability=right, gone_probability=gone)
  kept = [text for text in finding.doubts if text not in confidence.doubts(searched, thresholds)]
  verdict, doubts = _verdict(trust, calibration, thresholds), _doubts(trust, calibration, thresholds)
  return dataclasses.replace(finding, confidence=trust, verdict=verdict, doubts=(*doubts, *kept))


def _verdict(trust: Confidence, calibration: Calibration, thresholds: Thresholds) -> Verdict:
  if cast(float, trust.gone_probability) >= calibration.gone_from:
    return OUTSIDE
  if cast(float, trust.right_probability) < calibration.uncertain_below:
    return UNCERTAIN
  return FOUND if trust.visible >= thresholds.found_visible else PARTLY_OUTSIDE


def _doubts(trust: Confidence, calibration: Calibration, thresholds: Thresholds) -> tuple[str, ...]:
  said = []
  right, gone = cast(float, trust.right_probability), cast(float, trust.gone_probability)
  if gone >= calibration.gone_from:
    said.append(f"it is not in the scan with a probability of {gone:.0%}")
  elif right < calibration.uncertain_below:
    said.append(f"its box is right with a probability of {right:.0%} only (IoU above {RIGHT_IOU:g})")
  return (*said, *confidence.besides(trust, thresholds))


def is_doubtful(findings: Mapping[str, Finding]) -> bool:
  """Whether of the organs of a scan rather more boxes are wrong than right: reason to look at it turned."""
  known = [p for each in findings.values() if (p := trust_in(each).right_probability) is not None]
  return bool(known) and float(np.median(known)) < 0.5


def named(
  findings: dict[str, Finding], turned: Mapping[str, Mapping[str, Finding]], calibration: Calibration
) -> dict[str, Finding]:
  """The findings of a doubtful scan, which is named as turned if its organs look more like the templates that way.

  Args:
    findings: in the scan as it is.
    turned: findings in the scan turned along an axis, by the names of `TURNED`.
    calibration: says by how much.
  """
  as_it_is = median_similarity(findings)
  better = {name: median_similarity(each) for name, each in turned.items()}
  name = max(better, key=lambda each: better[each])
  if not better[name] - as_it_is >= calibration.turned_by:
    return findings
  text = (
    f"the scan seems to be {name}: turned, its organs look more like the templates (similarity {better[name]:.2f} "
    f"against {as_it_is:.2f})"
  )
  return {organ: each.in_doubtful_scan((text,)) for organ, each in findings.items()}


def trust_in(finding: Finding) -> Confidence:
  """What a search says of itself; every finding of one has it."""
  assert finding.confidence is not None, f"{finding.organ} was not searched for"
  return finding.confidence


def median_similarity(findings: Mapping[str, Finding]) -> float:
  """Over the organs of a search; NaN where no features were used."""
  known = [s for each in findings.values() if (s := trust_in(each).similarity) is not None]
  return float(np.median(known)) if known else math.nan
