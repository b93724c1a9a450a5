"""Names of files that come from outside: none leads out of the folder that was chosen."""

from __future__ import annotations

import os
from pathlib import Path

from medlsam_jax.errors import InputError

_UNKNOWN = "a name that cannot be looked up in the folder that this server was given"


def inside(folder: str | os.PathLike[str], name: str) -> Path:
  """The file or folder `name` below `folder`, links followed; it need not be there.

  Raises:
    InputError: `name` is empty, absolute or hidden, has `..` in it, or leads out of the folder by a link.
  """
  parts = name.replace("\\", "/").split("/")
  wrong = "\0" in name or ":" in parts[0] or any(part in ("", ".", "..") or part.startswith(".") for part in parts)
  if wrong:
    raise InputError("not a name of a file in the folder that this server was given")
  root = Path(folder).resolve()
  try:
    path = (root / name).resolve()
    circle = any(part.is_symlink() for part in (path, *path.parents))  # from Python 3.13 on one raises nothing
  except (OSError, RuntimeError) as error:  # a circle of links before it, a name too long
    raise InputError(_UNKNOWN) from error
  if circle:
    raise InputError(_UNKNOWN)
  if not path.is_relative_to(root):
    raise InputError("a link that leads out of the folder that this server was given")
  return path
