"""Files that appear whole or not at all, as readable by others as any new file, and no folders without files."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from medlsam_jax.errors import OutputError
from medlsam_jax.io.addresses import is_address

_SCRATCH = ".medlsam-"
"""Beginning of the names of scratch folders."""
_OLD_SCRATCH_S = 600.0
"""Whoever writes has done so after this: what is older a kill left behind."""


@contextlib.contextmanager
def atomically(path: str | os.PathLike[str], suffix: str = "") -> Iterator[Path]:
  """An empty file beside `path` that takes its place when the block ends, and vanishes when that raises.

  The result has the rights that the user's umask gives, whatever the writing library sets (safetensors and `tempfile`
  make files that only their owner reads).

  Args:
    suffix: ending of the temporary name, for libraries that tell the format by it.

  Raises:
    OutputError: the folder is missing or cannot be written, or the block raised an OSError.
  """
  path = Path(path)
  temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.part{suffix}")
  with _said_of(path):
    try:
      temporary.touch(exist_ok=False)
      usual_rights = stat.S_IMODE(temporary.stat().st_mode)
      yield temporary
      temporary.chmod(usual_rights)
      os.replace(temporary, path)
    finally:
      with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
  """A text file, UTF-8 whatever the locale says.

  Raises:
    OutputError: it cannot be written.
  """
  with atomically(path) as part:
    part.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def all_or_none(directory: str | os.PathLike[str], last: str = "") -> Iterator[Path]:
  """A scratch folder whose files move into `directory` when the block ends, and vanish when it raises.

  Args:
    directory: made if missing; folders that were made and stay empty are removed.
    last: ending of the file to move last, so that its presence says that the set is complete.

  Raises:
    OutputError: the folder cannot be made or written.
  """
  with folder_for(directory) as folder:
    scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=folder))
    try:
      yield scratch
      for file in sorted(scratch.iterdir(), key=lambda p: (bool(last) and p.name.endswith(last), p.name)):
        os.replace(file, folder / file.name)
    finally:
      shutil.rmtree(scratch, ignore_errors=True)


def clear_scratch(directory: Path) -> None:
  """Removes what a kill left of `all_or_none` in a folder, unless it may be at work: younger than ten minutes."""
  for place in directory.glob(_SCRATCH + "*"):
    with contextlib.suppress(OSError):
      if time.time() - place.stat().st_mtime > _OLD_SCRATCH_S:
        shutil.rmtree(place, ignore_errors=True)


def require_writable(directory: str | os.PathLike[str]) -> None:
  """Says before long work that its results could not be written; leaves nothing behind.

  Raises:
    OutputError: the folder cannot be made or written.
  """
  with all_or_none(directory):
    pass


@contextlib.contextmanager
def folder_for(directory: str | os.PathLike[str]) -> Iterator[Path]:
  """A folder to write to, as `made_folder`.

  Raises:
    OutputError: it cannot be made or written.
  """
  if is_address(os.fspath(directory)):
    raise OutputError(f"{directory}: only the results of a LIST can go to an address; give a folder")
  with _said_of(directory), made_folder(directory) as folder:
    yield folder


@contextlib.contextmanager
def made_folder(directory: str | os.PathLike[str]) -> Iterator[Path]:
  """A folder to write to, made with those above it where missing; those made that stay empty go when the block ends.

  Raises:
    OSError: it cannot be made.
  """
  directory = Path(directory)
  made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
  try:
    directory.mkdir(parents=True, exist_ok=True)
    yield directory
  finally:
    for folder in made:
      with contextlib.suppress(OSError):
        folder.rmdir()


@contextlib.contextmanager
def _said_of(path: str | os.PathLike[str]) -> Iterator[None]:
  """Turns an OSError of the block into an error that names the file."""
  try:
    yield
  except OSError as error:
    raise OutputError(f"{path}: cannot be written ({error.strerror or error}); choose another folder") from error
