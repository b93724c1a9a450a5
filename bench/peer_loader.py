"""The published loader in plain PyTorch and TorchIO, written here for timing alone (reference, section 5).

An item opens a NIfTI of the working grid, cuts two 80-cubes with their coordinate maps, and makes a plain and a warped
view of each.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import nibabel
import numpy as np
import torch
import torchio
from torch.utils.data import DataLoader, Dataset

from bench.peer_training import PATCH, SPACING_MM, TRIES, Item

CUBE, SOLID = 80, 0.001


class PeerScans(Dataset):
  """Two patches of a random scan, opened anew each time; without `augment` the warped views are plain too."""

  def __init__(self, paths: Sequence[Path], items: int, augment: bool = True):
    self.paths, self.items, self.augment = list(paths), items, augment
    self.warps = torchio.Compose(
      [
        torchio.RandomNoise(std=(0, 0.2), p=0.5, include=["image"]),
        torchio.RandomAffine(scales=0.1, degrees=15, p=0.5),
        torchio.RandomElasticDeformation(num_control_points=5, max_displacement=3, p=0.5),
      ]
    )

  def __len__(self) -> int:
    return self.items

  def __getitem__(self, number: int) -> Item:
    rng = np.random.default_rng(number)
    scan = nibabel.load(self.paths[rng.integers(len(self.paths))]).get_fdata(dtype=np.float32)
    offset, views = rng.integers(0, CUBE - PATCH + 1, 3), []
    for _ in range(2):
      cube, places = _cut(rng, scan)
      plain = _inner(cube, offset), _inner(places, offset)
      if self.augment:
        cube, places = self._warped(rng, cube, places)
      middle = np.full(3, (CUBE - PATCH) // 2)
      views.append((*plain, _inner(cube, middle), _inner(places, middle)))
    names = ("plain", "plain_mm", "warped", "warped_mm")
    return {name: torch.stack(pair) for name, pair in zip(names, zip(*views, strict=True), strict=True)}

  def _warped(
    self, rng: np.random.Generator, cube: torch.Tensor, places: torch.Tensor
  ) -> tuple[torch.Tensor, torch.Tensor]:
    """Other intensities, noise, affine, elastic, each with probability .5."""
    if rng.random() < 0.5:
      centres = rng.uniform((0.2, 0.4, 0.6), (0.4, 0.6, 0.8))
      cube = sum((torch.sigmoid((cube - float(c)) / 0.1) for c in centres), torch.zeros(())) / len(centres)
    subject = torchio.Subject(image=torchio.ScalarImage(tensor=cube), places=torchio.ScalarImage(tensor=places))
    subject = self.warps(subject)
    return subject["image"].data, subject["places"].data


def _cut(rng: np.random.Generator, scan: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
  """An 80-cube `(1, e, e, e)` around a voxel that is not air, zeros beyond the scan, and its voxels' places in mm."""
  for _ in range(TRIES):
    centre = np.array([rng.integers(0, size) for size in scan.shape])
    if scan[tuple(centre)] >= SOLID:
      break
  first = centre - CUBE // 2
  low, high = np.maximum(first, 0), np.minimum(first + CUBE, scan.shape)
  inside = scan[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
  cube = np.pad(inside, [(a, CUBE - b) for a, b in zip(low - first, high - first, strict=True)])
  along = [np.arange(start, start + CUBE, dtype=np.float32) * SPACING_MM for start in first]
  places = np.stack(np.meshgrid(*along, indexing="ij"))
  return torch.from_numpy(cube[None]), torch.from_numpy(places)


def _inner(volume: torch.Tensor, offset: np.ndarray) -> torch.Tensor:
  z, y, x = (slice(int(start), int(start) + PATCH) for start in offset)
  return volume[:, z, y, x]


def batches(paths: Sequence[Path], size: int, count: int, workers: int) -> Iterator[Item]:
  """Joined items, made ahead by worker processes."""
  ahead = {"multiprocessing_context": "spawn", "prefetch_factor": 1} if workers else {}
  return iter(DataLoader(PeerScans(paths, size * count), batch_size=size, num_workers=workers, **ahead))
