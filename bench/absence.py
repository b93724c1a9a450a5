"""Does the search say so when an organ is gone, or its box wrong? Labelled scans cropped along z, and nonsense.

python -m bench.absence [--network NAME_OR_FILE] [--templates DIR --queries DIR] [--out out/bench/absence]
python -m bench.absence --network open.safetensors --data ../shared/data --set tuning --fit open_calibrated.safetensors

Without folders, templates and queries are phantoms. With `--data` they are real people (heads and necks, `--set`), and
besides their crops come scans of the trunk, and scans upside down, mirrored, like an MR, and label maps.

Prints, for each true state of an organ, how often each verdict was given; sensitivity (gone organs called outside) and
specificity (whole or cut organs not called so); AUC of gone against there and of IoU below .4; how well probabilities
are calibrated; and which nonsense is named. Searches are kept in OUT/NETWORK_SEARCH_SET.jsonl: the same call goes on
where it was cut, `--seconds` ends it early, and thresholds can be chosen without searching again. `--fit FILE` fits the
models of `medlsam_jax.medlam.search.doubt` on the rows and writes the network with them in its header.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import doubt_fit
from bench.doubt_cases import NONSENSE, ONE_WOMAN, SHOWS_A_HEAD, Case, crops, foreign, nonsense
from bench.real_people import FIVE, require
from medlsam_jax.cli.terminal import Terminal
from medlsam_jax.evaluation.labelled import LabelledScan, read_labelled
from medlsam_jax.evaluation.localization import score_box
from medlsam_jax.finding import FOUND, OUTSIDE, PARTLY_OUTSIDE, UNCERTAIN, Confidence, Finding
from medlsam_jax.geometry import Grid
from medlsam_jax.io.scans import list_scans, read_volume
from medlsam_jax.io.templates import Template, read_templates
from medlsam_jax.io.weights.weights_file import read_weights, write_weights
from medlsam_jax.loading import load
from medlsam_jax.medlam.bank.bank import Bank
from medlsam_jax.medlam.bank.kept_outputs import KeptOutputs
from medlsam_jax.medlam.search import confidence, doubt, search
from medlsam_jax.medlam.search.search_settings import PRESETS
from medlsam_jax.network import Network
from medlsam_jax.phantom.people import make_phantom

STATES = ("whole", "cut", "gone")
VERDICTS = (FOUND, PARTLY_OUTSIDE, OUTSIDE, UNCERTAIN)
PEOPLE_WITH_NONSENSE = 4
"""Nonsense is made of every n-th person, of so many."""


def phantom(seed: int) -> Template:
  """A phantom as a labelled scan."""
  made = make_phantom(seed)
  return Template(f"phantom_{seed}", made.scan, made.labels, made.names, {})


def cases(options: argparse.Namespace, templates: list[Template], organs: Sequence[str]) -> Iterator[Case]:
  """The scans to search, people in turn, so that a run that is cut has some of each kind."""
  if options.data is None:
    for query in _queries(options):
      yield from crops(query, organs)
    return
  names = {template.name for template in templates}
  people = read_labelled(require(options.data / "headneck" / options.set), organs)
  people = [query for query in people if query.name not in names][: options.count]
  every = max(1, len(people) // PEOPLE_WITH_NONSENSE)
  trunk = [each for each in list_scans(require(options.data / "trunk")) if each.name not in SHOWS_A_HEAD]
  # other people of the trunk for choosing than for reporting
  twice = [each for each in trunk if each.name in ONE_WOMAN]
  rest = [each for each in trunk if each.name not in ONE_WOMAN]
  trunk = [*twice, *rest[0::2]] if options.set == "tuning" else rest[1::2]
  for number, query in enumerate(people):
    yield from crops(query, organs)
    if number % every == 0:
      yield from nonsense(query, organs)
    if number % 2 == 0 and number // 2 < len(trunk):
      listed = trunk[number // 2]
      yield foreign(read_volume(listed.path), listed.name, organs)


def _queries(options: argparse.Namespace) -> list[LabelledScan]:
  if options.queries:
    return read_labelled(options.queries, options.organs)
  made = [phantom(options.first_query + number) for number in range(4)]
  return [LabelledScan(each.name, each.scan, each.labels, each.values) for each in made if each.labels is not None]


def measure(network: Network, bank: Bank, options: argparse.Namespace, found: Iterator[Case], kept: Path) -> list[dict]:
  """One row per case and organ; what is in `kept` is not searched again."""
  rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept.is_file() else []
  done = {(row["query"], row["kind"]) for row in rows}
  ends = float("inf") if options.seconds is None else time.monotonic() + options.seconds
  kept.parent.mkdir(parents=True, exist_ok=True)
  for case in found:
    if (case.query, case.kind) in done or (options.kinds and case.kind not in options.kinds.split(",")):
      continue
    if time.monotonic() > ends:
      print("no time is left; the same call goes on from here")
      break
    fresh = list(_searched(network, bank, options.search, case))
    with kept.open("a") as file:
      file.writelines(json.dumps(row) + "\n" for row in fresh)
    rows += fresh
    print(f"{case.query} {case.kind}: {len(fresh)} organs", flush=True)
  return rows


def _searched(network: Network, bank: Bank, preset: str, case: Case) -> Iterator[dict]:
  """All organs are looked for, as a user would; rows are of those whose state is known."""
  result = search.find(network, bank, case.scan, settings=PRESETS[preset])
  grid = case.scan.grid
  said = doubt.measures(result, grid)
  for organ, (state, box) in case.truth.items():
    trust = result[organ].confidence
    iou = None if box is None else score_box(result[organ].box, box, grid)[0]
    kept = {name: getattr(trust, name) for name in ("visible", "similarity", "agent_spread_mm", "template_spread_mm")}
    yield {
      "query": case.query, "kind": case.kind, "organ": organ, "state": state, "iou": iou, "measures": said[organ],
      "targets": trust.targets.tolist(),
      "outside": trust.outside.tolist(), "shape": grid.shape, "spacing_mm": grid.spacing_mm.tolist(), **kept,
    }  # fmt: skip


def judge(row: dict, calibration: doubt.Calibration | None, thresholds: confidence.Thresholds) -> Finding:
  """What a calibration, or without one the thresholds, say of a row."""
  targets = np.array(row["targets"])
  grid = Grid(tuple(row["shape"]), np.diag([*row["spacing_mm"][::-1], 1.0]))
  trust = Confidence(
    targets=targets,
    outside=np.array(row["outside"]),
    visible=confidence.visible_share(confidence.target_box(targets), grid, thresholds.margin_mm),
    similarity=row["similarity"],
    agent_spread_mm=row["agent_spread_mm"],
    template_spread_mm=row["template_spread_mm"],
  )
  finding = Finding(row["organ"], 1, targets, confidence.judge(trust, thresholds), trust)
  return finding if calibration is None else doubt.judge(finding, row["measures"], calibration, thresholds)


def report(
  rows: list[dict], calibration: doubt.Calibration | None, thresholds: confidence.Thresholds
) -> dict[str, Any]:
  """Prints the tables; returns what they rest on."""
  found = [judge(row, calibration, thresholds) for row in rows]
  seen = [(row, each) for row, each in zip(rows, found, strict=True) if row["kind"] not in NONSENSE]
  counts = Counter((row["state"], each.verdict) for row, each in seen)
  print(f"{'state':8}" + "".join(f"{v:>24}" for v in VERDICTS))
  for state in STATES:
    print(f"{state:8}" + "".join(f"{counts[state, v]:24d}" for v in VERDICTS))
  gone, there = ([pair for pair in seen if (pair[0]["state"] == "gone") is wanted] for wanted in (True, False))
  scores = [np.array([_gone(each) for _, each in pairs]) for pairs in (gone, there)]
  result: dict[str, Any] = {
    "rows": len(rows), "people": len({row["query"] for row, _ in seen}), "gone": len(gone), "there": len(there),
    "sensitivity": _share(each.verdict == OUTSIDE for _, each in gone),
    "specificity": _share(each.verdict != OUTSIDE for _, each in there),
    "auc_gone": doubt_fit.auc(*scores),
    "sensitivity_at_specificity_0.98": _sensitivity_at(*scores),
    "auc_iou_below_0.4": _auc_below(there),
    "share_found_right": _share(row["iou"] > 0.5 for row, each in there if each.verdict == FOUND),
    "share_right": _share(row["iou"] > 0.5 for row, _ in there),
  }  # fmt: skip
  if any(each.confidence.right_probability is not None for each in found):
    result["calibration"] = _reliability(seen)
  result["nonsense"] = _nonsense(rows, found, calibration)
  for name, value in result.items():
    print(f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}")
  return result


def _share(hits: Any) -> float:
  listed = list(hits)
  return float(np.mean(listed)) if listed else float("nan")


def _sensitivity_at(gone: np.ndarray, there: np.ndarray) -> float:
  """Share of `gone` above the score that 98 % of `there` do not reach, whatever the threshold of the day."""
  if not len(gone) or not len(there):
    return float("nan")
  return float((gone > np.quantile(there, doubt_fit.SPECIFICITY, method="higher")).mean())


def _gone(found: Finding) -> float:
  known = found.confidence.gone_probability
  return -found.confidence.visible if known is None else known


def _wrong(row: dict, found: Finding) -> float:
  known = found.confidence.right_probability
  return -(row["similarity"] or 0.0) if known is None else -known


def _auc_below(there: list[tuple[dict, Finding]], limit: float = 0.4) -> float:
  """AUC of boxes with an IoU below `limit` against others, among organs that are there."""
  scores = [
    np.array([_wrong(row, each) for row, each in there if (row["iou"] < limit) is low]) for low in (True, False)
  ]
  return doubt_fit.auc(*scores)


def _reliability(seen: list[tuple[dict, Finding]]) -> dict[str, Any]:
  """By tenths of the probability that a box is right: how many, the mean probability, and how many were right."""
  pairs = [(each.confidence.right_probability or 0.0, doubt_fit.is_right(row)) for row, each in seen]
  bins: dict[str, Any] = {}
  for low in np.arange(0, 1, 0.2):
    own = [(p, right) for p, right in pairs if low <= p < low + 0.2]
    if own:
      bins[f"{low:.1f}"] = [
        len(own),
        round(float(np.mean([p for p, _ in own])), 3),
        round(_share(r for _, r in own), 3),
      ]
  return {"bins": bins, "brier": round(float(np.mean([(p - right) ** 2 for p, right in pairs])), 4)}


def _nonsense(rows: list[dict], found: list[Finding], calibration: doubt.Calibration | None) -> dict[str, Any]:
  """By kind: scans, the share of organs that are believed, and how many scans are named as what."""
  result: dict[str, Any] = {}
  for kind in (*NONSENSE, "whole"):
    own = [(row, each) for row, each in zip(rows, found, strict=True) if row["kind"] == kind]
    if own:
      result[kind] = {
        "scans": len({row["query"] for row, _ in own}),
        "organs believed": round(_share(each.verdict in (FOUND, PARTLY_OUTSIDE) for _, each in own), 3),
        "named": dict(Counter(filter(None, _names(rows, own, kind, calibration)))),
      }
  return result


def _names(
  rows: list[dict], own: list[tuple[dict, Finding]], kind: str, calibration: doubt.Calibration | None
) -> Iterator[str]:
  """What each scan of a kind is named as, from searches of the same person the other way round: what is upside down is,
  turned, the whole scan again. Only these turns are known here; `doubt.named` looks at both of any scan."""
  if calibration is None or kind not in (*doubt.TURNED, "whole"):
    return
  similarity = {(row["query"], row["kind"]): row["measures"].get("similarity_scan", np.nan) for row in rows}
  for person in dict.fromkeys(row["query"] for row, _ in own):
    known = [each.confidence.right_probability for row, each in own if row["query"] == person]
    if None in known or np.median(known) >= 0.5:
      continue
    turns = {kind: "whole"} if kind in doubt.TURNED else {name: name for name in doubt.TURNED}
    better = {name: similarity.get((person, there), -np.inf) for name, there in turns.items()}
    name = max(better, key=lambda each: better[each])
    if better[name] - similarity[person, kind] >= calibration.turned_by:
      yield name


def calibrate(source: Path, output: Path, rows: list[dict]) -> doubt.Calibration:
  """Fits on the rows, and writes the weights with the calibration in their header."""
  calibration, said = doubt_fit.fit(rows)
  print("people left out of each fit:", {name: round(value, 3) for name, value in said.items()})
  variables, header = read_weights(source, as_float32=False)
  write_weights(output, variables, header | calibration.to_header())
  print(output)
  return calibration


def main(words: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    prog="python -m bench.absence", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--network", default="open")
  parser.add_argument("--search", default="exact", choices=PRESETS)
  parser.add_argument("--templates", type=Path)
  parser.add_argument("--queries", type=Path)
  parser.add_argument("--data", type=Path, help="folder of the labelled scans, in place of --templates and --queries")
  parser.add_argument("--set", default="validation", choices=("validation", "tuning"), help="of people, with --data")
  parser.add_argument("--count", type=int, help="the first people only, with --data")
  parser.add_argument("--kinds", help="of cases, comma separated, to search these alone: a crop's name, foreign, ...")
  parser.add_argument("--organs", nargs="*")
  parser.add_argument("--first-query", type=int, default=9100, help="seed of the first of four query phantoms")
  parser.add_argument("--mode", default="WPL", choices=("WPL", "SPL"))
  parser.add_argument("--seconds", type=float, help="begin no search after so long")
  parser.add_argument("--fit", type=Path, metavar="FILE", help="write the network calibrated on these rows")
  parser.add_argument("--out", type=Path, default=Path("out/bench/absence"))
  options = parser.parse_args(words)
  if options.fit and options.set != "tuning" and options.data:
    parser.error("--fit on validation: choose on --set tuning, report on validation")
  if options.fit and not Path(options.network).is_file():
    parser.error("--fit writes the header of a weights file anew: name the file with --network")
  network = load(options.network, kind="medlam")
  with Terminal().warnings_as_lines():
    templates = _templates(options)
    bank = Bank.build(network, templates, options.mode, kept=KeptOutputs(options.out / "templates"))
    source = options.set if options.data else "folders" if options.queries else f"phantoms_{options.first_query}"
    kept = options.out / f"{network.sha256[:12]}_{options.search}_{source}.jsonl"
    rows = measure(network, bank, options, cases(options, templates, list(bank.organs)), kept)
    calibration = doubt.calibration_of(network)
    if options.fit:
      calibration = calibrate(Path(options.network), options.fit, rows)
    result = report(rows, calibration, confidence.Thresholds())
  kept.with_suffix(".json").write_text(json.dumps(result, indent=1))
  print(f"{kept}, {kept.with_suffix('.json')}")


def _templates(options: argparse.Namespace) -> list[Template]:
  if options.data is not None:
    read = read_templates(require(options.data / "headneck" / "templates"), options.organs)
    return [each for each in read if each.name in FIVE]
  if options.templates:
    return read_templates(options.templates, options.organs)
  return [phantom(seed) for seed in range(9000, 9003)]


if __name__ == "__main__":
  main()
