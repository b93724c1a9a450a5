"""One scan's result, and its files: all of them or none, but for formats of the label map that cannot be written."""

from __future__ import annotations

import dataclasses
import functools
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from medlsam_jax import display
from medlsam_jax.errors import InputError
from medlsam_jax.finding import Finding
from medlsam_jax.geometry import Volume
from medlsam_jax.io import boxes_file, label_formats, markups, preview
from medlsam_jax.io.atomic import all_or_none
from medlsam_jax.io.labels import LabelMap

LABELS, BOXES, ROIS, PREVIEW = "_seg.nii.gz", "_boxes.json", "_boxes.mrk.json", "_preview.png"
"""Endings of a scan's result files, after its name."""
CORRECTED = "corrected"
"""Folder in a folder of results with those that a person has corrected since (`medlsam view`)."""
_NAMES_SHOWN = 3


def result_paths(directory: str | os.PathLike[str], name: str, outputs: Sequence[str]) -> list[Path]:
  """The files that `ScanResult.write` makes, but for those that are one for each organ.

  Args:
    outputs: kinds of label maps, as `label_formats.FORMATS` calls them; none where nothing is painted.
  """
  return [Path(directory) / each for each in result_names(name, outputs)]


def result_names(name: str, outputs: Sequence[str]) -> list[str]:
  """What they are called."""
  return [*label_formats.names_of(name, outputs), *(name + ending for ending in (BOXES, ROIS, PREVIEW))]


def replaced(directory: str | os.PathLike[str], names: Iterable[str], outputs: Sequence[str]) -> str:
  """What a run over scans of these names replaces or leaves beside its results, in a sentence; empty for nothing."""
  folder, old, stale = Path(directory), list[str](), list[str]()
  for name in names:
    if any(path.exists() for path in result_paths(folder, name, outputs)):
      old.append(name)
    if not outputs and (folder / (name + LABELS)).exists():
      stale.append(name)
  if not old:
    return ""
  names_of_old = display.some(old, _NAMES_SHOWN)
  text = f"{folder}: results of {names_of_old} are there already and are replaced (--skip-existing keeps them)"
  if stale:
    text += f"; the label maps *{LABELS} of an earlier run stay, and belong to its boxes, not to the new ones"
  return text


class PartlyWritten(InputError):
  """Formats of the label map could not be written; the rest of the result is there."""

  def __init__(self, failed: Mapping[str, Exception], files: Sequence[Path], scratch: Path) -> None:
    reasons = "; ".join(f"{kind}: {error}".replace(f"{scratch}{os.sep}", "") for kind, error in failed.items())
    super().__init__(f"not written: {reasons} (all other files of its result are written)")
    self.files = list(files)


def corrected_in(directory: str | os.PathLike[str]) -> dict[str, Path]:
  """By scan the folder of its corrected result, of those in a folder of results that have one."""
  folder = Path(directory) / CORRECTED
  return {path.name.removesuffix(BOXES): folder for path in sorted(folder.glob("*" + BOXES))}


@dataclasses.dataclass(frozen=True, eq=False)
class ScanResult:
  """One scan's result, on its way to files, tables and scores."""

  name: str
  scan: Volume
  findings: Mapping[str, Finding]
  labels: LabelMap | None = None
  """None where nothing was painted."""
  outputs: Sequence[str] = label_formats.USUAL
  """Formats that they are written in, as `label_formats.FORMATS` calls them."""

  @functools.cached_property
  def volumes_ml(self) -> dict[str, float] | None:
    """Volume of each organ in millilitres; None where nothing was painted."""
    return None if self.labels is None else self.labels.volumes_ml()

  def write(self, directory: str | os.PathLike[str], provenance: Mapping[str, object]) -> list[Path]:
    """Writes boxes, ROIs, a picture and, where there is one, the label map.

    Returns:
      The files.

    Raises:
      PartlyWritten: the label map cannot be written in a format; all other files are.
      OutputError: the folder cannot be written; nothing of this scan's result is left then.
    """
    name, scan, findings = self.name, self.scan, self.findings
    content = boxes_file.to_text(boxes_file.to_dict(name, scan, findings, self.volumes_ml, provenance))
    painted: list[Path] = []
    failed: dict[str, InputError] = {}
    with all_or_none(directory, last=BOXES) as scratch:
      if self.labels is not None:
        painted, failed = label_formats.write_result(scratch, name, self.labels.painted(), self.outputs)
      (scratch / (name + ROIS)).write_text(boxes_file.to_text(markups.rois(findings, scan.grid)))
      preview.write_preview(scratch / (name + PREVIEW), name, scan, findings, self.labels)
      (scratch / (name + BOXES)).write_text(content)
    files = [*(Path(directory) / file.name for file in painted), *result_paths(directory, name, ())]
    if failed:
      raise PartlyWritten(failed, files, scratch)
    return files

  def files(self, provenance: Mapping[str, object]) -> tuple[dict[str, bytes], str]:
    """The same files by name, for a process that writes them elsewhere (`write_files`).

    Returns:
      The files, and what could not be written, to be raised when these are there; empty for nothing.

    Raises:
      OutputError: the folder of temporary files cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="medlsam-") as scratch:
      wrong = ""
      try:
        files = self.write(scratch, provenance)
      except PartlyWritten as error:
        files, wrong = error.files, str(error)
      return {path.name: path.read_bytes() for path in files}, wrong


def write_files(directory: str | os.PathLike[str], files: Mapping[str, bytes]) -> None:
  """Writes what `ScanResult.files` gave, as `ScanResult.write` does.

  Raises:
    OutputError: the folder cannot be written; nothing of this scan's result is left then.
  """
  with all_or_none(directory, last=BOXES) as scratch:
    for name, content in files.items():
      (scratch / name).write_bytes(content)
