"""SAM's two-way transformer: prompt tokens and image tokens attend to each other ("Segment anything", appendix A).

Image tokens keep a leading axis of one for as long as all prompts share them; arithmetic broadcasts, so that the
first block's image projections are computed once whatever the number of prompts.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from medlsam_jax.models.sam.layers import Linear, Mlp, layer_norm

LAYER_NORM_EPSILON = 1e-5


class Attention(nn.Module):
  """Multi-head attention with an inner width of its own; the leading axes of queries and keys broadcast."""

  width: int
  heads: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    query: Float[Array, "a q c"],
    key: Float[Array, "b k c"],
    value: Float[Array, "b k c"],
    present: Bool[Array, "b k"] | None = None,
  ) -> Float[Array, "ab q c"]:
    """`present` says which keys take part; None means all."""
    features = query.shape[-1]

    def split(x: Array, name: str) -> Array:
      x = Linear(self.width, self.dtype, name=name)(x)
      return x.reshape(*x.shape[:2], self.heads, -1).swapaxes(1, 2)

    q, k, v = split(query, "query"), split(key, "key"), split(value, "value")
    q = (q / jnp.sqrt(jnp.float32(q.shape[-1]))).astype(self.dtype)
    logits = jnp.matmul(q, k.astype(self.dtype).swapaxes(2, 3), preferred_element_type=jnp.float32)
    if present is not None:
      logits = jnp.where(present[:, None, None], logits, -jnp.inf)
    weights = jax.nn.softmax(logits, -1).astype(self.dtype)
    mixed = jnp.matmul(weights, v.astype(self.dtype), preferred_element_type=jnp.float32)
    mixed = mixed.swapaxes(1, 2)
    return Linear(features, self.dtype, name="out")(mixed.reshape(*mixed.shape[:2], self.width))


class TwoWayBlock(nn.Module):
  """Self-attention of tokens, tokens to image, MLP, image to tokens; a layer norm after each."""

  heads: int
  mlp_width: int
  first: bool = False
  """The first block attends without positions and without a residual, its tokens being positions themselves."""
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    tokens: Float[Array, "k t c"],
    image: Float[Array, "b hw c"],
    token_position: Float[Array, "k t c"],
    image_position: Float[Array, "1 hw c"],
    present: Bool[Array, "k t"] | None = None,
  ) -> tuple[Float[Array, "k t c"], Float[Array, "k hw c"]]:
    width = tokens.shape[-1]
    to_self = Attention(width, self.heads, self.dtype, name="self_attention")
    to_image = Attention(width // 2, self.heads, self.dtype, name="token_to_image")
    to_token = Attention(width // 2, self.heads, self.dtype, name="image_to_token")
    norms = [layer_norm(LAYER_NORM_EPSILON, f"norm{i}") for i in range(4)]

    if self.first:
      tokens = to_self(tokens, tokens, tokens, present)
    else:
      placed = tokens + token_position
      tokens = tokens + to_self(placed, placed, tokens, present)
    tokens = norms[0](tokens)
    tokens = norms[1](tokens + to_image(tokens + token_position, image + image_position, image))
    tokens = norms[2](tokens + Mlp((self.mlp_width, width), jax.nn.relu, self.dtype, name="mlp")(tokens))
    image = norms[3](image + to_token(image + image_position, tokens + token_position, tokens, present))
    return tokens, image


class TwoWayTransformer(nn.Module):
  """`depth` blocks and a last attention of tokens to the image."""

  depth: int = 2
  heads: int = 8
  mlp_width: int = 2048
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    image: Float[Array, "b hw c"],
    image_position: Float[Array, "1 hw c"],
    prompt: Float[Array, "k t c"],
    present: Bool[Array, "k t"] | None = None,
  ) -> tuple[Float[Array, "k t c"], Float[Array, "k hw c"]]:
    """Returns tokens and image tokens; `b` is `k`, or 1 when all prompts share the image.

    Tokens that are not `present` change nothing in the others.
    """
    tokens = prompt
    for index in range(self.depth):
      block = TwoWayBlock(self.heads, self.mlp_width, index == 0, self.dtype, name=f"block{index}")
      tokens, image = block(tokens, image, prompt, image_position, present)
    last = Attention(prompt.shape[-1] // 2, self.heads, self.dtype, name="final_attention")
    tokens = tokens + last(tokens + prompt, image + image_position, image)
    return layer_norm(LAYER_NORM_EPSILON, "final_norm")(tokens), image
