"""`medlsam localize|segment LIST --out DIR`: a cohort, which can be killed at any time and goes on where it was."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from medlsam_jax.cli import options
from medlsam_jax.errors import ConfigError

if TYPE_CHECKING:
  from medlsam_jax.cli.painting import Painter
  from medlsam_jax.cli.results import Make
  from medlsam_jax.cli.search import Search
  from medlsam_jax.cli.terminal import Terminal
  from medlsam_jax.cohort.looked import Quality
  from medlsam_jax.cohort.run import Cohort, CohortOptions, CohortReport, Ended
  from medlsam_jax.io.scans import ListedScan
  from medlsam_jax.medlam.bank.bank import Bank

EXAMPLE = (
  "  medlsam {command} scans.txt --bank torso --out results/\n"
  "  many scans (a folder, or a list with one a line): killed, the same command goes on where it was"
)
_SHOWN = 20
"""Scans that failed or are doubtful that the end names one by one."""
_FIRST = 5
"""Odd scans that the end names."""
_FLAGS = ("scan_seconds", "scan_memory", "shard", "retry_failed", "readers", "ray", "ray_actor")


def add_to(parser: argparse.ArgumentParser) -> None:
  """`--scan-seconds` and what else is for many scans; LIST itself is found by `settle`."""
  group = parser.add_argument_group("many scans (LIST instead of --query)")
  group.add_argument(
    "--retry-failed", action="store_true", default=None, help="try scans again that failed in an earlier run"
  )
  group.add_argument("--shard", metavar="I/N", help="do the I-th of N parts of LIST, as a job of an array does")
  group.add_argument(
    "--scan-seconds",
    type=float,
    metavar="S",
    help="give up a scan that takes longer to read, or to search and paint (default: no limit)",
  )
  group.add_argument(
    "--scan-memory",
    metavar="SIZE",
    help="give up a scan whose reading takes more memory than, say, 8GB (default: no limit)",
  )
  group.add_argument(
    "--readers", type=options.positive_int, metavar="N", help="processes that read (default: as many as devices)"
  )
  group.add_argument(
    "--ray",
    metavar="ADDRESS",
    help="work on a Ray cluster: HOST:PORT of its head, `auto` on one of its machines, or `local` (the extra `ray`)",
  )
  group.add_argument(
    "--ray-actor",
    metavar="WHAT",
    help="what of the cluster each worker takes, such as CPU=4 or CPU=8,GPU=1 (default: one GPU or TPU where there are "
    "any, else one CPU)",
  )


def settle(arguments: argparse.Namespace) -> None:
  """Finds LIST among the words that argparse left, and checks that one of LIST and `--query` was given.

  argparse itself would take the value of `--section.field VALUE` for it.

  Raises:
    ConfigError: none or both of them, several lists, or options that do not go with the one given.
  """
  lists, rest, words = list[str](), list[str](), list(arguments.rest)
  while words:
    word = words.pop(0)
    if not word.startswith("--"):
      lists.append(word)
      continue
    rest.append(word)
    if "=" not in word and words:
      rest.append(words.pop(0))
  arguments.rest, arguments.list = rest, lists[0] if lists else None
  if len(lists) > 1:
    raise ConfigError(f"unknown argument {lists[1]!r}; give one LIST, a file or a folder")
  if lists and arguments.query is not None:
    raise ConfigError(f"unknown argument {lists[0]!r}; give the scans as LIST or by --query, one of them")
  if not lists and arguments.query is None:
    raise ConfigError("give --query PATH (one scan or some), or LIST (many scans, a run that can be killed)")
  given = [name for name in _FLAGS if getattr(arguments, name) is not None]
  if given and not lists:
    raise ConfigError(f"--{given[0].replace('_', '-')} is for many scans: give them as LIST, without --query")
  if lists and arguments.skip_existing:
    raise ConfigError("--skip-existing is for --query; the manifest of --out says what of a LIST is done")


def options_of(arguments: argparse.Namespace) -> CohortOptions:
  """What `add_to` was given.

  Raises:
    ConfigError: a limit, shard or actor that is none.
  """
  from medlsam_jax.cohort.lock import Shard
  from medlsam_jax.cohort.ray_stages import RayOptions
  from medlsam_jax.cohort.reader import Limits
  from medlsam_jax.cohort.run import CohortOptions

  seconds = arguments.scan_seconds
  if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
    raise ConfigError(f"--scan-seconds {seconds:g}: give a number above 0")
  memory = None if arguments.scan_memory is None else bytes_of(arguments.scan_memory)
  shard = None if arguments.shard is None else Shard.of(arguments.shard)
  if arguments.ray_actor is not None and arguments.ray is None:
    raise ConfigError("--ray-actor is for a cluster: give its address by --ray")
  ray = None if arguments.ray is None else RayOptions.of(arguments.ray, arguments.ray_actor)
  return CohortOptions(Limits(seconds, memory), shard, bool(arguments.retry_failed), arguments.readers, ray)


def bytes_of(text: str) -> int:
  """`8GB`, `500 MB`, `2GiB` -> bytes.

  Raises:
    ConfigError: it is no such text.
  """
  units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
  for unit, size in sorted(units.items(), key=lambda each: -len(each[0])):
    number = text.upper().removesuffix(unit).strip()
    if text.upper().endswith(unit) and number.replace(".", "", 1).isdigit() and float(number) > 0:
      return int(float(number) * size)
  raise ConfigError(f"--scan-memory {text}: give a size with its unit, such as 8GB or 500MB")


def made_by(arguments: argparse.Namespace, search: Search, painter: Painter | None = None) -> dict[str, object]:
  """All that results depend on beside the scans: by it a later run knows whether it may keep them."""
  from medlsam_jax.cli import provenance
  from medlsam_jax.installation import version

  said = search.provenance()
  result: dict[str, object] = {
    "network": search.network.sha256,
    "bank": provenance.bank_sha256(search.bank),
    "settings": said["settings"],
    "seed": search.seed,
    "reading": dict(vars(options.reading(arguments))),
    "medlsam_jax": version("medlsam_jax"),
  }
  if painter is not None:
    named = None if painter.network is None else provenance.of_painter(painter.network)
    result["painting"] = {
      "masks": painter.masks,
      "network": None if named is None else {name: value for name, value in named.items() if name != "source"},
      "segmentation": provenance.of_settings(painter.settings.segmentation),
      "propagation": provenance.of_settings(painter.settings.propagation),
      "vote": provenance.of_settings(painter.settings.masks),
    }
  return result


def run_cohort(
  arguments: argparse.Namespace,
  cohort: Cohort,
  scans: Sequence[ListedScan],
  make: Make,
  made_by: Mapping[str, object],
  bank: Bank,
  outputs: Sequence[str],
  terminal: Terminal,
) -> CohortReport:
  """Does what of a list is not done yet, a line for each scan, and at the end a summary and the page of quality."""
  from medlsam_jax.cohort import manifest, page

  for text in cohort.known.damaged:
    terminal.warn(text)
  planned = cohort.plan(scans, made_by, outputs)
  count = len(planned.todo) + len(planned.done) + len(planned.failed)
  part = "" if cohort.options.shard is None else f", part {cohort.options.shard} of {len(scans)}"
  terminal.say(f"{count} scans{part}: {len(planned.todo)} to do, {len(planned.done)} done before")
  for text in planned.sentences():
    terminal.warn(text)
  report = cohort.run(
    planned,
    made_by,
    lambda listed, volume: make(listed, listed.name, lambda _: volume),
    options.reading(arguments),
    teller(terminal),
  )
  # read anew: other shards may have ended scans meanwhile
  known = manifest.read_folder(cohort.folder)
  cohort.place.fetch(list(known.records))
  quality = page.write(cohort.folder, known, bank)
  tell_report(terminal, report)
  tell_quality(terminal, quality, cohort.place.shown)
  return report


def tell_quality(terminal: Terminal, quality: Quality, shown: str) -> None:
  """The scans to look at first, and where the others are named."""
  from medlsam_jax.cohort.page import PAGE, TABLE
  from medlsam_jax.io.addresses import join

  odd = [quality.scans[row] for row in quality.to_look_at]
  for looked in odd[:_FIRST]:
    terminal.say(f"look at: {looked.record.scan}: {'; '.join(looked.in_words)}")
  terminal.say(
    f"{len(odd)} of {len(quality.scans)} scans to look at, in order: {join(shown, PAGE)}, {join(shown, TABLE)}"
  )


def teller(terminal: Terminal) -> Callable[[Ended], None]:
  """A line for each scan as it ends."""

  def tell(ended: Ended) -> None:
    record = ended.record
    title = f"[{ended.number}/{ended.total}] {record.scan}"
    if ended.defect:
      terminal.trace(ended.defect)
    if record.state == "failed":
      terminal.error(f"{title}: {record.error}")
    else:
      seconds = ", ".join(f"{stage} {spent:.1f} s" for stage, spent in record.seconds.items())
      terminal.say(f"{title}: {_counted(record.verdicts)} ({seconds})")

  return tell


def _counted(verdicts: Mapping[str, str]) -> str:
  names = list(verdicts.values())
  return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))


def tell_report(terminal: Terminal, report: CohortReport) -> None:
  """The summary of a list."""
  counts = [f"{len(report.done)} done"]
  for number, what in (
    (len(report.kept), "done before"), (len(report.failed), "failed"), (len(report.doubtful), "doubtful"),
  ):  # fmt: skip
    counts += [f"{number} {what}"] if number else []
  terminal.say("scans: " + ", ".join(counts))
  for name, reason in list(report.doubtful.items())[:_SHOWN]:
    terminal.warn(f"doubtful: {name}: {reason}")
  for name, reason in list(report.failed.items())[:_SHOWN]:
    terminal.error(f"failed: {name}: {reason}")
  if len(report.failed) > _SHOWN:
    terminal.error(f"and {len(report.failed) - _SHOWN} more failed")
  if report.throughput is not None:
    terminal.say(report.throughput.sentence())
