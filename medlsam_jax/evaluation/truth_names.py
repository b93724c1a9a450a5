"""Which organ a value of a truth label map is: by a table beside it, else by the results' numbers where they fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from medlsam_jax import notices
from medlsam_jax.data.label_boxes import count_labels
from medlsam_jax.data.label_table import LABELS_FILE, read_label_table, table_beside
from medlsam_jax.data.nifti import read_label_nifti
from medlsam_jax.errors import InputError

_SHOWN = 5


def own_tables(truths: Mapping[str, Path], given: str | None) -> dict[str, dict[str, int]]:
  """By scan: organ -> value, from `given` for all, else from `NAME_labels.json` or `labels.json` beside the truth.

  Scans without a table are not in it.

  Raises:
    InputError: a table is malformed or, given, missing.
  """
  if given is not None:
    return dict.fromkeys(truths, read_label_table(given))
  read: dict[Path, dict[str, int]] = {}
  tables = {}
  for name, truth in truths.items():
    path = table_beside(truth, name)
    if path is not None:
      tables[name] = read[path] if path in read else read.setdefault(path, read_label_table(path))
  return tables


def borrowed_tables(truths: Mapping[str, Path], results: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
  """By scan: the numbers that its results give their organs, for truths without a table; warns that they are taken.

  Truth may number its organs in another way. That shows where it has values that no result has, and is refused; where
  it does not show, the warning is all.

  Args:
    results: by scan, organ -> value, 0 where they state none; a scan without results takes what the others agree on.

  Raises:
    InputError: no results that have numbers, or truth has values that are not among them.
  """
  tables, folders = {}, {truth.parent for truth in truths.values()}
  stated = {name: {organ: value for organ, value in table.items() if value > 0} for name, table in results.items()}
  for name, truth in truths.items():
    numbers = stated.get(name) or _agreed(stated.values())
    where = " or ".join(str(truth.parent / file) for file in (f"{name}_{LABELS_FILE}", LABELS_FILE))
    if not numbers:
      raise InputError(f'{truth}: nothing says which organ a value is; write {where}: {{"liver": 5, ...}}')
    strangers = [value for value in count_labels(read_label_nifti(truth).array) if value not in numbers.values()]
    if strangers:
      theirs = _listed(f"{organ} {value}" for organ, value in numbers.items())
      raise InputError(
        f"{truth}: nothing says which organ a value is, and the results' numbers do not fit: it has "
        f"{_listed(strangers)}, they have {theirs}; write {where}"
      )
    tables[name] = numbers
  if tables:
    shown = _listed(f"{organ} {value}" for organ, value in next(iter(tables.values())).items())
    notices.warn(
      f"{', '.join(sorted(str(folder / LABELS_FILE) for folder in folders))} is missing: truth is taken to number "
      f"organs as the results do ({shown}); the scores are wrong where it does not"
    )
  return tables


def _agreed(tables: Iterable[Mapping[str, int]]) -> dict[str, int]:
  """Organs that have one value in all tables that name them."""
  values: dict[str, set[int]] = {}
  for table in tables:
    for organ, value in table.items():
      values.setdefault(organ, set()).add(value)
  return {organ: min(each) for organ, each in values.items() if len(each) == 1}


def _listed(items: Iterable[object]) -> str:
  texts = [str(item) for item in items]
  return ", ".join(texts[:_SHOWN]) + (", ..." if len(texts) > _SHOWN else "")
