"""Which parameters fine-tuning changes: a network's variables <-> the part that is trained and the part that is not."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree

from medlsam_jax.errors import ConfigError

Params = dict[str, PyTree]
LORA = "lora"
TRAINED = {
  "decoder": ("mask_decoder",),
  "prompts": ("mask_decoder", "prompt_encoder"),
  "model": ("mask_decoder", "image_encoder"),
  LORA: ("mask_decoder",),
  "distill": ("image_encoder",),
}
"""Parts that change as a whole, by what is trained."""
EMBEDDED = ("decoder", "prompts")
"""With these the image encoder stays as it is, so that embeddings are computed once."""
_ATTENTION = re.compile(r"(^|/)(qkv/kernel|attention/qkv_kernel)$")
"""Kernels of queries, keys and values in ViT and in TinyViT."""


def split(params: dict[str, PyTree], train: str, lora_rank: int, key: jax.Array) -> tuple[Params, Params]:
  """Trained and frozen parameters.

  With `lora` the trained part has, for each attention kernel `(i, o)`, `down` `(i, rank)` and `up` `(rank, o)`, whose
  product is added to it ("LoRA: low-rank adaptation of large language models"); `up` is zero at the start, so that
  nothing has changed yet.

  Raises:
    ConfigError: `lora` with a rank below 1 or above an attention's width, or on an encoder without attention.
  """
  trained = {name: params[name] for name in TRAINED[train]}
  if train == LORA:
    flat = flatten_dict(params["image_encoder"], sep="/")
    kernels = {name: kernel.shape for name, kernel in flat.items() if _ATTENTION.search(name)}
    if not kernels or lora_rank < 1:
      raise ConfigError(f"lora_rank {lora_rank}: low-rank updates need attention and a rank of at least 1")
    if lora_rank > (most := min(min(shape) for shape in kernels.values())):
      raise ConfigError(f"lora_rank {lora_rank} is above {most}, the width of the narrowest attention of this network")
    updates = {}
    for number, (name, (inputs, outputs)) in enumerate(sorted(kernels.items())):
      draw = jax.random.normal(jax.random.fold_in(key, number), (inputs, lora_rank)) * inputs**-0.5
      updates[name + "/down"], updates[name + "/up"] = draw, jnp.zeros((lora_rank, outputs))
    trained[LORA] = unflatten_dict(updates, sep="/")
  return trained, {name: part for name, part in params.items() if name not in trained}


def joined(trained: Params, frozen: Params) -> Params:
  """Parameters of the network as they are now; low-rank updates are added to their kernels."""
  params = {**frozen, **{name: part for name, part in trained.items() if name != LORA}}
  if LORA in trained:
    flat, updates = flatten_dict(params["image_encoder"], sep="/"), flatten_dict(trained[LORA], sep="/")
    for name in {path.rpartition("/")[0] for path in updates}:
      flat[name] = flat[name] + updates[name + "/down"] @ updates[name + "/up"]
    params["image_encoder"] = unflatten_dict(flat, sep="/")
  return params
