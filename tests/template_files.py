"""A small template that tests write: two organs as a label map, or six points of the larger one."""

import json

import nibabel
import numpy as np

SHAPE = (20, 22, 24)
LABELS = {"liver": 5, "spleen": 1, "kidney": 2}


def cells():
  array = np.zeros(SHAPE, np.uint8)
  array[4:12, 5:15, 6:18] = 5
  array[14:18, 3:7, 2:8] = 1
  return array


def save(path, array_zyx, grid):
  nibabel.save(nibabel.Nifti1Image(array_zyx.T, grid.affine), path)


def six(grid, shift=0):
  """Six world points of the liver of `cells`, in an order of no meaning."""
  voxels = [[8, 9, 6], [4, 9, 9], [8, 14, 9], [11, 9, 9], [8, 5, 9], [8, 9, 17]]
  return (grid.world_from_voxel(np.array(voxels)) + shift).tolist()


def write_table(folder, table=None):
  (folder / "labels.json").write_text(json.dumps(LABELS if table is None else table))
