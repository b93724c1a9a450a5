"""Encode once, prompt many: images -> embeddings, an embedding and prompts -> masks, in few compiled programs.

Two levels: `encode` and `decode` take what the network takes, images of its own size and boxes in their pixels.
`set_image`, `predict`, `encode_images` and `answer` take images of any size, prepared as each member of the family was
trained, and prompts in their own pixels; the first two as users of segment-anything know them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Integer, Num, UInt8

from medlsam_jax import platform
from medlsam_jax.errors import InputError, WeightsError
from medlsam_jax.network import Network, Variables
from medlsam_jax.sam.fixed_sizes import padded, runs_of
from medlsam_jax.sam.network.layers import fold_batch_norm
from medlsam_jax.sam.network.prompt_encoder import BOX_HIGH, BOX_LOW
from medlsam_jax.sam.network.sam import Sam
from medlsam_jax.sam.prompts import Prompt, check_box, check_image, check_prompt, prompts_of, tokens_of
from medlsam_jax.sam.slices import ImageFit, Pixels, scaled_levels

SURE_IN_BFLOAT16 = ("litemedsam",)
"""Members whose mean Dice bfloat16 operands change by no more than .002: docs/accelerators.md."""


def operands_of(network: Network) -> str:
  """Type of operands that a network paints with where none is asked for: the platform's fastest if masks allow it."""
  module = network.module
  return platform.fast_dtype() if isinstance(module, Sam) and module.variant.name in SURE_IN_BFLOAT16 else "float32"


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedImage:
  """An image that prompts can be asked about."""

  embedding: Float[Array, "g g c"]
  """On the device."""
  fit: ImageFit
  """How the image lies in the network's."""

  def upsampled(self, logits: Float[np.ndarray, "*k low low"]) -> Float[np.ndarray, "*k row column"]:
    """Low-resolution logits at the image's own size."""
    flat = np.asarray(logits).reshape(-1, *logits.shape[-2:])
    full = np.empty((len(flat), self.fit.rows, self.fit.columns), np.float32)
    for index, each in enumerate(flat):
      full[index] = self.fit.from_logits(each)
    return full.reshape(*logits.shape[:-2], self.fit.rows, self.fit.columns)


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
  """Of one run of the decoder, on the device; those beyond `count` are filling."""

  first: int
  """Number of the first prompt."""
  count: int
  logits: Float[Array, "size m low low"]
  quality: Float[Array, "size m"]


class Predictor:
  """A member of the SAM family made ready for inference.

  Args:
    network: of any SAM kind, with or without batch norm folded.
    dtype: operands of matrix products: float32 is exact on every platform, bfloat16 the fast path.
    encode_batch: images per encoder call; by default 1 on CPU, where more gain nothing, and 16 elsewhere.
    pixels: how pixels are scaled, if not as the network was trained (`variant.pixels`): SAM's mean and deviation on
      MedSAM's weights, for instance, as the published MedLSAM has it.

  Raises:
    WeightsError: the network is not of the SAM family.
  """

  def __init__(
    self,
    network: Network,
    dtype: DTypeLike = jnp.float32,
    encode_batch: int | None = None,
    pixels: Pixels | None = None,
  ) -> None:
    module, variables = network.module, network.variables
    if not isinstance(module, Sam):
      raise WeightsError(f"{network.source}: a {network.kind} network cannot segment; load one such as litemedsam")
    if not module.folded:
      variables = fold_batch_norm(variables)
    module = module.clone(folded=True, dtype=dtype)
    self._made_of = (network, dtype, encode_batch, pixels)
    self.network, self.operands = network, jnp.dtype(dtype).name
    self.variant = dataclasses.replace(module.variant, pixels=pixels or module.variant.pixels)
    self.encode_batch = encode_batch or platform.images_at_once()
    self._variables = jax.device_put(variables, platform.device())
    self._compilations = 0
    self._current: EncodedImage | None = None

    # The counter rises when Python runs, which is once for each program that is traced.
    def encode(variables: Variables, images: Array) -> Array:
      self._compilations += 1
      with platform.asked(dtype):
        return cast(Array, module.apply(variables, images, method="encode"))

    def decode(
      variables: Variables, embedding: Array, points: Array, labels: Array, masks: Array | None, multimask: bool
    ) -> tuple[Array, Array]:
      self._compilations += 1
      with platform.asked(dtype):
        answer = module.apply(variables, embedding[None], points, labels, masks, multimask, method="decode_tokens")
      return cast(tuple[Array, Array], answer)

    def encode_levels(variables: Variables, levels: Array, fitted: Array) -> Array:
      return encode(variables, scaled_levels(levels, fitted, self.variant.pixels))

    def decode_among(variables: Variables, embeddings: Array, places: Array, points: Array) -> Array:
      self._compilations += 1
      labels = jnp.tile(jnp.array([BOX_LOW, BOX_HIGH], jnp.int32), (len(points), 1))
      with platform.asked(dtype):
        logits, _ = module.apply(variables, embeddings[places], points, labels, method="decode_tokens")
      return cast(Array, logits[:, 0])

    self._encode, self._decode = jax.jit(encode), jax.jit(decode, static_argnums=5)
    self._encode_levels, self._decode_among = jax.jit(encode_levels), jax.jit(decode_among)

  def __reduce__(self) -> tuple[type[Predictor], tuple[object, ...]]:
    """For another process, made there anew: programs do not travel."""
    return Predictor, self._made_of

  @property
  def image_size(self) -> int:
    """Edge of the square input image, pixels."""
    return self.variant.image_size

  @property
  def window_cells(self) -> int:
    """Edge of the part of an embedding that the decoder was tuned to see around a mask prompt; 0: all of it."""
    return int(self.network.header.get("window_cells", 0))

  @property
  def low_size(self) -> int:
    """Edge of low-resolution logits and mask prompts."""
    return 4 * self.variant.grid

  def compilations(self) -> int:
    """Programs compiled so far.

    One to encode; to decode, for each kind of answer (single or multiple, with or without mask prompts) one per member
    of `fixed_sizes.BOX_COUNTS` and power of two of points. Boxes alone: one for each of these counts.
    """
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
    return self._encoded(self._encode, images)

  def encode_each_level(self, levels: UInt8[np.ndarray, "n s s"], fit: ImageFit) -> list[Float[Array, "g g c"]]:
    """The same of grey images of the network's size (`fit.to_levels`), which are scaled on the device."""
    return self._encoded(self._encode_levels, levels, np.array(fit.fitted, np.int32))

  def _encoded(
    self, encode: Callable[..., Array], images: Num[np.ndarray, "n s s *c"], *given: np.ndarray
  ) -> list[Float[Array, "g g c"]]:
    """Embeddings of images, in batches for which the device's memory suffices."""
    embeddings: list[Array] = []
    while len(embeddings) < len(images):
      batch = images[len(embeddings) : len(embeddings) + self.encode_batch]
      try:
        encoded = encode(self._variables, padded(batch, self.encode_batch), *given)
      except jax.errors.JaxRuntimeError as error:
        self.less_at_once(error)
        continue
      embeddings.extend(encoded[index] for index in range(len(batch)))
    return embeddings

  def less_at_once(self, error: Exception) -> None:
    """After a call for which the device's memory did not suffice: half the images a call from now on.

    Raises:
      DeviceError: it was a single image.
      Exception: `error` itself, where it says something else.
    """
    self.encode_batch = platform.fewer(error, self.encode_batch, "images")

  def decode(
    self,
    embedding: Float[Array, "h w c"] | Float[np.ndarray, "h w c"],
    boxes: Num[np.ndarray, "k 4"],
    masks: Float[np.ndarray, "k 4*h 4*w"] | None = None,
  ) -> tuple[Float[np.ndarray, "k 4*h 4*w"], Float[np.ndarray, " k"]]:
    """Mask logits (inside where > 0) and predicted IoU for each box on one image.

    Args:
      embedding: of `encode`; or the upper left part of one, where boxes and masks lie in it.
      boxes: (x0, y0, x1, y1) pixels of the network's image.
      masks: besides, logits of a mask for each.

    Raises:
      InputError: a box is not finite, has no area, or lies outside the image.
    """
    boxes = np.asarray(boxes, np.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
      raise InputError(f"boxes of shape {boxes.shape}; give (boxes, 4), each (x0, y0, x1, y1)")
    for number, box in enumerate(boxes):
      check_box(box, f"box {number}", self.image_size, self.image_size)
    labels = np.tile(np.array([BOX_LOW, BOX_HIGH], np.int32), (len(boxes), 1))
    prompts = None if masks is None else np.asarray(masks, np.float32)[..., None]
    runs = self._runs(embedding, boxes.reshape(-1, 2, 2), labels, prompts, False)
    logits, quality = _together(runs, len(boxes), 1, embedding.shape)
    return logits[:, 0], quality[:, 0]

  def encode_levels(self, levels: UInt8[np.ndarray, "n s s"], fit: ImageFit) -> Float[Array, "batch g g c"]:
    """Embeddings of a batch of grey images of the network's size (`fit.to_levels`), filled up to `encode_batch`.

    On the device, computed or not yet.
    """
    fitted = np.array(fit.fitted, np.int32)
    return self._encode_levels(self._variables, padded(levels, self.encode_batch), fitted)

  def decode_among(
    self,
    embeddings: Float[Array, "batch g g c"],
    places: Integer[np.ndarray, " k"],
    boxes: Float[np.ndarray, "k 4"] | Float[Array, "{size} 4"],
    size: int,
  ) -> Float[Array, "{size} low low"]:
    """Mask logits of boxes on several images, `k` to be filled up to `size`; on the device, computed or not yet.

    Args:
      embeddings: of `encode_levels`.
      places: the image of each box.
      boxes: (x0, y0, x1, y1) pixels of the network's image, here or on the device; they are not looked at.
      size: boxes of a run: each size has a program of its own.
    """
    filled = boxes if isinstance(boxes, jax.Array) else padded(np.asarray(boxes, np.float32), size)
    images = padded(np.asarray(places, np.int32), size)
    return self._decode_among(self._variables, embeddings, images, filled.reshape(-1, 2, 2))

  def encode_images(self, images: Sequence[np.ndarray]) -> list[EncodedImage]:
    """Images of any sizes, encoded in batches.

    Args:
      images: 8-bit, (rows, columns) or (rows, columns, 3) in the order red, green, blue.

    Raises:
      InputError: an image of another type or shape, or of one value throughout.
    """
    checked = [check_image(image) for image in images]
    fits = [self.fit_of(*image.shape[:2]) for image in checked]
    encoded: list[EncodedImage] = []
    step = self.encode_batch
    for start in range(0, len(fits), step):
      some = slice(start, start + step)
      ready = [fit.to_image(image, self.variant.pixels) for fit, image in zip(fits[some], checked[some], strict=True)]
      encoded.extend(map(EncodedImage, self.encode(np.stack(ready)), fits[some]))
    return encoded

  def fit_of(self, rows: int, columns: int) -> ImageFit:
    """How an image of that size becomes the network's, as the network was trained."""
    return ImageFit(rows, columns, self.image_size, self.variant.scaling, self.variant.resampling)

  def answer(
    self, image: EncodedImage, prompts: Sequence[Prompt], multimask: bool = False
  ) -> tuple[Float[np.ndarray, "k m low low"], Float[np.ndarray, "k m"]]:
    """Low-resolution mask logits and predicted IoU of every prompt: one mask each, or three with `multimask`.

    `image.upsampled` brings logits to the image's size; `prompts.stability_score` rates them; a row of them is the mask
    of a further `Prompt`.

    Raises:
      InputError: a prompt that cannot be meant (`prompts.check_prompt`).
    """
    for number, prompt in enumerate(prompts):
      check_prompt(prompt, number, image.fit, self.low_size)
    count = 3 if multimask else 1
    logits = np.zeros((len(prompts), count, self.low_size, self.low_size), np.float32)
    quality = np.zeros((len(prompts), count), np.float32)
    for masked in (False, True):
      chosen = [index for index, prompt in enumerate(prompts) if (prompt.mask is not None) == masked]
      if chosen:
        points, labels = tokens_of([prompts[index] for index in chosen], image.fit)
        masks = np.stack([np.asarray(prompts[i].mask, np.float32) for i in chosen])[..., None] if masked else None
        runs = self._runs(image.embedding, points, labels, masks, multimask)
        logits[chosen], quality[chosen] = _together(runs, len(chosen), count, image.embedding.shape)
    return logits, quality

  def set_image(self, image: UInt8[np.ndarray, "row column *3"]) -> None:
    """Encodes an image, for `predict` to be asked about; the same refusals as `encode_images`."""
    self._current = None
    self._current = self.encode_images([image])[0]

  def predict(
    self,
    point_coords: Num[np.ndarray, "*k p 2"] | None = None,
    point_labels: Integer[np.ndarray, "*k p"] | None = None,
    box: Num[np.ndarray, "*#k 4"] | None = None,
    mask_input: Float[np.ndarray, "#k low low"] | None = None,
    multimask_output: bool = True,
    return_logits: bool = False,
  ) -> tuple[
    Bool[np.ndarray, "*k m row column"] | Float[np.ndarray, "*k m row column"],
    Float[np.ndarray, "*k m"],
    Float[np.ndarray, "*k m low low"],
  ]:
    """Segment-anything's `predict`: masks for prompts on the image of `set_image`.

    Args:
      point_coords: (x, y) pixels of the image.
      point_labels: 1 inside, 0 outside.
      box: (x0, y0, x1, y1). Several boxes, or points with one more axis in front, are as many prompts at once, none of
        them too (a detector that found nothing); a part of the prompt without that axis then belongs to each of them.
      mask_input: low-resolution logits of an earlier answer, with an axis in front.
      multimask_output: three masks for a prompt that may mean several things, instead of one.
      return_logits: logits in place of masks.

    Returns:
      Masks at the image's size, their predicted IoU, and their low-resolution logits.

    Raises:
      InputError: no image was set, no prompt was given, or it cannot be meant.
    """
    if self._current is None:
      raise InputError("no image yet: call set_image first")
    prompts, several = prompts_of(point_coords, point_labels, box, mask_input)
    low, quality = self.answer(self._current, prompts, multimask_output)
    if not several:
      low, quality = low[0], quality[0]
    full = self._current.upsampled(low)
    return full if return_logits else full > 0, quality, low

  def answer_on_device(
    self, image: EncodedImage, prompts: Sequence[Prompt], multimask: bool = False
  ) -> Iterator[Answers]:
    """`answer` of prompts without masks, run by run, as the device has it.

    Raises:
      InputError: a prompt that cannot be meant, or has a mask.
    """
    for number, prompt in enumerate(prompts):
      check_prompt(prompt, number, image.fit, self.low_size)
      if prompt.mask is not None:
        raise InputError(f"prompt {number} has a mask: ask `answer`")
    points, labels = tokens_of(prompts, image.fit)
    yield from self._runs(image.embedding, points, labels, None, multimask)

  def _runs(
    self,
    embedding: Array | np.ndarray,
    points: np.ndarray,
    labels: np.ndarray,
    masks: np.ndarray | None,
    multimask: bool,
  ) -> Iterator[Answers]:
    """Every prompt through programs of fixed sizes."""
    first = 0
    for size in runs_of(len(points)):
      some = slice(first, first + size)
      batch = [None if part is None else padded(part[some], size) for part in (points, labels, masks)]
      logits, quality = self._decode(self._variables, embedding, *batch, multimask)
      yield Answers(first, len(points[some]), logits, quality)
      first += size


def _together(
  runs: Iterator[Answers], prompts: int, count: int, cells: tuple[int, ...]
) -> tuple[Float[np.ndarray, "k m low_rows low_columns"], Float[np.ndarray, "k m"]]:
  """Logits and quality of all runs on the host: `count` masks a prompt, four pixels along a cell of the embedding."""
  logits = np.zeros((prompts, count, 4 * cells[0], 4 * cells[1]), np.float32)
  quality = np.zeros((prompts, count), np.float32)
  for run in runs:
    some = slice(run.first, run.first + run.count)
    logits[some], quality[some] = run.logits[: run.count], run.quality[: run.count]
  return logits, quality
