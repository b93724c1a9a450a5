"""Ways to paint on the same boxes, each organ's mask against truth. The labels' own boxes come from here, too."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

from medlsam_jax.evaluation.compared_row import ComparedRow
from medlsam_jax.evaluation.segmentation import LabelBoxes, score_overlap
from medlsam_jax.finding import Finding
from medlsam_jax.geometry import Box, Volume
from medlsam_jax.io.alignment import align_labels
from medlsam_jax.io.label_maps import read_label_map
from medlsam_jax.io.labels import LabelMap
from medlsam_jax.sam.slice_boxes import tight_boxes


class Truth:
  """A scan's truth: where the oracle's boxes come from, and what each way's masks are scored against.

  Args:
    scan: its name.
    labels: label map on the scan's voxels.
    values: organs and their values in `labels`; those without a voxel there are not asked for.
  """

  def __init__(self, scan: str, labels: Volume, values: Mapping[str, int]):
    self._scan, self._labels, self._where = scan, labels, LabelBoxes(labels.array)
    self._values = {organ: value for organ, value in values.items() if self._where.slices(value) is not None}

  @classmethod
  def read(
    cls, path: str | os.PathLike[str], name: str, values: Mapping[str, int], scan: Volume, resample: bool = False
  ) -> Truth:
    """Of a file, laid on the voxels of `scan`.

    Raises:
      InputError: it cannot be read, or lies on another grid and is not to be resampled.
    """
    labels = read_label_map(path, values, scan)
    return cls(name, align_labels(labels, scan.grid, scan.source, scan.file_grid, resample=resample), values)

  def boxes(self, each_slice: bool = False) -> dict[str, Finding]:
    """The tight box of each organ that is there, as boxes of the user's own; or a box for each of its slices."""
    boxes = {}
    for organ, value in self._values.items():
      parts = [Box.from_slices(self._where.slices(value) or ())]
      if each_slice:
        parts = tight_boxes(self._labels.array == value, self._labels.grid)
      boxes[organ] = Finding.of_boxes(organ, value, parts)
    return boxes

  def rows(self, way: str, painted: LabelMap | None, failure: str = "") -> list[ComparedRow]:
    """Scores of one way's label map on the scan's voxels, a row for each organ that is there.

    Args:
      way: what painted it.
      painted: None where nothing was; then `failure` says why.
    """
    ours = None if painted is None else LabelBoxes(painted.array)
    rows = []
    for organ, value in self._values.items():
      own = None if painted is None else painted.names.get(organ)
      scores = dataclasses.asdict(score_overlap(ours, own, self._where, value, self._labels.grid))
      missing = failure or ("" if ours is not None and ours.count(own) else "empty mask")
      rows.append(ComparedRow(self._scan, way, organ, missing, **scores))
    return rows
