"""A stand-in for the SAM family: the inside of a box is the mask. No weights, no compilation."""

import types

import numpy as np

from medlsam_jax.sam.predictor import Predictor


class BoxPainter(Predictor):
  """Answers each box with logits above 0 inside it; `slices` counts what was encoded."""

  image_size = 64
  operands = "float32"
  variant = types.SimpleNamespace(
    name="boxes", grid=16, pixels="unit", scaling="pad", resampling="area", trained_on=("box",)
  )
  network = types.SimpleNamespace(kind="litemedsam", source="box painter", sha256="0" * 64, header={})

  def __init__(self):
    self.encode_batch = 1
    self.slices = 0

  def encode(self, images):
    self.slices += len(images)
    return list(images)

  def decode(self, embedding, boxes, masks=None):
    centre = np.arange(64) + 0.5
    inside = [
      np.minimum(np.minimum(centre - x0, x1 - centre)[None], np.minimum(centre - y0, y1 - centre)[:, None])
      for x0, y0, x1, y1 in boxes
    ]
    return np.stack(inside), np.ones(len(boxes))
