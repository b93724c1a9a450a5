"""SAM's two-way transformer: prompt tokens and image tokens attend to each other ("Segment anything", appendix A).

Image tokens keep a leading axis of one for as long as all prompts share them; arithmetic broadcasts, so that the
first block's image projections are computed once whatever the number of prompts.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from medlsam_jax.sam.network.layers import Affine, Mlp, contract, einsum, layer_norm, matmul, mix, product

LAYER_NORM_EPSILON = 1e-5
Weights = tuple[Float[Array, "_i _o"], Float[Array, " _o"]]
"""Kernel and bias."""


class Attention(nn.Module):
  """Multi-head attention with an inner width of its own; the leading axes of queries and keys broadcast.

  Where one side has few tokens, the maps of the other side's many are taken over to the few: `(W x) . q` is
  `x . (W^T q)`, and mixing comes before mapping. The result is the same and the many are mapped to `few * heads`
  numbers in place of `width`.
  """

  width: int
  heads: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self,
    query: Float[Array, "a q c"],
    key: Float[Array, "b k c"],
    value: Float[Array, "b k c"],
    present: Bool[Array, "b k"] | None = None,
  ) -> Float[Array, "ab q c"]:
    """`present` says which keys take part; None means all."""
    features, queries, keys = query.shape[-1], query.shape[1], key.shape[1]
    names = ("query", "key", "value")
    maps = [Affine(self.width, name=name)(features) for name in names]
    out = Affine(features, name="out")(self.width)
    few = self.heads * min(queries, keys) < self.width
    if few and queries < keys and present is None:
      mixed = self._few_queries(query, key, value, maps)
    elif few and keys < queries:
      return self._few_keys(query, key, value, present, maps, out)
    else:
      mixed = self._plain(query, key, value, present, maps)
    return product(mixed.reshape(*mixed.shape[:2], self.width), out[0], self.dtype) + out[1]

  def _split(self, x: Float[Array, "n t c"], weights: Weights) -> Float[Array, "n t h s"]:
    x = product(x, weights[0], self.dtype) + weights[1]
    return x.reshape(*x.shape[:2], self.heads, -1)

  def _plain(self, query: Array, key: Array, value: Array, present: Array | None, maps: list[Weights]) -> Array:
    q, k, v = (self._split(x, weights).swapaxes(1, 2) for x, weights in zip((query, key, value), maps, strict=True))
    q = q / jnp.sqrt(jnp.float32(q.shape[-1]))
    logits = contract(lambda q, k: matmul(q, k.swapaxes(2, 3)), q, k, dtype=self.dtype)
    if present is not None:
      logits = jnp.where(present[:, None, None], logits, -jnp.inf)
    return mix(logits, v, self.dtype).swapaxes(1, 2)

  def _few_queries(
    self, query: Float[Array, "a q c"], key: Float[Array, "b k c"], value: Float[Array, "b k c"], maps: list[Weights]
  ) -> Float[Array, "ab q h s"]:
    q = self._split(query, maps[0])
    size = q.shape[-1]
    by_head = [kernel.reshape(-1, self.heads, size) for kernel, _ in maps]
    # The key's bias adds the same to all logits of a query, and so nothing.
    wanted = einsum("aqhs,chs->ahqc", q / jnp.sqrt(jnp.float32(size)), by_head[1], dtype=self.dtype)
    wanted = wanted.reshape(len(q), -1, key.shape[-1])
    logits = contract(lambda wanted, key: matmul(wanted, key.swapaxes(1, 2)), wanted, key, dtype=self.dtype)
    mixed = mix(logits, value, self.dtype)
    mixed = mixed.reshape(len(mixed), self.heads, -1, key.shape[-1])
    mapped = einsum("ahqc,chs->aqhs", mixed, by_head[2], dtype=self.dtype)
    return mapped + maps[2][1].reshape(self.heads, size)

  def _few_keys(
    self,
    query: Float[Array, "a q c"],
    key: Float[Array, "b k c"],
    value: Float[Array, "b k c"],
    present: Bool[Array, "b k"] | None,
    maps: list[Weights],
    out: Weights,
  ) -> Float[Array, "ab q c"]:
    k, v = self._split(key, maps[1]), self._split(value, maps[2])
    keys, size, channels = k.shape[1], k.shape[-1], query.shape[-1]
    k = k / jnp.sqrt(jnp.float32(size))
    asked = einsum("bkhs,chs->bchk", k, maps[0][0].reshape(channels, self.heads, size), dtype=self.dtype)
    logits = contract(matmul, query, asked.reshape(len(k), channels, -1), dtype=self.dtype)
    own = jnp.einsum("bkhs,hs->bhk", k, maps[0][1].reshape(self.heads, size))
    logits = logits.reshape(*logits.shape[:2], self.heads, keys) + own[:, None]
    if present is not None:
      logits = jnp.where(present[:, None, None], logits, -jnp.inf)
    weights = jax.nn.softmax(logits, -1).reshape(*logits.shape[:2], -1)
    mapped = einsum("bkhs,hsc->bhkc", v, out[0].reshape(self.heads, size, channels), dtype=self.dtype)
    mapped = mapped.reshape(len(v), -1, channels)
    return contract(matmul, weights, mapped, dtype=self.dtype) + out[1]


class TwoWayBlock(nn.Module):
  """Self-attention of tokens, tokens to image, MLP, image to tokens; a layer norm after each."""

  heads: int
  mlp_width: int
  first: bool = False
  """The first block attends without positions and without a residual, its tokens being positions themselves."""
  dtype: DTypeLike = jnp.float32

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
  dtype: DTypeLike = jnp.float32

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
