"""Which organ a value of a truth label map is: by a table beside it, else by the results' numbers where they fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from medlsam_jax import display, notices
from medlsam_jax.errors import InputError
from medlsam_jax.io.label_maps import read_label_map
from medlsam_jax.io.label_table import LABELS_FILE, read_label_table, table_beside
from medlsam_jax.label_boxes import count_labels

_SHOWN = 5


def own_tables(truths: Mapping[str, Path], given: str | None) -> tuple[dict[str, dict[str, int]], dict[str, str]]:
  """By scan: organ -> value, from `given` for all but truth that names its organs itself, else as `table_beside`.

  Returns:
    Tables of the scans that have one, and what is wrong with those of others.

  Raises:
    InputError: `given` is missing or malformed, or so are the tables of all scans.
  """
  if given is not None:
    read_label_table(given)
  tables: dict[str, dict[str, int]] = {}
  reasons: dict[str, str] = {}
  for name, truth in truths.items():
    try:
      if (path := table_beside(truth, name, given)) is not None:
        tables[name] = read_label_table(path)
    except InputError as error:
      reasons[name] = str(error)
  if reasons and len(reasons) == len(truths):
    raise InputError(next(iter(reasons.values())))
  return tables, reasons


def borrowed_tables(
  truths: Mapping[str, Path], results: Mapping[str, Mapping[str, int]]
) -> tuple[dict[str, dict[str, int]], dict[str, str]]:
  """By scan: the numbers that its results give their organs, for truths without a table; warns that they are taken.

  Truth may number its organs in another way. That shows where it has values that no result has, and no table is given
  to it; where it does not show, the warning is all.

  Args:
    results: by scan, organ -> value, 0 where they state none; a scan without results takes what the others agree on.

  Returns:
    Tables of the scans that could be given one, and why the others could not: no results that have numbers, truth with
    values that are not among them, or that cannot be read.
  """
  tables: dict[str, dict[str, int]] = {}
  reasons: dict[str, str] = {}
  stated = {name: {organ: value for organ, value in table.items() if value > 0} for name, table in results.items()}
  for name, truth in truths.items():
    try:
      tables[name] = _borrowed(name, truth, stated.get(name) or _agreed(stated.values()))
    except InputError as error:
      reasons[name] = str(error)
  if tables:
    shown = _listed(f"{organ} {value}" for organ, value in next(iter(tables.values())).items())
    folders = {truths[name].parent for name in tables}
    notices.warn(
      f"{', '.join(sorted(str(folder / LABELS_FILE) for folder in folders))} is missing: truth is taken to number "
      f"organs as the results do ({shown}); the scores are wrong where it does not"
    )
  return tables, reasons


def _borrowed(name: str, truth: Path, numbers: dict[str, int]) -> dict[str, int]:
  """`numbers` of results for the organs of a truth.

  Raises:
    InputError: there are none, truth has others, or it cannot be read.
  """
  where = " or ".join(str(truth.parent / file) for file in (f"{name}_{LABELS_FILE}", LABELS_FILE))
  if not numbers:
    raise InputError(f'{truth}: nothing says which organ a value is; write {where}: {{"liver": 5, ...}}')
  strangers = [value for value in count_labels(read_label_map(truth).array) if value not in numbers.values()]
  if strangers:
    theirs = _listed(f"{organ} {value}" for organ, value in numbers.items())
    raise InputError(
      f"{truth}: nothing says which organ a value is, and the results' numbers do not fit: it has "
      f"{_listed(strangers)}, they have {theirs}; write {where}"
    )
  return numbers


def _agreed(tables: Iterable[Mapping[str, int]]) -> dict[str, int]:
  """Organs that have one value in all tables that name them."""
  values: dict[str, set[int]] = {}
  for table in tables:
    for organ, value in table.items():
      values.setdefault(organ, set()).add(value)
  return {organ: min(each) for organ, each in values.items() if len(each) == 1}


def _listed(items: Iterable[object]) -> str:
  return display.some(map(str, items), _SHOWN)
