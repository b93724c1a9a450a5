"""What is trained of the volumetric network, and its step: cubes -> views -> masks -> update, one jitted program."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PyTree

from medlsam_jax import platform
from medlsam_jax.network import Network, Variables
from medlsam_jax.sam.finetuning.mask_loss import dice_losses
from medlsam_jax.sam3d import parameters
from medlsam_jax.sam3d.adapter_file import Adapted
from medlsam_jax.sam3d.cube_settings import to_pixels
from medlsam_jax.sam3d.network.sam3d import Sam3D
from medlsam_jax.sam3d.training.labelled_cubes import CubeBatch
from medlsam_jax.sam3d.training.settings import AdaptSettings, CubeLossSettings
from medlsam_jax.sam3d.training.views import View, view
from medlsam_jax.train import sharding
from medlsam_jax.train.optimizer import make_optimizer

Step = Callable[..., tuple["AdaptState", dict[str, Array]]]


class AdaptState(NamedTuple):
  """All that changes from step to step."""

  step: Int[Array, ""]
  params: PyTree
  """The trained ones alone."""
  optimizer: PyTree


class Adapting:
  """Parameters to train beside those that stay, the step, and the whole network at any state."""

  def __init__(self, settings: AdaptSettings, module: Sam3D, base: Network | None, mesh: Mesh):
    """`base`: whose weights stay; None draws all at random and trains all."""
    self.settings, self.module, self.base, self.mesh = settings, module, base, mesh
    key = jax.random.key(settings.seed)
    trained: Variables = parameters.scratch(module, key) if base is None else parameters.start(module, base, key)
    frozen: Variables = {}
    if base is not None:
      trained, frozen = parameters.split(trained)
    self._start, self.frozen = (sharding.put_replicated(jax.device_get(tree), mesh) for tree in (trained, frozen))
    self._optimizer = make_optimizer(settings.optimizer)

  def start(self) -> AdaptState:
    """State before the first step, in arrays of its own: a step uses those that it is given up."""
    moments = jax.jit(self._optimizer.init, out_shardings=sharding.replicated(self.mesh))(self._start)
    count = sharding.put_replicated(np.zeros((), np.int32), self.mesh)
    return AdaptState(count, jax.tree.map(jnp.copy, self._start), moments)

  def shapes(self) -> AdaptState:
    """Shapes, dtypes and shardings of a state: each device has all of it."""
    return sharding.laid_out(jax.eval_shape(self.start), self.mesh)

  def adapted(self, state: AdaptState) -> Adapted:
    """The network at a state, on the host."""
    trained, frozen = sharding.to_host((state.params, self.frozen))
    return Adapted(self.module, trained, frozen, {})

  def step(self) -> Step:
    """The jitted step; the state given to it is donated."""
    compiled, frozen = make_step(self.settings, self.module, self.mesh), self.frozen
    return lambda state, batch, *share: compiled(state, batch, frozen, *share)


def source_edge(edge: int, settings: AdaptSettings) -> int:
  """Voxels of a cube that is cut from a scan, so that the least zoom of a view finds them all."""
  return math.ceil(edge / min(settings.views.zoom[0], 1.0))


@functools.lru_cache(maxsize=2)
def make_step(settings: AdaptSettings, module: Sam3D, mesh: Mesh) -> Step:
  """The step; frozen parameters are an argument. Kept, so that a run resumed here compiles none."""

  def loss(trained: Variables, frozen: Variables, views: View) -> tuple[Array, dict[str, Array]]:
    shown = to_pixels(views.hu, settings.data.window_hu, module.variant.base.pixels)
    logits = parameters.apply(module, trained, frozen, shown, views.points, views.labels)
    return cube_loss(logits, views.masks, views.counts, settings.loss)

  def step(
    state: AdaptState, batch: CubeBatch, frozen: Variables, share: Array | None = None
  ) -> tuple[AdaptState, dict[str, Array]]:
    views = _views(settings, module.variant.cube_edge, batch)
    # the gradient of what was traced within is traced when this ends
    with platform.asked(module.dtype):
      gradient, metrics = jax.grad(loss, has_aux=True)(state.params, frozen, views)
    optimizer = make_optimizer(settings.optimizer, share)
    updates, moments = optimizer.update(gradient, state.optimizer, state.params)
    metrics["gradient_norm"] = optax.tree.norm(gradient)
    return AdaptState(state.step + 1, optax.apply_updates(state.params, updates), moments), metrics

  return jax.jit(step, donate_argnums=0)


def _views(settings: AdaptSettings, edge: int, batch: CubeBatch) -> View:
  root = jax.random.key(settings.seed)

  def draw(place: Array, hu: Array, labels: Array, asked: Array) -> View:
    key = jax.random.fold_in(root, place)
    return view(key, hu, labels, asked, edge, settings.data.spacing_mm, settings.views)

  return jax.vmap(draw)(*map(jnp.asarray, (batch.place, batch.hu, batch.labels, batch.asked)))


def cube_loss(
  logits: Float[Array, "n k z y x"],
  masks: Bool[Array, "n k z y x"],
  counts: Bool[Array, "n k"],
  settings: CubeLossSettings,
) -> tuple[Float[Array, ""], dict[str, Array]]:
  """Weighted Dice loss and cross-entropy over the organs that count, and with them the Dice of the masks."""
  flat = (logits.shape[0] * logits.shape[1], logits.shape[2], -1)
  own, truth = logits.reshape(flat), masks.reshape(flat)
  share = counts.reshape(-1) / jnp.maximum(counts.sum(), 1)
  dice = (dice_losses(own, truth) * share).sum()
  crossed = optax.sigmoid_binary_cross_entropy(own, truth.astype(jnp.float32)).mean((1, 2))
  bce = (crossed * share).sum()
  inside = own > 0
  reached = 2 * (inside & truth).sum((1, 2)) / jnp.maximum(inside.sum((1, 2)) + truth.sum((1, 2)), 1)
  total = settings.dice * dice + settings.bce * bce
  return total, {"loss": total, "dice_loss": dice, "bce_loss": bce, "mask_dice": (reached * share).sum()}
