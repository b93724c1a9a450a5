"""Localization without the position head: every point is looked for by its features, near a face of the mean box.

A network whose objectives never train the head cannot be searched with as published, but its features can be compared
with other networks' in this way: where the search starts is the same for all of them.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from medlsam_jax import working_grid
from medlsam_jax.evaluation.baseline import MeanBoxes
from medlsam_jax.finding import FOUND, Finding
from medlsam_jax.geometry import FACES, Box, Volume
from medlsam_jax.medlam.bank.bank import Bank
from medlsam_jax.medlam.search import boxes, fine_step, programs
from medlsam_jax.medlam.search.patches import Patches
from medlsam_jax.medlam.search.search_settings import SearchSettings
from medlsam_jax.network import Network
from medlsam_jax.working_grid import WorkingGrid


def find_by_features(network: Network, bank: Bank, scan: Volume, mean_boxes: MeanBoxes) -> dict[str, Finding]:
  """Organs that `mean_boxes` has, in the bank's order.

  Args:
    network: the one that the bank was built with.
    bank: of mode WPL.
    scan: in HU; its labels are not looked at.
    mean_boxes: of the bank's templates.

  Raises:
    InputError: the scan shows no body.
  """
  placed = mean_boxes.place(scan)
  organs = [organ for organ in bank.organs.values() if organ.organ in placed]
  working = working_grid.to_working_grid(scan, bank.convention)
  prepared = programs.prepare(network)
  targets = []
  for organ in organs:
    own = np.zeros((len(organ.mean_positions), 3), int)
    own[organ.faces[0]] = np.rint(_face_centres(placed[organ.organ], working.grid))
    targets.append(own + working_grid.PATCH_MARGIN)
  padded = working_grid.pad_for_patches(working.intensity)
  taps = [organ.taps for organ in organs]
  voxels, _ = fine_step.settle(prepared, Patches.of(prepared, padded), np.concatenate(targets), taps, SearchSettings())
  findings, start = {}, 0
  for organ in organs:
    own = voxels[start : start + len(organ.mean_positions)] - working_grid.PATCH_MARGIN
    start += len(organ.mean_positions)
    points = boxes.points_to_scan(own[organ.faces], working.grid)
    findings[organ.organ] = Finding(organ.organ, organ.value, points, FOUND)
  return findings


def _face_centres(box: Box, grid: WorkingGrid) -> Float[np.ndarray, "6 3"]:
  """Working voxels in the middle of each face of a box in scan voxels, in the working grid's order of `FACES`."""
  edges = np.sort(grid.from_scan(box.array() + np.array([[-0.5], [0.5]])), axis=0)
  outermost = edges + np.array([[0.5], [-0.5]])
  middle = edges.mean(0)
  return np.stack([np.where(np.arange(3) == face % 3, outermost[face // 3], middle) for face in range(len(FACES))])
