"""SAM's mask decoder: image embedding and prompt tokens -> mask logits and predicted IoU.

Written once for every variant of the family ("Segment anything", appendix A).
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from medlsam_jax.sam.network.layers import Mlp, einsum, gelu, layer_norm, product
from medlsam_jax.sam.network.two_way import TwoWayTransformer

MASK_TOKENS = 4
"""One for the single answer, three for the whole, part and subpart of an ambiguous prompt."""


class Double(nn.Module):
  """2x2 transposed convolution of stride 2: its windows do not overlap, so it is a matrix product.

  The four pixels that a pixel becomes stay axes of their own, so that nothing large is moved.
  """

  features: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "*n i"]) -> Float[Array, "*n 2 2 o"]:
    inputs = x.shape[-1]
    kernel = self.param("kernel", nn.initializers.lecun_normal(), (2, 2, inputs, self.features))
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    flat = kernel.transpose(2, 0, 1, 3).reshape(inputs, 4 * self.features)
    return product(x, flat, self.dtype).reshape(*x.shape[:-1], 2, 2, self.features) + bias


class MaskDecoder(nn.Module):
  """See the module's first lines; the transformer's width is that of the embedding."""

  depth: int = 2
  heads: int = 8
  mlp_width: int = 2048
  iou_depth: int = 3
  iou_width: int = 256
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self,
    embedding: Float[Array, "b h w c"],
    image_position: Float[Array, "1 h w c"],
    sparse: Float[Array, "k t c"],
    dense: Float[Array, "kd hd wd c"],
    multimask: bool = False,
    present: Bool[Array, "k t"] | None = None,
  ) -> tuple[Float[Array, "k m 4*h 4*w"], Float[Array, "k m"]]:
    """Decodes `k` prompts on one image (`b` = 1) or on an image each (`b` = k); `present`: which sparse tokens count.

    Returns:
      Mask logits at four times the embedding's resolution and the predicted IoU of each: one mask, or three with
      `multimask`.
    """
    _, height, width, channels = embedding.shape
    normal = nn.initializers.normal(1.0)
    iou_token = self.param("iou_token", normal, (1, channels))
    mask_tokens = self.param("mask_tokens", normal, (MASK_TOKENS, channels))
    own = jnp.concatenate([iou_token, mask_tokens])
    prompt = jnp.concatenate([jnp.broadcast_to(own, (sparse.shape[0], *own.shape)), sparse], 1)

    if present is not None:
      present = jnp.pad(present, ((0, 0), (own.shape[0], 0)), constant_values=True)
    image = embedding + dense
    transformer = TwoWayTransformer(self.depth, self.heads, self.mlp_width, self.dtype, name="transformer")
    position = image_position.reshape(1, height * width, channels)
    tokens, image = transformer(image.reshape(-1, height * width, channels), position, prompt, present)

    image = gelu(layer_norm(1e-6, "double_norm")(Double(channels // 4, self.dtype, name="double0")(image)))
    image = gelu(Double(channels // 8, self.dtype, name="double1")(image))

    # Every token's little network is declared, so that variables are the same for both kinds of answer; XLA drops
    # the ones whose masks are not asked for.
    widths = (channels, channels, channels // 8)
    filters = [Mlp(widths, jax.nn.relu, self.dtype, name=f"filter{i}")(tokens[:, 1 + i]) for i in range(MASK_TOKENS)]
    wanted = slice(1, None) if multimask else slice(0, 1)
    chosen = jnp.stack(filters[wanted], 1)
    image = image.reshape(image.shape[0], -1, image.shape[-1])
    masks = einsum("knc,kmc->knm", image, chosen, dtype=self.dtype)
    # pixel (y, x), its first and its second four -> rows and columns
    masks = masks.reshape(-1, height, width, 2, 2, 2, 2, chosen.shape[1]).transpose(0, 7, 1, 3, 5, 2, 4, 6)
    masks = masks.reshape(-1, chosen.shape[1], 4 * height, 4 * width)
    iou_widths = (self.iou_width,) * (self.iou_depth - 1) + (MASK_TOKENS,)
    iou = Mlp(iou_widths, jax.nn.relu, self.dtype, name="iou")(tokens[:, 0])
    return masks, iou[:, wanted]
