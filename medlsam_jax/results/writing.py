"""One scan's results -> its files, all of them or none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medlsam_jax import preview
from medlsam_jax.data.labels import LabelMap
from medlsam_jax.geometry import Volume
from medlsam_jax.results import boxes_file, markups
from medlsam_jax.results.given import Shown
from medlsam_jax.results.staging import staged

LABELS, BOXES, ROIS, PREVIEW = "_seg.nii.gz", "_boxes.json", "_boxes.mrk.json", "_preview.png"
"""Endings of a scan's result files, after its name."""


def result_paths(directory: str | os.PathLike[str], name: str, segmented: bool) -> list[Path]:
  """The files that `write_result` makes."""
  endings = (LABELS, BOXES, ROIS, PREVIEW) if segmented else (BOXES, ROIS, PREVIEW)
  return [Path(directory) / (name + ending) for ending in endings]


def write_result(
  directory: str | os.PathLike[str],
  name: str,
  scan: Volume,
  found: Mapping[str, Shown],
  labels: LabelMap | None,
  provenance: Mapping[str, Any],
) -> list[Path]:
  """Writes boxes, ROIs, a picture and, where there is one, the label map.

  Returns:
    The files, as `result_paths`.

  Raises:
    OutputError: the folder cannot be written; nothing of this scan's result is left then.
  """
  volumes_ml = None if labels is None else labels.volumes_ml()
  content = boxes_file.to_text(boxes_file.to_dict(name, scan, found, volumes_ml, provenance))
  with staged(directory, last=BOXES) as scratch:
    if labels is not None:
      labels.save(scratch / (name + LABELS))
    (scratch / (name + ROIS)).write_text(boxes_file.to_text(markups.rois(found, scan.grid)))
    preview.write_preview(scratch / (name + PREVIEW), name, scan, found, labels)
    (scratch / (name + BOXES)).write_text(content)
  return result_paths(directory, name, labels is not None)
