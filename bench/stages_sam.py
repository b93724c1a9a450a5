"""The SAM family with random weights: encoders, decoder, everything mode, a fine-tuning step, each against PyTorch."""

import functools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.common import Row, drawn, peer
from bench.timing import seconds
from medlsam_jax.network import Network
from medlsam_jax.sam.network.sam import LITEMEDSAM, MOBILESAM, SAM_VIT_B, Sam, SamVariant

TARGET = 0.5
PIXELS = 256
"""Edge of the image that everything mode looks at."""
POINTS_PER_SIDE = 8
IMAGES_PER_STEP = 8
GRID, WIDTH = 64, 256
"""Cells along an embedding's edge, and its channels, in all members."""


@functools.lru_cache(maxsize=1)
def random_sam(variant: SamVariant) -> Network:
  """A member of the family, every tensor drawn: what `init` would give takes longer to compile than to run."""
  module, edge = Sam(variant), variant.image_size
  shapes = jax.eval_shape(
    lambda key: module.init(key, jnp.zeros((1, edge, edge, 3)), jnp.zeros((1, 4))), jax.random.key(0)
  )
  return Network(module, drawn(shapes), "sam", f"<random {variant.name}>")


def _predictor(variant: SamVariant) -> Any:
  from medlsam_jax.sam.predictor import Predictor

  return Predictor(random_sam(variant))


def _ours(variant: SamVariant, runs: int) -> float:
  image = np.random.default_rng(0).random((1, variant.image_size, variant.image_size, 3), dtype=np.float32)
  return seconds(partial(_predictor(variant).encode, image), runs)


def encoders() -> Iterator[Row]:
  """One image through each kind of encoder."""
  cases = ((LITEMEDSAM, ("PeerTinyViT", 256, 5, 1)), (MOBILESAM, ("PeerTinyViT", 1024, 3, 2)),
           (SAM_VIT_B, ("PeerViT", 1024, 1)))  # fmt: skip
  for variant, (name, edge, runs, *sizes) in cases:
    taken, theirs = _ours(variant, runs), peer("encoder", name, edge, *sizes, runs=runs, warm=runs > 1)
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
    taken = seconds(partial(predictor.decode, embedding, boxes), 2)
    theirs = peer("decoder", count, runs=1, warm=count < 64)
    yield Row(f"decoder, {count} box{'es' if count > 1 else ''}", taken, theirs, TARGET if count == 64 else None)


def everything() -> Iterator[Row]:
  """All masks of a grid of points, brought to the image's size and measured; none passes then."""
  from medlsam_jax.sam.everything import EverythingSettings, segment_everything

  image = np.random.default_rng(0).integers(0, 256, (PIXELS, PIXELS, 3)).astype(np.uint8)
  settings = EverythingSettings(points_per_side=POINTS_PER_SIDE, predicted_iou=0, stability=1.1)
  predictor = _predictor(LITEMEDSAM)
  taken = seconds(lambda: segment_everything(image, predictor, settings) and None, 1)
  theirs = peer("everything", POINTS_PER_SIDE**2, PIXELS, runs=1, warm=False)
  note = f"{POINTS_PER_SIDE**2} points; peer: encoder, decoder, masks and their stability, nothing else"
  yield Row(f"everything mode at {PIXELS}", taken, theirs, TARGET, note=note)


def finetune() -> Iterator[Row]:
  """One step of the mask decoder on embeddings that are there: gradient and AdamW."""
  from jax.sharding import Mesh

  from medlsam_jax.sam.finetuning.mask_batches import MaskBatch
  from medlsam_jax.sam.finetuning.settings import FinetuneSettings
  from medlsam_jax.sam.finetuning.step import FineTuning

  rng, network = np.random.default_rng(0), random_sam(LITEMEDSAM)
  truth = np.zeros((IMAGES_PER_STEP, 256, 256), bool)
  truth[:, 60:180, 80:200] = True
  boxes = np.tile(np.array([80, 60, 200, 180], np.float32), (IMAGES_PER_STEP, 1))
  embeddings = rng.standard_normal((IMAGES_PER_STEP, GRID, GRID, WIDTH), dtype=np.float32).astype(np.float16)
  batch = jax.device_put(MaskBatch(embeddings, boxes, truth))
  tuning = FineTuning(FinetuneSettings(), network, network.module, Mesh(np.array(jax.devices()[:1]), ("data",)))
  step, state = tuning.step(), tuning.start()

  def run() -> Any:
    nonlocal state  # the state given is donated
    state, metrics = step(state, batch)
    return metrics

  theirs = peer("finetuning", truth, runs=1)
  note = f"{IMAGES_PER_STEP} embeddings"
  yield Row("fine-tuning step, decoder only", seconds(run, 2), theirs, 0.7, note=note)


STAGES: dict[str, Callable[[], Iterator[Row]]] = {
  "encoders": encoders, "decoder": decoder, "everything": everything, "finetune": finetune,
}  # fmt: skip
