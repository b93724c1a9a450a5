"""SAM's prompt encoder: points, boxes and masks -> sparse tokens and a dense map.

Prompts are `(x, y)` pixels of the network's own input image; a box is `(x0, y0, x1, y1)` ("Segment anything",
appendix A). Absent prompts are None, which is static.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from medlsam_jax.sam.network.layers import Conv, gelu, layer_norm

ABSENT, PADDING, NEGATIVE, POSITIVE, BOX_LOW, BOX_HIGH = -2, -1, 0, 1, 2, 3
"""Labels of points. `PADDING` is SAM's "no point", a token like any other, which follows points that come without a
box; `ABSENT` fills an array up to a fixed size and takes no part in anything."""
MASK_WIDTHS = (4, 16)
"""Channels of the two convolutions that bring a mask prompt down to the embedding's resolution."""


class PromptEncoder(nn.Module):
  """See the module's first lines. `width`: channels of a token; `image_size`: pixels an edge; `grid`: cells an edge."""

  width: int = 256
  image_size: int = 256
  grid: int = 64
  dtype: DTypeLike = jnp.float32

  def setup(self) -> None:
    normal = nn.initializers.normal(1.0)
    # Random Fourier frequencies belong to the weights but are never trained: see `_encode_position`.
    self.frequencies = self.param("frequencies", normal, (2, self.width // 2))
    for name in ("negative_point", "positive_point", "box_low", "box_high", "no_point", "no_mask"):
      setattr(self, name, self.param(name, normal, (1, self.width)))
    self.mask_conv0 = Conv(MASK_WIDTHS[0], edge=2, stride=2, dtype=self.dtype)
    self.mask_norm0 = layer_norm(1e-6)
    self.mask_conv1 = Conv(MASK_WIDTHS[1], edge=2, stride=2, dtype=self.dtype)
    self.mask_norm1 = layer_norm(1e-6)
    self.mask_conv2 = Conv(self.width, dtype=self.dtype)

  def _encode_position(self, unit_xy: Float[Array, "*n 2"]) -> Float[Array, "*n c"]:
    """Positions in [0, 1] -> sines and cosines; always float32, whose digits the high frequencies need."""
    unit_xy = 2 * unit_xy - 1
    frequencies = jax.lax.stop_gradient(self.frequencies)
    # Written out: a matrix product of depth two would be rounded to bfloat16 on TPU.
    angle = 2 * jnp.pi * (unit_xy[..., :1] * frequencies[0] + unit_xy[..., 1:] * frequencies[1])
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)

  def image_positions(self) -> Float[Array, "1 g g c"]:
    """Encoding of the centre of each cell of the embedding."""
    centres = (jnp.arange(self.grid, dtype=jnp.float32) + 0.5) / self.grid
    y, x = jnp.meshgrid(centres, centres, indexing="ij")
    return self._encode_position(jnp.stack([x, y], -1))[None]

  def _encode_points(self, points: Float[Array, "k p 2"], labels: Int[Array, "k p"]) -> Float[Array, "k p c"]:
    position = self._encode_position((points + 0.5) / self.image_size)
    label = labels[..., None]
    tokens = jnp.where(label < 0, self.no_point, position)
    learned = (self.negative_point, self.positive_point, self.box_low, self.box_high)
    for number, token in zip((NEGATIVE, POSITIVE, BOX_LOW, BOX_HIGH), learned, strict=True):
      tokens = tokens + jnp.where(label == number, token, 0)
    return tokens

  def _encode_boxes(self, boxes: Float[Array, "k 4"]) -> Float[Array, "k 2 c"]:
    corners = self._encode_position((boxes.reshape(-1, 2, 2) + 0.5) / self.image_size)
    return corners + jnp.stack([self.box_low, self.box_high], axis=1)

  def encode_masks(self, masks: Float[Array, "k edge edge 1"]) -> Float[Array, "k edge/4 edge/4 c"]:
    """Low-resolution logits of an earlier answer -> dense map."""
    x = gelu(self.mask_norm0(self.mask_conv0(masks)))
    x = gelu(self.mask_norm1(self.mask_conv1(x)))
    return self.mask_conv2(x)

  def as_tokens(
    self, points: Float[Array, "k t 2"], labels: Int[Array, "k t"], masks: Float[Array, "k edge edge 1"] | None = None
  ) -> tuple[Float[Array, "k t c"], Float[Array, "kd gd gd c"], Bool[Array, "k t"]]:
    """Every prompt as labelled points, box corners among them, nothing added: one program serves all combinations.

    Returns:
      Sparse tokens, the dense map as of `__call__`, and which tokens are there (not `ABSENT`).
    """
    dense = self.no_mask[None, None] if masks is None else self.encode_masks(masks)
    return self._encode_points(points, labels), dense, labels != ABSENT

  def __call__(
    self,
    points: Float[Array, "k p 2"] | None = None,
    labels: Int[Array, "k p"] | None = None,
    boxes: Float[Array, "k 4"] | None = None,
    masks: Float[Array, "k edge edge 1"] | None = None,
  ) -> tuple[Float[Array, "k t c"], Float[Array, "kd gd gd c"]]:
    """Encodes `k` prompts that may each hold points, a box and a mask.

    Args:
      points: (x, y) pixels.
      labels: 1 inside, 0 outside, -1 no point (padding).
      boxes: (x0, y0, x1, y1) pixels.
      masks: logits at four times the embedding's resolution.

    Returns:
      Sparse tokens, and the dense map `(k, g, g, c)`, or `(1, 1, 1, c)` (to be broadcast) when there are no masks.
    """
    prompts = [p for p in (points, boxes, masks) if p is not None]
    if not prompts:
      raise ValueError("a prompt needs points, a box or a mask")
    tokens = [jnp.zeros((prompts[0].shape[0], 0, self.width))]
    if points is not None:
      if labels is None:
        raise ValueError("points need labels")
      if boxes is None:  # published: points without a box are followed by one "no point"
        points = jnp.pad(points, ((0, 0), (0, 1), (0, 0)))
        labels = jnp.pad(labels, ((0, 0), (0, 1)), constant_values=PADDING)
      tokens.append(self._encode_points(points, labels))
    if boxes is not None:
      tokens.append(self._encode_boxes(boxes))
    if masks is None:
      # Declared even when unused, so that one set of variables serves every kind of prompt.
      if self.is_initializing():
        self.encode_masks(jnp.zeros((1, 4 * self.grid, 4 * self.grid, 1)))
      dense = self.no_mask[None, None]
    else:
      dense = self.encode_masks(masks)
    return jnp.concatenate(tokens, 1), dense
