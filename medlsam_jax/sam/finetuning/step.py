"""What fine-tuning trains, and its step: parts of a network of the SAM family, by masks or a teacher's embeddings."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int, PyTree

from medlsam_jax.network import Network
from medlsam_jax.sam.finetuning import trained_parts
from medlsam_jax.sam.finetuning.distillation import EmbeddingBatch, embedding_loss
from medlsam_jax.sam.finetuning.mask_batches import MaskBatch
from medlsam_jax.sam.finetuning.mask_loss import mask_loss
from medlsam_jax.sam.finetuning.settings import FinetuneSettings
from medlsam_jax.sam.network.sam import Sam
from medlsam_jax.train import sharding
from medlsam_jax.train.optimizer import make_optimizer

Batch = MaskBatch | EmbeddingBatch
Step = Callable[["TuneState", Batch], tuple["TuneState", dict[str, Array]]]


class TuneState(NamedTuple):
  """All that changes from step to step."""

  step: Int[Array, ""]
  params: PyTree
  """The trained part, as of `trained_parts.split`."""
  optimizer: PyTree
  batch_stats: PyTree
  """Statistics of batch norm where they are updated, else None."""


class FineTuning:
  """What is trained and how: the step, and the whole network at any state."""

  def __init__(
    self, settings: FinetuneSettings, network: Network, module: Sam, mesh: Mesh, teacher: Network | None = None
  ):
    self.settings, self.network, self.module, self.mesh, self.teacher = settings, network, module, mesh, teacher
    key = jax.random.key(settings.seed)
    trained, frozen = trained_parts.split(network.params, settings.train, settings.lora_rank, key)
    host = jax.device_get((trained, frozen, network.variables.get("batch_stats")))
    embedded = settings.train in trained_parts.EMBEDDED
    self._start, self.frozen, self._stats = (sharding.put_replicated(tree, mesh) for tree in host)
    self.updates_stats = settings.batch_norm == "updated" and not embedded and self._stats is not None
    self._optimizer = make_optimizer(settings.optimizer)

  def start(self) -> TuneState:
    """State before the first step, in arrays of its own: a step uses those that it is given up."""
    place = sharding.replicated(self.mesh)
    moments = jax.jit(self._optimizer.init, out_shardings=place)(self._start)
    count = sharding.put_replicated(np.zeros((), np.int32), self.mesh)
    params, stats = jax.tree.map(jnp.copy, (self._start, self._stats if self.updates_stats else None))
    return TuneState(count, params, moments, stats)

  def shapes(self) -> TuneState:
    """Shapes, dtypes and shardings of a state: each device has all of it."""
    return sharding.laid_out(jax.eval_shape(self.start), self.mesh)

  def variables(self, state: TuneState) -> dict[str, PyTree]:
    """The whole network's, batch norm kept."""
    stats = state.batch_stats if self.updates_stats else self._stats
    params = trained_parts.joined(state.params, self.frozen)
    return {"params": params} if stats is None else {"params": params, "batch_stats": stats}

  def step(self) -> Step:
    """The jitted step; the state given to it is donated."""
    compiled, frozen, fixed = _compiled_step(self.settings, self.module), self.frozen, self._stats
    return lambda state, batch: compiled(state, batch, frozen, fixed)


@functools.lru_cache(maxsize=2)
def _compiled_step(settings: FinetuneSettings, module: Sam) -> Callable[..., tuple[TuneState, dict[str, Array]]]:
  """The step; frozen parameters and fixed statistics are arguments. Kept, so that a run resumed here compiles none."""
  optimizer = make_optimizer(settings.optimizer)

  def loss(trained: PyTree, frozen: PyTree, stats: PyTree, updates: bool, batch: Batch) -> tuple[Array, PyTree]:
    params = trained_parts.joined(trained, frozen)
    variables = {"params": params} if stats is None else {"params": params, "batch_stats": stats}
    inputs = jnp.asarray(batch.inputs, jnp.float32)
    if settings.train in trained_parts.EMBEDDED:
      embedding = inputs
    elif updates:
      embedding, changed = module.apply(variables, inputs, True, method="encode", mutable=["batch_stats"])
      stats = changed["batch_stats"]
    else:
      embedding = cast(Array, module.apply(variables, inputs, method="encode"))
    if isinstance(batch, EmbeddingBatch):
      total, metrics = embedding_loss(embedding, batch)
      return total, (metrics, stats)
    masks = None if batch.masks is None else jnp.asarray(batch.masks)[..., None]
    answer = module.apply({"params": params}, embedding, boxes=batch.boxes, masks=masks, method="decode")
    logits, iou = cast(tuple[Array, Array], answer)
    total, metrics = mask_loss(logits[:, 0], iou[:, 0], jnp.asarray(batch.truth), settings.loss)
    return total, (metrics, stats)

  def step(state: TuneState, batch: Batch, frozen: PyTree, fixed: PyTree) -> tuple[TuneState, dict[str, Array]]:
    updates_stats = state.batch_stats is not None
    stats = state.batch_stats if updates_stats else fixed
    gradient, (metrics, stats) = jax.grad(loss, has_aux=True)(state.params, frozen, stats, updates_stats, batch)
    updates, moments = optimizer.update(gradient, state.optimizer, state.params)
    metrics["gradient_norm"] = optax.tree.norm(gradient)
    params = optax.apply_updates(state.params, updates)
    return TuneState(state.step + 1, params, moments, stats if updates_stats else None), metrics

  return jax.jit(step, donate_argnums=0)
