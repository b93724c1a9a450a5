import numpy as np
import pytest

from medlsam_jax.data import alignment
from medlsam_jax.errors import InputError
from medlsam_jax.geometry import Grid, Volume, reorient

SHAPE = (5, 6, 7)


@pytest.mark.parametrize("turned", ["LPS", "RAI", "SAR", "PIL"])
def test_turned_label_map_comes_onto_the_scans_voxels(make_grid, codes, turned):
  scan = make_grid(codes, SHAPE, (3.0, 2.0, 1.5))
  cells = np.random.default_rng(0).integers(0, 9, SHAPE)
  world = scan.world_from_voxel(np.moveaxis(np.indices(SHAPE), 0, -1))
  turned_cells = reorient(cells, scan, turned)
  turned_world = np.stack([reorient(world[..., k], scan, turned) for k in range(3)], -1)
  affine = np.eye(4)
  affine[:3, 3] = turned_world[0, 0, 0]
  for axis, index in enumerate([(0, 0, 1), (0, 1, 0), (1, 0, 0)]):
    affine[:3, axis] = turned_world[index] - turned_world[0, 0, 0]
  labels = Volume(turned_cells, Grid(turned_cells.shape, affine), "seg.nii")
  aligned = alignment.align_labels(labels, scan, "ct.nii")
  np.testing.assert_array_equal(aligned.array, cells)
  assert aligned.grid is scan


@pytest.mark.parametrize(
  "change", [{"origin": (-39.0, 20.0, 100.0)}, {"spacing": (3.0, 2.0, 1.6)}, {"shape": (5, 6, 8)}]
)
def test_another_grid_is_refused_with_both(make_grid, change):
  scan = make_grid("RAS", SHAPE)
  other = make_grid(**{"codes": "RAS", "shape": SHAPE, **change})
  labels = Volume(np.zeros(other.shape, np.uint8), other, "seg.nii")
  with pytest.raises(InputError, match=r"seg.nii: .*its scan ct.nii: 5x6x[78] voxels .* against 5x6x7 voxels"):
    alignment.align_labels(labels, scan, "ct.nii")


def test_rounded_spacing_is_the_same_grid(make_grid):
  scan = make_grid("RAS", (300, 300, 300), (0.7421875, 0.7421875, 1.0))
  other = make_grid("RAS", (300, 300, 300), (0.7422, 0.7422, 1.0))
  labels = Volume(np.broadcast_to(np.uint8(0), other.shape), other, "seg.nii")
  assert alignment.align_labels(labels, scan, "ct.nii").grid is scan
