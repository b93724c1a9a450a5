"""What a network finds in real people: box IoU and wall distance on labelled CTs, beside what else is at hand.

python -m bench.real_people [--network NAME_OR_FILE] [--search exact] [--only five,torso] [--seconds 600]

Prints each table and writes OUT/real_people.md and .json, and with part k a picture, OUT/real_people.png. Every search
is kept under the network, the settings and the scan that it depends on: the same call goes on where it was cut, and
`--seconds` ends it early with what there is.

Parts (`--only`):
  five     head and neck, five templates, by organ: the targets of the package
  torso    virtual patients: warps of one scan; left and right swapped are counted
  parts    head and neck: position head alone, features alone from mean boxes on, both
  spl      organs cut along z (SPL) against whole ones (WPL)
  k        1, 3, 5, 8 and 12 templates, drawn anew `--repeats` times
  corrected  one template and five, and with the first three people who have whole labels added, corrected

The data (`--data`, by default ../shared/data beside the checkout) is not part of the repository. Means are over labels
that `sound.json` calls whole; those over all labels stand beside them. Failures count: an organ that was not found, or
called outside, has IoU 0 and the scan's diagonal. `--set tuning` is for choosing; validation is to report on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import people_curves, timing
from bench.people_search import Labelled, Study, Task
from bench.people_tables import Table, by_organ, compared, merged
from bench.stages_paint import ORGANS as TORSO_ORGANS
from medlsam_jax.cli import terminal
from medlsam_jax.display import count
from medlsam_jax.evaluation.labelled import LabelledScan
from medlsam_jax.evaluation.study.tables import draws as drawn_of
from medlsam_jax.io.templates import Template, read_templates
from medlsam_jax.loading import load
from medlsam_jax.medlam.search.search_settings import PRESETS

FIVE = tuple(f"kbp_{number}" for number in ("013", "034", "061", "004", "017"))
TORSO_TEMPLATES, TORSO_QUERIES = (
  tuple(f"case_{number}" for number in numbers) for numbers in (("000", "002", "004"), ("001", "003", "005"))
)
CORRECTED = 3
"""People who are corrected and added."""
COUNTS = (1, 3, 5, 8, 12)
"""Templates of the curve."""
QUOTED = (
  "Beside it, quoted and not measured here (issue 13, picsl-greedy on 25 of these people, five templates, 43 processor "
  "seconds a scan on two cores): rigid search, affine, deformable, majority vote: box IoU .564, wall 5.3 mm; affine "
  "alone .460, 7.1 mm; mean boxes .264, 13.0 mm. By organ, IoU and wall: brainstem .532 4.6, cord .627 5.5, parotids "
  ".513 5.7, esophagus .485 6.8, larynx .418 5.8, mandible .776 3.8."
)


class Parts:
  """The tables, each made when asked for."""

  def __init__(self, study: Study, data: Path, people: str, count: int | None, repeats: int):
    self.study, self.data, self.people, self.count, self.repeats = study, data, people, count, repeats
    self._read: dict[str, Labelled] = {}

  def five(self) -> Iterator[Table]:
    """By organ, five templates."""
    data = self.headneck()
    results = self.searched(data, [Task(FIVE)])[0]
    yield by_organ(
      f"Head and neck, {self.people}, five templates, WPL",
      results,
      data.organs,
      QUOTED if self.people == "validation" else "",
    )
    yield compared("The same in one line", {"five templates": results})

  def torso(self) -> Iterator[Table]:
    """Virtual patients."""
    data = self.virtual()
    results = self.searched(data, [Task(TORSO_TEMPLATES)])[0]
    note = "Smooth warps of one scan: they show that the search works there, not how it does on another person."
    yield by_organ("Virtual patients, three templates, WPL", results, data.organs, note)
    yield compared("The same in one line", {"three templates": results})

  def parts(self) -> Iterator[Table]:
    """Head, features, both."""
    tasks = {how: Task(FIVE, how) for how in ("both", "head", "features")}
    names = {"both": "both", "head": "position head alone", "features": "features alone, from mean boxes on"}
    results = self.searched(self.headneck(), list(tasks.values()))
    lines = {names[how]: each for how, each in zip(tasks, results, strict=True)}
    yield compared(f"What finds the organs: {self.people}, five templates, WPL", lines)

  def spl(self) -> Iterator[Table]:
    """Whole and cut organs."""
    results = self.searched(self.headneck(), [Task(FIVE, mode="WPL"), Task(FIVE, mode="SPL")])
    lines = dict(zip(("WPL", "SPL, parts of 12 mm"), results, strict=True))
    yield compared(f"Organs whole and cut along z: {self.people}, five templates", lines)

  def k(self) -> Iterator[Table]:
    """How many templates."""
    data = self.headneck()
    drawn = {count: draws(list(data.templates), count, self.repeats) for count in COUNTS}
    tasks = [Task(names) for each in drawn.values() for names in each]
    result = iter(self.searched(data, tasks))
    lines = {
      f"{count} (drawn {len(each)} times)": merged([next(result) for _ in each]) for count, each in drawn.items()
    }
    note = "Differences are to one template. Intervals know of the people, not of the choice of templates."
    yield compared(f"Number of templates: {self.people}, WPL", lines, note)

  def corrected(self) -> Iterator[Table]:
    """What a user's corrections bring: labels stand for them, and no person is both template and query."""
    data = self.headneck()
    names = [name for name, each in data.queries.items() if any(map(each.is_whole, each.values))][:CORRECTED]
    added = {name: _corrected(self.data / "headneck" / self.people, data.queries[name]) for name in names}
    rest = {name: query for name, query in data.queries.items() if name not in names}
    grown = dataclasses.replace(
      data, name=f"{data.name} corrected", templates={**data.templates, **added}, queries=rest
    )
    note = "Whole labels of the three stand for a user's corrections. Intervals know of the people, not of that choice."
    for start in (FIVE[:1], FIVE):
      before, after = self.searched(grown, [Task(start), Task((*start, *names))])
      begun = count(len(start), "template")
      lines = {begun: before, f"and {', '.join(names)}, corrected": after}
      yield compared(f"A bank of {begun} that grows by corrections: {self.people}, WPL", lines, note)

  def headneck(self) -> Labelled:
    """Real people."""
    if "headneck" not in self._read:
      folder = self.data / "headneck"
      self._read["headneck"] = Labelled.read(
        f"headneck/{self.people}", require(folder / "templates"), require(folder / self.people)
      )
    return self._read["headneck"]

  def virtual(self) -> Labelled:
    """Warps of the torso."""
    folder = require(self.data / "torso")
    return Labelled.read("torso", folder, folder, TORSO_ORGANS, TORSO_TEMPLATES, TORSO_QUERIES)

  def searched(self, data: Labelled, tasks: Sequence[Task]) -> list[list[dict[str, Any]]]:
    """Results by task. Tasks take turns query by query where time is limited, so that each has the same people."""
    by_task: list[list[dict[str, Any]]] = [[] for _ in tasks]
    for query in list(data.queries)[: self.count]:
      for task, results in zip(tasks, by_task, strict=True):
        one = self.study.one(data, task, query)
        if one is not None:
          results.append(one)
    return by_task


def _corrected(folder: Path, person: LabelledScan) -> Template:
  """A person as a template of the organs whose labels are whole; those that a scan cuts nobody marks."""
  whole = [organ for organ in person.values if person.is_whole(organ)]
  return read_templates(folder / f"{person.name}_ct.nii.gz", whole, folder / "labels.json")[0]


def draws(names: Sequence[str], count: int, repeats: int) -> list[tuple[str, ...]]:
  """Choices of templates: those of the other tables where these are so many, and others drawn, always the same ones."""
  return drawn_of(names, count, repeats, FIVE if set(FIVE) <= set(names) else ())


def require(folder: Path) -> Path:
  """The folder, or an end in words."""
  if not folder.is_dir():
    raise SystemExit(
      f"{folder}: no such folder. The labelled scans are not part of the repository; put them there as "
      "docs/real_people.md says, or name their place with --data DIR"
    )
  return folder


PARTS: dict[str, Callable[[Parts], Iterator[Table]]] = {
  name: getattr(Parts, name) for name in ("five", "torso", "parts", "spl", "k", "corrected")
}


def main(words: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    prog="python -m bench.real_people", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--network", default="open")
  parser.add_argument("--search", default="exact", choices=PRESETS)
  parser.add_argument("--steps", type=int, help="refinements of each point (default: the search's own)")
  parser.add_argument(
    "--template-edge", type=int, help="cube that is compared, voxels of 3 mm (default: the network's)"
  )
  parser.add_argument("--only", default=",".join(PARTS), help=f"parts, comma separated, among {', '.join(PARTS)}")
  parser.add_argument("--set", default="validation", choices=("validation", "tuning"), help="of people (head and neck)")
  parser.add_argument("--count", type=int, help="the first people only")
  parser.add_argument("--repeats", type=int, default=3, help="choices of templates for each number of them")
  parser.add_argument("--seconds", type=float, help="begin no search after so long; tables are of what there is")
  parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
  parser.add_argument("--out", type=Path, default=Path("out/bench"))
  options = parser.parse_args(words)
  chosen = options.only.split(",")
  if unknown := sorted(set(chosen) - PARTS.keys()):
    parser.error(f"--only {', '.join(unknown)}: choose among {', '.join(PARTS)}")
  require(options.data)
  settings = PRESETS[options.search]
  if options.steps is not None:
    settings = dataclasses.replace(settings, steps=options.steps)
  network = load(options.network, kind="medlam")
  kept = options.out / "real_people_kept"
  study = Study(network, settings, kept, options.seconds, options.template_edge)
  parts = Parts(study, options.data, options.set, options.count, options.repeats)
  tables = {}
  with terminal.Terminal().warnings_as_lines():
    for name in chosen:
      tables[name] = list(PARTS[name](parts))
      for table in tables[name]:
        print(table.markdown(), flush=True)
      write(options, network, study, tables)
  print(f"{options.out / 'real_people.md'}, {options.out / 'real_people.json'}")


def write(options: argparse.Namespace, network: Any, study: Study, tables: dict[str, list[Table]]) -> None:
  """Both files, written anew after each part."""
  machine = timing.machine()
  said = {
    "network": options.network, "weights_sha256": network.sha256, "search": options.search, "steps": options.steps,
    "template_edge": options.template_edge, "people": options.set, "machine": machine, "not_searched": study.missing,
  }  # fmt: skip
  text = [f"{options.network} (weights {network.sha256[:12]}), search {options.search}. Machine: {machine}."]
  if study.missing:
    text.append(f"{study.missing} searches were not made: no time was left. Tables are of the people that they count.")
  text += [table.markdown() for each in tables.values() for table in each]
  options.out.mkdir(parents=True, exist_ok=True)
  (options.out / "real_people.md").write_text("\n\n".join(text))
  body = {name: [dataclasses.asdict(table) for table in each] for name, each in tables.items()}
  (options.out / "real_people.json").write_text(json.dumps(said | {"tables": body}, indent=1))
  if "k" in tables and tables["k"][0].figures:
    people_curves.draw(tables["k"][0].figures, options.set, options.search, options.out / "real_people.png")


if __name__ == "__main__":
  main()
