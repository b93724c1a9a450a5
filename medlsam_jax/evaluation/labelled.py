"""Labelled scans that results are measured on: a query's truth, and which of its labels are sound.

`sound.json` beside the scans, `{"kbp_201": {"brainstem": "whole", "spinal_cord": "cut"}}`, says of each label what was
seen from the labels alone, before any result: `whole`, or in words what is wrong with it. Means over whole labels and
means over all of them answer different questions, so both are given.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Volume
from medlsam_jax.io.point_files import read_json
from medlsam_jax.io.templates import read_templates

SOUND_FILE = "sound.json"
WHOLE = "whole"


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledScan:
  """A scan and its truth."""

  name: str
  scan: Volume
  labels: Volume
  """Label map on the scan's grid."""
  values: Mapping[str, int]
  """Organs that truth has, and their values in `labels`."""
  sound: Mapping[str, str] | None = None
  """What `sound.json` says of its labels; None where there is no such file."""

  def is_whole(self, organ: str) -> bool:
    """Whether the label may count in means over whole labels: any label where nothing is known of them."""
    return self.sound is None or self.sound.get(organ) == WHOLE


def read_labelled(
  folder: str | os.PathLike[str], organs: Sequence[str] | None = None, names: Sequence[str] | None = None
) -> list[LabelledScan]:
  """Scans of a folder with label maps beside them, in order of their names.

  Args:
    folder: as `io.templates.read_templates` takes it.
    organs: keep these only; a scan without any of them is left out. None keeps all.
    names: of the scans to keep; None keeps all.

  Raises:
    InputError: as `read_templates`; a name that no scan has; a damaged `sound.json`.
  """
  read = read_templates(folder, organs)
  unknown = sorted(set(names or ()) - {each.name for each in read})
  if unknown:
    raise InputError(f"{folder}: no labelled scan is called {', '.join(unknown)}")
  sound = read_sound(folder)
  return [
    LabelledScan(each.name, each.scan, each.labels, each.values, None if sound is None else sound.get(each.name, {}))
    for each in read
    if each.labels is not None and each.values and (names is None or each.name in names)
  ]


def read_sound(folder: str | os.PathLike[str]) -> dict[str, dict[str, str]] | None:
  """What `sound.json` of a folder says, by scan and organ; None without one.

  Raises:
    InputError: it is no JSON of words by scan and organ.
  """
  path = Path(folder) / SOUND_FILE
  if not path.is_file():
    return None
  sound: dict[str, dict[str, str]] = {}
  for scan, said in read_json(path).items():
    if not isinstance(said, dict) or not all(isinstance(word, str) for word in said.values()):
      raise InputError(f'{path}: {scan}: write {{"SCAN": {{"liver": "whole", ...}}}}')
    sound[scan] = said
  return sound


def not_whole(truths: Mapping[str, Path], organs: Mapping[str, Iterable[str]]) -> set[tuple[str, str]]:
  """Scans and organs of them whose labels may not count in means over whole labels, by the `sound.json` beside each.

  Args:
    truths: label map of each scan.
    organs: of each scan.

  Raises:
    InputError: as `read_sound`.
  """
  sound = {folder: read_sound(folder) for folder in {path.parent for path in truths.values()}}
  cut = set[tuple[str, str]]()
  for scan, path in truths.items():
    said = sound[path.parent]
    if said is not None:
      own = said.get(scan, {})
      cut |= {(scan, organ) for organ in organs.get(scan, ()) if own.get(organ) != WHOLE}
  return cut
