"""The peers as calls that are ready to be timed, on the accelerator if PyTorch has one; import only with PyTorch."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from bench import cube_programs, peer_cubes, peer_sam, peer_torch
from bench.common import for_torch, torch_device
from medlsam_jax.sam3d.network.variants import VARIANTS

Call = Callable[[], Any]


def _placed(module: torch.nn.Module, dtype: str = "float32") -> torch.nn.Module:
  return module.eval().to(torch_device(), getattr(torch, dtype))


def _random(*shape: int, dtype: str = "float32") -> torch.Tensor:
  return torch.rand(*shape, device=torch_device(), dtype=getattr(torch, dtype))


def forward(width: int, dtype: str, given: np.ndarray, decoder: bool, compiled: bool = False) -> Call:
  """Patches `(n, z, y, x, 1)` through the network, with its decoder or without; `compiled` by `torch.compile`."""
  module, batch = _placed(peer_torch.PeerMedLAM(width), dtype), for_torch(given).to(getattr(torch, dtype))
  run: Any = torch.compile(module) if compiled else module
  return torch.no_grad()(lambda: run(batch, decoder))


def gradient(width: int, dtype: str, given: np.ndarray) -> Call:
  """The gradient of a sum over all outputs."""
  module, batch = _placed(peer_torch.PeerMedLAM(width), dtype), for_torch(given).to(getattr(torch, dtype))

  def step() -> None:
    module.zero_grad()
    position, features = module(batch, True)
    (position.sum() + sum(f.mean() for f in features)).backward()

  return step


def correlation(channels: int, dtype: str = "float32", points: int = 6) -> Call:
  """One grouped convolution over all points, at full resolution."""
  flat = _random(1, points * channels, 64, 64, 64, dtype=dtype)
  weight = _random(points, channels, 8, 8, 8, dtype=dtype)
  return torch.no_grad()(lambda: torch.nn.functional.conv3d(flat, weight, padding=4, groups=points))


def scan(width: int, points_per_organ: Sequence[int], dtype: str = "float32") -> Call:
  """One scan by the published arithmetic: ten starts, then per organ its points' patches and their correlation."""
  module, starts = _placed(peer_torch.PeerMedLAM(width), dtype), _random(10, 1, 64, 64, 64, dtype=dtype)
  organs = []
  for points in points_per_organ:
    kept = [_random(points, 4 * width, k, k, k, dtype=dtype) for k in (2, 4, 8)]
    organs.append((_random(points, 1, 64, 64, 64, dtype=dtype), kept))
  return lambda: peer_torch.locate(module, starts, organs)


def bank(width: int, points_per_organ: Sequence[int]) -> Call:
  """What the published program keeps of one template."""
  module = _placed(peer_torch.PeerMedLAM(width))
  per_organ = [_random(n, 1, 64, 64, 64) for n in points_per_organ]
  return torch.no_grad()(lambda: [peer_torch.taps(module(patches, True)[1]) for patches in per_organ])


def encoder(name: str, edge: int, *sizes: int, images: int = 1, dtype: str = "float32") -> Call:
  """An encoder of `peer_sam` on so many images."""
  module, batch = _placed(getattr(peer_sam, name)(*sizes), dtype), _random(images, 3, edge, edge, dtype=dtype)
  return torch.no_grad()(lambda: module(batch))


def decoder(count: int, dtype: str = "float32") -> Call:
  """The mask decoder with so many prompts on one image."""
  module = _placed(peer_sam.PeerDecoder(), dtype)
  embedding, sparse = _random(1, 256, 64, 64, dtype=dtype), _random(count, 2, 256, dtype=dtype)
  return torch.no_grad()(lambda: module(embedding, sparse))


def everything(points: int, pixels: int) -> Call:
  """All masks of a grid of points at the image's size, and their stability."""
  tiny, masks = _placed(peer_sam.PeerTinyViT(1)), _placed(peer_sam.PeerDecoder())
  image, prompts = _random(1, 3, pixels, pixels), _random(points, 2, 256)

  def run() -> None:
    embedding = tiny(image)
    for some in prompts.split(64):
      logits, _ = masks(embedding, some)
      full = torch.nn.functional.interpolate(logits[:, 1:], (pixels, pixels), mode="bilinear")
      (full > 1).sum((2, 3)) / (full > -1).sum((2, 3)).clamp(min=1), full > 0

  return torch.no_grad()(run)


def finetuning(truth: np.ndarray) -> Call:
  """A step of the mask decoder on embeddings that are there; `truth` `(n, 256, 256)`."""
  device = torch_device()
  module, wanted = peer_sam.PeerDecoder().to(device), torch.from_numpy(truth).float().to(device)
  optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, weight_decay=0.01)
  embedding, sparse = _random(len(truth), 256, 64, 64), _random(len(truth), 2, 256)

  def run() -> None:
    optimizer.zero_grad()
    logits, quality = module(embedding, sparse)
    logits, sure = logits[:, 0], logits[:, 0].sigmoid()
    dice = 1 - 2 * (sure * wanted).sum((1, 2)) / (sure.square().sum((1, 2)) + wanted.sum((1, 2)))
    reached = ((logits > 0) & (wanted > 0)).sum((1, 2)) / ((logits > 0) | (wanted > 0)).sum((1, 2))
    bce = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted)
    (dice.mean() + bce + (quality[:, 0] - reached).square().mean()).backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()

  return run


def cubes(name: str, organs: int, dtype: str = "float32") -> Call:
  """A cube and the boxes of so many organs through the volumetric network of that name."""
  variant = VARIANTS[name]
  module, asked = _placed(peer_cubes.PeerSam3D(variant), dtype), _asked(name, organs)
  asked[0] = asked[0].to(getattr(torch, dtype))
  return torch.no_grad()(lambda: module(*asked))


def cube_step(name: str, organs: int, remat: bool, dtype: str = "float32") -> Call:
  """Its training step on a cube whose views are ready."""
  training = peer_cubes.PeerAdapting(VARIANTS[name], remat, dtype)
  truth = torch.from_numpy(cube_programs.masks(VARIANTS[name], organs)).float().to(torch_device())
  asked = _asked(name, organs)
  return lambda: training.step(*asked, truth)


def _asked(name: str, organs: int) -> list[torch.Tensor]:
  return [torch.from_numpy(each).to(torch_device()) for each in cube_programs.asked(VARIANTS[name], organs)]


def matrix_product(edge: int, dtype: str) -> Call:
  """A square product."""
  a, b = _random(edge, edge, dtype=dtype), _random(edge, edge, dtype=dtype)
  return torch.no_grad()(lambda: a @ b)


def copy(numbers: int) -> Call:
  """float32 numbers read, changed and written."""
  a = _random(numbers)
  return torch.no_grad()(lambda: a + 1)


def set_precision(operands: str) -> None:
  """`highest`: float32 products in float32; anything else: as fast as the card has them (TF32)."""
  fast = operands != "highest"
  torch.backends.cuda.matmul.allow_tf32 = fast
  torch.backends.cudnn.allow_tf32 = fast
