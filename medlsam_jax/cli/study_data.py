"""What `medlsam study all` looks at: templates, queries and their truth, and what can paint here."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from medlsam_jax.cli import compare, ways
from medlsam_jax.cli.cases import Case, cases_of, values_of
from medlsam_jax.cli.terminal import Terminal
from medlsam_jax.display import count
from medlsam_jax.errors import InputError, TemplateError, WeightsError
from medlsam_jax.evaluation.study import published
from medlsam_jax.evaluation.truth_names import own_tables
from medlsam_jax.io.splits import Split, read_split, split_beside
from medlsam_jax.io.templates import Template, Templates, read_templates
from medlsam_jax.io.weights.fetch import PUBLISHED, cached_weights
from medlsam_jax.loading import BELONGS_TO, PACKAGED
from medlsam_jax.pipeline import PipelineSettings

TITLES = {"litemedsam": "LiteMedSAM", "sam-vit-b": "SAM", "medsam": "MedSAM", "mobilesam": "MobileSAM"}
"""What networks are called in the papers; `published` knows them by these."""


@dataclasses.dataclass(frozen=True)
class StudyData:
  """Scans of a study."""

  templates: Mapping[str, Template]
  """In the order of the split."""
  cases: Mapping[str, Case]
  """Queries and their truth."""
  values: Mapping[str, Mapping[str, int]]
  """By query, organs and their values in its truth."""
  organs: Sequence[str]
  reasons: Mapping[str, str]
  """Why queries cannot be scored."""
  beside: published.Beside
  """The published numbers that stand beside ours, or why they do not."""
  split: str
  """Where the split is from, in words."""

  @classmethod
  def read(cls, arguments: argparse.Namespace, terminal: Terminal) -> StudyData:
    """Chooses and reads the templates, and lists the queries.

    Raises:
      InputError: no labelled scans there, or no query is left.
      TemplateError: templates cannot be used, or a split names scans that are not there.
    """
    listed = argparse.Namespace(query=arguments.data, truth=None, predictions=None, templates=None)
    cases = {case.name: case for case in cases_of(listed)}
    truths = {case.name: case.truth for case in cases.values()}
    data_set = published.data_set_of(list(cases), lambda: _organs_of(truths, arguments.labels))
    split, said = _split_of(arguments, cases, data_set, terminal)
    with terminal.bar("reading templates"):
      templates = _templates(arguments, cases, split)
    used = {each.scan.source for each in templates.values()}
    unknown = [name for name in split.queries if name not in cases]
    if unknown:
      raise InputError(f"{said}: no labelled scan of {arguments.data} is called {', '.join(unknown[:4])}")
    names = split.queries or [name for name in cases if name not in (() if arguments.templates else split.templates)]
    queries = [cases[name] for name in names if str(cases[name].scan) not in used]
    if not queries:
      raise InputError(f"{arguments.data}: all labelled scans are templates; fewer with --count, or a --split")
    queries = queries[: arguments.scans]
    organs = list(dict.fromkeys(organ for each in templates.values() for organ in each.organs))
    tables = own_tables({case.name: case.truth for case in queries}, arguments.labels)
    numbers = {organ: value for each in templates.values() for organ, value in each.organs.items()}
    known = [organ for organ in organs if any(organ in table for table in tables[0].values())] or organs
    for organ in organs:
      if organ not in known:
        terminal.warn(f"{organ}: in no table of the queries' labels; left out")
    values, _, reasons = values_of(queries, tables, {case.name: numbers for case in queries}, known, terminal)
    called = {str(case.scan): name for name, case in cases.items()}
    first = [called.get(each.scan.source, "") for each in templates.values()][: published.COUNT]
    beside = published.beside(data_set, first, {case.name: case.truth for case in queries}, known)
    return cls(templates, {case.name: case for case in queries}, values, known, reasons, beside, said)


def _organs_of(truths: Mapping[str, Path], labels: str | None) -> set[str]:
  """All that tables name."""
  return {organ for table in own_tables(truths, labels)[0].values() for organ in table}


def _split_of(
  arguments: argparse.Namespace, cases: Mapping[str, Case], data_set: str, terminal: Terminal
) -> tuple[Split, str]:
  """Templates and queries, and where that is from: what the user says, then what the data say, then what is published.

  Raises:
    InputError: a split cannot be read.
  """
  names = list(cases)
  root = Path(arguments.data)
  beside = split_beside(root) if root.is_dir() else None
  if arguments.split is not None:
    return read_split(arguments.split), str(arguments.split)
  if arguments.templates is not None:
    return Split((), ()), "templates of their own folder"
  if beside is not None and (found := _there(read_split(beside), str(beside), cases, terminal)):
    return found
  chosen = Split(published.TEMPLATES.get(data_set, ()), ())
  if data_set and (found := _there(chosen, f"published with {data_set}", cases, terminal)):
    chosen, said = found
    others = [n for n, case in cases.items() if n not in chosen.templates and not published.is_left_out(case.truth)]
    # as many as are needed, and no more: they are no queries
    more = max(max(arguments.counts) - len(chosen.templates), 0)
    return Split((*chosen.templates, *others[:more]), tuple(others[more:])), said
  number = min(arguments.pool, max(len(names) // 2, 1))
  return Split(tuple(names[:number]), ()), f"the first {number} scans by name are templates"


def _there(split: Split, said: str, cases: Mapping[str, Case], terminal: Terminal) -> tuple[Split, str] | None:
  """What is there of a split that nobody gave by hand, since data sets are downloaded in parts; and whence, in words.

  None where no template of it is there, or no query: it splits nothing then.
  """
  kept = [tuple(name for name in names if name in cases) for names in (split.templates, split.queries)]
  every = len(split.templates) + len(split.queries)
  absent = every - sum(map(len, kept))
  if not kept[0] or (split.queries and not kept[1]):
    part = "queries" if kept[0] else "templates"
    terminal.warn(f"{said}: none of its {part} is there, so it is not taken; --split FILE names templates and queries")
    return None
  if not absent:
    return split, said
  told = f"{said}; {absent:,} of its {count(every, 'scan')} not there"
  terminal.warn(f"{told}: left out")
  return Split(*kept), told


def _templates(arguments: argparse.Namespace, cases: Mapping[str, Case], split: Split) -> dict[str, Template]:
  """By name, in the order of the split, no more than the pool takes."""
  if arguments.templates is not None:
    read: Sequence[Template] = read_templates(arguments.templates, arguments.organs, arguments.labels)
  else:
    missing = [name for name in split.templates if name not in cases]
    if missing:
      raise TemplateError(
        f"{arguments.data}: no labelled scan is called {', '.join(missing[:4])}, a template by the split"
      )
    chosen = [cases[name] for name in split.templates[: arguments.pool]]
    paths = [case.scan.path for case in chosen if case.scan is not None]
    read = read_templates(paths, arguments.organs, arguments.labels)
    if len(read) == len(chosen):
      read = Templates([dataclasses.replace(t, name=c.name) for t, c in zip(read, chosen, strict=True)], read.left_out)
  by_name = {each.name: each for each in read}
  unknown = [name for name in split.templates[: arguments.pool] if name not in by_name] if arguments.templates else []
  if unknown:
    raise TemplateError(f"{arguments.templates}: no template is called {', '.join(unknown[:4])}, one by the split")
  order = [name for name in split.templates if name in by_name] or list(by_name)
  return {name: by_name[name] for name in order[: arguments.pool]}


def painters(
  models: Sequence[str], settings: PipelineSettings, terminal: Terminal
) -> tuple[dict[str, ways.Way], dict[str, str]]:
  """By title what paints and can be loaded here, and why others cannot; nothing is fetched but what is small.

  Raises:
    WeightsError: weights that are here are damaged.
  """
  ready: dict[str, ways.Way] = {}
  missing: dict[str, str] = {}
  for given, word in compare.titled([model for model in models if model != "none"]):
    title = given if given != word else TITLES.get(word, word)
    if why := _not_here(word):
      missing[title] = why
      continue
    asked = argparse.Namespace(compare=[f"{title}={word}"], model=None, dtype=None)
    try:
      ready[title] = ways.load_ways(asked, settings, terminal)[0]
    except WeightsError as error:
      missing[title] = str(error)
  return ready, missing


def _not_here(word: str) -> str:
  """Why weights cannot be used on this machine; empty where they can, or are fetched in a moment."""
  name = BELONGS_TO.get(word, word)
  if word in compare.BY_TEMPLATES or name in PACKAGED:
    return ""
  if name in PUBLISHED:
    here = cached_weights(name).is_file()
    return "" if here or name == "litemedsam" else f"its weights are not here; run: medlsam weights get {name}"
  return "" if Path(word).is_file() else "no such file, and no name of weights"
