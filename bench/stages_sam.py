"""The SAM family with random weights: encoders, decoder, everything mode, a fine-tuning step, each against PyTorch."""

import functools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.common import HAVE_TORCH, Row, peer
from bench.timing import seconds
from medlsam_jax.models.network import Network
from medlsam_jax.models.sam.sam import LITEMEDSAM, MOBILESAM, SAM_VIT_B, Sam, SamVariant

TARGET = 0.5
PIXELS = 256
"""Edge of the image that everything mode looks at."""
POINTS_PER_SIDE = 8
IMAGES_PER_STEP = 8
GRID, WIDTH = 64, 256
"""Cells along an embedding's edge, and its channels, in all members."""


@functools.lru_cache(maxsize=1)
def _network(variant: SamVariant) -> Network:
  """A member of the family, every tensor drawn: what `init` would give takes longer to compile than to run."""
  module, edge = Sam(variant), variant.image_size
  shapes = jax.eval_shape(
    lambda key: module.init(key, jnp.zeros((1, edge, edge, 3)), jnp.zeros((1, 4))), jax.random.key(0)
  )
  rng = np.random.default_rng(0)

  def draw(path: Any, shape: Any) -> np.ndarray:
    if getattr(path[-1], "key", "") in ("var", "scale"):
      return np.ones(shape.shape, np.float32)
    return rng.normal(0, 0.02, shape.shape).astype(np.float32)

  return Network(module, jax.tree_util.tree_map_with_path(draw, shapes), "sam", f"<random {variant.name}>")


def _predictor(variant: SamVariant) -> Any:
  from medlsam_jax.segmentation.predictor import Predictor

  return Predictor(_network(variant))


def _ours(variant: SamVariant, runs: int) -> float:
  image = np.random.default_rng(0).random((1, variant.image_size, variant.image_size, 3), dtype=np.float32)
  return seconds(partial(_predictor(variant).encode, image), runs)


def _theirs(name: str, edge: int, runs: int, *sizes: int) -> float | None:
  """Seconds of an encoder of `peer_sam`."""

  def measure() -> float:
    import torch

    from bench import peer_sam

    return seconds(partial(getattr(peer_sam, name)(*sizes).eval(), torch.rand(1, 3, edge, edge)), runs, warm=runs > 1)

  return peer(measure)


def encoders() -> Iterator[Row]:
  """One image through each kind of encoder."""
  cases = ((LITEMEDSAM, ("PeerTinyViT", 256, 5, 1)), (MOBILESAM, ("PeerTinyViT", 1024, 3, 2)),
           (SAM_VIT_B, ("PeerViT", 1024, 1)))  # fmt: skip
  for variant, (name, edge, runs, *sizes) in cases:
    taken, theirs = _ours(variant, runs), _theirs(name, edge, runs, *sizes)
    target = 0.35 if variant is LITEMEDSAM else TARGET
    kind = "ViT-B" if name == "PeerViT" else "TinyViT"
    yield Row(f"encoder {kind} at {edge} ({variant.name})", taken, theirs, target)


def decoder() -> Iterator[Row]:
  """1, 16 and 64 boxes on one embedded image."""
  rng, predictor = np.random.default_rng(0), _predictor(LITEMEDSAM)
  embedding = jnp.asarray(rng.standard_normal((GRID, GRID, WIDTH), dtype=np.float32))
  for count in (1, 16, 64):
    low = rng.uniform(0, 150, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(20, 100, (count, 2))], 1)
    taken, theirs = seconds(partial(predictor.decode, embedding, boxes), 2), peer(partial(_their_decoder, count))
    yield Row(f"decoder, {count} box{'es' if count > 1 else ''}", taken, theirs, TARGET if count == 64 else None)


def _their_decoder(count: int) -> float:
  import torch

  from bench.peer_sam import PeerDecoder

  module, embedding, sparse = PeerDecoder().eval(), torch.randn(1, WIDTH, GRID, GRID), torch.randn(count, 2, WIDTH)
  return seconds(partial(module, embedding, sparse), 1, warm=count < 64)


def everything() -> Iterator[Row]:
  """All masks of a grid of points, brought to the image's size and measured; none passes then."""
  from medlsam_jax.segmentation.everything import EverythingSettings, segment_everything

  image = np.random.default_rng(0).integers(0, 256, (PIXELS, PIXELS, 3)).astype(np.uint8)
  settings = EverythingSettings(points_per_side=POINTS_PER_SIDE, predicted_iou=0, stability=1.1)
  predictor = _predictor(LITEMEDSAM)
  taken = seconds(lambda: segment_everything(image, predictor, settings) and None, 1)
  note = f"{POINTS_PER_SIDE**2} points; peer: encoder, decoder, masks and their stability, nothing else"
  yield Row(f"everything mode at {PIXELS}", taken, peer(_their_everything), TARGET, note=note)


def _their_everything() -> float:
  import torch

  from bench.peer_sam import PeerDecoder, PeerTinyViT

  encoder, decoder, image = PeerTinyViT(1).eval(), PeerDecoder().eval(), torch.rand(1, 3, PIXELS, PIXELS)

  def run() -> None:
    embedding = encoder(image)
    for prompts in torch.randn(POINTS_PER_SIDE**2, 2, WIDTH).split(64):
      logits, _ = decoder(embedding, prompts)
      full = torch.nn.functional.interpolate(logits[:, 1:], (PIXELS, PIXELS), mode="bilinear")
      (full > 1).sum((2, 3)) / (full > -1).sum((2, 3)).clamp(min=1), full > 0

  return seconds(run, 1, warm=False)


def finetune() -> Iterator[Row]:
  """One step of the mask decoder on embeddings that are there: gradient and AdamW."""
  from jax.sharding import Mesh

  from medlsam_jax.training.finetune import _Tuning
  from medlsam_jax.training.finetune_settings import FinetuneSettings
  from medlsam_jax.training.mask_batches import MaskBatch

  rng, network = np.random.default_rng(0), _network(LITEMEDSAM)
  truth = np.zeros((IMAGES_PER_STEP, 256, 256), bool)
  truth[:, 60:180, 80:200] = True
  boxes = np.tile(np.array([80, 60, 200, 180], np.float32), (IMAGES_PER_STEP, 1))
  embeddings = rng.standard_normal((IMAGES_PER_STEP, GRID, GRID, WIDTH), dtype=np.float32).astype(np.float16)
  batch = jax.device_put(MaskBatch(embeddings, boxes, truth))
  tuning = _Tuning(FinetuneSettings(), network, network.module, Mesh(np.array(jax.devices()[:1]), ("data",)))
  step, state = tuning.step(), tuning.start()

  def run() -> Any:
    nonlocal state  # the state given is donated
    state, metrics = step(state, batch)
    return metrics

  theirs = _their_step(truth) if HAVE_TORCH else None
  note = f"{IMAGES_PER_STEP} embeddings"
  yield Row("fine-tuning step, decoder only", seconds(run, 2), theirs, 0.7, note=note)


def _their_step(truth: np.ndarray) -> float:
  import torch

  from bench.peer_sam import PeerDecoder

  module, wanted = PeerDecoder(), torch.from_numpy(truth).float()
  optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, weight_decay=0.01)
  embedding, sparse = torch.randn(len(truth), WIDTH, GRID, GRID), torch.randn(len(truth), 2, WIDTH)

  def run() -> None:
    optimizer.zero_grad()
    logits, quality = module(embedding, sparse)
    logits, sure = logits[:, 0], logits[:, 0].sigmoid()
    dice = 1 - 2 * (sure * wanted).sum((1, 2)) / (sure.square().sum((1, 2)) + wanted.sum((1, 2)))
    reached = ((logits > 0) & (wanted > 0)).sum((1, 2)) / ((logits > 0) | (wanted > 0)).sum((1, 2))
    bce = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted)
    (dice.mean() + bce + (quality[:, 0] - reached).square().mean()).backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()

  return seconds(run, 1)


STAGES: dict[str, Callable[[], Iterator[Row]]] = {
  "encoders": encoders, "decoder": decoder, "everything": everything, "finetune": finetune,
}  # fmt: skip
