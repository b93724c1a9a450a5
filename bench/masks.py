"""How good masks are on real people, from the labels' own boxes or from found ones: mean Dice by organ.

python -m bench.masks [--set validation] [--boxes label] [--ways templates,network,slices] [--seconds 600]
python -m bench.masks --boxes found --network open --search vote

Ways (`--ways`): `templates` (their masks, registered and put together: the default of `medlsam segment`), `network`
(LiteMedSAM, one box for all slices), `slices` (LiteMedSAM from the label's own box of every slice, `--boxes label`
alone), `propagate` and `axes` (as `segment --propagate` and `--axes all`), `prompted` (the templates' vote prompts a
network, `--model`, in every slice: `segment --masks prompted`). Each scan is kept as it comes in OUT, so
that the same call goes on where it was cut. Means are over labels that `sound.json` calls whole; empty masks count 0.
`--set tuning` is for choosing, validation to report on. Seconds are of painting alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.real_people import FIVE
from medlsam_jax import pipeline
from medlsam_jax.evaluation.case import evaluate_case
from medlsam_jax.finding import OUTSIDE, Finding
from medlsam_jax.geometry import Box
from medlsam_jax.io.labels import LabelMap
from medlsam_jax.io.templates import Template, read_templates
from medlsam_jax.medlam.bank.bank import Bank
from medlsam_jax.medlam.bank.template_points import crops_of
from medlsam_jax.sam.prompted_volume import paint_from_votes
from medlsam_jax.sam.propagation import PropagationSettings
from medlsam_jax.sam.slice_boxes import tight_boxes
from medlsam_jax.template_masks.masks import paint_by_templates, votes

PROPAGATION = {"propagate": PropagationSettings(mode="middle-out"), "axes": PropagationSettings(axes="all")}
WAYS = ("templates", "network", "slices", "prompted", *PROPAGATION)


def main() -> None:
  parser = argparse.ArgumentParser(prog="python -m bench.masks", description=__doc__)
  parser.add_argument("--data", type=Path, default=Path("../shared/data"))
  parser.add_argument("--set", choices=("validation", "tuning"), default="validation")
  parser.add_argument("--boxes", choices=("label", "found"), default="label")
  parser.add_argument("--ways", default="templates,network", help=f"comma separated, among {', '.join(WAYS)}")
  parser.add_argument("--templates", default=",".join(FIVE), help="names, comma separated")
  parser.add_argument("--network", default="open", help="that finds, with --boxes found")
  parser.add_argument("--search", default="vote")
  parser.add_argument("--bank", type=Path, help="built before from these templates, with --boxes found")
  parser.add_argument("--model", default=pipeline.PROMPTED, help="that votes prompt, for `prompted`")
  parser.add_argument("--vote-share", type=float, default=0.5, help="of the vote in a mask's probability, likewise")
  parser.add_argument("--count", type=int, help="the first so many scans")
  parser.add_argument("--seconds", type=float, default=600.0, help="begin no scan after so long")
  parser.add_argument("--out", type=Path, default=Path("out/masks"))
  arguments = parser.parse_args()
  folder, names = arguments.data / "headneck", arguments.templates.split(",")
  templates = [each for each in read_templates(folder / "templates") if each.name in names]
  people = read_templates(folder / arguments.set)[: arguments.count]
  sound = json.loads((folder / arguments.set / "sound.json").read_text())
  kept = Kept(arguments.out / "rows.jsonl", vars(arguments))
  finder = Finder(arguments, templates) if arguments.boxes == "found" else None
  organs = list(dict.fromkeys(organ for each in templates for organ in each.values))
  shown = [crops_of(each, organs) for each in templates]
  crops = {organ: [each[organ] for each in shown if organ in each] for organ in organs}
  start = time.perf_counter()
  for person in people:
    missing = [way for way in arguments.ways.split(",") if not kept.has(person.name, way)]
    if not missing or time.perf_counter() - start > arguments.seconds:
      continue
    boxes = label_boxes(person) if finder is None else finder.boxes(person)
    for way in missing:
      began = time.perf_counter()
      labels = paint(way, person, boxes, crops, finder is None, arguments)
      seconds = time.perf_counter() - began
      rows = evaluate_case(person.name, None, labels, person.labels, person.values, expected=("masks",))
      dice = {row.organ: row.dice for row in rows if row.present}
      kept.add(person.name, way, {"seconds": seconds, "dice": dice})
      print(f"{person.name} {way}: mean {np.mean(list(dice.values())):.3f}", flush=True)
  print_table(kept.rows, sound, organs)


def label_boxes(person: Template) -> dict[str, Finding]:
  """The labels' own."""
  boxes = {organ: Box.of_mask(person.labels.array == value) for organ, value in person.values.items()}
  values = person.values
  return {organ: Finding.of_boxes(organ, values[organ], [box]) for organ, box in boxes.items() if box is not None}


class Finder:
  """Searches scans by a network, whose bank is built once."""

  def __init__(self, arguments: argparse.Namespace, templates: list[Template]):
    from medlsam_jax.loading import load

    self._network, self._search = load(arguments.network), arguments.search
    if arguments.bank is not None:
      self._bank = Bank.load(arguments.bank)
    else:
      self._bank = Bank.build(self._network, templates, "WPL")

  def boxes(self, person: Template) -> Mapping[str, Any]:
    """Findings, of the organs that the person's labels have."""
    organs = [organ for organ in self._bank.organs if organ in person.values]
    return pipeline.localize(self._network, self._bank, person.scan, organs=organs, settings=self._search)


def paint(
  way: str,
  person: Template,
  boxes: Mapping[str, Any],
  crops: dict[str, list],
  is_label: bool,
  arguments: argparse.Namespace,
) -> Any:
  """A label map of the organs in `boxes`."""
  if way in ("templates", "prompted"):
    inside = {organ: each.parts for organ, each in boxes.items() if each.verdict != OUTSIDE}
    values = {organ: each.value for organ, each in boxes.items()}
    exact = list(boxes) if is_label else ()
    if way == "templates":
      array = paint_by_templates(person.scan, inside, crops, values, exact=exact)
    else:
      voted = dict(votes(person.scan, inside, crops, exact=exact))
      predictor = pipeline.predictor_of(arguments.model)
      array = paint_from_votes(person.scan, voted, values, predictor, arguments.vote_share)
    return LabelMap(array, person.scan.grid, values)
  if way == "slices":
    if not is_label:
      raise SystemExit("slices are of labels: --boxes label")
    tight = {organ: tight_boxes(person.labels.array == each.value, person.scan.grid) for organ, each in boxes.items()}
    boxes = {organ: Finding.of_boxes(organ, boxes[organ].value, tuple(parts)) for organ, parts in tight.items()}
  return pipeline.segment(person.scan, boxes, masks="network", propagation=PROPAGATION.get(way))


class Kept:
  """Rows of a file, those of the same question."""

  def __init__(self, path: Path, arguments: Mapping[str, Any]):
    self.path = path
    names = ("set", "boxes", "templates", *(("network", "search") if arguments["boxes"] == "found" else ()))
    self.question = {name: str(arguments[name]) for name in names}
    lines = path.read_text().splitlines() if path.exists() else []
    self.rows = [row for row in map(json.loads, lines) if row["question"] == self.question]

  def has(self, scan: str, way: str) -> bool:
    return any((row["scan"], row["way"]) == (scan, way) for row in self.rows)

  def add(self, scan: str, way: str, scores: dict[str, Any]) -> None:
    row = {"question": self.question, "scan": scan, "way": way, **scores}
    self.rows.append(row)
    self.path.parent.mkdir(parents=True, exist_ok=True)
    with self.path.open("a") as file:
      file.write(json.dumps(row) + "\n")


def print_table(rows: list[dict[str, Any]], sound: Mapping[str, Mapping[str, str]], organs: list[str]) -> None:
  """Mean Dice by organ over whole labels, their mean, the mean over all labels, seconds a scan."""
  print("| way | scans | " + " | ".join(organs) + " | mean, whole | mean, all | s a scan |")
  print("|---" * (len(organs) + 5) + "|")
  for way in dict.fromkeys(row["way"] for row in rows):
    own = [row for row in rows if row["way"] == way]
    means = {
      kind: [
        np.mean(result)
        if (result := [row["dice"][organ] for row in own if organ in row["dice"] and keep(row, organ)])
        else np.nan
        for organ in organs
      ]
      for kind, keep in (
        ("whole", lambda row, organ: sound[row["scan"]].get(organ) == "whole"),
        ("all", lambda *_: True),
      )
    }
    cells = [f"{value:.3f}" for value in (*means["whole"], np.nanmean(means["whole"]), np.nanmean(means["all"]))]
    print(f"| {way} | {len(own)} | " + " | ".join(cells) + f" | {np.median([row['seconds'] for row in own]):.1f} |")


if __name__ == "__main__":
  main()
