"""A coarse picture of the body about its middle, by which the scans of a cohort are compared with each other.

Cells of 12 mm, to the left and to the right of the plane about which the body is most like its mirror image, so that a
scan and its mirror image have pictures that are mirror images of each other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from medlsam_jax.cohort.body import BODY_HU, largest_piece
from medlsam_jax.geometry import Volume, reorient
from medlsam_jax.io.atomic import atomically, folder_for

FOLDER = "cohort_sketches"
"""In the folder of results, with a file for each scan."""
CELL_MM = 12.0
HALF, DEPTH = 14, 22
"""Cells from the middle to a side, and from the back to the front."""
SIDES = ("left", "right", "back", "front")
RANGES_HU = ((-150.0, 250.0), (-1000.0, -150.0))
"""Soft tissue, and what is darker (lung, gas): a picture each, values beyond its ends being cut."""
_FINE_MM = 3.0


@dataclasses.dataclass(frozen=True, eq=False)
class Sketch:
  """The picture of one scan."""

  cells: UInt8[np.ndarray, "slabs 22 28 2"]
  """From the feet up, from the back to the front, from the left to the right; of both `RANGES_HU`, whose ends are 0 and
  255. Beyond the body 0, and so beyond the scan."""
  cut: Float[np.ndarray, "4"]
  """How much of the body's extent the edge of the scan goes through on each of `SIDES`, of 1: median over slices."""

  def save(self, folder: Path, scan: str) -> None:
    """Writes it beside a scan's results.

    Raises:
      OutputError: it cannot be written.
    """
    path = path_of(folder, scan)
    with folder_for(path.parent), atomically(path, ".npz") as part:
      np.savez_compressed(part, cells=self.cells, cut=self.cut.astype(np.float32))

  @classmethod
  def load(cls, folder: Path, scan: str) -> Sketch | None:
    """What `save` wrote; None where nothing is there, or something else."""
    damaged = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
    with contextlib.suppress(*damaged), path_of(folder, scan).open("rb") as content, np.load(content) as file:
      cells, cut = file["cells"], file["cut"].astype(float)
      if cells.dtype == np.uint8 and cells.shape[1:] == (DEPTH, 2 * HALF, 2) and len(cells) and cut.shape == (4,):
        return cls(cells, cut)
    return None


def path_of(folder: str | os.PathLike[str], scan: str) -> Path:
  """Where the picture of a scan lies in a folder of results."""
  return Path(folder) / FOLDER / f"{scan}.npz"


def sketch_of(scan: Volume) -> Sketch | None:
  """The picture of a scan; None of one of nothing but air."""
  array, spacing = reorient(scan.array, scan.grid, "RAS"), scan.spacing_mm[list(scan.grid.axes_to("RAS")[0])]
  steps = np.maximum((_FINE_MM / spacing).astype(int), 1)
  fine = np.nan_to_num(array[:: steps[0], :: steps[1], :: steps[2]].astype(np.float32), nan=RANGES_HU[1][0])
  spacing = spacing * steps
  body = largest_piece(fine > BODY_HU)
  if body is None:
    return None
  # lungs and gas are holes in it
  body = np.stack([ndimage.binary_fill_holes(each) for each in body])
  tissue = np.where(body, np.clip(fine, BODY_HU, RANGES_HU[0][1]) - BODY_HU, 0).sum(0)
  depth = tissue.sum(1)
  middle = np.array([depth @ np.arange(len(depth)) / depth.sum(), _plane_of_symmetry(tissue)])
  start = middle * spacing[1:] - np.array([DEPTH / 2, HALF]) * CELL_MM
  # no more slabs than slices, whatever spacing a header states
  slabs = min(max(round(fine.shape[0] * spacing[0] / CELL_MM), 1), fine.shape[0])
  along_z = _shares(fine.shape[0], spacing[0], -spacing[0] / 2, slabs)
  along_y = _shares(fine.shape[1], spacing[1], start[0], DEPTH)
  along_x = _shares(fine.shape[2], spacing[2], start[1], 2 * HALF)
  pictures = []
  for low, high in RANGES_HU:
    lit = np.where(body, (np.clip(fine, low, high) - low) / (high - low), 0)
    pictures.append(along_y @ (np.tensordot(along_z, lit, 1) @ along_x.T))
  return Sketch(np.rint(255 * np.clip(np.stack(pictures, -1), 0, 1)).astype(np.uint8), _cut(body))


def _plane_of_symmetry(tissue: Float[np.ndarray, "y x"]) -> float:
  """The column, to half a one, about which a picture is most like its mirror image: greatest product of the two."""
  return float(np.sum([np.convolve(row, row) for row in tissue], 0).argmax()) / 2


def _shares(count: int, spacing_mm: float, start_mm: float, cells: int) -> Float[np.ndarray, "cells count"]:
  """Share of each cell that each voxel fills; voxel 0 has its middle at 0 mm."""
  edges = start_mm + CELL_MM * np.arange(cells + 1)[:, None]
  low = (np.arange(count) - 0.5) * spacing_mm
  overlap = np.minimum(edges[1:], low + spacing_mm) - np.maximum(edges[:-1], low)
  return (np.maximum(overlap, 0) / CELL_MM).astype(np.float32)


def _cut(body: Bool[np.ndarray, "z y x"]) -> Float[np.ndarray, "4"]:
  """See `Sketch.cut`."""
  rows, columns = body.any(2).sum(1), body.any(1).sum(1)
  inside = rows > 0
  edges = (
    (body[:, :, 0].sum(1), rows),
    (body[:, :, -1].sum(1), rows),
    (body[:, 0].sum(1), columns),
    (body[:, -1].sum(1), columns),
  )
  return np.array([np.median(run[inside] / whole[inside]) for run, whole in edges])
