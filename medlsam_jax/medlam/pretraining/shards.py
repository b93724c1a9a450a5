"""Prepared sets: scans on the working grid as records of ArrayRecord shards, and a JSON index beside them.

A set is a folder or an address (gs://, s3:// and whatever else fsspec has a driver for) with `index.json` and
`scans-00000.arrayrecord` ... A record is a line of JSON (name, shape, body box, share of air, bits) followed by the
intensities as little-endian unsigned integers of 16 or 8 bits, the largest being 1, in the order z, y, x.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from collections.abc import Sequence
from typing import Any

import fsspec
import numpy as np
from array_record.python import array_record_module

from medlsam_jax.errors import InputError
from medlsam_jax.medlam.pretraining.crops import TrainingScan
from medlsam_jax.train.run_folder import local_copy

Row = dict[str, Any]
"""A shard or a scan, as the index tells of it in JSON."""
FORMAT = "medlsam_jax scans 1"
INDEX = "index.json"
SHARD = "scans-{number:05d}.arrayrecord"


def join(folder: str, name: str) -> str:
  """A file of a folder that may be an address."""
  return f"{folder.rstrip('/')}/{name}"


BITS = (16, 8)
"""Of a stored intensity. With 8 a step is 2.6 HU of soft tissue, 16 of lung and 26 of bone (`working_grid`)."""


def encode(scan: TrainingScan, bits: int = 16) -> bytes:
  """A record of a scan whose intensity is float32 in [0, 1]."""
  head = {
    "name": scan.name, "shape": list(scan.intensity.shape), "body_box": scan.body_box.tolist(),
    "air_share": round(scan.air_share, 4), "bits": bits,
  }  # fmt: skip
  stored = np.round(scan.intensity * (2**bits - 1)).astype(f"<u{bits // 8}")
  return json.dumps(head).encode() + b"\n" + stored.tobytes()


def decode(record: bytes, place: str = "record") -> TrainingScan:
  """The scan of a record, as uint16 or uint8.

  Raises:
    InputError: not a record of ours, or a part of one.
  """
  try:
    line, _, values = record.partition(b"\n")
    head = json.loads(line)
    intensity = np.frombuffer(values, f"<u{head.get('bits', 16) // 8}").reshape(head["shape"])
    return TrainingScan(head["name"], intensity, np.array(head["body_box"]), head["air_share"])
  except (ValueError, KeyError, TypeError) as error:
    raise InputError(f"{place}: not a prepared scan ({error}); run: medlsam data check") from error


@dataclasses.dataclass(frozen=True)
class Index:
  """What `index.json` says: one row a shard (`file`, `records`, `bytes`, `sha256`) and one a scan, in record order."""

  folder: str
  shards: tuple[Row, ...]
  scans: tuple[Row, ...]

  @property
  def fingerprint(self) -> str:
    """Changes when any shard does."""
    return hashlib.sha256(json.dumps([s["sha256"] for s in self.shards]).encode()).hexdigest()[:16]


def read_index(folder: str) -> Index:
  """The index of a prepared set.

  Raises:
    InputError: no such set, one that is not of this version, or an empty one.
  """
  path = join(folder, INDEX)
  try:
    with fsspec.open(path, "rb") as file:
      content = json.load(file)
  except (OSError, ValueError, ImportError) as error:
    raise InputError(f"{path}: cannot be read ({error}); make a set with: medlsam data prepare") from error
  if not isinstance(content, dict) or content.get("format") != FORMAT:
    raise InputError(f"{path}: not the index of a prepared set of this version ({FORMAT}); prepare it anew")
  if not content["scans"]:
    raise InputError(f"{path}: lists no scans; see report.json beside it for what was wrong with them")
  return Index(folder, tuple(content["shards"]), tuple(content["scans"]))


class ShardReader:
  """Scans of some shards of a set by position; files are opened when first needed, anew in each process.

  Shards behind an address are copied to `cache` first.
  """

  def __init__(self, index: Index, numbers: Sequence[int], cache: str = ""):
    self.index, self.cache = index, cache
    self.positions = [(n, record) for n in numbers for record in range(index.shards[n]["records"])]
    self._open: dict[int, Any] = {}
    self._lock = threading.Lock()

  def __len__(self) -> int:
    return len(self.positions)

  def __getitem__(self, position: int) -> TrainingScan:
    number, record = self.positions[position]
    place = join(self.index.folder, self.index.shards[number]["file"])
    try:
      (content,) = self._reader(number, place).read([record])
    except InputError:
      raise
    except Exception as error:  # the reader raises whatever its C++ side makes of a damaged file
      raise InputError(f"{place}: record {record} cannot be read ({error}); run: medlsam data check") from error
    return decode(content, f"{place}, record {record}")

  def _reader(self, number: int, place: str) -> Any:
    with self._lock:
      if number not in self._open:
        self._open[number] = open_shard(place, self.index.shards[number]["records"], self.cache)
      return self._open[number]

  def __getstate__(self) -> dict[str, object]:
    return {"index": self.index, "cache": self.cache, "positions": self.positions}

  def __setstate__(self, state: dict[str, object]) -> None:
    self.__dict__.update(state, _open={}, _lock=threading.Lock())


def open_shard(place: str, records: int, cache: str = "") -> Any:
  """A reader of one shard.

  Raises:
    InputError: the shard is missing, truncated, or holds another number of records.
  """
  try:
    local = local_copy(place, cache)
    reader = array_record_module.ArrayRecordReader(local, options="readahead_buffer_size:0")
    held = reader.num_records() if reader.ok() else 0
  except Exception as error:  # see ShardReader
    raise InputError(f"{place}: cannot be read ({error}); run: medlsam data check") from error
  if held != records:
    raise InputError(f"{place}: holds {held} scans, not the {records} of the index; run: medlsam data check")
  return reader


def check(folder: str, cache: str = "") -> list[str]:
  """What is wrong with a prepared set: missing, truncated or changed shards and scans; empty when nothing is.

  Raises:
    InputError: the index cannot be read.
  """
  index, problems, wanted = read_index(folder), list[str](), 0
  for number, row in enumerate(index.shards):
    place = join(folder, row["file"])
    try:
      with fsspec.open(place, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # fsspec's type says less
      if digest != row["sha256"]:
        problems.append(f"{place}: its bytes have changed since it was prepared")
      reader = ShardReader(index, [number], cache)
      for position, scan in enumerate(index.scans[wanted : wanted + row["records"]]):
        if list(reader[position].intensity.shape) != scan["shape"]:
          problems.append(f"{place}, record {position}: not the scan that the index names ({scan['source']})")
    except (OSError, InputError) as error:
      problems.append(f"{place}: {error}")
    wanted += row["records"]
  if wanted != len(index.scans):
    problems.append(f"{join(folder, INDEX)}: names {len(index.scans)} scans, its shards {wanted}")
  return problems
