"""Scans in any format -> a prepared set (`shards`), in parallel, restartable, bad scans reported and left out.

Each finished scan is kept in `parts/` until its shard is written, so that a stopped run redoes nothing.
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import fsspec
from array_record.python import array_record_module
from fsspec.implementations.local import LocalFileSystem

from medlsam_jax.errors import InputError, MedlsamError, OutputError
from medlsam_jax.io import dicom
from medlsam_jax.io.atomic import made_folder
from medlsam_jax.io.scans import ListedScan, ReadingOptions, scan_name
from medlsam_jax.medlam.pretraining import shards
from medlsam_jax.medlam.pretraining.crops import TrainingScan
from medlsam_jax.medlam.pretraining.shards import Row
from medlsam_jax.progress import Progress
from medlsam_jax.working_grid import to_working_grid

PARTS, REPORT = "parts", "report.json"
# one scan a group: a random scan is read without its neighbours
_WRITER = "group_size:1,zstd:3"


_Outcome = tuple[str, str | None, list[str]]
"""Key of a scan, what was wrong with it, why it is doubtful."""


@dataclasses.dataclass(frozen=True)
class _Reading:
  """How scans are read and stored."""

  options: ReadingOptions
  bits: int


@dataclasses.dataclass(frozen=True)
class Report:
  """What became of a list: scans in the set, those that were there before, and source and reason of the bad ones."""

  scans: int
  kept: int
  bad: tuple[dict[str, str], ...]
  doubtful: tuple[dict[str, str], ...] = ()
  """Of those that this call added: source and why the values may be no HU of a body."""


def prepare(
  sources: Sequence[ListedScan | Path],
  folder: str,
  workers: int = 1,
  scans_per_shard: int = 64,
  progress: Progress = lambda done, total: None,
  options: ReadingOptions | None = None,
  bits: int = 16,
) -> Report:
  """Prepares scans into `folder` (a path or an address), going on where an earlier call stopped.

  Args:
    sources: of `list_scans`, or NIfTI files and DICOM folders.
    folder: the set; finished shards in it are kept.
    workers: processes; each holds one scan at a time.
    scans_per_shard: 64 scans are about 200 MB.
    progress: called with scans done and in all.
    options: how they are read; a scan that was prepared with others is prepared again.
    bits: of a stored intensity, 16 or 8 (a third of the space).

  Raises:
    InputError: no scan can be used, a worker died (what is finished is kept), or the set has other bits.
    OutputError: the set cannot be written.
  """
  if not sources:
    raise InputError("nothing to prepare: the list is empty")
  scans = [each if isinstance(each, ListedScan) else ListedScan(each, scan_name(each)) for each in sources]
  try:
    store = _Store(folder)
    with store.under_way():
      reading = _Reading(options or ReadingOptions(), bits)
      report = _add(scans, store, workers, scans_per_shard, progress, reading)
  except OSError as error:
    raise OutputError(f"{folder}: cannot be written ({error}); what is finished is kept") from error
  if not report.scans:
    first = f"; the first: {report.bad[0]['error']}" if report.bad else ""
    raise InputError(f"no scan of {len(sources)} could be used; see {shards.join(folder, REPORT)}{first}")
  return report


def write_set(scans: Sequence[TrainingScan], folder: str, bits: int = 16, scans_per_shard: int = 64) -> None:
  """Writes scans that are made already (intensity float32 in [0, 1]) as a set; one that is there is left as it is.

  Raises:
    OutputError: the set cannot be written.
  """
  store = _Store(folder)
  try:
    if store.finished():
      return
    with store.under_way():
      for first in range(0, len(scans), scans_per_shard):
        keys = [f"{number:06d}" for number, _ in enumerate(scans[first : first + scans_per_shard], first)]
        for key, scan in zip(keys, scans[first : first + scans_per_shard], strict=True):
          store.add(key, _row(scan, bits) | {"source": scan.name}, shards.encode(scan, bits))
        store.pack(first // scans_per_shard, keys)
      store.write_index()
  except OSError as error:
    raise OutputError(f"{folder}: cannot be written ({error})") from error


def _row(scan: TrainingScan, bits: int) -> Row:
  """What the index says of a scan whatever it came from."""
  return {
    "name": scan.name,
    "shape": list(scan.intensity.shape),
    "body_box": scan.body_box.tolist(),
    "air_share": round(scan.air_share, 4),
    "bits": bits,
  }


def _add(
  scans: Sequence[ListedScan],
  store: _Store,
  workers: int,
  scans_per_shard: int,
  progress: Progress,
  reading: _Reading,
) -> Report:
  """Prepares what is not in the set, and writes report and, where it has a scan, index."""
  rows, waiting = store.finished(), store.parts()
  other = {row.get("bits", 16) for row in [*rows, *map(store.part, waiting)]} - {reading.bits}
  if other:
    raise InputError(f"{store.folder}: holds scans of {other.pop()} bits, not {reading.bits}; choose another folder")
  known = {row["key"] for row in rows} | set(waiting)
  # by key, so that a scan listed twice is prepared once
  keyed = {key_of(scan.path, reading.options): scan for scan in scans}
  todo = {key: scan for key, scan in keyed.items() if key not in known}
  bad, doubtful, kept = [], [], len(keyed.keys() & known)
  shard = len({row["shard"] for row in rows})
  for done, (key, error, doubts) in enumerate(_run(todo, store, workers, reading), kept + 1):
    progress(done, len(scans))
    if doubts:
      doubtful.append({"source": str(todo[key]), "doubt": "; ".join(doubts)})
    if error is None:
      waiting.append(key)
    else:
      bad.append({"source": str(todo[key]), "error": error})
    if len(waiting) >= scans_per_shard:
      store.pack(shard, waiting[:scans_per_shard])
      del waiting[:scans_per_shard]
      shard += 1
  if waiting:
    store.pack(shard, waiting)
  store.write(REPORT, json.dumps({"bad": bad, "doubtful": doubtful}, indent=1).encode())
  return Report(store.write_index(), kept, tuple(bad), tuple(doubtful))


def key_of(source: Path, options: ReadingOptions | None = None) -> str:
  """Names a source, the state of its files on disk and how it is read: what was changed is prepared again."""
  told = [str(source.absolute())]
  folder = _folder_of(source)
  for path in [source] if folder is None else _files_below(folder):
    stamp = path.stat() if path.exists() else None
    name = "" if folder is None else f"{path.relative_to(folder)}|"
    told.append(f"{name}{stamp and stamp.st_size}|{stamp and stamp.st_mtime_ns}")
  if options is not None and options != ReadingOptions():
    told.append(repr(options))
  return hashlib.sha256("|".join(told).encode()).hexdigest()[:24]


def digest_of(source: Path) -> str:
  """SHA-256 of a file, or of all files of a DICOM folder in the order of their names."""
  digest, folder = hashlib.sha256(), _folder_of(source)
  for path in [source] if folder is None else _files_below(folder):
    digest.update(path.read_bytes())
  return digest.hexdigest()


def _folder_of(source: Path) -> Path | None:
  """The folder whose files are read for a source; None where that is the source alone."""
  if source.is_dir():
    return source
  return source.parent if dicom.is_dicom_file(source) else None


def _files_below(folder: Path) -> list[Path]:
  return sorted(path for path in folder.rglob("*") if path.is_file())


def prepare_one(scan: ListedScan, options: ReadingOptions, alone: bool = True, bits: int = 16) -> tuple[Row, bytes]:
  """Row of the index and record of one scan.

  Raises:
    InputError: it cannot be used.
  """
  volume, source = options.read(scan, alone), scan.path
  made = TrainingScan.of(scan.name, to_working_grid(volume).intensity)
  row = _row(made, bits) | {
    "source": str(source),
    "sha256": digest_of(source),
    "source_spacing_mm": [round(float(s), 5) for s in volume.spacing_mm],
    "doubts": list(volume.doubts),
  }
  return row, shards.encode(made, bits)


def _work(key: str, scan: ListedScan, folder: str, reading: _Reading, alone: bool) -> _Outcome:
  """In a worker: one scan into `parts/`; what was wrong with it, if it is bad, and its doubts."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      row, record = prepare_one(scan, reading.options, alone, reading.bits)
  except (MedlsamError, OSError, ValueError, MemoryError) as error:
    return key, f"{type(error).__name__}: {error}", []
  _Store(folder).add(key, row, record)
  return key, None, row["doubts"]


def _run(todo: dict[str, ListedScan], store: _Store, workers: int, reading: _Reading) -> Iterator[_Outcome]:
  alone = len(todo) == 1
  if workers <= 1:
    for key, scan in todo.items():
      yield _work(key, scan, store.folder, reading, alone)
    return
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
    futures = [pool.submit(_work, key, scan, store.folder, reading, alone) for key, scan in todo.items()]
    try:
      for future in concurrent.futures.as_completed(futures):
        yield future.result()
    except concurrent.futures.process.BrokenProcessPool as error:
      raise InputError(
        "a worker process died, perhaps for lack of memory; run the same command again with fewer --workers: "
        "finished scans are kept"
      ) from error
    finally:
      pool.shutdown(cancel_futures=True)


class _Store:
  """Files of a set under way."""

  def __init__(self, folder: str):
    self.folder = folder
    self.fs, self.root = fsspec.core.url_to_fs(folder)

  @contextlib.contextmanager
  def under_way(self) -> Iterator[None]:
    """Has a place for parts; on this machine no folder stays that is empty when the block ends."""
    parts = f"{self.root}/{PARTS}"
    if not isinstance(self.fs, LocalFileSystem):
      self.fs.makedirs(parts, exist_ok=True)
      yield
      return
    with made_folder(self.root):
      os.makedirs(parts, exist_ok=True)
      try:
        yield
      finally:
        with contextlib.suppress(OSError):
          os.rmdir(parts)

  def write(self, name: str, content: bytes) -> None:
    """A file that appears whole."""
    temporary = f"{self.root}/{name}.{os.getpid()}.tmp"
    self.fs.pipe_file(temporary, content)
    self.fs.mv(temporary, f"{self.root}/{name}")

  def parts(self) -> list[str]:
    """Keys of scans that are finished and in no shard."""
    packed = {row["key"] for row in self.finished()}
    names = [entry.rpartition("/")[2] for entry in self.fs.ls(f"{self.root}/{PARTS}", detail=False)]
    return sorted(name for name in names if name and not name.endswith(".tmp") and name not in packed)

  def add(self, key: str, row: Mapping[str, object], record: bytes) -> None:
    """Keeps a finished scan until its shard is written."""
    self.write(f"{PARTS}/{key}", json.dumps({**row, "key": key}).encode() + b"\n" + record)

  def part(self, key: str) -> Row:
    """Row of a scan that is finished and in no shard."""
    return cast(Row, json.loads(self.fs.cat_file(f"{self.root}/{PARTS}/{key}").partition(b"\n")[0]))

  def finished(self) -> list[Row]:
    """Rows of all scans in finished shards, in order."""
    rows = []
    for path in sorted(self.fs.glob(f"{self.root}/scans-*.json")):
      rows += json.loads(self.fs.cat_file(path))["scans"]
    return rows

  def pack(self, number: int, keys: list[str]) -> None:
    """Writes a shard of finished scans, then the note that it is complete, then removes the parts."""
    name, rows = shards.SHARD.format(number=number), []
    with tempfile.TemporaryDirectory() as scratch:
      local = Path(scratch, name)
      writer = array_record_module.ArrayRecordWriter(str(local), _WRITER)
      for record, key in enumerate(keys):
        line, _, content = self.fs.cat_file(f"{self.root}/{PARTS}/{key}").partition(b"\n")
        writer.write(content)
        rows.append(json.loads(line) | {"shard": number, "record": record})
      writer.close()
      digest = hashlib.sha256(local.read_bytes()).hexdigest()
      size = local.stat().st_size
      self.fs.put_file(str(local), f"{self.root}/{name}.tmp")
      self.fs.mv(f"{self.root}/{name}.tmp", f"{self.root}/{name}")
    shard = {"file": name, "records": len(keys), "bytes": size, "sha256": digest}
    note = name.replace(".arrayrecord", ".json")
    self.write(note, json.dumps({"shard": shard, "scans": rows}).encode())
    for key in keys:
      self.fs.rm_file(f"{self.root}/{PARTS}/{key}")

  def write_index(self) -> int:
    """The index of all finished shards, if there are any; the number of scans."""
    notes = [json.loads(self.fs.cat_file(p)) for p in sorted(self.fs.glob(f"{self.root}/scans-*.json"))]
    rows = [row for note in notes for row in note["scans"]]
    if not rows:
      return 0
    dtype = f"uint{rows[0].get('bits', 16)}"
    content = {"format": shards.FORMAT, "dtype": dtype, "shards": [n["shard"] for n in notes], "scans": rows}
    self.write(shards.INDEX, json.dumps(content, indent=1).encode())
    return len(rows)
