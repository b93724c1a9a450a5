"""One run at a time in a folder of results: a lock that ends with its process, however that ends.

The system holds it (flock), so nothing is left to clear after a kill. A whole run excludes every other; shards of one
count run beside each other, each with a lock of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from medlsam_jax.errors import ConfigError, OutputError

WHOLE = ".cohort.lock"
_SHARD_NAME = re.compile(r"\.cohort-(\d+)-of-(\d+)\.lock")


@dataclasses.dataclass(frozen=True)
class Shard:
  """Part `number` (from 1) of `count` parts of a list."""

  number: int
  count: int

  @classmethod
  def of(cls, text: str) -> Shard:
    """`3/8`.

    Raises:
      ConfigError: it is no such text.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
      raise ConfigError(f"--shard {text}: give which part of how many, such as 1/8 to 8/8")
    return cls(int(match[1]), int(match[2]))

  def __str__(self) -> str:
    return f"{self.number}/{self.count}"


@contextlib.contextmanager
def locked(folder: Path, shard: Shard | None = None) -> Iterator[None]:
  """Within, no other run works on the folder, unless both are shards of one count and not the same.

  Raises:
    OutputError: another run does, which is named; or the file system has no locks.
  """
  with contextlib.ExitStack() as held:
    if shard is None:
      whole = held.enter_context(_take(folder / WHOLE))
      _sign(whole)
    else:
      held.enter_context(_take(folder / WHOLE, shared=True))
      for path in _shard_locks(folder):
        if path.name != (own := _shard_lock(shard)) and not path.name.endswith(own.rpartition("-")[2]):
          with _take(path):
            pass
      _sign(held.enter_context(_take(folder / _shard_lock(shard))))
    yield


def _shard_lock(shard: Shard) -> str:
  return f".cohort-{shard.number}-of-{shard.count}.lock"


def _shard_locks(folder: Path) -> list[Path]:
  return [path for path in sorted(folder.iterdir()) if _SHARD_NAME.fullmatch(path.name)]


@contextlib.contextmanager
def _take(path: Path, shared: bool = False) -> Iterator[int]:
  """The open file of a lock that is held."""
  import fcntl

  try:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
  except OSError as error:
    raise OutputError(f"{path}: cannot be written ({error.strerror or error}); choose another folder") from error
  try:
    fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
  except BlockingIOError as error:
    os.close(file)
    raise OutputError(
      f"{path.parent}: another run works on this folder ({_holders(path)}); wait for it, end it, or use another --out"
    ) from error
  except OSError as error:
    os.close(file)
    raise OutputError(
      f"{path}: the file system there has no locks ({error.strerror or error}), so that two runs could meet; choose "
      "another --out"
    ) from error
  try:
    yield file
  finally:
    os.close(file)


def _sign(file: int) -> None:
  """Says who holds a lock, for whoever meets it."""
  text = f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n"
  with contextlib.suppress(OSError):  # a full disk: the lock holds without a name
    os.ftruncate(file, 0)
    os.pwrite(file, text.encode(), 0)


def _holders(path: Path) -> str:
  """Who holds the lock; of shared ones, the shards that are at work."""
  import fcntl

  held = []
  for each in (path, *_shard_locks(path.parent)):
    with open(each, "rb") as file:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except OSError:
        match = _SHARD_NAME.fullmatch(each.name)
        who = file.read(200).decode(errors="replace").strip()
        if match or each == path:
          held.append((f"shard {match[1]}/{match[2]}, " if match else "") + who)
  named = [who for who in held if who]
  return "; ".join(named) or "it does not say which"
