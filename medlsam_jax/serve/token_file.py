"""A server's token in a file of its owner's alone, so that viewers need not be told a new one at every start."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from medlsam_jax.errors import InputError, OutputError
from medlsam_jax.serve.guard import new_token

_LEAST_LETTERS = 32


def kept_token(path: str | os.PathLike[str]) -> str:
  """The token in a file, which is made with a new one where it is missing.

  Raises:
    InputError: others may read it, or it holds no token.
    OutputError: it can neither be read nor made.
  """
  path = Path(path)
  try:
    if not path.exists():
      handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
      with os.fdopen(handle, "w") as file:
        file.write(new_token() + "\n")
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
      raise InputError(f"{path}: other users may read it; chmod 600 it, or give another name")
    token = path.read_text(encoding="ascii").strip()
  except (OSError, UnicodeError) as error:
    raise OutputError(f"{path}: cannot be used for the token ({error})") from error
  if len(token) < _LEAST_LETTERS or not token.isprintable() or " " in token:
    raise InputError(f"{path}: holds no token of at least {_LEAST_LETTERS} letters; remove it, and one is made")
  return token
