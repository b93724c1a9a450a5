"""Writes folders of results as the commands leave them, without searching or painting anything. Not a test."""

import json

import numpy as np
from PIL import Image

from medlsam_jax.evaluation.case import Row
from medlsam_jax.evaluation.compared_row import ComparedRow
from medlsam_jax.evaluation.comparison_report import Comparison
from medlsam_jax.evaluation.report import Report

ORGANS = {"liver": 1500.0, "spleen": 200.0, "lens": 0.2}
ORIGIN = {
  "networks": {"localization": {"kind": "medlam", "source": "/home/anna/open.safetensors", "sha256": "a" * 64}},
  "bank": {"source": "torso", "sha256": "b" * 64, "templates": ["t0", "t1"]},
  "settings": {"search": {"steps": 1, "shapes": True}},
  "seed": 0,
  "versions": {"jax": "0.12.0"},
}


def said_of(seed, sizes=None, verdicts=None, doubts=(), origin=ORIGIN):
  """A boxes file of three organs, somewhere in the world."""
  rng = np.random.default_rng(seed)
  somewhere, organs = rng.uniform(-50, 50, 3), {}
  for number, (organ, usual) in enumerate((sizes or ORGANS).items()):
    middle = somewhere + np.array([60.0 - 60 * number, 0, 40 * number]) + rng.normal(0, 4, 3)
    organs[organ] = {
      "label": number + 1, "verdict": "found", "doubts": [],
      "box_world_mm": [(middle - 40).tolist(), (middle + 40).tolist()],
      "confidence": {"similarity": 0.8 + rng.normal(0, 0.02)}, "volume_ml": usual * rng.uniform(0.9, 1.1),
    }  # fmt: skip
  for organ, verdict in (verdicts or {}).items():
    organs[organ]["verdict"] = verdict
    organs[organ]["doubts"] = [f"{organ} is doubtful"] if verdict == "uncertain" else []
    if verdict == "outside field of view":
      del organs[organ]["volume_ml"]
  affine = np.diag([4.0, 4.0, 4.0, 1.0])
  affine[:3, 3] = somewhere - 200
  scan = {
    "source": "x",
    "shape": [100, 100, 100],
    "affine": affine.tolist(),
    "axis_codes": "RAS",
    "doubts": list(doubts),
  }
  return {"format": "medlsam_jax boxes 1", "scan": scan, "organs": organs, "provenance": origin}


def write_scan(folder, name, seed=0, picture=(120, 90), **how):
  """Boxes, and a picture of so many pixels; none where it is None."""
  folder.mkdir(exist_ok=True)
  (folder / f"{name}_boxes.json").write_text(json.dumps(said_of(seed, **how)))
  if picture is not None:
    Image.new("RGB", picture, (seed % 250, 80, 120)).save(folder / f"{name}_preview.png")


def write_cohort(folder, count=12):
  """So many ordinary people, and an odd one: a liver of six litres, a spleen that is uncertain, a lens outside."""
  for number in range(count):
    write_scan(folder, f"p{number:03}", number)
  odd = {"spleen": "uncertain", "lens": "outside field of view"}
  write_scan(folder, "odd", 99, sizes=ORGANS | {"liver": 6000.0}, verdicts=odd)
  return folder


def write_scores(folder, scans, **how):
  """`evaluation.json` and `.csv`: the first scan is the worst."""
  rows = []
  for number, scan in enumerate(scans):
    dice = 0.5 + 0.4 * number / len(scans)
    rows.append(
      Row(scan, "liver", True, "found", "", dice, dice, 9.0, 12.0, dice, 7.0, predicted_ml=1400.0, true_ml=1500.0)
    )
    rows.append(Row(scan, "lens", False, "found", "", predicted_ml=0.3, true_ml=0.0))
  rows.append(Row("gone", "liver", True, "", "scan failed", 0.0, 0.0, 500.0, 500.0, 0.0, 500.0, true_ml=900.0))
  report = Report(rows, reasons={"gone": "no <file>"}, **how)
  folder.mkdir(exist_ok=True)
  report.write_json(folder / "evaluation.json")
  report.write_csv(folder / "evaluation.csv")
  return folder


def write_comparison(folder, source="found"):
  """Two ways on four scans."""
  rows = [
    ComparedRow(f"p{number:03}", way, "liver", "", dice + number / 100, dice, dice)
    for number in range(4) for way, dice in (("slices", 0.6), ("volume", 0.7))
  ]  # fmt: skip
  comparison = Comparison(source, rows, {"slices": [2.0] * 4, "volume": [1.0] * 4}, search_seconds=[3.0] * 4)
  folder.mkdir(exist_ok=True)
  about = {"ways": {"slices": {"sha256": "c" * 64}, "volume": {"sha256": "d" * 64}}, "versions": {"jax": "0.12.0"}}
  comparison.write_json(folder / f"comparison_{source}.json", about)
  return folder
