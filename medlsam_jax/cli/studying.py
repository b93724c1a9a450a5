"""The work of `medlsam study all`: scan by scan, setting by setting, each kept as soon as it is scored."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from medlsam_jax import metrics, platform
from medlsam_jax.cli import networks_and_banks, options, provenance
from medlsam_jax.cli.cases import truth_of_failed
from medlsam_jax.cli.many_scans import ReadAhead, run_over
from medlsam_jax.cli.study_data import StudyData, painters
from medlsam_jax.cli.terminal import Terminal
from medlsam_jax.cli.ways import Way
from medlsam_jax.display import count
from medlsam_jax.errors import ConfigError, InputError, MedlsamError, TimeLimitError
from medlsam_jax.evaluation.kept_scores import KeptScores
from medlsam_jax.evaluation.labelled import not_whole
from medlsam_jax.evaluation.report import MADE_UP_NOTE, NOTE
from medlsam_jax.evaluation.study import pages
from medlsam_jax.evaluation.study.report import Measured
from medlsam_jax.evaluation.study.settings import Setting, Table
from medlsam_jax.evaluation.study.tables import TABLES, Plan, made
from medlsam_jax.evaluation.study.work import Asked, Finder, StudyRow, unplaced_rows
from medlsam_jax.geometry import Volume
from medlsam_jax.installation import version
from medlsam_jax.io.alignment import align_labels
from medlsam_jax.io.atomic import folder_for, require_writable, write_text
from medlsam_jax.io.label_maps import read_label_map
from medlsam_jax.io.scans import ListedScan
from medlsam_jax.loading import load
from medlsam_jax.medlam.bank.kept_outputs import KeptOutputs
from medlsam_jax.medlam.search.search_settings import DEFAULT, PRESETS
from medlsam_jax.network import Network
from medlsam_jax.pipeline import PipelineSettings

KEPT = "study.jsonl"
PAGE, TEXT = "study.html", "study.md"


@dataclasses.dataclass
class Studying:
  """A study that goes on from what its file has."""

  arguments: argparse.Namespace
  terminal: Terminal
  data: StudyData
  tables: Sequence[Table]
  finder: Finder
  painters: Callable[[object], tuple[Mapping[str, Way], Mapping[str, str]]]
  """By device, what paints by title, and why others cannot."""
  kept: KeptScores
  reasons: dict[str, str]
  """Why scans, or settings in them, failed."""
  until: float
  failed: dict[tuple[str, Setting], list[StudyRow]] = dataclasses.field(default_factory=dict)
  """Not kept, so that the next run tries again."""

  @classmethod
  def prepare(cls, arguments: argparse.Namespace, terminal: Terminal) -> Studying:
    """Reads what is studied and loads what studies it.

    Raises:
      InputError: no labelled scans.
      TemplateError: the templates cannot be used.
      WeightsError: a network cannot be used.
    """
    until = math.inf if arguments.seconds is None else time.monotonic() + arguments.seconds
    require_writable(arguments.out)
    data = StudyData.read(arguments, terminal)
    networks_and_banks.fetch(arguments.network, terminal)
    network = load(arguments.network, kind="medlam")
    search = PRESETS[arguments.search or DEFAULT]
    names = [name for name in TABLES if name in (arguments.tables or TABLES)]
    models = arguments.models if {"intervals", "models", "boxes"} & set(names) else []
    settings = PipelineSettings(search=search)
    on_device = functools.lru_cache(maxsize=None)(lambda device: painters(models, settings, terminal))
    can_paint, missing = on_device(platform.device())
    plan = Plan(
      tuple(data.templates), min(arguments.count, len(data.templates)), search, _scales(network),
      counts=arguments.counts, repeats=arguments.repeats, intervals_mm=tuple(map(float, arguments.intervals)),
      painters=tuple(can_paint), missing=missing,
    )  # fmt: skip
    tables = [made(name, plan) for name in names]
    if not any(table.settings for table in tables):
      why = "; ".join(f"{title}: {reason}" for title, reason in missing.items()) or "no network that paints is named"
      raise ConfigError(f"nothing of {', '.join(names)} can be measured here: {why}")
    used = {name for table in tables for setting in table.settings for name in setting.boxes.templates}
    templates = {name: each for name, each in data.templates.items() if name in used}
    kept = KeptOutputs(Path(arguments.out) / "templates")
    finder = Finder(network, templates, data.organs, kept, arguments.seed, arguments.template_edge)
    scores = KeptScores(Path(arguments.out) / KEPT)
    return cls(arguments, terminal, data, tables, finder, on_device, scores, dict(data.reasons), until)

  def run(self) -> int:
    """Asks, prints and writes; 1 if anything failed."""
    queries = [case.scan for name, case in self.data.cases.items() if case.scan and name in self.data.values]
    with ReadAhead(queries, self._is_done, options.reading(self.arguments)) as read:
      make = functools.partial(self._make, read)
      summary = run_over(self.terminal, queries, make, self._say, self._is_done, self.until)
    self.reasons |= summary.failed
    for name in self.data.cases:
      if name in summary.failed or name not in self.data.values:
        self._fail(name, self.reasons[name])
    if not any(measured.rows for measured in self._measured):
      raise InputError(f"nothing is measured yet: {'; '.join(self.reasons.values()) or 'give it more --seconds'}")
    self._tell()
    return 1 if self.reasons else 0

  @functools.cached_property
  def _settings(self) -> list[Setting]:
    """Of all tables, each once."""
    return list(dict.fromkeys(setting for table in self.tables for setting in table.settings))

  @functools.cached_property
  def _titles(self) -> dict[Setting, str]:
    """What a setting is called where it comes first."""
    lines = [(table, line) for table in reversed(self.tables) for line in reversed(table.lines)]
    return {setting: f"{table.name}: {line.title}" for table, line in lines for setting in line.settings}

  def _make(self, read: Callable[[ListedScan], Volume], listed: ListedScan, title: str) -> list[str]:
    """Asks what is not kept of one scan, as long as there is time."""
    left = [setting for setting in self._settings if self._kept(listed.name, setting) is None]
    with self.terminal.bar(f"{title}: reading"):
      asked = self._asked(listed.name, read(listed))
    done = 0
    for number, setting in enumerate(left, 1):
      self.terminal.stop_if_asked()
      if time.monotonic() >= self.until:
        break
      began = time.perf_counter()
      try:
        self._build(setting, title)
        with self.terminal.bar(f"{title}: {number} of {len(left)}, {self._titles[setting]}") as report:
          rows = asked.rows(setting, self._painter(setting), report)
      except TimeLimitError:
        break
      except MedlsamError as error:
        self.terminal.error(f"{listed.name}: {error}")
        self.reasons[listed.name] = str(error)
        self.failed[listed.name, setting] = asked.failed(setting, str(error))
        continue
      said = {"seconds": time.perf_counter() - began, "rows": [dataclasses.asdict(row) for row in rows]}
      self.kept.add(self._question(listed.name, setting), listed.name, said)
      done += 1
    return [f"{title}: {done} of {count(len(left), 'setting')} asked"]

  def _build(self, setting: Setting, title: str) -> None:
    """Builds the bank of a setting, if it needs one, as long as there is time: what was computed of it is kept.

    Raises:
      TimeLimitError: the time is over.
    """
    if setting.boxes.source not in ("found", "features"):
      return
    with self.terminal.bar(f"{title}: building the bank") as report:

      def tell(done: int, total: int) -> None:
        report(done, total)
        if time.monotonic() >= self.until:
          raise TimeLimitError(f"{done} of {total} template points done")

      self.finder.bank(setting.boxes, tell)

  def _asked(self, name: str, scan: Volume) -> Asked:
    case, values = self.data.cases[name], self.data.values[name]
    labels = align_labels(read_label_map(case.truth, values, scan), scan.grid, scan.source, scan.file_grid)
    return Asked(self.finder, name, scan, labels, values)

  def _say(self, _: str, lines: Sequence[str]) -> Sequence[str]:
    for line in lines:
      self.terminal.say(line)
    return ()

  def _is_done(self, scan: str) -> bool:
    return all(self._kept(scan, setting) is not None for setting in self._settings)

  def _kept(self, scan: str, setting: Setting) -> list[StudyRow] | None:
    kept = self.kept.get(self._question(scan, setting), scan) if scan in self.data.values else None
    return None if kept is None else [StudyRow(**row) for row in kept["rows"]]

  def _question(self, scan: str, setting: Setting) -> dict[str, object]:
    """All that the scores of a setting in a scan depend on."""
    case = self.data.cases[scan]
    files = [case.truth, *([case.scan.path] if case.scan else [])]
    templates = [self.data.templates[name] for name in setting.boxes.templates]
    sources = [volume.source for each in templates for volume in (each.scan, each.labels) if volume is not None]
    painter = self._painter(setting)
    return setting.question() | {
      "painter": painter and painter.identity, "values": self.data.values[scan],
      "files": [self._states(path) for path in files],
      "template files": [self._states(Path(source)) for source in sources], "organs": list(self.data.organs),
      "reading": dataclasses.asdict(options.reading(self.arguments)), "network": self.finder.network.sha256,
      "template edge": self.finder.edge, "seed": self.finder.seed, "version": version("medlsam_jax"),
      "device": platform.backend(),
    }  # fmt: skip

  @functools.cached_property
  def _states(self) -> Callable[[Path], list[int]]:
    """`_state`, looked at once in a run: there are many settings."""
    return functools.cache(_state)

  def _painter(self, setting: Setting) -> Way | None:
    """On this thread's device."""
    return None if setting.painter is None else self.painters(platform.device())[0][setting.painter]

  def _fail(self, scan: str, why: str) -> None:
    """Of a scan that was not asked nothing was answered: its organs are missing, all that are named if truth cannot be
    placed or read."""
    asked = None
    # why is known already: whatever comes up again must not take the scan out of the means
    with contextlib.suppress(Exception):
      if (values := self.data.values.get(scan)) is not None:
        labels = truth_of_failed(self.data.cases[scan], values, options.reading(self.arguments))
        asked = None if labels is None else Asked(self.finder, scan, labels, labels, values)
    for setting in self._settings:
      if self._kept(scan, setting) is None:
        unplaced = unplaced_rows(scan, self._organs[scan], setting, why, self._longest_mm)
        self.failed.setdefault((scan, setting), unplaced if asked is None else asked.failed(setting, why))

  @functools.cached_property
  def _organs(self) -> dict[str, Sequence[str]]:
    """Of each query those that its truth names; all where nothing says which."""
    return {scan: list(self.data.values.get(scan, self.data.organs)) for scan in self.data.cases}

  @functools.cached_property
  def _longest_mm(self) -> float:
    """Diagonal of the largest template: what distances count in a scan that cannot be read."""
    return max(metrics.diagonal_mm(each.scan.grid) for each in self.data.templates.values())

  def _answers(self, scan: str, setting: Setting) -> list[StudyRow] | None:
    kept = self._kept(scan, setting)
    return self.failed.get((scan, setting)) if kept is None else kept

  @functools.cached_property
  def _measured(self) -> list[Measured]:
    truths = {name: case.truth for name, case in self.data.cases.items()}
    cut = not_whole(truths, self._organs)
    return [Measured.of(table, list(truths), self._answers, cut, self.data.beside) for table in self.tables]

  def _tell(self) -> None:
    """On the terminal and in files."""
    out, note = Path(self.arguments.out), MADE_UP_NOTE if self.arguments.virtual else NOTE
    with folder_for(out):
      for each in self._measured:
        write_text(out / f"{each.table.name}.csv", each.csv())
      for name, made in ((PAGE, pages.html), (TEXT, pages.markdown)):
        write_text(out / name, made(self._measured, self._about(), self.reasons, note))
    for each in self._measured:
      self.terminal.result()
      self.terminal.result(each.table.title)
      if each.rows:
        self.terminal.table(each.means())
      for line in each.notes():
        self.terminal.say(line)
    self.terminal.result()
    self.terminal.say(note)
    self.terminal.result(
      f"wrote {out / PAGE}, {TEXT}, {', '.join(f'{each.table.name}.csv' for each in self._measured)}"
    )

  def _about(self) -> dict[str, str]:
    machine = ", ".join(f"{name} {said}" for name, said in provenance.of_machine().items())
    return {
      "queries": str(len(self.data.cases)), "templates": ", ".join(self.data.templates),
      "split": self.data.split, "organs": ", ".join(self.data.organs),
      "network": f"{self.arguments.network} ({self.finder.network.sha256[:12]})",
      "search": self.arguments.search or DEFAULT, "made with": machine,
    }  # fmt: skip


def _state(path: Path) -> list[int]:
  """Size and time of a file, or of a folder of masks; nothing for what lies elsewhere."""
  if not path.exists():
    return []
  files = sorted(path.iterdir()) if path.is_dir() else [path]
  return [number for file in files for number in (file.stat().st_size, file.stat().st_mtime_ns)]


def _scales(network: Network) -> tuple[int, ...]:
  return tuple(getattr(network.module, "feature_scales", ()))
