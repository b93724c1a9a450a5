"""Where a cohort's results go: a folder, or an address (`gs://`, `s3://`) with a folder here that mirrors its records.

Behind an address nothing can be locked or added to, and no two files appear together. What holds there:

- an object appears whole or not at all; of a scan's results the boxes come last, so that with them all are there;
- each line of the manifest is an object of its own (`RECORDS`) until the run ends, when one `manifest.jsonl` takes
  their place. Both are read by the next run;
- one run at a time, by an object (`CLAIM`) that is made only where there is none. A killed run leaves it; the next run
  of the same machine sees that its owner is dead, by a lock of this machine, and a run of another machine is refused.

File systems that do not promise the last are refused (`CLAIMABLE`).
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from medlsam_jax import notices
from medlsam_jax.cohort import at_work, manifest, sketch, throughput
from medlsam_jax.cohort.lock import Shard, locked
from medlsam_jax.cohort.outcome import Made
from medlsam_jax.errors import ConfigError, InputError, MedlsamError, OutputError
from medlsam_jax.installation import install_hint
from medlsam_jax.io import addresses, scan_result
from medlsam_jax.io.atomic import clear_scratch, folder_for
from medlsam_jax.io.scan_result import BOXES

CLAIM = ".cohort.claim"
RECORDS = ".cohort-records"
CLAIMABLE = ("gs", "gcs", "s3", "s3a", "memory")
"""Protocols whose drivers make an object only where there is none, in one step."""


class Place:
  """A folder of results on this machine."""

  def __init__(self, folder: Path, shown: str) -> None:
    self.folder, self.shown = folder, shown

  def has(self, names: Iterable[str]) -> list[bool]:
    """Which of these files are there."""
    return [(self.folder / name).exists() for name in names]

  def write(self, made: Made) -> None:
    """Writes a scan's results, all of them or none.

    Raises:
      InputError: a format of the label map cannot be written; the other files are.
      OutputError: they cannot be written.
    """
    result, provenance = made
    result.write(self.folder, provenance)

  def write_files(self, files: Mapping[str, bytes]) -> None:
    """The same of results that are files already."""
    scan_result.write_files(self.folder, files)

  def add_line(self, line: str) -> None:
    """Hears of each line of the manifest, which is in the folder already."""

  def add_file(self, name: str | Path) -> None:
    """Hears of a file that was written in the folder."""

  def fetch(self, scans: Sequence[str]) -> None:
    """Sees to it that the boxes and sketches of scans are in the folder, for the pages."""


class RemotePlace(Place):
  """An address, with a folder of this machine for records, pages and boxes; claimed."""

  def __init__(self, address: str, folder: Path) -> None:
    super().__init__(folder, address)
    self._fs, self._root = addresses.opened(address)
    self._there: set[str] = set()
    self._same = {CLAIM}
    """Files that are the same here and there."""
    self._records = 0

  def load(self) -> None:
    """Brings the manifest here, with the lines that a killed run left as objects.

    Raises:
      InputError: it cannot be read.
    """
    with addresses.said_of(self.shown):
      self._fs.invalidate_cache()
      names = [entry.rstrip("/").rpartition("/")[2] for entry in self._fs.ls(self._root, detail=False)]
      self._there = set(names)
      lines: list[str] = []
      if (name := manifest.file_name(None)) in self._there:
        lines = self._fs.cat_file(f"{self._root}/{name}").decode("utf-8", "replace").splitlines(keepends=True)
      if throughput.FILE in self._there:
        (self.folder / throughput.FILE).write_bytes(self._fs.cat_file(f"{self._root}/{throughput.FILE}"))
      known = set(lines)
      parts = self._parts()
      for part, content in sorted(self._fs.cat(parts).items()) if parts else []:
        self._records = max(self._records, int(part.rpartition("/")[2].partition(".")[0]))
        lines += [line for line in content.decode().splitlines(keepends=True) if line not in known]
    if lines:
      (self.folder / name).write_text("".join(lines), encoding="utf-8")

  def has(self, names: Iterable[str]) -> list[bool]:
    """Which of these files are there."""
    return [name in self._there for name in names]

  def write(self, made: Made) -> None:
    """Writes a scan's results; what is there of them after an error no record speaks of."""
    result, provenance = made
    files, wrong = result.files(provenance)
    self.write_files(files)
    if wrong:
      raise InputError(wrong)

  def write_files(self, files: Mapping[str, bytes]) -> None:
    """The same of results that are files already."""
    for name in sorted(files, key=lambda each: (each.endswith(BOXES), each)):
      self._put(name, files[name])
      if name.endswith(BOXES):
        self._keep(name, files[name])
    self._there.update(files)

  def add_line(self, line: str) -> None:
    """Keeps a line of the manifest as an object."""
    self._records += 1
    self._put(f"{RECORDS}/{self._records:09}.jsonl", line.encode(), mode="create")

  def add_file(self, name: str | Path) -> None:
    """Brings a file there."""
    self._put(str(name), (self.folder / name).read_bytes())
    self._same.add(str(name))

  def fetch(self, scans: Sequence[str]) -> None:
    """Copies what earlier runs made here."""
    with addresses.said_of(self.shown):
      self._fs.invalidate_cache()
      there = {path.removeprefix(f"{self._root}/"): path for path in self._fs.find(self._root)}
      wanted = [name for scan in scans for name in (scan + BOXES, str(sketch.path_of("", scan)))]
      missing = [there[name] for name in wanted if name in there and not (self.folder / name).exists()]
      for path, content in self._fs.cat(missing).items() if missing else []:
        self._keep(path.removeprefix(f"{self._root}/"), content)

  def _keep(self, name: str, content: bytes) -> None:
    (self.folder / name).parent.mkdir(exist_ok=True)
    (self.folder / name).write_bytes(content)
    self._same.add(name)

  def close(self) -> None:
    """Makes one manifest of the objects, and brings there what else is here alone.

    Raises:
      OutputError: it cannot be written; the objects stay.
    """
    for path in sorted(self.folder.rglob("*")):
      name = str(path.relative_to(self.folder))
      if path.is_file() and name not in self._same and path.parent.name != at_work.FOLDER:
        self.add_file(name)
    with addresses.said_of(self.shown):
      if parts := self._parts():
        self._fs.rm(parts)

  def _parts(self) -> list[str]:
    self._fs.invalidate_cache()
    return [path for path in self._fs.find(f"{self._root}/{RECORDS}") if path.endswith(".jsonl")]

  def _put(self, name: str, content: bytes, **how: Any) -> None:
    try:
      self._fs.pipe_file(f"{self._root}/{name}", content, **how)
    except FileExistsError as error:
      raise OutputError(f"{self.shown}: another run writes there; this one ends") from error
    except Exception as error:
      said = " ".join(str(error).split()) or type(error).__name__
      raise OutputError(f"{addresses.join(self.shown, name)}: cannot be written ({said})") from error


@contextlib.contextmanager
def placed(out: str | os.PathLike[str], shard: Shard | None) -> Iterator[Place]:
  """A place for results, new or from earlier runs, for this run alone.

  Raises:
    OutputError: another run works on it, or it cannot be written.
    ConfigError: a shard with an address, or an address where runs cannot exclude each other.
    InputError: an address that cannot be read.
  """
  text = os.fspath(out)
  if not addresses.is_address(text):
    with folder_for(out) as folder, locked(folder, shard):
      clear_scratch(folder)
      yield Place(folder, text)
    return
  protocol, address = text.partition("://")[0].lower(), text.rstrip("/")
  if shard is not None:
    raise ConfigError(f"--shard: parts of a list need a folder that all see, not {address}; --ray does without them")
  if protocol not in CLAIMABLE:
    raise ConfigError(f"{address}: runs cannot exclude each other there; give a folder, gs:// or s3://")
  with tempfile.TemporaryDirectory(prefix="medlsam-") as mirror, _claimed(address):
    place = RemotePlace(address, Path(mirror))
    place.load()
    try:
      yield place
    finally:
      place.close()


@contextlib.contextmanager
def _claimed(address: str) -> Iterator[None]:
  """Within, no other run works behind the address."""
  fs, root = addresses.opened(address)
  claim = f"{root}/{CLAIM}"
  lock = Path(tempfile.gettempdir()) / f"medlsam-{os.getuid()}-{sha256(address.encode()).hexdigest()[:16]}"
  lock.mkdir(mode=0o700, exist_ok=True)
  with contextlib.ExitStack() as held:
    try:
      held.enter_context(locked(lock))
    except OutputError as error:
      raise OutputError(str(error).replace(f"{lock}:", f"{address}:")) from error
    content = json.dumps({"owner": _owner(lock), "who": _who()}).encode()
    with _said_of_claim(address):
      _check_exclusive(address)
      try:
        fs.pipe_file(claim, content, mode="create")
      except FileExistsError:
        _take_over(address, fs.cat_file(claim), content)
        fs.pipe_file(claim, content)
    try:
      yield
    finally:
      try:
        fs.rm_file(claim)
      except Exception as error:
        notices.warn(f"{address}: the claim {CLAIM} could not be removed ({error}); remove it before the next run")


def _check_exclusive(address: str) -> None:
  """Tries whether an object can be made only where there is none: older drivers overwrite without a word.

  Raises:
    ConfigError: it cannot.
  """
  fs, root = addresses.opened(address)
  probe = f"{root}/{CLAIM}-{secrets.token_hex(8)}"
  fs.pipe_file(probe, b"", mode="create")
  try:
    fs.pipe_file(probe, b"", mode="create")
  except FileExistsError:
    return
  finally:
    fs.rm_file(probe)
  raise ConfigError(
    f"{address}: the driver here overwrites what should be made once, so that two runs could meet; "
    f"{install_hint('cloud')} brings newer ones"
  )


def _take_over(address: str, there: bytes, own: bytes) -> None:
  """Returns if the run that left a claim is dead.

  Raises:
    OutputError: it may be alive.
  """
  try:
    left, ours = json.loads(there), json.loads(own)
    dead, who = left["owner"] == ours["owner"], left["who"]
  except (ValueError, KeyError, TypeError):
    dead, who = False, "it does not say which"
  if not dead:
    raise OutputError(
      f"{address}: another run works there, or was killed on another machine ({who}); if it has ended, remove "
      f"{addresses.join(address, CLAIM)}, and the same command goes on"
    )


def _owner(lock: Path) -> list[object]:
  """What another run has alike only if it holds this machine's lock: the lock's own file, since the machine started."""
  stat = lock.stat()
  try:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
  except OSError:
    boot = socket.gethostname()
  return [boot, stat.st_dev, stat.st_ino]


def _who() -> str:
  return f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"


@contextlib.contextmanager
def _said_of_claim(address: str) -> Iterator[None]:
  try:
    yield
  except MedlsamError:
    raise
  except Exception as error:
    said = " ".join(str(error).split()) or type(error).__name__
    raise OutputError(f"{address}: cannot be written ({said})") from error
