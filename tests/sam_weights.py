"""Names and shapes of the published SAM checkpoints, and made-up weights for them that NumPy alone can repeat.

The numbers in `golden/sam_vit_b_forward.npz` and `golden/sam_everything.npz` were made by giving the very same weights
to the published program in PyTorch.
"""

import json
from pathlib import Path

import numpy as np

from medlsam_jax.sam.network.image_encoder import ViTSizes
from medlsam_jax.sam.network.sam import DecoderSizes, SamVariant

GOLDEN = Path(__file__).parent / "golden"
SAM_MEAN = np.array((123.675, 116.28, 103.53), np.float32)
SAM_SD = np.array((58.395, 57.12, 57.375), np.float32)
TINY = SamVariant("sam-tiny", 240, ViTSizes(32, 3, 2, (1,), 4, 16, 15, 32), "imagenet", DecoderSizes(4, 64, 64))
"""The network of `golden/sam_tiny_random.pth`."""


def published_shapes(kind):
  """Published name -> shape of every tensor of a kind."""
  table = json.loads((GOLDEN / "sam_names.json").read_text())
  if kind == "mobilesam":
    return {name: tuple(shape) for name, shape in {**_litemedsam(), **table["mobilesam"]}.items()}
  if kind == "litemedsam":
    return {name: tuple(shape) for name, shape in _litemedsam().items()}
  sizes = table["encoders"]["sam-vit-b" if kind == "medsam" else kind]
  shapes = {}
  for name, shape, *blocks in [*sizes, *table["decoder"]]:
    for block in blocks[0] if blocks else [None]:
      shapes[name.replace("{}", str(block))] = tuple(shape)
  return shapes


def _litemedsam():
  return json.loads((GOLDEN / "litemedsam_names.json").read_text())


def made_up_weights(shapes, seed):
  """Weights under which activations neither vanish nor grow: every tensor from one generator, in sorted order."""
  rng = np.random.default_rng(seed)
  weights = {}
  for name in sorted(shapes):
    shape = shapes[name]
    draw = rng.standard_normal(shape, dtype=np.float32)
    if "gaussian" in name:
      weights[name] = draw
    elif any(part in name for part in ("pos_embed", "rel_pos", "embed", "token")) and "patch" not in name:
      weights[name] = 0.2 * draw
    elif len(shape) == 1:
      weights[name] = 0.1 * draw + (1 if name.endswith("weight") else 0)
    else:
      weights[name] = draw / np.float32(np.sqrt(np.prod(shape[1:])))
  return weights


def tiny_network():
  """The fixture's network, loaded."""
  import jax
  import jax.numpy as jnp

  from medlsam_jax.io.weights.rules import shapes_of
  from medlsam_jax.io.weights.torch_file import read_tensors
  from medlsam_jax.network import Network
  from medlsam_jax.sam.network.published import TABLES
  from medlsam_jax.sam.network.sam import Sam

  module = Sam(TINY)
  template = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 240, 240, 3)), jnp.zeros((1, 4))))
  tensors = read_tensors(GOLDEN / "sam_tiny_random.pth")
  variables = TABLES["sam-vit-b"].forward(tensors, shapes_of(template), "sam_tiny_random.pth")
  return Network(module, variables, "sam-vit-b", "sam_tiny_random.pth")


def picture(shape, seed):
  """A picture in colour: discs on a slope, with noise."""
  rng = np.random.default_rng(seed)
  height, width = shape
  y, x = np.mgrid[:height, :width]
  image = np.stack([60 + 80 * x / width, 90 + 60 * y / height, 120 + 0 * x], -1)
  for _ in range(12):
    centre_y, centre_x, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(8, 30)
    image[(y - centre_y) ** 2 + (x - centre_x) ** 2 < radius * radius] = rng.uniform(0, 255, 3)
  return np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
