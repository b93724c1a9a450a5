"""What became of each scan of a cohort: `manifest.jsonl`, a line of JSON for each, added and never changed.

Lines are of three kinds: the format (the first), `made_by` (what results are made with, by a short name), and the
record of a scan; of several records of a scan the last one counts. A line is written and on the disk before the next
scan is taken up, so that a kill costs the scans that were under way and no others; what a kill leaves of a line is cut
off when the manifest is opened again. Shards of a list write a file each, and all files of a folder are read together.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from medlsam_jax.cohort.identity import Identity
from medlsam_jax.cohort.lock import Shard
from medlsam_jax.errors import InputError, OutputError
from medlsam_jax.io.scan_names import is_one_name

FORMAT = "medlsam_jax cohort 1"
_FAMILY = "medlsam_jax cohort "
_NAME = re.compile(r"manifest(-\d+-of-\d+)?\.jsonl")


@dataclasses.dataclass(frozen=True)
class Record:
  """What became of one scan."""

  scan: str
  """What its results are called."""
  path: str
  state: Literal["done", "failed"]
  made_by: str
  """Name of what it was made with; see `name_of`."""
  input: Identity | None = None
  """None where the files could not be read."""
  verdicts: Mapping[str, str] = dataclasses.field(default_factory=dict)
  """By organ."""
  doubts: tuple[str, ...] = ()
  """Of the scan."""
  error: str = ""
  seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
  """By stage: read, wait (for a device), device, write."""
  body_mm: tuple[tuple[float, ...], ...] | None = None
  """Low and high corner of the body's outline, RAS mm (x, y, z)."""
  tries: int = 1
  ended: str = ""
  """UTC."""

  def line(self) -> str:
    """As a line of the manifest."""
    return json.dumps(dataclasses.asdict(self), allow_nan=False)

  @classmethod
  def of(cls, said: Mapping[str, Any]) -> Record:
    """Of a line.

    Raises:
      ValueError: a field is missing or unknown, or files of the scan's name would lie in another folder.
    """
    if not is_one_name(said.get("scan")):
      raise ValueError(f"{said.get('scan')!r:.60} is no name of a scan")
    try:
      given = dict(said) | {"doubts": tuple(said["doubts"])}
      given["input"] = None if said["input"] is None else Identity(**said["input"])
      given["body_mm"] = None if said["body_mm"] is None else tuple(map(tuple, said["body_mm"]))
      return cls(**given)
    except (KeyError, TypeError) as error:
      raise ValueError(f"no record of a scan ({error!r})") from error


@dataclasses.dataclass
class Manifest:
  """All that the manifests of a folder say."""

  records: dict[str, Record] = dataclasses.field(default_factory=dict)
  """The last one of each scan, by name."""
  made_by: dict[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
  """What results are made with, by its name."""
  damaged: list[str] = dataclasses.field(default_factory=list)
  """Lines that cannot be read, a sentence each; what they said is done again."""


def name_of(made_by: Mapping[str, Any]) -> str:
  """A short name for all that a result depends on beside its scan."""
  return hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:16]


def file_name(shard: Shard | None) -> str:
  """Of the manifest of a whole list, or of a part of it."""
  return "manifest.jsonl" if shard is None else f"manifest-{shard.number}-of-{shard.count}.jsonl"


def read_folder(folder: Path) -> Manifest:
  """All manifests of a folder, in the order in which scans ended; an empty one where there is none.

  Raises:
    InputError: one is of another version, or no manifest.
  """
  result, records = Manifest(), list[Record]()
  for path in sorted(folder.iterdir()) if folder.is_dir() else []:
    if _NAME.fullmatch(path.name):
      records += _read(path, result)
  for record in sorted(records, key=lambda each: each.ended):
    result.records[record.scan] = record
  return result


def _read(path: Path, result: Manifest) -> list[Record]:
  text = path.read_text(encoding="utf-8", errors="replace")
  *lines, rest = text.split("\n")
  records = []
  for number, line in enumerate(lines, 1):
    try:
      said = json.loads(line)
      if not isinstance(said, dict):
        raise ValueError("no object")
      if number == 1:
        _check_format(said, path)
      elif "made_by" in said and "scan" not in said:
        result.made_by[said["name"]] = said["made_by"]
      else:
        records.append(Record.of(said))
    except (ValueError, KeyError) as error:
      if number == 1:
        raise InputError(f"{path}: not a manifest of medlsam; move it away, or choose another --out") from error
      result.damaged.append(f"{path}, line {number}: cannot be read ({error}); what it said is done again")
  if rest:
    result.damaged.append(f"{path}: its last line was not written to its end; what it said is done again")
  return records


def _check_format(said: Mapping[str, Any], path: Path) -> None:
  written = str(said["format"])
  if written == FORMAT:
    return
  if written.startswith(_FAMILY):
    raise InputError(
      f"{path}: of another version of medlsam ({written}, here {FORMAT}); choose another --out, or go on with that one"
    )
  raise ValueError(written)


class ManifestWriter:
  """Adds lines to a manifest, each whole and on the disk when the call returns, or not there at all.

  Args:
    path: for messages.
    file: open.
    hear: hears of each line that was written, and may refuse it.
  """

  def __init__(self, path: Path, file: int, hear: Callable[[str], None] | None = None) -> None:
    self.path, self._file, self._hear = path, file, hear
    self._length = os.fstat(file).st_size
    if self._length == 0:
      self._add(json.dumps({"format": FORMAT}))

  def says(self, made_by: Mapping[str, Any]) -> str:
    """Writes what results are made with from here on; gives its name."""
    name = name_of(made_by)
    self._add(json.dumps({"name": name, "made_by": made_by}, allow_nan=False))
    return name

  def add(self, record: Record) -> None:
    """Writes what became of a scan.

    Raises:
      OutputError: it cannot be written; the manifest is as it was before.
    """
    self._add(record.line())

  def _add(self, line: str) -> None:
    content = memoryview((line + "\n").encode())
    length = self._length
    try:
      while content:
        written = os.pwrite(self._file, content, length)
        content, length = content[written:], length + written
      os.fsync(self._file)
    except OSError as error:
      with contextlib.suppress(OSError):
        os.ftruncate(self._file, self._length)
      raise OutputError(
        f"{self.path}: cannot be written ({error.strerror or error}); make room, and the same command goes on from here"
      ) from error
    self._length = length
    if self._hear is not None:
      self._hear(line + "\n")


@contextlib.contextmanager
def writer(folder: Path, shard: Shard | None, hear: Callable[[str], None] | None = None) -> Iterator[ManifestWriter]:
  """The manifest of a run, at whose end lines are added; half a line that a kill left there is cut off first.

  Raises:
    OutputError: it cannot be written.
  """
  path = folder / file_name(shard)
  try:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
  except OSError as error:
    raise OutputError(f"{path}: cannot be written ({error.strerror or error}); choose another folder") from error
  try:
    _cut_half_a_line(file)
    yield ManifestWriter(path, file, hear)
  finally:
    os.close(file)


def _cut_half_a_line(file: int) -> None:
  length = os.fstat(file).st_size
  start = length
  while start and os.pread(file, 1, start - 1) != b"\n":
    start -= 1
  if start < length:
    os.ftruncate(file, start)
