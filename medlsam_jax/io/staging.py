"""Sets of result files that appear together and whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from medlsam_jax.errors import OutputError
from medlsam_jax.io.atomic import made_folder


@contextlib.contextmanager
def staged(directory: str | os.PathLike[str], last: str = "") -> Iterator[Path]:
  """A scratch folder whose files move into `directory` when the block ends, and vanish when it raises.

  Args:
    directory: made if missing; folders that were made and stay empty are removed.
    last: ending of the file to move last, so that its presence says that the set is complete.

  Raises:
    OutputError: the folder cannot be made or written.
  """
  with folder_for(directory) as folder:
    scratch = Path(tempfile.mkdtemp(prefix=".medlsam-", dir=folder))
    try:
      yield scratch
      for file in sorted(scratch.iterdir(), key=lambda p: (bool(last) and p.name.endswith(last), p.name)):
        os.replace(file, folder / file.name)
    finally:
      shutil.rmtree(scratch, ignore_errors=True)


def require_writable(directory: str | os.PathLike[str]) -> None:
  """Says before long work that its results could not be written; leaves nothing behind.

  Raises:
    OutputError: the folder cannot be made or written.
  """
  with staged(directory):
    pass


@contextlib.contextmanager
def folder_for(directory: str | os.PathLike[str]) -> Iterator[Path]:
  """A folder to write to, as `atomic.made_folder`.

  Raises:
    OutputError: it cannot be made or written.
  """
  try:
    with made_folder(directory) as folder:
      yield folder
  except OSError as error:
    raise OutputError(f"{directory}: cannot be written ({error.strerror or error}); choose another folder") from error
