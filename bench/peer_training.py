"""The published pre-training in plain PyTorch and TorchIO, written here for timing alone (reference, section 5).

An item opens a NIfTI of the working grid, cuts two 80-cubes with their coordinate maps, and makes a plain and a warped
view of each. A step runs the whole network four times, on the plain and the warped views of the first and the second
patches, and compares them with UAM and MSS.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import nibabel
import numpy as np
import torch
import torchio
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from bench.peer_torch import PeerMedLAM

CUBE, PATCH, SPACING_MM = 80, 64, 3.0
OFFSET_RANGE_MM = torch.tensor([1500.0, 600.0, 600.0])
SOLID, POINT_SOLID, TRIES = 0.001, 0.0001, 20
POINTS, TEMPERATURE = 20, 15.0
STRIDES = (4, 2, 1)

Item = dict[str, torch.Tensor]
"""`plain`, `warped` `(2, 1, e, e, e)`, `plain_mm`, `warped_mm` `(2, 3, e, e, e)`; joined: a batch axis before."""


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


class PeerTraining:
  """Network and optimizer; `step` takes a joined item through both."""

  def __init__(self, width: int):
    self.network = PeerMedLAM(width, dropout=0.2).train()
    self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-4, weight_decay=1e-4)

  def step(self, batch: Item, parts: int = 1) -> float:
    """One update from the mean gradient of `parts` equal parts of a batch; the last part's loss."""
    self.optimizer.zero_grad()
    for chunks in zip(*(value.chunk(parts) for value in batch.values()), strict=True):
      loss = self.loss(dict(zip(batch, chunks, strict=True)))
      (loss / parts).backward()
    self.optimizer.step()
    return float(loss.detach())

  def loss(self, batch: Item) -> torch.Tensor:
    """UAM of the plain views and MSS between plain and warped, from four runs of the whole network."""
    warped = [self.network(batch["warped"][:, i], True) for i in range(2)]
    plain = [self.network(batch["plain"][:, i], True) for i in range(2)]
    centres = [batch["plain_mm"][:, i, :, PATCH // 2, PATCH // 2, PATCH // 2] for i in range(2)]
    predicted = OFFSET_RANGE_MM * torch.tanh(plain[0][0] - plain[1][0])
    terms = [_similarity_loss(batch, i, plain[i][1], warped[i][1]) for i in range(2)]
    return functional.mse_loss(predicted, centres[0] - centres[1]) + (terms[0] + terms[1]) / (POINTS * len(STRIDES))


def _points(image: torch.Tensor) -> torch.Tensor:
  """`(20, 3)` voxels that are not air in more than half of the images `(n, 1, e, e, e)`, or the last of 20 tries."""
  found = []
  for _ in range(POINTS):
    for _ in range(TRIES):
      point = torch.randint(0, PATCH, (3,))
      if (image[:, 0, point[0], point[1], point[2]] >= POINT_SOLID).sum() > len(image) // 2:
        break
    found.append(point)
  return torch.stack(found)


def _similarity_loss(batch: Item, patch: int, plain: list[torch.Tensor], warped: list[torch.Tensor]) -> torch.Tensor:
  """MSS of one patch: the terms of all scales."""
  points = _points(batch["plain"][:, patch])
  z, y, x = points.T
  wanted_mm = batch["plain_mm"][:, patch][:, :, z, y, x]
  distance = torch.stack(
    [
      torch.linalg.vector_norm(batch["warped_mm"][:, patch] - wanted_mm[:, :, i, None, None, None], dim=1)
      for i in range(POINTS)
    ],
    1,
  )
  total = torch.zeros(())
  for stride, template, volume in zip(STRIDES, plain, warped, strict=True):
    near = distance if stride == 1 else functional.interpolate(distance, scale_factor=1 / stride, mode="trilinear")
    z, y, x = (points // stride).T
    wanted = functional.normalize(template[:, :, z, y, x], dim=1)
    found = functional.normalize(volume.flatten(2), dim=1)
    total = total + _term(torch.einsum("ncp,ncv->npv", wanted, found), near.flatten(2), stride)
  return total


def _term(cosine: torch.Tensor, distance: torch.Tensor, stride: int) -> torch.Tensor:
  p = torch.softmax(TEMPERATURE * cosine, -1)
  positive, negative = (distance <= SPACING_MM * stride).float(), (distance >= 2 * SPACING_MM * stride).float()
  attract = -(positive * torch.log(p)).sum() / positive.sum().clamp(min=1)
  return attract - (negative * torch.log(1 - p)).sum() / negative.sum().clamp(min=1)
