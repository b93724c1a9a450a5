"""Votes of a scan's organs in a file, as fine-tuning reads them: `votes/NAME_DIGEST.npz` (docs/file_formats.md)."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Num

from medlsam_jax.errors import InputError
from medlsam_jax.template_masks.votes import Vote

Votes = Mapping[str, Mapping[str, Vote]]
"""By how the boxes were come by (`FOUND`, `JITTERED`), then by organ; in display order (`Vote.shown`)."""
FOUND, JITTERED = "found", "jittered"
_MADE_FROM = "made_from"


def file_name(name: str, hu: Num[np.ndarray, "slice row column"]) -> str:
  """Of the file that goes with a scan, known by its name and by its voxels in display order."""
  return f"{name}_{hashlib.sha256(np.ascontiguousarray(hu).tobytes()).hexdigest()[:16]}.npz"


def write_votes(path: Path, votes: Votes, made_from: str) -> None:
  """Writes votes, and what they were made from."""
  arrays: dict[str, np.ndarray] = {_MADE_FROM: np.array(made_from)}
  for kind, organs in votes.items():
    for organ, vote in organs.items():
      arrays[f"{kind}/{organ}/low"] = np.array(vote.low)
      arrays[f"{kind}/{organ}/share"] = vote.share.astype(np.float16)
  with path.open("wb") as file:  # savez would add an ending to a bare name
    np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub takes any keyword for a flag


def read_votes(path: Path) -> tuple[dict[str, dict[str, Vote]], str]:
  """Votes, and what they were made from.

  Raises:
    InputError: the file is missing, truncated or another.
  """
  try:
    # opened here: numpy leaves a damaged archive open
    with path.open("rb") as opened, np.load(opened) as file:
      votes: dict[str, dict[str, Vote]] = {}
      for name in file:
        if name.endswith("/share"):
          kind, _, organ = name.removesuffix("/share").partition("/")
          z, y, x = file[f"{kind}/{organ}/low"].tolist()
          votes.setdefault(kind, {})[organ] = Vote((z, y, x), file[name].astype(np.float32))
      return votes, str(file[_MADE_FROM])
  except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
    raise InputError(f"{path}: no votes of templates ({error}); delete it, and it is made anew") from error
