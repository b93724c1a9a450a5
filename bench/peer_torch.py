"""The published arithmetic in plain PyTorch, written here for timing alone: float32, as the published program runs it.

Network of the reference's section 1, correlation as one grouped convolution per scale over an organ's points (section
4), template outputs likewise. Nothing in the package imports this.
"""

import torch
from torch import nn
from torch.nn import functional


class Stage(nn.Sequential):
  """Two blocks of convolution, parameter-free instance norm and ReLU."""

  def __init__(self, inside: int, first: int, second: int):
    blocks = []
    for a, b in ((inside, first), (first, second)):
      blocks += [nn.Conv3d(a, b, 3, padding=1), nn.InstanceNorm3d(b), nn.ReLU()]
    super().__init__(*blocks)


class PeerMedLAM(nn.Module):
  """MedLAM as published, patches `(n, 1, z, y, x)`; `dropout` is the rate after the deepest stage while training.

  `finest`: stride after which the decoder ends; 1 is the published network.
  """

  def __init__(self, b: int, dropout: float = 0.0, finest: int = 1):
    super().__init__()
    stages = {8: (24, 8, 8), 4: (12, 4, 4), 2: (6, 4, 4), 1: (6, 4, 4)}
    self.down = nn.ModuleList(
      [Stage(1, 2 * b, 2 * b), Stage(2 * b, 2 * b, 2 * b), Stage(2 * b, 2 * b, 4 * b), Stage(4 * b, 4 * b, 8 * b)]
    )
    self.deepest = nn.Sequential(Stage(8 * b, 8 * b, 16 * b), nn.Dropout(dropout))
    self.up = nn.ModuleList([Stage(*(b * k for k in sizes)) for stride, sizes in stages.items() if stride >= finest])
    self.head = nn.Sequential(nn.Linear(1024 * b, 8 * b), nn.Linear(8 * b, 4 * b), nn.Linear(4 * b, 3))

  def forward(self, x: torch.Tensor, features: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Position, and with `features` those of strides 4, 2, 1. The published network computes them all or none."""
    skips = []
    for stage in self.down:
      x = stage(x)
      skips.append(x)
      x = functional.max_pool3d(x, 2)
    x = self.deepest(x)
    position = self.head(x.flatten(1))
    scales: list[torch.Tensor] = []
    if features:
      for level, stage in enumerate(self.up):
        grown = functional.interpolate(x, scale_factor=2, mode="trilinear")
        x = stage(torch.cat([grown, skips[3 - level]], 1))
        if level:
          scales.append(x)
    return position, scales


def taps(scales: list[torch.Tensor]) -> list[torch.Tensor]:
  """Normalised features of the patch's middle, 2, 4 and 8 voxels wide."""
  result = []
  for scale in scales:
    middle, half = scale.shape[-1] // 2, scale.shape[-1] // 16
    cut = slice(middle - half, middle + half)
    result.append(functional.normalize(scale[:, :, cut, cut, cut], dim=1))
  return result


def similarity(scales: list[torch.Tensor], templates: list[torch.Tensor]) -> torch.Tensor:
  """Sum over scales of the grouped convolution of all points' features with their taps, at 64 per axis."""
  total = torch.zeros(())
  for scale, tap in zip(scales, templates, strict=True):
    points, edge = len(scale), tap.shape[-1]
    flat = functional.normalize(scale, dim=1).flatten(0, 1)[None]
    result = functional.conv3d(flat, tap, padding=edge // 2, groups=points) / edge**3
    total = total + functional.interpolate(result, size=(64, 64, 64), mode="trilinear")[0]
  return total


@torch.no_grad()
def locate(network: PeerMedLAM, starts: torch.Tensor, organs: list[tuple[torch.Tensor, list[torch.Tensor]]]) -> None:
  """Time-wise the published search: 10 start patches, then for each organ the network and the correlation."""
  network(starts, False)
  for patches, templates in organs:
    _, scales = network(patches, True)
    similarity(scales, templates).flatten(1).argmax(1)
