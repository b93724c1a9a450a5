"""Files of a run's folder, which may be a local one or an address such as gs://bucket/run."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeAlias

import fsspec
from etils import epath

from medlsam_jax.errors import OutputError
from medlsam_jax.io.atomic import atomically, folder_for, require_writable

Folder: TypeAlias = epath.Path


def at(place: epath.PathLike) -> Folder:
  """A run's folder."""
  return epath.Path(place)


def is_local(path: epath.Path) -> bool:
  """Whether a path lies in this machine's file system."""
  return "://" not in str(path)


@contextlib.contextmanager
def whole_file(path: epath.Path) -> Iterator[Path]:
  """A local file to write to, which is at `path` when the block ends, and nowhere when that raises.

  Raises:
    OutputError: it cannot be written.
  """
  if is_local(path):
    with atomically(Path(path)) as part:
      yield part
    return
  with tempfile.TemporaryDirectory() as folder:
    part = Path(folder) / path.name
    part.touch()
    yield part
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      with part.open("rb") as written, path.open("wb") as file:
        shutil.copyfileobj(written, file)
    except OSError as error:
      raise OutputError(f"{path}: cannot be written ({error})") from error


def folder_of_a_run(path: epath.Path) -> AbstractContextManager[object]:
  """Makes a folder; where it is a local one that stays empty it goes when the block ends.

  Raises:
    OutputError: it cannot be made or written.
  """
  if is_local(path):
    return folder_for(Path(path))
  path.mkdir(parents=True, exist_ok=True)
  return contextlib.nullcontext()


@contextlib.contextmanager
def local_folder(path: epath.Path) -> Iterator[Path]:
  """A local folder for what only writes to such; its files are at `path` when the block ends, however it does.

  Raises:
    OutputError: they cannot be written.
  """
  if is_local(path):
    yield Path(path)
    return
  with tempfile.TemporaryDirectory() as folder:
    try:
      yield Path(folder)
    finally:
      for file in sorted(Path(folder).iterdir()):
        with whole_file(path / file.name) as part:
          shutil.copyfile(file, part)


def append_text(path: epath.Path, text: str) -> None:
  """Adds text to a file. Object stores cannot append: there the file is written anew.

  Raises:
    OutputError: it cannot be written.
  """
  try:
    if is_local(path):
      with open(path, "a") as file:
        file.write(text)
    else:
      path.write_text((path.read_text() if path.exists() else "") + text)
  except OSError as error:
    raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error


def require_writable_run(path: epath.Path) -> None:
  """Says before long work that its results could not be written; leaves nothing behind.

  Raises:
    OutputError: the folder cannot be made or written, or what reaches such an address is not installed.
  """
  if is_local(path):
    return require_writable(Path(path))
  try:
    trial = path / ".medlsam"
    trial.write_text("")
    trial.unlink()
  except Exception as error:  # whatever the driver of that store raises
    raise OutputError(f"{path}: cannot be written ({error}); choose another folder") from error


def local_copy(place: str, cache: str = "") -> str:
  """A file's own path, or that of a copy in `cache` (a temporary folder if empty) where it lies behind an address."""
  if "://" not in place or place.startswith("file://"):
    return place.removeprefix("file://")
  copy = Path(cache or f"{tempfile.gettempdir()}/medlsam_shards") / hashlib.sha256(place.encode()).hexdigest()
  if not copy.is_file():
    copy.parent.mkdir(parents=True, exist_ok=True)
    with atomically(copy) as part, fsspec.open(place, "rb") as there, part.open("wb") as here:
      shutil.copyfileobj(there, here)
  return str(copy)
