"""Files of a run's folder, which may be a local one or an address such as gs://bucket/run."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import fsspec
from etils import epath

from medlsam_jax.errors import OutputError
from medlsam_jax.io.atomic import atomically, folder_for


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
      epath.Path(part).copy(path, overwrite=True)
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


def local_copy(place: str, cache: str = "") -> str:
  """A file's own path, or that of a copy in `cache` (a temporary folder if empty) where it lies behind an address."""
  if "://" not in place or place.startswith("file://"):
    return place.removeprefix("file://")
  folder = cache or tempfile.gettempdir() + "/medlsam_shards"
  (path,) = fsspec.open_local([f"simplecache::{place}"], simplecache={"cache_storage": folder})
  return path
