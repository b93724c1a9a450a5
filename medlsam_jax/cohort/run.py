"""A cohort's run: what is not done yet goes through the stages, and a record is written of each scan as it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medlsam_jax import notices, platform
from medlsam_jax.cohort import manifest, sketch, throughput
from medlsam_jax.cohort.at_work import AtWork
from medlsam_jax.cohort.board import Board
from medlsam_jax.cohort.identity import Identity, glance_at
from medlsam_jax.cohort.lock import Shard
from medlsam_jax.cohort.manifest import Manifest, ManifestWriter, Record
from medlsam_jax.cohort.outcome import MachineError, Made, Make, Outcome, Written
from medlsam_jax.cohort.place import Place, placed
from medlsam_jax.cohort.plan import Plan, place_of, plan
from medlsam_jax.cohort.ray_stages import RayOptions, RayStages, connected
from medlsam_jax.cohort.ray_worker import Orders, Packed
from medlsam_jax.cohort.reader import Limits, Reader
from medlsam_jax.cohort.stages import Stages, Work
from medlsam_jax.cohort.throughput import Throughput
from medlsam_jax.errors import HungError, InputError, OutputError
from medlsam_jax.geometry import Volume
from medlsam_jax.installation import version
from medlsam_jax.io.scans import ListedScan, ReadingOptions

_NOBODY_CAN_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE}
"""Errors that the next scan would meet as well."""


@dataclasses.dataclass(frozen=True)
class CohortOptions:
  """How a run goes about a list."""

  limits: Limits = dataclasses.field(default_factory=Limits)
  shard: Shard | None = None
  retry_failed: bool = False
  readers: int | None = None
  """Processes that read; None: one for each device, on a machine with accelerators two. On Ray those of an actor; None:
  one."""
  ray: RayOptions | None = None
  """The cluster that does the work; None: this process."""


@dataclasses.dataclass(frozen=True)
class Ended:
  """A scan that ended in this run, for whoever tells it."""

  record: Record
  number: int
  """Of those that ended."""
  total: int
  """That there were to do."""
  defect: str = ""
  """A traceback, where the program itself is at fault."""


@dataclasses.dataclass
class CohortReport:
  """What became of a list, this run and those before."""

  done: list[str] = dataclasses.field(default_factory=list)
  kept: list[str] = dataclasses.field(default_factory=list)
  """That were done before."""
  failed: dict[str, str] = dataclasses.field(default_factory=dict)
  """By name, of this run and those before, and why."""
  doubtful: dict[str, str] = dataclasses.field(default_factory=dict)
  """Of this run: why nothing in them is called found."""
  throughput: Throughput | None = None
  """None where there was nothing to do."""

  @property
  def exit_code(self) -> int:
    """1 if any scan failed, in this run or before."""
    return 1 if self.failed else 0


class Cohort:
  """A place of results that is ours alone while the block of `opened` runs."""

  def __init__(self, place: Place, options: CohortOptions, known: Manifest, book: ManifestWriter) -> None:
    self.place, self.options, self.known, self._book = place, options, known, book
    self._at_work = AtWork(place.folder)

  @property
  def folder(self) -> Path:
    """Of manifest and pages on this machine; of the results, unless they are behind an address."""
    return self.place.folder

  def plan(self, scans: Sequence[ListedScan], made_by: Mapping[str, Any], outputs: Sequence[str]) -> Plan:
    """What there is to do of a list, or of this shard of it.

    Raises:
      InputError: the folder has the results of another scan of the same name.
    """
    shard = self.options.shard
    mine = scans if shard is None else scans[shard.number - 1 :: shard.count]
    result = plan(mine, self.place, self.known, _plain(made_by), outputs, self.options.retry_failed)
    result.put_last(self._at_work.marked())
    return result

  def run(
    self,
    planned: Plan,
    made_by: Mapping[str, Any],
    make: Make,
    reading: ReadingOptions | None = None,
    tell: Callable[[Ended], None] | None = None,
  ) -> CohortReport:
    """Does what is planned. Each scan is recorded when its files are there, or when it failed.

    Args:
      made_by: what results depend on beside the scan; what `plan` was given.
      make: a scan's result.
      reading: how scans are read.
      tell: hears of each scan as it ends.

    Raises:
      OutputError: nothing can be written any more.
      HungError: a scan hangs; it is recorded as failed, and a new process can go on with the next one. This one has a
        thread that never ends.
    """
    report = CohortReport(kept=planned.done, failed=dict(planned.failed))
    if not planned.todo:
      return report
    made_by = _plain(made_by)
    name = manifest.name_of(made_by)
    if name not in self.known.made_by:
      self._book.says(made_by)
    stages = self._stages(planned.todo, make, reading or ReadingOptions())
    with stages, contextlib.closing(Board(self.folder)) as board:
      report.throughput = Throughput(stages.devices)
      self._collect(stages, board, name, len(planned.todo), report, tell)
    self._at_work.close()
    return report

  def _stages(
    self, todo: Sequence[ListedScan], make: Make, reading: ReadingOptions
  ) -> Stages[Made, Written] | RayStages:
    options = self.options
    if options.ray is None:
      return Stages(self._work(todo, make, reading), todo)
    orders = Orders(make, reading, options.limits, options.readers or 1, version())
    return RayStages(options.ray, orders, todo, self._publish)

  def _work(self, todo: Sequence[ListedScan], make: Make, reading: ReadingOptions) -> Work[Made, Written]:
    devices = platform.devices_for(len(todo))
    count = self.options.readers or max(len(devices), 1) * (1 if platform.backend() == "cpu" else 2)
    readers = [Reader(reading, self.options.limits) for _ in range(min(count, len(todo)))]

    def marked(scan: ListedScan, volume: Volume) -> Made:
      self._at_work.begin(scan.name)
      return make(scan, volume)

    return Work(readers, marked, self._write, devices, self.options.limits.seconds)

  def _write(self, made: Made) -> Written:
    self.place.write(made)
    return Written.of(made[0])

  def _publish(self, packed: Packed) -> Written:
    self.place.write_files(packed.files)
    if packed.wrong:
      raise InputError(packed.wrong)
    return packed.written

  def _collect(
    self,
    stages: Stages[Made, Written] | RayStages,
    board: Board,
    name: str,
    total: int,
    report: CohortReport,
    tell: Callable[[Ended], None] | None,
  ) -> None:
    assert report.throughput is not None
    said = time.monotonic()
    for number, outcome in enumerate(stages, 1):
      _raise_what_ends_all(outcome)
      for text in outcome.warned:
        notices.warn(text)
      record = _record(outcome, name, self.known.records.get(outcome.scan.name))
      if outcome.about is not None and outcome.about.sketch is not None:
        outcome.about.sketch.save(self.folder, record.scan)
        self.place.add_file(sketch.path_of("", record.scan))
      self._book.add(record)
      self._at_work.end(record.scan)
      self.known.records[record.scan] = record
      report.throughput.add(outcome)
      if record.state == "failed":
        report.failed[record.scan] = record.error
      else:
        report.done.append(record.scan)
        if record.doubts:
          report.doubtful[record.scan] = "; ".join(each.removeprefix(f"{outcome.scan}: ") for each in record.doubts)
      if tell is not None:
        tell(Ended(record, number, total, outcome.defect))
      if isinstance(outcome.error, HungError):
        raise HungError(
          f"{record.scan}: {record.error}; a device, its driver or a file system hangs, and this program with it. The "
          "scan is recorded as failed: the same command goes on with the others"
        ) from outcome.error
      if number == total or time.monotonic() - said > throughput.WRITE_EVERY_S:
        numbers = report.throughput.numbers()
        throughput.append(self.folder, numbers)
        board.add(numbers, len(self.known.records))
        said = time.monotonic()


@contextlib.contextmanager
def opened(out: str | os.PathLike[str], options: CohortOptions) -> Iterator[Cohort]:
  """A folder or address of results, new or from earlier runs, for this run alone.

  Raises:
    OutputError: another run works on it, or it cannot be written.
    InputError: its manifest is of another version.
    ConfigError: the cluster cannot be used, nor an address for what is asked.
  """
  with placed(out, options.shard) as place, connected(options.ray):
    known = manifest.read_folder(place.folder)
    with manifest.writer(place.folder, options.shard, place.add_line) as book:
      yield Cohort(place, options, known, book)


def _plain(made_by: Mapping[str, Any]) -> dict[str, Any]:
  """As it comes out of a file."""
  return json.loads(json.dumps(made_by))


def _raise_what_ends_all(outcome: Outcome[Written]) -> None:
  error = outcome.error
  if error is None:
    return
  if isinstance(error, MachineError) or not isinstance(error, Exception):
    raise error  # the latter is Ctrl-C that met a thread
  if isinstance(error, OutputError) and getattr(error.__cause__, "errno", None) in _NOBODY_CAN_WRITE:
    raise OutputError(f"{error}. Make room, and the same command goes on from here") from error


def _record(outcome: Outcome[Written], name: str, before: Record | None) -> Record:
  scan, about, identity = outcome.scan, outcome.about, outcome.identity
  if identity is None and not scan.wrong:
    with contextlib.suppress(InputError):  # to tell later whether the file is another one
      identity = Identity(**dataclasses.asdict(glance_at(place_of(scan))), sha256="")
  return Record(
    scan.name,
    place_of(scan),
    "done" if outcome.result is not None else "failed",
    name,
    identity,
    {} if outcome.result is None else outcome.result.verdicts,
    () if outcome.result is None else outcome.result.doubts,
    outcome.reason,
    {stage: round(seconds, 3) for stage, seconds in outcome.seconds.items()},
    None if about is None else about.body_mm,
    1 if before is None else before.tries + 1,
    datetime.now(UTC).isoformat(timespec="microseconds"),
  )
