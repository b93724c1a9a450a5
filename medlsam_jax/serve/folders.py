"""Names of files that come from outside: none leads out of the folder that was chosen."""

from __future__ import annotations

import os
from pathlib import Path

from medlsam_jax.errors import InputError


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
  except (OSError, RuntimeError) as error:  # a circle of links, a name too long
    raise InputError("a name that cannot be looked up in the folder that this server was given") from error
  if not path.is_relative_to(root):
    raise InputError("a link that leads out of the folder that this server was given")
  return path
