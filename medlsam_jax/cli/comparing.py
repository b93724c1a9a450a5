"""The work of `medlsam evaluate --compare`: scan by scan and way by way, each kept as soon as it is scored."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from medlsam_jax import platform
from medlsam_jax.cli import compare, options, provenance
from medlsam_jax.cli.cases import Case, cases_of, truth_of_failed, values_of
from medlsam_jax.cli.many_scans import ReadAhead, run_over
from medlsam_jax.cli.search import Search, settings_of
from medlsam_jax.cli.terminal import Terminal
from medlsam_jax.cli.ways import Way, load_ways
from medlsam_jax.errors import InputError, MedlsamError
from medlsam_jax.evaluation.compared_row import ComparedRow, Source
from medlsam_jax.evaluation.comparison import Truth
from medlsam_jax.evaluation.comparison_report import Comparison
from medlsam_jax.evaluation.kept_scores import KeptScores, Scores
from medlsam_jax.evaluation.labelled import not_whole
from medlsam_jax.evaluation.truth_names import own_tables
from medlsam_jax.finding import Finding
from medlsam_jax.geometry import Volume
from medlsam_jax.installation import version
from medlsam_jax.io.atomic import folder_for, require_writable
from medlsam_jax.io.labels import LabelMap
from medlsam_jax.io.scans import ListedScan


@dataclasses.dataclass
class Comparing:
  """A comparison that goes on from what its file has."""

  arguments: argparse.Namespace
  terminal: Terminal
  cases: Mapping[str, Case]
  values: Mapping[str, Mapping[str, int]]
  """By scan, organs and their values in its truth; a scan without them is not scored."""
  ways: Callable[[object], Sequence[Way]]
  """By device."""
  search: Search | None
  kept: KeptScores
  reasons: dict[str, str]
  """Why scans, or ways in them, failed."""
  failed: dict[tuple[str, str], list[ComparedRow]] = dataclasses.field(default_factory=dict)
  """By scan and way; not kept, so that the next run tries again."""

  @classmethod
  def prepare(cls, arguments: argparse.Namespace, terminal: Terminal) -> Comparing:
    """Loads what paints and what finds.

    Raises:
      ConfigError: options that do not go together.
      InputError: no scans, or nothing says which organ a value of truth is.
      WeightsError: a network cannot be used.
      TemplateError: the bank cannot be used.
    """
    settings = settings_of(arguments)
    cases = cases_of(arguments)
    named = own_tables({case.name: case.truth for case in cases}, arguments.labels)
    require_writable(arguments.out)
    ways = functools.lru_cache(maxsize=None)(lambda device: load_ways(arguments, settings, terminal))
    ways(platform.device())  # weights that cannot be had are told before a bank is built
    search = Search.prepare(arguments, settings, terminal) if compare.searches(arguments) else None
    organs = list(arguments.organs or ())
    numbers: dict[str, dict[str, int]] = {case.name: {} for case in cases}
    if search is not None:
      numbers = {case.name: {name: organ.value for name, organ in search.bank.organs.items()} for case in cases}
      organs = organs or list(search.bank.organs)
    values, _, reasons = values_of(cases, named, numbers, organs, terminal)
    kept = KeptScores(Path(arguments.out) / f"{_name(arguments)}.jsonl")
    return cls(arguments, terminal, {case.name: case for case in cases}, values, ways, search, kept, reasons)

  def run(self) -> int:
    """Paints, scores, prints and writes; 1 if anything failed."""
    seconds = self.arguments.seconds
    until = math.inf if seconds is None else time.monotonic() + seconds
    queries = [case.scan for case in self.cases.values() if case.scan and case.name in self.values]
    with ReadAhead(queries, self._is_done, options.reading(self.arguments)) as read:
      summary = run_over(self.terminal, queries, functools.partial(self._make, read), self._say, self._is_done, until)
    for name, why in summary.failed.items():
      self.reasons[name] = why
      self._fail(name, why)
    if self.search is not None:
      self.search.finish(bool(self.reasons))
    comparison = self._comparison()
    if not comparison.rows:
      raise InputError(f"nothing is scored yet: {'; '.join(self.reasons.values()) or 'give it more --seconds'}")
    self._tell(comparison)
    return 1 if self.reasons else 0

  @property
  def _ways(self) -> Sequence[Way]:
    return self.ways(platform.device())

  @property
  def _source(self) -> Source:
    return self.arguments.boxes_from or "found"

  def _make(self, read: Callable[[ListedScan], Volume], listed: ListedScan, title: str) -> list[str]:
    """Paints and scores one scan each way that is not kept; what came of it, in a line each."""
    name, lines, searched = listed.name, [], {}
    with self.terminal.bar(f"{title}: reading"):
      scan = read(listed)
      truth = Truth.read(self.cases[name].truth, name, self.values[name], scan, self.arguments.resample)
    boxes: Mapping[str, Finding] = truth.boxes()
    if self._source == "found" and self.search is not None:
      began = time.perf_counter()
      _, boxes = self.search.run(listed, title, self.terminal, lambda _: scan)
      searched = {"search_seconds": time.perf_counter() - began}
    raw = dict[str, tuple[LabelMap, float]]()
    for way in (each for each in self._ways if self._kept(name, each) is None):
      began = time.perf_counter()
      try:
        if way.word not in raw:
          with self.terminal.bar(f"{title}: {way.title}") as report:
            asked = truth.boxes(each_slice=True) if way.boxes_by_slice else boxes
            painted = way.paint(scan, asked, None if self.search is None else self.search.bank, report)
          raw[way.word] = painted, time.perf_counter() - began
          began = time.perf_counter()
        painted, taken = raw[way.word]
        finished = way.finish(painted)
      except MedlsamError as error:
        self.terminal.error(f"{name}: {way.title}: {error}")
        self.reasons[name] = f"{way.title}: {error}"
        self.failed[name, way.title] = truth.rows(way.title, None, str(error))
        continue
      seconds = taken + time.perf_counter() - began
      rows = truth.rows(way.title, finished)
      fields = [{k: v for k, v in dataclasses.asdict(row).items() if k not in ("scan", "way")} for row in rows]
      entry = {"way": way.title, "seconds": seconds, **searched, "rows": fields}
      self.kept.add(self._question(name, way), name, entry)
      dice = float(np.mean([row.dice for row in rows])) if rows else math.nan
      lines.append(f"{title}: {way.title}: mean Dice {dice:.3f}, {seconds:.1f} s")
    return lines

  def _say(self, _: str, lines: Sequence[str]) -> Sequence[str]:
    for line in lines:
      self.terminal.say(line)
    return ()

  def _is_done(self, scan: str) -> bool:
    return all(self._kept(scan, way) is not None for way in self._ways)

  def _kept(self, scan: str, way: Way) -> Scores | None:
    return self.kept.get(self._question(scan, way), scan)

  def _question(self, scan: str, way: Way) -> dict[str, object]:
    """All that a way's scores and seconds in a scan depend on."""
    case, search = self.cases[scan], self.search
    files = [path.stat() for path in (case.truth, *([case.scan.path] if case.scan else [])) if path.exists()]
    question: dict[str, object] = {
      "boxes": self._source, "values": self.values[scan], "way": way.identity,
      "files": [[each.st_size, each.st_mtime_ns] for each in files], "resample": self.arguments.resample,
      "reading": dataclasses.asdict(options.reading(self.arguments)),
      "version": version("medlsam_jax"), "device": platform.backend(),
    }  # fmt: skip
    if search is not None and (self._source == "found" or way.masks != "network"):
      question["bank"] = self._bank_hash
    if search is not None and self._source == "found":
      found = {part: provenance.of_settings(getattr(search.settings, part)) for part in ("search", "confidence")}
      question |= {"network": search.network.sha256, "seed": search.seed, **found}
    return question

  @functools.cached_property
  def _bank_hash(self) -> str:
    assert self.search is not None
    return provenance.bank_sha256(self.search.bank)

  def _fail(self, scan: str, why: str) -> None:
    """Of a scan that could not be painted nothing was, by any way that is not kept; none if truth cannot be read."""
    values = self.values[scan]
    try:
      labels = truth_of_failed(self.cases[scan], values, options.reading(self.arguments))
    except InputError:
      return
    for way in self._ways:
      if self._kept(scan, way) is None:
        rows = [ComparedRow(scan, way.title, organ, why, 0.0, 0.0, 0.0) for organ in values]
        rows = rows if labels is None else Truth(scan, labels, values).rows(way.title, None, why)
        self.failed.setdefault((scan, way.title), rows)

  def _comparison(self) -> Comparison:
    """Of the scans that every way was tried on: kept, or failed in this run."""
    rows: list[ComparedRow] = []
    seconds: dict[str, list[float]] = {way.title: [] for way in self._ways}
    searched, waiting = list[float](), 0
    for scan in self.values:
      tried = {way.title: self._kept(scan, way) for way in self._ways}
      if any(kept is None and (scan, title) not in self.failed for title, kept in tried.items()):
        waiting += scan not in self.reasons
        continue
      for title, kept in tried.items():
        rows += self.failed[scan, title] if kept is None else [ComparedRow(scan, title, **row) for row in kept["rows"]]
        seconds[title] += [] if kept is None else [kept["seconds"]]
      searched += [kept["search_seconds"] for kept in tried.values() if kept and "search_seconds" in kept][:1]
    cut = not_whole({name: case.truth for name, case in self.cases.items()}, self.values)
    return Comparison(self._source, rows, seconds, cut, searched, self.reasons, waiting)

  def _tell(self, comparison: Comparison) -> None:
    out = Path(self.arguments.out) / _name(self.arguments)
    table, words = out.with_suffix(".csv"), out.with_suffix(".json")
    about = {"ways": {way.title: way.origin for way in self._ways}, "versions": provenance.of_machine()}
    if self.search is not None:
      about |= {"search": self.search.provenance()}
    with folder_for(out.parent):
      comparison.write_csv(table)
      comparison.write_json(words, about)
    self.terminal.result()
    self.terminal.result(comparison.title)
    self.terminal.table(comparison.table())
    for line in comparison.notes():
      self.terminal.say(line)
    self.terminal.say(f"wrote {table}, {words}; what is scored is kept in {self.kept.path}")


def _name(arguments: argparse.Namespace) -> str:
  """Of the results: each source of boxes has files of its own."""
  return f"comparison_{arguments.boxes_from or 'found'}"
