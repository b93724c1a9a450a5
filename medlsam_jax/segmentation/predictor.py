"""Encode once, prompt many: images -> embeddings, an embedding and boxes -> mask logits, in few compiled programs.

Boxes are `(x0, y0, x1, y1)` pixels of the network's image.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from medlsam_jax.errors import InputError, WeightsError
from medlsam_jax.models.network import Network
from medlsam_jax.models.sam.layers import fold_batch_norm
from medlsam_jax.models.sam.sam import Sam

BOX_COUNTS = (1, 4, 16)
"""Boxes that one run of the decoder takes: three compiled programs serve every number of boxes."""


class Predictor:
  """A member of the SAM family made ready for inference.

  Args:
    network: of any SAM kind, with or without batch norm folded.
    dtype: operands of matrix products: float32 is exact, bfloat16 the fast path.
    encode_batch: images per encoder call; by default 1 on CPU, where more gain nothing, and 16 elsewhere.

  Raises:
    WeightsError: the network is not of the SAM family.
  """

  def __init__(self, network: Network, dtype: Any = jnp.float32, encode_batch: int | None = None) -> None:
    module, variables = network.module, network.variables
    if not isinstance(module, Sam):
      raise WeightsError(f"{network.source}: a {network.kind} network cannot segment; load one such as litemedsam")
    if not module.folded:
      variables = fold_batch_norm(variables)
    module = module.clone(folded=True, dtype=dtype)
    self.network = network
    self.variant = module.variant
    self.encode_batch = encode_batch or (1 if jax.default_backend() == "cpu" else 16)
    self._variables = jax.device_put(variables)
    self._compilations = 0

    # The counter rises when Python runs, which is once for each program that is traced.
    def encode(variables: Any, images: Array) -> Any:
      self._compilations += 1
      return module.apply(variables, images, method="encode")

    def decode(variables: Any, embedding: Array, boxes: Array) -> Any:
      self._compilations += 1
      return module.apply(variables, embedding[None], boxes=boxes, method="decode")

    self._encode, self._decode = jax.jit(encode), jax.jit(decode)

  @property
  def image_size(self) -> int:
    """Edge of the square input image, pixels."""
    return self.variant.image_size

  def compilations(self) -> int:
    """Programs compiled so far: at most one to encode and one for each of `BOX_COUNTS`."""
    return self._compilations

  def encode(self, images: Float[np.ndarray, "n s s 3"]) -> list[Float[Array, "g g c"]]:
    """One embedding per image, left on the device; images scaled as `variant.pixels` says.

    Raises:
      InputError: wrong shape, NaN or infinite pixels.
    """
    edge = self.image_size
    if images.ndim != 4 or images.shape[1:] != (edge, edge, 3):
      raise InputError(f"images of shape {images.shape}; {self.variant.name} takes (n, {edge}, {edge}, 3)")
    if not np.isfinite(images).all():
      raise InputError("an image has NaN or infinite pixels")
    embeddings: list[Array] = []
    for start in range(0, len(images), self.encode_batch):
      batch = images[start : start + self.encode_batch]
      encoded = self._encode(self._variables, _padded(batch, self.encode_batch))
      embeddings.extend(encoded[index] for index in range(len(batch)))
    return embeddings

  def decode(
    self, embedding: Float[Array, "g g c"], boxes: Float[np.ndarray, "k 4"]
  ) -> tuple[Float[np.ndarray, "k 4g 4g"], Float[np.ndarray, "*k"]]:
    """Mask logits (inside where > 0) and predicted IoU for each box on one image.

    Raises:
      InputError: a box is not finite, has no area, or lies outside the image.
    """
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    self._refuse(boxes)
    logits, quality = [], []
    start = 0
    for count in _runs(len(boxes)):
      batch = boxes[start : start + count]
      masks, iou = self._decode(self._variables, embedding, _padded(batch, count))
      logits.append(np.asarray(masks)[: len(batch), 0])
      quality.append(np.asarray(iou)[: len(batch), 0])
      start += count
    if not logits:
      low = 4 * self.variant.grid
      return np.zeros((0, low, low), np.float32), np.zeros(0, np.float32)
    return np.concatenate(logits), np.concatenate(quality)

  def _refuse(self, boxes: Float[np.ndarray, "k 4"]) -> None:
    for index, (x0, y0, x1, y1) in enumerate(boxes):
      if not np.isfinite(boxes[index]).all():
        raise InputError(f"box {index}: an edge is not a finite number")
      if x0 >= x1 or y0 >= y1:
        raise InputError(f"box {index}: ({x0:g}, {y0:g}, {x1:g}, {y1:g}) has no area; give (x0, y0, x1, y1)")
      if x1 <= 0 or y1 <= 0 or x0 >= self.image_size or y0 >= self.image_size:
        raise InputError(f"box {index}: ({x0:g}, {y0:g}, {x1:g}, {y1:g}) lies outside the image")


def _runs(boxes: int) -> list[int]:
  """Sizes of the decoder runs for so many boxes: padded up where at least two thirds of a run are real, else split."""
  runs = []
  while boxes > 0:
    fit = next((size for size in BOX_COUNTS if boxes <= size and 3 * boxes >= 2 * size), None)
    runs.append(fit or max(size for size in BOX_COUNTS if size <= boxes))
    boxes -= runs[-1]
  return runs


def _padded(batch: np.ndarray, size: int) -> np.ndarray:
  """The batch with its last item repeated up to `size`, so that one compiled program serves every length."""
  missing = size - len(batch)
  return np.concatenate([batch, np.repeat(batch[-1:], missing, 0)]) if missing else batch
