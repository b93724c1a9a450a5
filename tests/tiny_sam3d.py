"""Small volumetric networks, on bases that have learned nothing, with weights that NumPy makes up."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from medlsam_jax.network import Network
from medlsam_jax.sam.network.sam import DecoderSizes, Sam, SamVariant
from medlsam_jax.sam.network.tiny_vit import TinyViTSizes
from medlsam_jax.sam3d import parameters
from medlsam_jax.sam3d.network.sam3d import Sam3D
from medlsam_jax.sam3d.network.variants import SAM3D_TINY, TINY_BASE, Sam3DVariant

VIT = dataclasses.replace(TINY_BASE, decoder=DecoderSizes(2, 8, 8))
LITE = SamVariant(
  "lite-tiny", 32, TinyViTSizes((4, 6, 8, 12), (1, 1, 2, 2), (1, 2, 2, 3), (7, 3, 4, 3), neck=16), "unit", VIT.decoder
)
ON_VIT = Sam3D(dataclasses.replace(SAM3D_TINY, base=VIT))
ON_LITE = Sam3D(
  Sam3DVariant("sam3d-lite-tiny", LITE, 16, 16, (0, 1, 2, 3), 2, 16, 8, queries=3, heads=2, mlp_width=32)
)  # fmt: skip


def made_up(shapes, seed=0):
  """Numbers under which values neither vanish nor grow."""
  rng, made = np.random.default_rng(seed), {}
  for name, leaf in sorted(flatten_dict(shapes, sep="/").items()):
    draw = rng.standard_normal(leaf.shape, dtype=np.float32)
    if name.endswith(("scale", "var")):
      made[name] = 1 + 0.1 * np.abs(draw)
    else:
      made[name] = draw * np.float32(0.2 if leaf.ndim == 1 or "relative" in name else np.prod(leaf.shape[:-1]) ** -0.5)
  return unflatten_dict(made, sep="/")


@functools.cache
def base(variant, seed=1):
  """A base with batch norm kept, as `load(name, for_training=True)` gives one."""
  module, edge = Sam(variant), variant.image_size
  images, boxes = jax.ShapeDtypeStruct((1, edge, edge, 3), jnp.float32), jax.ShapeDtypeStruct((1, 4), jnp.float32)
  variables = made_up(jax.eval_shape(module.init, jax.random.key(0), images, boxes), seed)
  return Network(module, variables, variant.name, f"{variant.name}.safetensors")


@functools.cache
def at_start(module, seed=2):
  """Parameters that training starts from, but for draws that NumPy makes: zeros and means where `start` has them."""
  drawn = flatten_dict(made_up(parameters.shapes(module), seed), sep="/")
  params = drawn | flatten_dict(jax.tree.map(np.asarray, parameters.base_params(module, base_of(module))), sep="/")
  for name in params:
    if "/up/" in name or name.endswith(("depth_position", "depth/bias")):
      params[name] = np.zeros_like(params[name])
    if name.endswith("depth/kernel"):
      params[name] = np.full_like(params[name], 1 / len(params[name]))
    if name.endswith("relative_z"):
      params[name] = (params[name[:-1] + "y"] + params[name[:-1] + "x"]) / 2
  return unflatten_dict(params, sep="/")


def base_of(module):
  return base(module.variant.base)
