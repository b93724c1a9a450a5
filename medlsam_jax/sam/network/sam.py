"""The SAM family assembled: image `(n, y, x, 3)` -> embedding; embedding and prompts -> mask logits.

A variant is data: adding one is adding a `SamVariant`. Prompts are `(x, y)` pixels of the network's input image.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from medlsam_jax.sam.network.image_encoder import ImageEncoder, ViTSizes
from medlsam_jax.sam.network.mask_decoder import MaskDecoder
from medlsam_jax.sam.network.prompt_encoder import PromptEncoder
from medlsam_jax.sam.network.tiny_vit import TinyViT, TinyViTSizes


@dataclasses.dataclass(frozen=True)
class DecoderSizes:
  """Sizes of the mask decoder, which all published members share."""

  heads: int = 8
  mlp_width: int = 2048
  iou_width: int = 256


@dataclasses.dataclass(frozen=True)
class SamVariant:
  """What tells one member of the family from another."""

  name: str
  image_size: int
  """Edge of the square input image, pixels."""
  encoder: TinyViTSizes | ViTSizes
  pixels: Literal["unit", "imagenet"]
  """What the encoder is fed: each image scaled to [0, 1] by its own range, or 0..255 less SAM's mean over its sd."""

  decoder: DecoderSizes = DecoderSizes()
  scaling: Literal["pad", "stretch"] = "pad"
  """Whether an image's longest side fills the input, the rest being zero, or both do."""
  resampling: Literal["area", "bilinear", "cubic"] = "bilinear"
  """How images were brought to that size in training."""
  trained_on: tuple[Literal["points", "box"], ...] = ("points", "box")
  """Prompts that its makers trained it with. It answers others too, but was not meant to."""

  @property
  def grid(self) -> int:
    """Edge of the embedding, cells."""
    return self.image_size // self.encoder.stride


LITEMEDSAM = SamVariant("litemedsam", 256, TinyViTSizes(), "unit", resampling="area", trained_on=("box",))
MOBILESAM = SamVariant("mobilesam", 1024, TinyViTSizes(embed_stride=2), "imagenet")
SAM_VIT_B = SamVariant("sam-vit-b", 1024, ViTSizes(), "imagenet")
SAM_VIT_L = SamVariant("sam-vit-l", 1024, ViTSizes(1024, 24, 16, (5, 11, 17, 23)), "imagenet")
SAM_VIT_H = SamVariant("sam-vit-h", 1024, ViTSizes(1280, 32, 16, (7, 15, 23, 31)), "imagenet")
MEDSAM = SamVariant("medsam", 1024, ViTSizes(), "unit", scaling="stretch", resampling="cubic", trained_on=("box",))
VARIANTS = {variant.name: variant for variant in (LITEMEDSAM, MOBILESAM, MEDSAM, SAM_VIT_B, SAM_VIT_L, SAM_VIT_H)}


class Sam(nn.Module):
  """A member of the family.

  Attributes:
    variant: which one.
    folded: whether batch norm is folded into the convolutions (inference; `layers.fold_batch_norm` makes the
      variables) or kept (fine-tuning).
    dtype: of the operands of matrix products, which accumulate in float32.
    remat: whether a ViT encoder computes its intermediate values anew for the gradient, to save memory.
  """

  variant: SamVariant = LITEMEDSAM
  folded: bool = False
  dtype: DTypeLike = jnp.float32
  remat: bool = False

  def setup(self) -> None:
    encoder, decoder = self.variant.encoder, self.variant.decoder
    if isinstance(encoder, ViTSizes):
      self.image_encoder: ImageEncoder | TinyViT = ImageEncoder(encoder, self.dtype, self.remat)
    else:
      self.image_encoder = TinyViT(folded=self.folded, dtype=self.dtype, sizes=encoder)
    self.prompt_encoder = PromptEncoder(encoder.neck, self.variant.image_size, self.variant.grid, self.dtype)
    self.mask_decoder = MaskDecoder(
      heads=decoder.heads, mlp_width=decoder.mlp_width, iou_width=decoder.iou_width, dtype=self.dtype
    )

  def encode(self, images: Float[Array, "n s s 3"], train: bool = False) -> Float[Array, "n g g c"]:
    """Embeddings of images that are already scaled as the variant wants."""
    return self.image_encoder(images, train)

  def decode(
    self,
    embedding: Float[Array, "b h w c"],
    points: Float[Array, "k p 2"] | None = None,
    labels: Int[Array, "k p"] | None = None,
    boxes: Float[Array, "k 4"] | None = None,
    masks: Float[Array, "k edge edge 1"] | None = None,
    multimask: bool = False,
  ) -> tuple[Float[Array, "k m 4*h 4*w"], Float[Array, "k m"]]:
    """Mask logits and predicted IoU of `k` prompts on one image (`b` = 1) or on an image each.

    An embedding of fewer cells is the upper left part of a whole one, and so are masks then.
    """
    sparse, dense = self.prompt_encoder(points, labels, boxes, masks)
    return self.mask_decoder(embedding, self._positions(embedding), sparse, dense, multimask)

  def decode_tokens(
    self,
    embedding: Float[Array, "b h w c"],
    points: Float[Array, "k t 2"],
    labels: Int[Array, "k t"],
    masks: Float[Array, "k edge edge 1"] | None = None,
    multimask: bool = False,
  ) -> tuple[Float[Array, "k m 4*h 4*w"], Float[Array, "k m"]]:
    """`decode` with every prompt as labelled points (`prompt_encoder.BOX_LOW` and its like), filled up by `ABSENT`."""
    sparse, dense, present = self.prompt_encoder.as_tokens(points, labels, masks)
    return self.mask_decoder(embedding, self._positions(embedding), sparse, dense, multimask, present)

  def _positions(self, embedding: Float[Array, "b h w c"]) -> Float[Array, "1 h w c"]:
    _, rows, columns, _ = embedding.shape
    return self.prompt_encoder.image_positions()[:, :rows, :columns]

  def __call__(
    self, images: Float[Array, "n s s 3"], boxes: Float[Array, "n 4"], train: bool = False
  ) -> tuple[Float[Array, "n 1 edge edge"], Float[Array, "n 1"]]:
    """One box per image: the form used in training and to initialise."""
    return self.decode(self.encode(images, train), boxes=boxes)
