"""Small DICOM series with labels in them, laid as scanners lay them. Not a test."""

import warnings

import numpy as np
from dicom_files import write_enhanced, write_slice

from medlsam_jax.io import dicom, oblique
from medlsam_jax.io.labels import LabelMap

SHAPE = (9, 14, 12)
STEP_MM = 3.0
ORGANS = {"liver": 3, "kidney_left": 7, "kidney_right": 5, "spleen": 9}
"""`spleen` is nowhere."""
PATIENT = "Marked^Name"
IDENTITY = {
  "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.77",
  "FrameOfReferenceUID": "1.2.826.0.1.3680043.8.498.78",
  "PatientName": PATIENT, "PatientID": "ID-4711", "PatientBirthDate": "19500203", "PatientSex": "F",
  "StudyDate": "20260102", "StudyTime": "101112", "AccessionNumber": "A1", "StudyID": "S1", "SeriesNumber": 4,
}  # fmt: skip

_TURN, _NOD = np.deg2rad(14.0), np.deg2rad(9.0)
_OBLIQUE_ROW = np.array([np.cos(_TURN), np.sin(_TURN), 0])
_OBLIQUE_COLUMN = np.array([-np.sin(_TURN) * np.cos(_NOD), np.cos(_TURN) * np.cos(_NOD), np.sin(_NOD)])
LAYOUTS = {
  # directions of a row and of a column, how far slices move sideways per step, the slices that are there
  "axial": ([1, 0, 0, 0, 1, 0], (0, 0), range(9)),
  "feet first": ([-1, 0, 0, 0, 1, 0], (0, 0), range(9)),
  "prone": ([-1, 0, 0, 0, -1, 0], (0, 0), range(9)),
  "tilted gantry": ([1, 0, 0, 0, 1, 0], (0, 0.35), range(9)),
  "oblique": ([*_OBLIQUE_ROW, *_OBLIQUE_COLUMN], (0, 0), range(9)),
  "a slice missing": ([1, 0, 0, 0, 1, 0], (0, 0), [0, 1, 2, 4, 5, 6, 7, 8]),
}


def positions_of(layout):
  """Of the slices, LPS mm, and the directions of rows and columns."""
  orientation, (across, down), present = LAYOUTS[layout]
  row, column = np.reshape(np.array(orientation, float), (2, 3))
  normal = np.cross(row, column)
  steps = [number * STEP_MM for number in present]
  start = np.array([-31.0, -42.0, 103.0])
  return [start + step * (normal + across * row + down * column) for step in steps], [*row, *column]


def write_labelled(folder, layout="axial", order=(4, 1, 7, 0, 8, 3, 2, 6, 5), plane=SHAPE[1:], **changes):
  """A series in files whose numbers do not follow their places; `plane` are its rows and columns."""
  folder.mkdir(parents=True, exist_ok=True)
  positions, orientation = positions_of(layout)
  for place, position in enumerate(positions):
    pixels = np.random.default_rng(place).integers(900, 1100, plane)  # a slice of one value is not painted
    path = folder / f"{order[place]:03d}.dcm"
    write_slice(path, pixels, position, orientation, InstanceNumber=order[place] + 1, **{**IDENTITY, **changes})
  return folder


def write_labelled_enhanced(path):
  """The axial one as an enhanced file of frames in another order than their places."""
  positions, _ = positions_of("axial")
  order = np.random.default_rng(3).permutation(len(positions))
  stored = np.stack([np.full(SHAPE[1:], 1024 + 10 * place) for place in order])
  return write_enhanced(path, stored, [positions[place] for place in order], **IDENTITY)


def read(path):
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    return dicom.read_series(path)


def labels_of(scan, names=ORGANS):
  """Organs of odd shapes: one of two pieces, one with a hole, on each side one. Of the file's own voxels."""
  grid = scan.file_grid or scan.grid
  array = np.zeros(grid.shape, np.uint8)
  array[2:6, 3:11, 1:7] = names["liver"]
  array[3:5, 5:9, 3:5] = 0
  array[7, 2:4, 2:9] = names["liver"]
  array[1:4, 11:13, 8:11] = names["kidney_left"]
  array[3, 12, 4] = names["kidney_right"]
  array[5:7, 9:13, 9:12] = names["kidney_right"]
  if scan.file_grid is None:
    return LabelMap(array, scan.grid, names, None, scan.source_images)
  straight = oblique.nearest_labels(array, grid, scan.grid)
  return LabelMap(straight, scan.grid, names, scan.file_grid, scan.source_images)


def world_voxels(mask, grid):
  """Where the voxels of a mask lie, LPS mm."""
  return grid.world_from_voxel(np.argwhere(mask)) * (-1, -1, 1)
