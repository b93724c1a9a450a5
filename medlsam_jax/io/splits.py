"""Which scans of a data set are templates and which are queries, by a file: ours, nnU-Net's or TotalSegmentator's."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path

from medlsam_jax.errors import InputError

BESIDE = ("splits_final.json", "meta.csv")
"""Files of a data set that split it: nnU-Net's and TotalSegmentator's."""
_TEMPLATES = ("templates", "support", "train", "training")
_QUERIES = ("queries", "query", "test", "testing", "val", "validation")
"""What the parts are called; of several that are there the first counts."""
_HELP = (
  'write {"templates": ["a", "b"], "queries": ["c"]}, or a table of two columns, name and split, the latter templates '
  "or queries"
)


@dataclasses.dataclass(frozen=True)
class Split:
  """Names of scans, in the order of the file."""

  templates: tuple[str, ...]
  queries: tuple[str, ...]
  """Empty: all that are no templates."""


def read_split(path: str | os.PathLike[str]) -> Split:
  """A split of a JSON file or a table.

  JSON: an object with the names of each part, or nnU-Net's list of folds, of which the first is taken. A table (commas,
  semicolons or tabs) has a column `split`, and names in its first. Parts may be called templates, support or train, and
  queries, test or val.

  Raises:
    InputError: it cannot be read, no part is called so, or a scan is in both.
  """
  path = Path(path)
  try:
    text = path.read_text(encoding="utf-8-sig")
    parts = _of_json(json.loads(text)) if path.suffix.lower() == ".json" else _of_table(text)
  except OSError as error:
    raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
  except (ValueError, LookupError, TypeError, AttributeError, csv.Error) as error:
    raise InputError(f"{path}: not a split; {_HELP} ({error!r})") from error
  templates, queries = _first(parts, _TEMPLATES), _first(parts, _QUERIES)
  if not templates:
    raise InputError(f"{path}: no templates in it; {_HELP}")
  if both := [name for name in templates if name in queries]:
    raise InputError(f"{path}: {both[0]} is both a template and a query")
  return Split(templates, queries)


def split_beside(folder: Path) -> Path | None:
  """The file by which a data set is split, None where it has none; a table counts if it has such a column."""
  for name in BESIDE:
    path = folder / name
    if path.is_file() and (path.suffix != ".csv" or "split" in path.read_text(errors="replace").partition("\n")[0]):
      return path
  return None


def _of_json(content: object) -> dict[str, list[str]]:
  if isinstance(content, list):
    content = content[0]
  if not isinstance(content, dict):
    raise TypeError("an object or a list of folds was expected")
  parts = {str(part): names for part, names in content.items() if isinstance(names, list)}
  return {part: [str(name) for name in names] for part, names in parts.items()}


def _of_table(text: str) -> dict[str, list[str]]:
  heading = text.partition("\n")[0]
  delimiter = max(";,\t", key=heading.count)
  parts: dict[str, list[str]] = {}
  for row in csv.DictReader(text.splitlines(), delimiter=delimiter):
    parts.setdefault(row["split"].strip().lower(), []).append(next(iter(row.values())).strip())
  return parts


def _first(parts: dict[str, list[str]], names: Iterable[str]) -> tuple[str, ...]:
  return tuple(next((parts[name] for name in names if parts.get(name)), ()))
