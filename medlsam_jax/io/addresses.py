"""Files behind addresses, `gs://`, `s3://` and what else fsspec has a driver for: listed, looked at, copied here.

What a driver raises differs by driver; from here come only `InputError`s that name the address.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from medlsam_jax.errors import InputError, MedlsamError
from medlsam_jax.installation import install_hint

Info: TypeAlias = Mapping[str, Any]
"""What fsspec tells of a file: `name`, `size`, `type`, and when it was changed, which each driver calls otherwise."""
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://.")
_CHANGED = ("LastModified", "mtime", "updated", "last_modified", "created")


class NotThereError(InputError):
  """There is nothing behind an address."""


def is_address(text: str) -> bool:
  """Whether it begins as `gs://` does."""
  return _ADDRESS.match(text) is not None


def join(folder: str, name: str) -> str:
  """A file of a folder behind an address."""
  return f"{folder.rstrip('/')}/{name}"


def opened(address: str) -> tuple[Any, str]:
  """The file system of an address, and the path there.

  Raises:
    InputError: fsspec or the driver is not installed, or there is none.
  """
  try:
    import fsspec

    return fsspec.core.url_to_fs(address)
  except ImportError as error:
    raise InputError(f"{address}: needs packages that are not here ({error}); run: {install_hint('cloud')}") from error
  except ValueError as error:
    raise InputError(f"{address}: {error}") from error


@contextlib.contextmanager
def said_of(address: str) -> Iterator[None]:
  """What goes wrong in the block is said of the address.

  Raises:
    InputError: whatever a driver raised; `NotThereError` where it says so.
  """
  try:
    yield
  except MedlsamError:
    raise
  except FileNotFoundError as error:
    raise NotThereError(f"{address}: not there") from error
  except Exception as error:
    said = " ".join(str(error).split()) or type(error).__name__
    raise InputError(f"{address}: cannot be read ({said})") from error


def read_text(address: str) -> str:
  """A text file.

  Raises:
    InputError: it cannot be read, or is no UTF-8.
  """
  fs, path = opened(address)
  with said_of(address):
    return fs.cat_file(path).decode("utf-8-sig")


def names_below(address: str) -> list[str]:
  """Files of a folder and of those below it, relative to it, in order; empty where there is no such folder.

  Raises:
    InputError: it cannot be listed.
  """
  fs, path = opened(address)
  with said_of(address):
    fs.invalidate_cache()
    return sorted(map(str, _inside(path, fs.find(path))))


def copy_here(address: str, folder: Path) -> Path:
  """Copies a file, or a folder with all below it; gives where it lies, under its own name.

  Raises:
    InputError: it cannot be read, or has a file that would lie elsewhere.
  """
  fs, path = opened(address)
  target = folder / PurePosixPath(path).name
  with said_of(address):
    if fs.isfile(path):
      fs.get_file(path, str(target))
      return target
    names = fs.find(path)
    if not names:
      raise NotThereError(f"{address}: not there")
    for name, inside in zip(names, _inside(path, names), strict=True):
      if ".." in inside.parts:
        raise InputError(f"{address}: has a file called {inside}, which would be written outside its folder")
      (target / inside).parent.mkdir(parents=True, exist_ok=True)
      fs.get_file(name, str(target / inside))
  return target


@dataclasses.dataclass(frozen=True)
class Seen:
  """Of a file or of all files of a folder: sizes together, how many, and when the latest was changed, ns since 1970; 0
  where the driver does not tell."""

  bytes: int
  files: int
  changed_ns: int


class Listing:
  """What lies in folders behind addresses: each folder is asked for once, not each of its files."""

  def __init__(self) -> None:
    self._folders: dict[tuple[int, str], dict[str, Info]] = {}

  def see(self, address: str) -> Seen:
    """A file, or the files of a folder.

    Raises:
      InputError: it is not there, or cannot be looked at.
    """
    fs, path = opened(address)
    path, parent = path.rstrip("/"), path.rstrip("/").rpartition("/")[0]
    with said_of(address):
      if (id(fs), parent) not in self._folders:
        fs.invalidate_cache(parent)
        entries = fs.ls(parent, detail=True)
        self._folders[id(fs), parent] = {entry["name"].rstrip("/"): entry for entry in entries}
      entry = self._folders[id(fs), parent].get(path)
      if entry is None:
        raise FileNotFoundError(address)
      return _seen([entry] if entry["type"] != "directory" else fs.find(path, detail=True).values())


def see(address: str) -> Seen:
  """A single file or folder, as `Listing.see`."""
  fs, path = opened(address)
  with said_of(address):
    fs.invalidate_cache()
    entry = fs.info(path)
    return _seen([entry] if entry["type"] != "directory" else fs.find(path, detail=True).values())


def _seen(entries: Any) -> Seen:
  entries = list(entries)
  changed = max((_changed_ns(each) for each in entries), default=0)
  return Seen(sum(int(each["size"] or 0) for each in entries), len(entries), changed)


def _changed_ns(entry: Info) -> int:
  value = next((entry[name] for name in _CHANGED if entry.get(name) is not None), None)
  if isinstance(value, str):
    value = datetime.fromisoformat(value)
  if isinstance(value, datetime):
    since = (value if value.tzinfo else value.replace(tzinfo=UTC)) - datetime.fromtimestamp(0, UTC)
    return ((since.days * 86400 + since.seconds) * 10**6 + since.microseconds) * 1000
  return 0 if value is None else round(value * 1e6) * 1000  # a float tells no more of a time of today


def _inside(path: str, names: Any) -> list[PurePosixPath]:
  """Names of a folder's files without the folder; of the folder's own path where it is a file, nothing."""
  return [PurePosixPath(name.removeprefix(path).lstrip("/")) for name in names]
