"""Files that appear whole or not at all, as readable by others as any new file, and no folders without files."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], suffix: str = "") -> Iterator[Path]:
  """An empty file beside `path` that takes its place when the block ends, and vanishes when that raises.

  The result has the rights that the user's umask gives, whatever the writing library sets (safetensors and `tempfile`
  make files that only their owner reads).

  Args:
    suffix: ending of the temporary name, for libraries that tell the format by it.

  Raises:
    OSError: the folder is missing or cannot be written; callers say which file it was.
  """
  path = Path(path)
  temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.part{suffix}")
  try:
    temporary.touch(exist_ok=False)
    usual_rights = stat.S_IMODE(temporary.stat().st_mode)
    yield temporary
    temporary.chmod(usual_rights)
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


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
