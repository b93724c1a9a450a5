"""The volumetric network and its training step in plain PyTorch, written here for timing alone: random weights.

Order of operations as `medlsam_jax/sam3d/network/sam3d.py` has it, with PyTorch's own convolutions, norms, sampling and
resizing. As there, slices are embedded before depth is enlarged and one cube's tokens are shared by its organs. Other
than there, the decoder joins all scales anew for each organ and gives two logits, as published, batch norm stays
unfolded, and all slices of a cube are embedded at once. Nothing in the package imports this.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from bench import peer_sam
from bench.common import torch_device
from medlsam_jax.sam.network.image_encoder import APART, ViTSizes
from medlsam_jax.sam3d.network.layers import enlarging
from medlsam_jax.sam3d.network.prompts import ABSENT, FACES, LABELS, frequencies
from medlsam_jax.sam3d.network.variants import ADAPTED_STAGES, SCALES, Sam3DVariant

Tensor = torch.Tensor


class Adapter(nn.Module):
  """Tokens `(n, z, y, x, c)` and what their neighbours add."""

  def __init__(self, width: int):
    super().__init__()
    inner = width // 2
    self.down, self.up = nn.Linear(width, inner), nn.Linear(inner, width)
    self.depthwise = nn.Conv3d(inner, inner, 3, padding=1, groups=inner)

  def forward(self, x: Tensor) -> Tensor:
    inner = functional.relu(self.down(x)).movedim(-1, 1)
    return x + self.up(functional.relu(self.depthwise(inner)).movedim(1, -1))


class Depth(nn.Module):
  """Tokens of slices `(n, c, z, y, x)` -> tokens of cells: a convolution of enlarged slices, brought to those here."""

  def __init__(self, width: int, taps: int, zoom: int, grid: int):
    super().__init__()
    self.step = taps // zoom
    self.kernel, self.bias = nn.Parameter(torch.full((taps, width), 1 / taps)), nn.Parameter(torch.zeros(width))
    self.position = nn.Parameter(torch.zeros(grid, width))
    self.register_buffer("enlarging", torch.tensor(enlarging(taps, zoom)))

  def forward(self, x: Tensor) -> Tensor:
    near = (self.enlarging.T @ self.kernel).T[:, None, :, None, None]
    padded = functional.pad(x, (0, 0, 0, 0, 1, 1), "replicate")
    x = functional.conv3d(padded, near.to(x.dtype), self.bias.to(x.dtype), (self.step, 1, 1), groups=len(near))
    return x + self.position.T[:, :, None, None]


def cubes_of(x: Tensor, window: int) -> Tensor:
  """`(n, z, y, x, c)` -> `(n * cubes, window^3, c)`."""
  n, z, y, x_, c = x.shape
  x = x.reshape(n, z // window, window, y // window, window, x_ // window, window, c)
  return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, window**3, c)


def from_cubes(x: Tensor, window: int, grid: int) -> Tensor:
  """Back from `cubes_of`."""
  count = grid // window
  x = x.view(-1, count, count, count, window, window, window, x.shape[-1])
  return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(-1, grid, grid, grid, x.shape[-1])


def apart(grid: int, window: int, shift: int) -> Tensor:
  """Bias `(cubes, 1, tokens, tokens)` of windows that start `shift` tokens early: what came round the edge is far."""
  near = (np.arange(grid) >= grid - shift).astype(np.float32)
  region = torch.tensor(4 * near[:, None, None] + 2 * near[:, None] + near)
  region = cubes_of(region[None, ..., None], window)
  return APART * (region != region.transpose(1, 2)).float()[:, None]


class VolumeBlock(nn.Module):
  """SAM's block over volumes; norms and the table along depth alone are trained."""

  def __init__(self, sizes: ViTSizes, variant: Sam3DVariant, index: int):
    super().__init__()
    width, self.heads, self.window, self.grid = sizes.width, sizes.heads, variant.window, variant.grid
    self.shift = variant.window // 2 if index % 2 == 0 else 0
    self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
    self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
    self.mlp_in, self.mlp_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
    rows = 2 * sizes.tables(index) - 1
    for axis in "zyx":
      table = nn.Parameter(torch.randn(rows, width // self.heads) * 0.02, requires_grad=axis == "z")
      self.register_parameter(f"relative_{axis}", table)
    for layer in (self.qkv, self.project, self.mlp_in, self.mlp_out):
      layer.requires_grad_(False)
    if self.shift:
      self.register_buffer("apart", apart(variant.grid, variant.window, self.shift))

  def attend(self, x: Tensor) -> Tensor:
    """Within cubes `(g, tokens, c)`."""
    window, size = self.window, x.shape[-1] // self.heads
    q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, size)).permute(2, 0, 3, 1, 4)
    logits = (q * size**-0.5) @ k.transpose(2, 3)
    block, place = q.unflatten(2, (window,) * 3), torch.arange(window, device=x.device)
    keys = logits.unflatten(2, (window,) * 3).unflatten(-1, (window,) * 3)
    for axis, letter in enumerate("zyx"):
      rows = getattr(self, f"relative_{letter}")
      if len(rows) != 2 * window - 1:
        rows = functional.interpolate(rows.T[None], 2 * window - 1, mode="linear")[0].T
      rows = rows[place[:, None] - place + window - 1].to(q.dtype)
      bias = torch.einsum(f"ghzyxs,{letter}ks->ghzyxk", block, rows)
      keys = keys + bias.reshape(*bias.shape[:-1], *(window if other == axis else 1 for other in range(3)))
    logits = keys.flatten(5).flatten(2, 4)
    if self.shift:
      logits = logits.unflatten(0, (-1, len(self.apart))).add(self.apart).flatten(0, 1)
    return self.project((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))

  def forward(self, x: Tensor) -> Tensor:
    inner = self.norm1(x)
    if self.shift:
      inner = inner.roll((-self.shift,) * 3, (1, 2, 3))
    inner = from_cubes(self.attend(cubes_of(inner, self.window)), self.window, self.grid)
    if self.shift:
      inner = inner.roll((self.shift,) * 3, (1, 2, 3))
    x = x + inner
    return x + self.mlp_out(functional.gelu(self.mlp_in(self.norm2(x))))


class VolumeViT(nn.Module):
  """Cubes `(n, z, y, x)` -> tokens `(n, z, y, x, c)` after each tapped block."""

  def __init__(self, variant: Sam3DVariant):
    super().__init__()
    sizes, self.variant = variant.base.encoder, variant
    assert isinstance(sizes, ViTSizes)
    self.patch = nn.Conv2d(3, sizes.width, sizes.patch, sizes.patch).requires_grad_(False)
    self.position = nn.Parameter(torch.randn(1, sizes.grid, sizes.grid, sizes.width) * 0.02, requires_grad=False)
    self.depth = Depth(sizes.width, sizes.patch, variant.zoom, variant.grid)
    self.adapters = nn.ModuleList([Adapter(sizes.width) for _ in range(sizes.depth)])
    self.blocks = nn.ModuleList([VolumeBlock(sizes, variant, index) for index in range(sizes.depth)])

  def embed(self, volume: Tensor) -> Tensor:
    images = functional.interpolate(volume, (self.variant.image_edge,) * 2, mode="bilinear")
    # three equal channels: their kernels are added
    kernel = self.patch.weight.sum(1, keepdim=True)
    x = functional.conv2d(images.flatten(0, 1)[:, None], kernel, self.patch.bias, self.patch.stride)
    x = self.depth(x.unflatten(0, volume.shape[:2]).transpose(1, 2)).movedim(1, -1)
    cells = self.variant.grid
    return x + self.position.unflatten(1, (cells, -1)).unflatten(3, (cells, -1)).mean((2, 4))

  def step(self, x: Tensor, index: int) -> Tensor:
    """One adapter and the base's block after it."""
    return self.blocks[index](self.adapters[index](x))

  def forward(self, volume: Tensor, run: Callable[..., Tensor]) -> list[Tensor]:
    x, tapped = run(self.embed, volume), []
    for index in range(len(self.blocks)):
      x = run(self.step, x, index)
      if index in self.variant.taps:
        tapped.append(x)
    return tapped


class VolumeTinyViT(nn.Module):
  """As `VolumeViT`, on LiteMedSAM's TinyViT: its first stages see slices, the others cells."""

  def __init__(self, variant: Sam3DVariant):
    super().__init__()
    first, encoder, widths = ADAPTED_STAGES[0], variant.base.encoder, peer_sam.WIDTHS
    self.variant = variant
    early: list[Any] = [part for stage in range(first) for part in (*peer_sam.tiny_blocks(stage), self._merge(stage))]
    self.early = nn.Sequential(peer_sam.tiny_stem(1), *early).requires_grad_(False)
    self.depth = Depth(widths[first], encoder.stride, variant.zoom, variant.grid)
    self.stages = nn.ModuleList([nn.ModuleList(peer_sam.tiny_blocks(stage)) for stage in ADAPTED_STAGES])
    self.merge = self._merge(first).requires_grad_(False)
    for block in (block for stage in self.stages for block in stage):
      block.requires_grad_(False)
      for norm in (block.norm, block.mlp[0]):
        norm.requires_grad_(True)
    self.adapters = nn.ModuleList(
      [Adapter(widths[stage]) for stage, blocks in zip(ADAPTED_STAGES, self.stages, strict=True) for _ in blocks]
    )

  @staticmethod
  def _merge(stage: int) -> nn.Sequential:
    return peer_sam.tiny_merge(stage)

  def embed(self, volume: Tensor) -> Tensor:
    images = functional.interpolate(volume, (self.variant.image_edge,) * 2, mode="bilinear")
    x = self.early(images.flatten(0, 1)[:, None].expand(-1, 3, -1, -1))
    return self.depth(x.unflatten(0, volume.shape[:2]).transpose(1, 2)).movedim(1, -1)

  def step(self, x: Tensor, block: nn.Module, number: int) -> Tensor:
    """One adapter and the base's block after it."""
    return _slice_by_slice(block, self.adapters[number](x))

  def forward(self, volume: Tensor, run: Callable[..., Tensor]) -> list[Tensor]:
    x, tapped, number = run(self.embed, volume), [], 0
    for index, stage in enumerate(self.stages):
      for block in stage:
        x = run(self.step, x, block, number)
        if number in self.variant.taps:
          tapped.append(x)
        number += 1
      if index == 0:
        x = _slice_by_slice(self.merge, x)
    return tapped


def _slice_by_slice(part: nn.Module, x: Tensor) -> Tensor:
  y = part(x.flatten(0, 1).movedim(-1, 1)).movedim(1, -1)
  return y.unflatten(0, x.shape[:2])


class Neck(nn.Module):
  """1x1x1, norm, 3x3x3, norm: `(n, z, y, x, i)` -> `(n, z, y, x, o)`."""

  def __init__(self, inside: int, width: int):
    super().__init__()
    self.map = nn.Linear(inside, width, bias=False)
    self.conv = nn.Conv3d(width, width, 3, padding=1, bias=False)
    self.norm0, self.norm1 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)

  def forward(self, x: Tensor) -> Tensor:
    return self.norm1(self.conv(self.norm0(self.map(x)).movedim(-1, 1)).movedim(1, -1))


class Prompts(nn.Module):
  """Learned queries and prompts attend to the deepest tokens `(n, z, y, x, c)` and these to them."""

  def __init__(self, variant: Sam3DVariant):
    super().__init__()
    width, grid, self.edge = variant.width, variant.grid, variant.cube_edge
    self.labels = nn.Parameter(torch.randn(len(LABELS), width) * 0.1)
    blocks = [peer_sam.TwoWay(width, variant.heads, variant.mlp_width) for _ in range(variant.prompt_blocks)]
    queries = [nn.Parameter(torch.randn(variant.queries, width) * 0.1) for _ in blocks]
    self.blocks, self.queries = nn.ModuleList(blocks), nn.ParameterList(queries)
    self.register_buffer("table", torch.tensor(frequencies(width // 2)))
    centres = (torch.stack(torch.meshgrid(*[torch.arange(grid).float()] * 3, indexing="ij"), -1) + 0.5) / grid
    self.register_buffer("where", self.code(centres.reshape(1, -1, 3)))

  def code(self, unit: Tensor) -> Tensor:
    angle = 2 * math.pi * ((2 * unit - 1) @ self.table)
    return torch.cat([angle.sin(), angle.cos()], -1)

  def forward(self, deepest: Tensor, points: Tensor, labels: Tensor) -> Tensor:
    (n, organs, count), grid, width = labels.shape, deepest.shape[1], deepest.shape[-1]
    unit = ((points + 0.5) / self.edge).to(deepest.dtype)
    # PyTorch wants (x, y, z), and a grid of five axes
    places = (2 * unit - 1).flip(-1).reshape(n, -1, 1, 1, 3)
    sampled = functional.grid_sample(
      deepest.movedim(-1, 1), places, padding_mode="border", align_corners=False
    )  # fmt: skip
    flat, queries = labels.reshape(n * organs, count), len(self.queries[0])
    tokens = sampled.flatten(2).transpose(1, 2).reshape(n * organs, count, width) + self.labels[flat.clamp(min=0)]
    place = functional.pad(self.code(unit).reshape(n * organs, count, -1), (0, 0, queries, 0))
    present = functional.pad(flat != ABSENT, (queries, 0), value=True)
    image = deepest.flatten(1, 3)
    image = torch.repeat_interleave(image, organs, 0) if n > 1 else image
    for block, own in zip(self.blocks, self.queries, strict=True):
      seen = torch.cat([own.expand(n * organs, -1, -1).to(tokens.dtype), tokens], 1)
      seen, image = block(seen, image, place, self.where, present)
      tokens = seen[:, queries:]
    return image.reshape(n * organs, grid, grid, grid, width)


class Scale(nn.Module):
  """Two 3x3x3 convolutions with instance norm and ReLU, upsampled by two; channels second."""

  def __init__(self, inside: int, width: int):
    super().__init__()
    self.first = nn.Conv3d(inside, width, 3, padding=1, bias=False)
    self.second = nn.Conv3d(width, width, 3, padding=1, bias=False)

  def forward(self, x: Tensor) -> Tensor:
    for conv in (self.first, self.second):
      x = functional.relu(functional.instance_norm(conv(x)))
    return functional.interpolate(x, scale_factor=2, mode="trilinear")


class Decoder(nn.Module):
  """Tokens of all scales, the last of each organ, the image and each organ's filled box -> logits."""

  def __init__(self, variant: Sam3DVariant):
    super().__init__()
    width, self.edge = variant.decoder_width, variant.cube_edge
    self.scales = nn.ModuleList([Scale(variant.width, width) for _ in range(SCALES)])
    self.join = nn.Conv3d(SCALES * width + 2, width, 3, padding=1, bias=False)
    self.classes = nn.Conv3d(width, 2, 3, padding=1, bias=False)

  def shared(self, tokens: list[Tensor], image: Tensor) -> list[Tensor]:
    scales = [scale(x.movedim(-1, 1)) for scale, x in zip(self.scales, tokens, strict=False)]
    return [*scales, image.to(scales[0].dtype)]

  def forward(self, shared: list[Tensor], prompted: Tensor, filled: Tensor) -> Tensor:
    n = len(shared[0])
    organs = len(prompted) // n
    own = self.scales[-1](prompted.movedim(-1, 1))
    *scales, image = (x.repeat_interleave(organs, 0) for x in shared)
    x = functional.relu(functional.instance_norm(self.join(torch.cat([*scales, own, image, filled], 1))))
    both = functional.interpolate(self.classes(x), (self.edge,) * 3, mode="trilinear")
    return (both[:, 1] - both[:, 0]).unflatten(0, (n, organs))


def filled_boxes(points: Tensor, labels: Tensor, edge: int, cells: int) -> Tensor:
  """Share of each cell `(n * k, 1, z, y, x)` in the box whose faces are among an organ's points."""
  faces = torch.tensor(FACES, device=labels.device)
  is_face = (labels[..., None] == faces).flatten(0, 1)
  across = points.flatten(0, 1).repeat(1, 1, 2)
  low = across.masked_fill(~is_face, math.inf).amin(1)[:, :3, None] - 0.5
  high = across.masked_fill(~is_face, -math.inf).amax(1)[:, 3:, None] + 0.5
  size = edge / cells
  start = torch.arange(cells, device=points.device) * size - 0.5
  share = (torch.minimum(high, start + size) - torch.maximum(low, start)).clamp(0, size) / size
  share = share * is_face.any(1).all(-1)[:, None, None]
  return torch.einsum("nz,ny,nx->nzyx", *share.unbind(1))[:, None]


class PeerSam3D(nn.Module):
  """The whole network; `remat` computes values within its parts anew for the gradient."""

  def __init__(self, variant: Sam3DVariant, remat: bool = False):
    super().__init__()
    self.remat, self.grid, self.edge = remat, variant.grid, variant.cube_edge
    vit = isinstance(variant.base.encoder, ViTSizes)
    self.encoder = VolumeViT(variant) if vit else VolumeTinyViT(variant)
    inside = [adapter.up.out_features for adapter in self.encoder.adapters]
    self.necks = nn.ModuleList([Neck(inside[tap], variant.width) for tap in variant.taps])
    self.prompts, self.decoder = Prompts(variant), Decoder(variant)
    self.box = nn.Parameter(torch.randn(variant.width) * 0.1)

  def _run(self, part: Callable[..., Any], *arguments: Any) -> Any:
    if not (self.remat and torch.is_grad_enabled()):
      return part(*arguments)
    return checkpoint(part, *arguments, use_reentrant=False)

  def forward(self, volume: Tensor, points: Tensor, labels: Tensor) -> Tensor:
    """Cubes `(n, z, y, x)`, points `(n, k, t, 3)` and their labels `(n, k, t)` -> logits `(n, k, z, y, x)`."""
    tokens = [neck(x) for neck, x in zip(self.necks, self.encoder(volume, self._run), strict=True)]
    cells = 2 * self.grid
    image = volume.reshape(-1, *(part for _ in range(3) for part in (cells, volume.shape[1] // cells))).mean((2, 4, 6))
    shared = self._run(self.decoder.shared, tokens[:-1], image[:, None])
    coarse, fine = (filled_boxes(points, labels, self.edge, edge).to(volume.dtype) for edge in (self.grid, cells))
    prompted = self._run(self.prompts, tokens[-1], points, labels) + coarse.movedim(1, -1) * self.box
    return self._run(self.decoder, shared, prompted, fine)


class PeerAdapting:
  """Network and optimizer; `step` is one update from cubes whose views are ready."""

  def __init__(self, variant: Sam3DVariant, remat: bool, dtype: str):
    self.device, self.dtype = torch_device(), getattr(torch, dtype)
    # batch norm of the base stays as it is, and there is no dropout
    self.network = PeerSam3D(variant, remat).eval().to(self.device)
    self.trained = [each for each in self.network.parameters() if each.requires_grad]
    self.optimizer = torch.optim.AdamW(self.trained, lr=4e-4, weight_decay=0.0)

  def step(self, volume: Tensor, points: Tensor, labels: Tensor, truth: Tensor) -> float:
    """`truth` `(n, k, z, y, x)`, 0 or 1; the loss."""
    self.optimizer.zero_grad()
    with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
      logits = self.network(volume, points, labels)
    logits, truth = logits.float().flatten(0, 1).flatten(1), truth.flatten(0, 1).flatten(1)
    sure = logits.sigmoid()
    dice = 1 - 2 * (sure * truth).sum(1) / (sure.square().sum(1) + truth.sum(1))
    loss = 0.5 * dice.mean() + 0.5 * functional.binary_cross_entropy_with_logits(logits, truth)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
    self.optimizer.step()
    return float(loss.detach())
