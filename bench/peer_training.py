"""The published pre-training step in plain PyTorch, written here for timing alone (reference, section 5).

A step runs the whole network on the plain and the warped views of a scan's patches, one after the other, and compares
them with UAM and MSS. Beside the published recipe (two patches) it does what ours does with more (`Recipe`).
"""

import dataclasses
import itertools

import torch
from torch.nn import functional

from bench.common import torch_device
from bench.peer_torch import PeerMedLAM

PATCH, SPACING_MM = 64, 3.0
OFFSET_RANGE_MM = (1500.0, 600.0, 600.0)
POINT_SOLID, TRIES = 0.0001, 20
TEMPERATURE = 15.0

Item = dict[str, torch.Tensor]
"""`plain`, `warped` `(m, 1, e, e, e)`, `plain_mm`, `warped_mm` `(m, 3, e, e, e)` for the m patches of a scan; joined: a
batch axis before."""


@dataclasses.dataclass(frozen=True)
class Recipe:
  """What a step compares; the defaults are the published ones."""

  strides: tuple[int, ...] = (4, 2, 1)
  patches: int = 2
  dense: int = 2
  """Patches whose features are compared; the others lend their positions alone."""
  points: int = 20
  warped_positions: bool = False
  """Whether UAM compares positions of warped views too."""


def random_batch(scans: int, recipe: Recipe) -> Item:
  """Made-up views on the device: times do not depend on what is seen, as long as it is not air."""
  shape, device = (scans, recipe.patches), torch_device()
  names = ("plain", "warped")
  images = {name: torch.rand(*shape, 1, *(PATCH,) * 3, device=device) for name in names}
  axes = [torch.arange(PATCH, dtype=torch.float32, device=device) * SPACING_MM] * 3
  places = torch.stack(torch.meshgrid(*axes, indexing="ij")).expand(*shape, -1, -1, -1, -1).contiguous()
  return images | {f"{name}_mm": places for name in names}


class PeerTraining:
  """Network and optimizer; `step` takes a joined item through both."""

  def __init__(self, width: int, recipe: Recipe | None = None, dtype: str = "float32"):
    self.recipe, self.device, self.dtype = recipe or Recipe(), torch_device(), getattr(torch, dtype)
    self.network = PeerMedLAM(width, dropout=0.2, finest=min(self.recipe.strides)).train().to(self.device)
    self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-4, weight_decay=1e-4)

  def step(self, batch: Item, parts: int = 1) -> float:
    """One update from the mean gradient of `parts` equal parts of a batch; the last part's loss."""
    self.optimizer.zero_grad()
    for chunks in zip(*(value.to(self.device).chunk(parts) for value in batch.values()), strict=True):
      with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
        loss = self.loss(dict(zip(batch, chunks, strict=True)))
      (loss / parts).backward()
    self.optimizer.step()
    return float(loss.detach())

  def loss(self, batch: Item) -> torch.Tensor:
    """UAM of the positions and MSS between plain and warped, from a run of the network for each view."""
    recipe = self.recipe
    warped = [
      self.network(batch["warped"][:, i], i < recipe.dense)
      for i in range(recipe.patches if recipe.warped_positions else recipe.dense)
    ]
    plain = [
      self.network(batch["plain"][:, i], i < recipe.dense)
      for i in range(recipe.dense if recipe.warped_positions else recipe.patches)
    ]
    seen = [(run[0], batch["plain_mm"][:, i]) for i, run in enumerate(plain)]
    if recipe.warped_positions:
      seen += [(run[0], batch["warped_mm"][:, i]) for i, run in enumerate(warped)]
    terms = [self._similarity_loss(batch, i, plain[i][1], warped[i][1]) for i in range(recipe.dense)]
    return _uam(seen) + sum(terms, torch.zeros((), device=self.device)) / (recipe.points * len(recipe.strides))

  def _similarity_loss(
    self, batch: Item, patch: int, plain: list[torch.Tensor], warped: list[torch.Tensor]
  ) -> torch.Tensor:
    """MSS of one patch: the terms of all scales."""
    points = _points(batch["plain"][:, patch], self.recipe.points)
    z, y, x = points.T
    wanted_mm = batch["plain_mm"][:, patch][:, :, z, y, x]
    distance = torch.stack(
      [
        torch.linalg.vector_norm(batch["warped_mm"][:, patch] - wanted_mm[:, :, i, None, None, None], dim=1)
        for i in range(len(points))
      ],
      1,
    )
    total = torch.zeros((), device=self.device)
    for stride, template, volume in zip(self.recipe.strides, plain, warped, strict=True):
      near = distance if stride == 1 else functional.interpolate(distance, scale_factor=1 / stride, mode="trilinear")
      z, y, x = (points // stride).T
      wanted = functional.normalize(template[:, :, z, y, x], dim=1)
      result = functional.normalize(volume.flatten(2), dim=1)
      total = total + _term(torch.einsum("ncp,ncv->npv", wanted, result), near.flatten(2), stride)
    return total


def _uam(seen: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
  """Mean squared error in mm^2 of the offsets between all pairs of views, from positions and coordinate maps."""
  middle, errors = PATCH // 2, []
  for (first, first_mm), (second, second_mm) in itertools.combinations(seen, 2):
    predicted = torch.tensor(OFFSET_RANGE_MM, device=first.device) * torch.tanh(first - second)
    true = first_mm[:, :, middle, middle, middle] - second_mm[:, :, middle, middle, middle]
    errors.append(functional.mse_loss(predicted, true))
  return torch.stack(errors).mean()


def _points(image: torch.Tensor, count: int) -> torch.Tensor:
  """`(count, 3)` voxels not air in more than half of the images `(n, 1, e, e, e)`, or the last of 20 tries."""
  result = []
  for _ in range(count):
    for _ in range(TRIES):
      point = torch.randint(0, PATCH, (3,))
      if (image[:, 0, point[0], point[1], point[2]] >= POINT_SOLID).sum() > len(image) // 2:
        break
    result.append(point)
  return torch.stack(result)


def _term(cosine: torch.Tensor, distance: torch.Tensor, stride: int) -> torch.Tensor:
  p = torch.softmax(TEMPERATURE * cosine, -1)
  positive, negative = (distance <= SPACING_MM * stride).float(), (distance >= 2 * SPACING_MM * stride).float()
  attract = -(positive * torch.log(p)).sum() / positive.sum().clamp(min=1)
  return attract - (negative * torch.log(1 - p)).sum() / negative.sum().clamp(min=1)
