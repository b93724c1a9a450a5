"""Which scans of a list a run has to do, by what the manifest says and what lies in the folder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from medlsam_jax import display
from medlsam_jax.cohort import manifest
from medlsam_jax.cohort.identity import Glance, glance_at, identity_of
from medlsam_jax.cohort.manifest import Manifest, Record
from medlsam_jax.cohort.place import Place
from medlsam_jax.errors import InputError
from medlsam_jax.io import scan_result
from medlsam_jax.io.addresses import Listing, NotThereError
from medlsam_jax.io.scans import ListedScan


@dataclasses.dataclass
class Plan:
  """What to do, what is done, and why."""

  todo: list[ListedScan] = dataclasses.field(default_factory=list)
  done: list[str] = dataclasses.field(default_factory=list)
  failed: dict[str, str] = dataclasses.field(default_factory=dict)
  """Scans that failed before and are left alone, and why they did."""
  again: dict[str, list[str]] = dataclasses.field(default_factory=dict)
  """Scans by the reason for which they are done again."""
  last: list[str] = dataclasses.field(default_factory=list)
  """Those to do that were at work when an earlier run died."""

  def put_last(self, names: Collection[str]) -> None:
    """Does these after the others."""
    self.last = [scan.name for scan in self.todo if scan.name in names]
    self.todo.sort(key=lambda scan: scan.name in names)

  def sentences(self) -> list[str]:
    """What a user should know of it."""
    said = [f"{display.count(len(names), 'scan')} done again ({display.some(names, 3)}): {why}"
            for why, names in self.again.items()]  # fmt: skip
    if self.last:
      text = f"{display.count(len(self.last), 'scan')} at work when an earlier run died, now done last"
      said.append(f"{text} ({display.some(self.last, 3)})")
    if self.failed:
      said.append(f"{display.count(len(self.failed), 'scan')} failed before, left alone (--retry-failed tries again)")
    return said


def plan(
  scans: Sequence[ListedScan],
  place: Place,
  known: Manifest,
  made_by: Mapping[str, Any],
  outputs: Sequence[str],
  retry_failed: bool = False,
) -> Plan:
  """Settles for each scan whether its result is there: of the same input, made with the same.

  Files whose size and time are as recorded are taken to be the same; of others the content is compared.

  Args:
    place: of the results.
    made_by: what results depend on beside the scan.
    outputs: the kinds of label maps that belong to a result, as `label_formats.FORMATS` calls them.

  Raises:
    InputError: the place has the results of another scan of the same name, or an address cannot be looked at.
  """
  result, name, listing = Plan(), manifest.name_of(made_by), Listing()
  for scan in scans:
    record = known.records.get(scan.name)
    if record is None:
      if any(place.has(scan_result.result_names(scan.name, outputs))):
        result.again.setdefault("results that no record speaks of", []).append(scan.name)
      result.todo.append(scan)
      continue
    if record.state == "failed":
      why = "tried again" if retry_failed else _failed_differently(scan, record, name, listing)
    else:
      why = _changed(scan, record, place, listing) or _made_otherwise(record, place, known, made_by, outputs)
    if why:
      result.again.setdefault(why, []).append(scan.name)
      result.todo.append(scan)
    elif record.state == "failed":
      result.failed[scan.name] = record.error
    else:
      result.done.append(scan.name)
  return result


def place_of(scan: ListedScan) -> str:
  """The scan's path or address as records have it."""
  return scan.address or os.path.abspath(scan.path)


def _failed_differently(scan: ListedScan, record: Record, name: str, listing: Listing) -> str:
  """Why a scan that failed may not fail now; empty for no reason."""
  if record.made_by != name:
    return "they failed with other settings"
  try:
    now = None if scan.wrong else glance_at(place_of(scan), listing)
  except InputError:
    now = None
  return "" if _same(now, record.input) else "their files are other ones than those that failed"


def _changed(scan: ListedScan, record: Record, place: Place, listing: Listing) -> str:
  """Why the files of a scan that is done are other ones; empty where they are the same."""
  gone = "their files cannot be found any more"
  if scan.wrong:
    return gone
  moved = record.path != place_of(scan)
  try:
    if not moved and _same(glance_at(place_of(scan), listing), record.input):
      return ""
    assert record.input is not None
    same = identity_of(place_of(scan)).sha256 == record.input.sha256
  except NotThereError:
    return gone
  if moved and not same:
    raise InputError(
      f"{scan}: {place.shown} has results of another scan of that name, {scan.name} ({record.path}); choose another "
      "--out or rename one"
    )
  return "" if same else "their files have changed"


def _made_otherwise(
  record: Record, place: Place, known: Manifest, made_by: Mapping[str, Any], outputs: Sequence[str]
) -> str:
  """Why the results of a scan that is done do not do; empty where they do."""
  if record.made_by != manifest.name_of(made_by):
    return f"made with other settings ({differences(known.made_by.get(record.made_by), made_by)})"
  if not all(place.has(scan_result.result_names(record.scan, outputs))):
    return "their results are not all there"
  return ""


def _same(now: Glance | None, then: Glance | None) -> bool:
  if now is None or then is None:
    return now is then
  return (now.bytes, now.files, now.changed_ns) == (then.bytes, then.files, then.changed_ns)


def differences(then: Mapping[str, Any] | None, now: Mapping[str, Any]) -> str:
  """What two sets of settings differ in, in a few words."""
  if then is None:
    return "which the manifest does not name"
  before, after = _flat(then), _flat(now)
  names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
  said = [f"{name} {_short(before.get(name))}, now {_short(after.get(name))}" for name in names]
  return "; ".join(said[:3]) + (f" and {len(said) - 3} more" if len(said) > 3 else "")


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
  result = dict[str, Any]()
  for name, value in values.items():
    if isinstance(value, Mapping):
      result |= _flat(value, f"{above}{name}.")
    else:
      result[above + name] = value
  return result


def _short(value: object) -> str:
  text = str(value)
  return text if len(text) <= 16 else text[:12] + "..."
