"""Logistic models of doubt, fitted on rows of `bench.absence`, and how good they are on others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medlsam_jax.medlam.search.doubt import TURNED, Calibration, Logistic

TURNED_MARGIN = 0.01
RIDGE = 3.0
"""Penalty on weights of standardised measures."""
FOLDS = 5
SPECIFICITY = 0.98
"""Share of organs that are there which may not be called gone, and of upright scans which may not be doubted."""
UNCERTAIN_BELOW = 0.5
"""A box that is rather wrong than right is uncertain."""
CROPS = ("whole", "lower", "upper", "middle")

Row = Mapping[str, Any]


def fit_logistic(rows: Sequence[Row], truth: np.ndarray, steps: int = 50) -> Logistic:
  """Ridge regression by Newton's steps; measures that some rows lack count as their mean there."""
  names = tuple(sorted({name for row in rows for name in row["measures"]}))
  values = np.array([[row["measures"].get(name, np.nan) for name in names] for row in rows])
  mean, scale = np.nanmean(values, 0), np.maximum(np.nanstd(values, 0), 1e-6)
  x = np.nan_to_num((values - mean) / scale)
  x = np.concatenate([x, np.ones((len(x), 1))], 1)
  penalty = np.diag([RIDGE] * len(names) + [0.0])
  weights = np.zeros(x.shape[1])
  for _ in range(steps):
    p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
    gradient = x.T @ (truth - p) - penalty @ weights
    hessian = (x * (p * (1 - p) + 1e-9)[:, None]).T @ x + penalty
    move = np.linalg.solve(hessian, gradient)
    weights += np.clip(move, -2, 2)
    if np.abs(move).max() < 1e-8:
      break
  return Logistic(names, tuple(mean.tolist()), tuple(scale.tolist()), tuple(weights[:-1].tolist()), float(weights[-1]))


def fit(rows: Sequence[Row]) -> tuple[Calibration, dict[str, float]]:
  """The calibration, and what people who were left out of each fit say of it."""
  seen = [row for row in rows if row["kind"] in (*CROPS, "foreign")]
  gone = np.array([row["state"] == "gone" for row in seen], float)
  usable = [row for row in rows if row["kind"] != "mirrored"]
  right = np.array([is_right(row) for row in usable], float)
  held_gone, held_right = _held_out(seen, gone), _held_out(usable, right)
  there = held_gone[gone == 0]
  gone_from = float(np.quantile(there, SPECIFICITY)) + 1e-6
  calibration = Calibration(
    right=fit_logistic(usable, right),
    gone=fit_logistic(seen, gone),
    gone_from=gone_from,
    uncertain_below=UNCERTAIN_BELOW,
    turned_by=_turned_by(rows),
  )
  crop = np.array([row["kind"] in CROPS and row["state"] != "gone" for row in usable])
  bad = np.array([(row["iou"] or 0.0) < 0.4 for row in usable])
  said = {
    "gone_auc": auc(held_gone[gone == 1], there),
    "gone_sensitivity": float((held_gone[gone == 1] >= gone_from).mean()),
    "below_0.4_auc": auc(-held_right[crop & bad], -held_right[crop & ~bad]),
    "right_brier": float(np.square(held_right - right).mean()),
  }
  return calibration, said


def _turned_by(rows: Sequence[Row]) -> float:
  """Least gain in similarity that no whole scan has when it is turned, and some margin."""
  similarity = {(row["query"], row["kind"]): row["measures"].get("similarity_scan", np.nan) for row in rows}
  gains = [
    similarity[person, kind] - similarity[person, "whole"]
    for person, kind in similarity
    if kind in TURNED and (person, "whole") in similarity
  ]
  return float(np.nanmax([0.0, *gains])) + TURNED_MARGIN


def is_right(row: Row) -> bool:
  """Whether the box is right: IoU above .5, and something there."""
  return row["state"] != "gone" and row["iou"] is not None and row["iou"] > 0.5


def _held_out(rows: Sequence[Row], truth: np.ndarray) -> np.ndarray:
  """Probabilities by models that saw no scan of the same person."""
  people = sorted({row["query"] for row in rows})
  fold = {person: number % FOLDS for number, person in enumerate(people)}
  of = np.array([fold[row["query"]] for row in rows])
  result = np.zeros(len(rows))
  for number in range(min(FOLDS, len(people))):
    train, test = np.flatnonzero(of != number), np.flatnonzero(of == number)
    model = fit_logistic([rows[i] for i in train], truth[train])
    result[test] = [model(rows[i]["measures"]) for i in test]
  return result


def auc(high: np.ndarray, low: np.ndarray) -> float:
  """Chance that one of `high` is above one of `low`, ties counted half; NaN where one of them is empty."""
  if not len(high) or not len(low):
    return float("nan")
  return float((np.sign(high[:, None] - low[None]).mean() + 1) / 2)
