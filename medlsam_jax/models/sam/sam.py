"""The SAM family assembled: image `(n, y, x, 3)` -> embedding; embedding and prompts -> mask logits.

A variant is data: adding one is adding a `SamVariant`. Prompts are `(x, y)` pixels of the network's input image.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from medlsam_jax.models.sam.mask_decoder import MaskDecoder
from medlsam_jax.models.sam.prompt_encoder import PromptEncoder
from medlsam_jax.models.sam.tiny_vit import TinyViT, TinyViTSizes


@dataclasses.dataclass(frozen=True)
class SamVariant:
  """What tells one member of the family from another."""

  name: str
  image_size: int
  """Edge of the square input image, pixels."""
  encoder: TinyViTSizes
  pixels: Literal["unit", "imagenet"]
  """What the encoder is fed: each image scaled to [0, 1] by its own range, or 0..255 less SAM's mean over its sd."""

  @property
  def grid(self) -> int:
    """Edge of the embedding, cells."""
    return self.image_size // self.encoder.stride


LITEMEDSAM = SamVariant("litemedsam", 256, TinyViTSizes(), "unit")
MOBILESAM = SamVariant("mobilesam", 1024, TinyViTSizes(embed_stride=2), "imagenet")
VARIANTS = {variant.name: variant for variant in (LITEMEDSAM, MOBILESAM)}


class Sam(nn.Module):
  """A member of the family.

  Attributes:
    variant: which one.
    folded: whether batch norm is folded into the convolutions (inference; `layers.fold_batch_norm` makes the
      variables) or kept (fine-tuning).
    dtype: of the operands of matrix products, which accumulate in float32.
  """

  variant: SamVariant = LITEMEDSAM
  folded: bool = False
  dtype: Any = jnp.float32

  def setup(self) -> None:
    self.image_encoder = TinyViT(folded=self.folded, dtype=self.dtype, sizes=self.variant.encoder)
    width = self.variant.encoder.neck
    self.prompt_encoder = PromptEncoder(width, self.variant.image_size, self.variant.grid, self.dtype)
    self.mask_decoder = MaskDecoder(dtype=self.dtype)

  def encode(self, images: Float[Array, "n s s 3"], train: bool = False) -> Float[Array, "n g g c"]:
    """Embeddings of images that are already scaled as the variant wants."""
    return self.image_encoder(images, train)

  def decode(
    self,
    embedding: Float[Array, "b g g c"],
    points: Float[Array, "k p 2"] | None = None,
    labels: Int[Array, "k p"] | None = None,
    boxes: Float[Array, "k 4"] | None = None,
    masks: Float[Array, "k 4g 4g 1"] | None = None,
    multimask: bool = False,
  ) -> tuple[Float[Array, "k m 4g 4g"], Float[Array, "k m"]]:
    """Mask logits and predicted IoU of `k` prompts on one image (`b` = 1) or on an image each."""
    sparse, dense = self.prompt_encoder(points, labels, boxes, masks)
    return self.mask_decoder(embedding, self.prompt_encoder.image_positions(), sparse, dense, multimask)

  def __call__(
    self, images: Float[Array, "n s s 3"], boxes: Float[Array, "n 4"], train: bool = False
  ) -> tuple[Float[Array, "n 1 4g 4g"], Float[Array, "n 1"]]:
    """One box per image: the form used in training and to initialise."""
    return self.decode(self.encode(images, train), boxes=boxes)
