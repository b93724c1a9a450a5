"""Sets of result files that appear together and whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from medlsam_jax.errors import OutputError


@contextlib.contextmanager
def staged(directory: str | os.PathLike[str], last: str = "") -> Iterator[Path]:
  """A scratch folder whose files move into `directory` when the block ends, and vanish when it raises.

  Args:
    directory: made if missing; folders that were made and stay empty are removed.
    last: ending of the file to move last, so that its presence says that the set is complete.

  Raises:
    OutputError: the folder cannot be made or written.
  """
  directory = Path(directory)
  made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
  try:
    directory.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".medlsam-", dir=directory))
  except OSError as error:
    _remove_empty(made)
    raise _refusal(directory, error) from error
  try:
    yield scratch
    for file in sorted(scratch.iterdir(), key=lambda p: (bool(last) and p.name.endswith(last), p.name)):
      os.replace(file, directory / file.name)
  except OSError as error:
    raise _refusal(directory, error) from error
  finally:
    shutil.rmtree(scratch, ignore_errors=True)
    _remove_empty(made)


def _remove_empty(folders: list[Path]) -> None:
  for folder in folders:
    with contextlib.suppress(OSError):
      folder.rmdir()


def require_writable(directory: str | os.PathLike[str]) -> None:
  """Says before long work that its results could not be written; leaves nothing behind.

  Raises:
    OutputError: the folder cannot be made or written.
  """
  with staged(directory):
    pass


def make_folder(directory: str | os.PathLike[str]) -> None:
  """Makes a folder that is about to be written to, where it is missing.

  Raises:
    OutputError: it cannot be made.
  """
  try:
    Path(directory).mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise _refusal(Path(directory), error) from error


def _refusal(directory: Path, error: OSError) -> OutputError:
  return OutputError(f"{directory}: cannot be written ({error.strerror or error}); choose another folder")
