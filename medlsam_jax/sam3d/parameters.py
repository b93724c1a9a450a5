"""Parameters of the volumetric network: which are the base's, which of these are trained, and which are new.

Every parameter is named by exactly one rule. `split` gives what is trained and what is frozen as two trees, so that
optimizer state, weight decay and files can only ever see the first.
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Int

from medlsam_jax import display, platform
from medlsam_jax.errors import WeightsError
from medlsam_jax.network import Network, Variables
from medlsam_jax.sam.network.layers import fold_batch_norm
from medlsam_jax.sam.network.sam import Sam
from medlsam_jax.sam.network.tiny_vit import TinyViT, TinyViTSizes
from medlsam_jax.sam3d.network.sam3d import Sam3D


class Origin(enum.Enum):
  """Where a parameter comes from, and whether it stays as it is."""

  FROZEN = "of the base, as it is"
  TUNED = "of the base, trained on"
  NEW = "drawn at the start, trained"


_PAIR = "(kernel|bias)"
_NORM = "(scale|bias)"
RULES: tuple[tuple[str, Origin], ...] = (
  # ViT
  (rf"encoder/patch/{_PAIR}", Origin.FROZEN),
  (r"encoder/position", Origin.FROZEN),
  (rf"encoder/block\d+/(qkv|project|mlp_in|mlp_out)/{_PAIR}", Origin.FROZEN),
  (r"encoder/block\d+/relative_[yx]", Origin.FROZEN),
  (rf"encoder/block\d+/norm[12]/{_NORM}", Origin.TUNED),
  (r"encoder/block\d+/relative_z", Origin.NEW),
  # TinyViT: stages 0 and 1 see slices, nothing before them is trained
  (rf"encoder/embed[01]/{_PAIR}", Origin.FROZEN),
  (rf"encoder/stage\d_(block\d+|merge)/(expand|depthwise|project|local)/{_PAIR}", Origin.FROZEN),
  (r"encoder/stage\d_block\d+/attention/(qkv_kernel|qkv_bias|offset_bias)", Origin.FROZEN),
  (rf"encoder/stage\d_block\d+/(attention/project|mlp_in|mlp_out)/{_PAIR}", Origin.FROZEN),
  (rf"encoder/stage[01]_block\d+/(attention/norm|mlp_norm)/{_NORM}", Origin.FROZEN),
  (rf"encoder/stage[23]_block\d+/(attention/norm|mlp_norm)/{_NORM}", Origin.TUNED),
  # around both
  (rf"encoder/depth/{_PAIR}", Origin.NEW),
  (r"encoder/depth_position", Origin.NEW),
  (rf"encoder/adapter\d+/(down|depthwise|up)/{_PAIR}", Origin.NEW),
  (r"neck\d/.+", Origin.NEW),
  (r"prompts/.+", Origin.NEW),
  (r"decoder/.+", Origin.NEW),
  (r"box", Origin.NEW),
)
_ENCODER = "image_encoder/"
_LEFT_OUT = r"image_encoder/neck.+|(prompt_encoder|mask_decoder)/.+"
"""Of the base, what has no place here: its neck, its prompts and its decoder are those of images."""


def origin(name: str) -> Origin:
  """Origin of the parameter of this name, its path joined by slashes.

  Raises:
    ValueError: no rule names it, or more than one does: a defect of `RULES`.
  """
  fitting = [kind for pattern, kind in RULES if re.fullmatch(pattern, name)]
  if len(fitting) != 1:
    raise ValueError(f"{name} is named by {len(fitting)} rules")
  return fitting[0]


def shapes(module: Sam3D) -> Variables:
  """Shapes of all parameters, none of them computed."""
  return jax.eval_shape(functools.partial(_draw, module), jax.random.key(0))


def _draw(module: Sam3D, key: jax.Array) -> Variables:
  edge = module.variant.cube_edge
  return module.init(key, jnp.zeros((1, edge, edge, edge)), jnp.zeros((1, 1, 1, 3)), jnp.zeros((1, 1, 1), int))[
    "params"
  ]


def scratch(module: Sam3D, key: jax.Array) -> Variables:
  """All parameters at random, those of the base included: the control without pre-training, and nothing else.

  Batch norm, where the base has it, is folded as of its first step. Without it a random base makes zeros of air, which
  every layer norm that follows divides by almost nothing: the first gradient is infinite.
  """
  params = drawn(module, key)
  if not isinstance(module.variant.base.encoder, TinyViTSizes):
    return params
  given = base_params(module, _drawn_base(module, key))
  return unflatten_dict({**flatten_dict(params, sep="/"), **flatten_dict(given, sep="/")}, sep="/")


def _drawn_base(module: Sam3D, key: jax.Array) -> Network:
  """TinyViT at random, with batch norm's statistics of a few images of noise."""
  variant = module.variant
  assert isinstance(variant.base.encoder, TinyViTSizes)
  encoder, edge = TinyViT(sizes=variant.base.encoder), variant.image_edge

  def draw(key: jax.Array) -> Variables:
    images = jnp.broadcast_to(jax.random.uniform(key, (2, edge, edge, 1)), (2, edge, edge, 3))
    variables = encoder.init(key, images)
    _, seen = encoder.apply(variables, images, train=True, mutable=["batch_stats"])
    # running statistics move a tenth of the way to what was seen
    stats = jax.tree.map(lambda old, new: 10 * new - 9 * old, variables["batch_stats"], seen["batch_stats"])
    return {"params": {"image_encoder": variables["params"]}, "batch_stats": {"image_encoder": stats}}

  return Network(Sam(variant.base), _once(draw)(key), variant.base.name, "weights at random")


def drawn(module: Sam3D, key: jax.Array) -> Variables:
  """All parameters at random, as `start` takes those that are new. Only the draws are computed, not the network."""
  return _once(functools.partial(_draw, module))(key)


def _once(draw: Callable[[jax.Array], Variables]) -> Callable[[jax.Array], Variables]:
  return cast(
    "Callable[[jax.Array], Variables]",
    jax.jit(draw, compiler_options=platform.compiler_options_for_one_run(platform.backend())),
  )


def start(module: Sam3D, base: Network, key: jax.Array) -> Variables:
  """Parameters that training starts from: the base's weights in their places, relative positions along depth the mean
  of those in the plane, everything else drawn. They are not for use before training.

  Args:
    module: the network.
    base: loaded with its batch norm kept, `load(name, for_training=True)`; the network folds it.
    key: for the draws.

  Raises:
    WeightsError: the base is of another kind than the module's, folded, or lacks weights.
  """
  params = {**flatten_dict(drawn(module, key), sep="/"), **flatten_dict(base_params(module, base), sep="/")}
  for name in params:
    if name.endswith("relative_z"):
      plane = [params[name.removesuffix("z") + axis] for axis in "yx"]
      params[name] = (plane[0] + plane[1]) / 2
  return unflatten_dict(params, sep="/")


def base_params(module: Sam3D, base: Network) -> Variables:
  """Of a base, the parameters that have a place in the module, frozen and trained on, in these places.

  Raises:
    WeightsError: as `start`.
  """
  wanted = {
    name: leaf.shape for name, leaf in flatten_dict(shapes(module), sep="/").items() if origin(name) is not Origin.NEW
  }
  check_base(module, base)
  folded = flatten_dict(jax.jit(fold_batch_norm)(base.variables)["params"], sep="/")
  given = {
    "encoder/" + name.removeprefix(_ENCODER): a for name, a in folded.items() if not re.fullmatch(_LEFT_OUT, name)
  }
  if (have := {name: a.shape for name, a in given.items()}) != wanted:
    odd = sorted(dict(have.items() ^ wanted.items()))
    raise WeightsError(
      f"{base.source}: is no base of {module.variant.name}: other weights or shapes: {display.some(odd)}"
    )
  return unflatten_dict(given, sep="/")


def check_base(module: Sam3D, base: Network) -> None:
  """Refuses a network that is no base of the module.

  Raises:
    WeightsError: its kind is another, or its batch norm is folded, so that its hash is no longer that of its file.
  """
  variant = module.variant
  if not isinstance(base.module, Sam) or base.module.variant.encoder != variant.base.encoder:
    raise WeightsError(
      f"{base.source}: a {base.kind} network; {variant.name} adapts {variant.base.name}: give weights of that kind"
    )
  if base.module.folded and isinstance(variant.base.encoder, TinyViTSizes):
    raise WeightsError(f"{base.source}: its batch norm is folded; load it with for_training=True")


def split(params: Variables) -> tuple[Variables, Variables]:
  """Trained and frozen parameters, each a tree of its own."""
  flat = flatten_dict(params, sep="/")
  frozen = {name for name in flat if origin(name) is Origin.FROZEN}
  trained = {name: leaf for name, leaf in flat.items() if name not in frozen}
  return unflatten_dict(trained, sep="/"), unflatten_dict({name: flat[name] for name in frozen}, sep="/")


def joined(trained: Variables, frozen: Variables) -> Variables:
  """What `split` took apart."""
  return unflatten_dict({**flatten_dict(frozen, sep="/"), **flatten_dict(trained, sep="/")}, sep="/")


def apply(
  module: Sam3D,
  trained: Variables,
  frozen: Variables,
  volume: Float[Array, "n z y x"],
  points: Float[Array, "n k t 3"],
  labels: Int[Array, "n k t"],
) -> Float[Array, "n k z y x"]:
  """Logits of `k` organs in each cube (`Sam3D`), at the precision that the module's operands ask for.

  Differentiated by `trained` alone, what the frozen parts compute before the first trained one is not kept. A gradient
  is to be asked for within `platform.asked(module.dtype)`: part of it is traced after this has returned.
  """
  with platform.asked(module.dtype):
    return cast(Array, module.apply({"params": joined(trained, frozen)}, volume, points, labels))


def count_by_part(params: Variables) -> dict[str, int]:
  """Numbers of trained parameters, by the parts of the table in `sam3d.network.sam3d`."""
  parts = {
    "embedding along depth": r"encoder/depth/.+",
    "depth table": r"encoder/depth_position",
    "relative positions along depth": r".+/relative_z",
    "norms of the blocks": r"encoder/(block|stage).+(norm[12]|attention/norm|mlp_norm)/.+",
    "adapters": r"encoder/adapter.+",
    "necks": r"neck.+",
    "labels": r"prompts/labels",
    "prompt module": r"prompts/(?!labels).+",
    "decoder": r"decoder/(?!box).+",
    "filled boxes": r"box|decoder/box",
  }
  trained = flatten_dict(split(params)[0], sep="/")
  return {
    part: sum(leaf.size for name, leaf in trained.items() if re.fullmatch(pattern, name))
    for part, pattern in parts.items()
  }
