"""The SAM family's arithmetic in plain PyTorch, written here for timing alone: float32, random weights.

Shapes and order of operations are those of "Segment anything" (ViT with windows and split relative positions, two-way
decoder) and of "TinyViT"; weights of neither can be loaded. Nothing in the package imports this.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class ChannelNorm(nn.Module):
  """Layer norm over channels of `(n, c, y, x)`."""

  def __init__(self, width: int):
    super().__init__()
    self.scale, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    centred = x - x.mean(1, keepdim=True)
    x = centred / torch.sqrt(centred.square().mean(1, keepdim=True) + 1e-6)
    return x * self.scale[:, None, None] + self.bias[:, None, None]


def neck(width: int) -> nn.Sequential:
  """What brings an encoder's channels to the decoder's."""
  return nn.Sequential(
    nn.Conv2d(width, 256, 1, bias=False), ChannelNorm(256), nn.Conv2d(256, 256, 3, padding=1, bias=False),
    ChannelNorm(256),
  )  # fmt: skip


def windows_of(x: torch.Tensor, window: int) -> torch.Tensor:
  """`(n, y, x, c)` -> `(n * windows, window, window, c)`, zero-padded to whole windows."""
  n, h, w, c = x.shape
  x = functional.pad(x, (0, 0, 0, -w % window, 0, -h % window))
  rows, columns = x.shape[1] // window, x.shape[2] // window
  return x.view(n, rows, window, columns, window, c).transpose(2, 3).reshape(-1, window, window, c)


def from_windows(x: torch.Tensor, h: int, w: int) -> torch.Tensor:
  """Back from `windows_of`."""
  window, c = x.shape[1], x.shape[-1]
  rows, columns = -(-h // window), -(-w // window)
  x = x.view(-1, rows, columns, window, window, c).transpose(2, 3)
  return x.reshape(-1, rows * window, columns * window, c)[:, :h, :w]


class ViTBlock(nn.Module):
  """Attention inside windows (or over the whole image with window 0) and MLP."""

  def __init__(self, width: int, heads: int, window: int, grid: int):
    super().__init__()
    self.heads, self.window = heads, window
    self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
    self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
    self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
    edge = window or grid
    self.along_y = nn.Parameter(torch.randn(2 * edge - 1, width // heads) * 0.02)
    self.along_x = nn.Parameter(torch.randn(2 * edge - 1, width // heads) * 0.02)

  def attend(self, x: torch.Tensor) -> torch.Tensor:
    n, h, w, c = x.shape
    q, k, v = self.qkv(x).view(n, h * w, 3, self.heads, -1).permute(2, 0, 3, 1, 4).reshape(3, n * self.heads, h * w, -1)
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(1, 2)
    place_y, place_x = torch.arange(h, device=x.device), torch.arange(w, device=x.device)
    square = q.view(-1, h, w, q.shape[-1])
    bias_y = torch.einsum("nhwc,hkc->nhwk", square, self.along_y[place_y[:, None] - place_y + h - 1])
    bias_x = torch.einsum("nhwc,wkc->nhwk", square, self.along_x[place_x[:, None] - place_x + w - 1])
    logits = (logits.view(-1, h, w, h, w) + bias_y[..., None] + bias_x[:, :, :, None]).view(-1, h * w, h * w)
    x = (logits.softmax(-1) @ v).view(n, self.heads, h, w, -1).permute(0, 2, 3, 1, 4)
    return self.out(x.reshape(n, h, w, c))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    inner, (h, w) = self.norm1(x), x.shape[1:3]
    if self.window:
      x = x + from_windows(self.attend(windows_of(inner, self.window)), h, w)
    else:
      x = x + self.attend(inner)
    return x + self.mlp(self.norm2(x))


class PeerViT(nn.Module):
  """ViT-B: `(n, 3, 1024, 1024) -> (n, 256, 64, 64)`."""

  def __init__(self) -> None:
    super().__init__()
    self.patch, self.position = nn.Conv2d(3, 768, 16, 16), nn.Parameter(torch.zeros(1, 64, 64, 768))
    self.blocks = nn.Sequential(*(ViTBlock(768, 12, 0 if i in (2, 5, 8, 11) else 14, 64) for i in range(12)))
    self.neck = neck(768)

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    x = self.patch(images).permute(0, 2, 3, 1) + self.position
    return self.neck(self.blocks(x).permute(0, 3, 1, 2))


def conv_norm(a: int, b: int, edge: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
  """Convolution and batch norm, as the published program keeps them."""
  return nn.Sequential(nn.Conv2d(a, b, edge, stride, edge // 2, groups=groups, bias=False), nn.BatchNorm2d(b))


class Inverted(nn.Module):
  """Inverted bottleneck."""

  def __init__(self, width: int):
    super().__init__()
    inner = 4 * width
    self.parts = nn.Sequential(
      conv_norm(width, inner), nn.GELU(), conv_norm(inner, inner, 3, 1, inner), nn.GELU(), conv_norm(inner, width)
    )

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return functional.gelu(x + self.parts(x))


class TinyBlock(nn.Module):
  """Windowed attention with a bias per offset, depthwise convolution, MLP."""

  def __init__(self, width: int, heads: int, window: int):
    super().__init__()
    self.heads, self.window = heads, window
    self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
    place = torch.arange(window)
    y, x = (part.reshape(-1) for part in torch.meshgrid(place, place, indexing="ij"))
    self.register_buffer("index", (y[:, None] - y).abs() * window + (x[:, None] - x).abs())
    self.bias = nn.Parameter(torch.zeros(heads, window * window))
    self.local = conv_norm(width, width, 3, 1, width)
    self.mlp = nn.Sequential(
      nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
    )  # fmt: skip

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    h, w, c = x.shape[2], x.shape[3], x.shape[1]
    tokens = x.permute(0, 2, 3, 1)
    parts = windows_of(tokens, self.window).view(-1, self.window**2, c)
    q, k, v = self.qkv(self.norm(parts)).view(len(parts), -1, self.heads, 3, c // self.heads).permute(3, 0, 2, 1, 4)
    weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(2, 3) + self.bias[:, self.index]).softmax(-1)
    mixed = self.out((weights @ v).transpose(1, 2).reshape(parts.shape)).view(-1, self.window, self.window, c)
    tokens = tokens + from_windows(mixed, h, w)
    tokens = self.local(tokens.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return (tokens + self.mlp(tokens)).permute(0, 3, 1, 2)


WIDTHS, MERGE_STRIDES = (64, 128, 160, 320), (2, 2, 1)
STAGES = ((2, 2, 7), (2, 4, 7), (6, 5, 14), (2, 10, 7))
"""Blocks, heads and window of TinyViT's stages, the first of which has inverted bottlenecks."""


def tiny_stem(embed_stride: int) -> nn.Sequential:
  """Before the first stage: 1x1 convolutions (`embed_stride` 1) or 3x3 ones."""
  edge = 1 if embed_stride == 1 else 3
  return nn.Sequential(conv_norm(3, 32, edge, embed_stride), nn.GELU(), conv_norm(32, 64, edge, embed_stride))


def tiny_blocks(stage: int) -> list[nn.Module]:
  """Those of a stage."""
  width, (depth, heads, window) = WIDTHS[stage], STAGES[stage]
  return [TinyBlock(width, heads, window) if stage else Inverted(width) for _ in range(depth)]


def tiny_merge(stage: int) -> nn.Sequential:
  """What follows on a stage but the last."""
  width, wider, stride = WIDTHS[stage], WIDTHS[stage + 1], MERGE_STRIDES[stage]
  return nn.Sequential(
    conv_norm(width, wider), nn.GELU(), conv_norm(wider, wider, 3, stride, wider), nn.GELU(), conv_norm(wider, wider)
  )


class PeerTinyViT(nn.Module):
  """TinyViT of LiteMedSAM (`embed_stride` 1) and MobileSAM (2): -> `(n, 256, 64, 64)`."""

  def __init__(self, embed_stride: int):
    super().__init__()
    parts: list[Any] = [tiny_stem(embed_stride)]
    for stage in range(len(STAGES)):
      parts += tiny_blocks(stage)
      if stage < len(MERGE_STRIDES):
        parts.append(tiny_merge(stage))
    self.parts = nn.Sequential(*parts, neck(320))

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    return self.parts(images)


class Attention(nn.Module):
  """Attention with an inner width; `present` `(n, k)` says which keys take part."""

  def __init__(self, inner: int, width: int = 256, heads: int = 8):
    super().__init__()
    self.heads, self.maps = heads, nn.ModuleList([nn.Linear(width, inner) for _ in range(3)])
    self.out = nn.Linear(inner, width)

  def forward(
    self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, present: torch.Tensor | None = None
  ) -> torch.Tensor:
    q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f, x in zip(self.maps, (q, k, v), strict=True))
    logits = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    if present is not None:
      logits = logits.masked_fill(~present[:, None, None], float("-inf"))
    return self.out((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))


class TwoWay(nn.Module):
  """Tokens among themselves, to the image, MLP, image to tokens."""

  def __init__(self, width: int = 256, heads: int = 8, inner: int = 2048) -> None:
    super().__init__()
    self.own = Attention(width, width, heads)
    self.to_image, self.to_token = (Attention(width // 2, width, heads) for _ in range(2))
    self.mlp = nn.Sequential(nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, width))
    self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(4)])

  def forward(
    self, tokens: torch.Tensor, image: torch.Tensor, place: torch.Tensor, where: torch.Tensor,
    present: torch.Tensor | None = None,
  ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    q = tokens + place
    tokens = self.norms[0](tokens + self.own(q, q, tokens, present))
    tokens = self.norms[1](tokens + self.to_image(tokens + place, image + where, image))
    tokens = self.norms[2](tokens + self.mlp(tokens))
    return tokens, self.norms[3](image + self.to_token(image + where, tokens + place, tokens, present))


def mlp3(out: int) -> nn.Sequential:
  """Three maps."""
  return nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, out))


class PeerDecoder(nn.Module):
  """Mask decoder: the image is repeated for each prompt, as published, and all four masks are made."""

  def __init__(self) -> None:
    super().__init__()
    self.tokens = nn.Parameter(torch.randn(5, 256))
    self.register_buffer("where", torch.randn(1, 4096, 256))
    self.blocks, self.last, self.norm = nn.ModuleList([TwoWay(), TwoWay()]), Attention(128), nn.LayerNorm(256)
    self.grow = nn.Sequential(
      nn.ConvTranspose2d(256, 64, 2, 2), ChannelNorm(64), nn.GELU(), nn.ConvTranspose2d(64, 32, 2, 2), nn.GELU()
    )
    self.filters, self.iou = nn.ModuleList([mlp3(32) for _ in range(4)]), mlp3(4)

  def forward(self, embedding: torch.Tensor, sparse: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Embedding `(1 or k, 256, 64, 64)`, prompt tokens `(k, 2, 256)` -> logits `(k, 4, 256, 256)`, quality `(k, 4)`."""
    count = len(sparse)
    place = torch.cat([self.tokens.expand(count, -1, -1), sparse], 1)
    image = embedding.flatten(2).transpose(1, 2)
    tokens, image = place, torch.repeat_interleave(image, count // len(image), 0)
    for block in self.blocks:
      tokens, image = block(tokens, image, place, self.where)
    tokens = self.norm(tokens + self.last(tokens + place, image + self.where, image))
    grown = self.grow(image.transpose(1, 2).reshape(count, 256, 64, 64))
    chosen = torch.stack([f(tokens[:, 1 + i]) for i, f in enumerate(self.filters)], 1)
    return (chosen @ grown.flatten(2)).view(count, 4, 256, 256), self.iou(tokens[:, 0])
