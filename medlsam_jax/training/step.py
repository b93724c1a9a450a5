"""One pre-training step: cubes -> views -> network -> objectives -> update, all in one jitted program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from medlsam_jax.data.ct import AIR_INTENSITY
from medlsam_jax.data.pairs import CUBE_EDGE, Batch
from medlsam_jax.geometry import PATCH_EDGE, WORKING_SPACING_MM
from medlsam_jax.models.medlam import MedLAM, MedLAMOutput, init_variables
from medlsam_jax.objectives import contract, uam
from medlsam_jax.training.augment import augmented_view
from medlsam_jax.training.settings import OptimizerSettings, PretrainSettings

_POINT_TRIES = 20
_POINT_AIR = AIR_INTENSITY / 10


class TrainState(NamedTuple):
  """All that changes from step to step."""

  step: Int[Array, ""]
  params: Any
  optimizer: Any


def make_optimizer(settings: OptimizerSettings) -> optax.GradientTransformation:
  """The optimizer of `OptimizerSettings`."""
  if settings.decay == "cosine":
    rate = optax.warmup_cosine_decay_schedule(
      0.0, settings.learning_rate, settings.warmup_steps, settings.total_steps, 0.0
    )
  else:
    stairs = optax.exponential_decay(
      settings.learning_rate, settings.stair_steps, settings.stair_factor, staircase=True
    )
    warmup = optax.linear_schedule(0.0, settings.learning_rate, max(settings.warmup_steps, 1))
    rate = optax.join_schedules([warmup, stairs], [settings.warmup_steps])
  parts = [optax.clip_by_global_norm(settings.clip_norm)] if settings.clip_norm else []
  return optax.chain(*parts, optax.add_decayed_weights(settings.l2), optax.adam(rate))


def make_module(settings: PretrainSettings) -> MedLAM:
  """The network that the settings describe."""
  network = settings.network
  return MedLAM(
    base_channels=network.base_channels, dropout=network.dropout, feature_scales=tuple(network.feature_scales)
  )


def init_state(settings: PretrainSettings) -> TrainState:
  """State before the first step, from the run's seed."""
  module = make_module(settings)
  params = jax.jit(lambda key: init_variables(module, key)["params"])(jax.random.key(settings.seed))
  return TrainState(jnp.zeros((), jnp.int32), params, make_optimizer(settings.optimizer).init(params))


def choose_points(key: Array, plain: Float[Array, "g e e e"], count: int) -> Int[Array, "count 3"]:
  """Voxels of a patch, shared by the scans of the batch, where more than half of them are not air.

  Each point has 20 tries; where all fail the last one stands (as published).
  """
  tries = jax.random.randint(key, (count, _POINT_TRIES, 3), 0, PATCH_EDGE)
  good = (plain[:, tries[..., 0], tries[..., 1], tries[..., 2]] >= _POINT_AIR).mean(0) > 0.5
  chosen = jnp.where(good.any(1), good.argmax(1), _POINT_TRIES - 1)
  return jnp.take_along_axis(tries, chosen[:, None, None], 1)[:, 0]


def plain_views(key: Array, batch: Batch) -> tuple[Float[Array, "g m v v v"], Float[Array, "g m 3"]]:
  """64-views at one random offset a scan, the same for all its patches; with the place of their voxel (0, 0, 0)."""
  groups = batch.cubes.shape[0]
  offsets = jax.random.randint(key, (groups, 3), 0, CUBE_EDGE - PATCH_EDGE + 1)

  def cut(cubes: Array, offset: Array) -> Array:
    return jax.lax.dynamic_slice(cubes, (0, *offset), (cubes.shape[0], *(PATCH_EDGE,) * 3))

  origins_mm = jnp.asarray(batch.origins_mm) + WORKING_SPACING_MM * offsets[:, None]
  return jax.vmap(cut)(jnp.asarray(batch.cubes), offsets), origins_mm


def _augmented_views(key: Array, batch: Batch, settings: PretrainSettings) -> tuple[Array, Array]:
  groups, patches = batch.cubes.shape[:2]
  keys = jax.random.split(key, groups * patches)
  cubes = jnp.asarray(batch.cubes).reshape(-1, *(CUBE_EDGE,) * 3)
  views, places = jax.lax.map(lambda kc: augmented_view(kc[0], kc[1], settings.augment), (keys, cubes))
  places_mm = batch.origins_mm.reshape(-1, 1, 1, 1, 3) + WORKING_SPACING_MM * places
  return views.reshape(groups, patches, *views.shape[1:]), places_mm.reshape(groups, patches, *places.shape[1:])


def _loss(settings: PretrainSettings, params: Any, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
  module, data = make_module(settings), settings.data
  groups, dense = batch.cubes.shape[0], data.dense_patches
  keys = jax.random.split(key, 6)
  plain, plain_origin = plain_views(keys[0], batch)
  warped, warped_mm = _augmented_views(keys[1], batch, settings)

  def run(patches: Array, k: Array, scales: tuple[int, ...]) -> tuple[Array, dict[int, Array]]:
    flat = patches.reshape(-1, *(PATCH_EDGE,) * 3, 1)
    drop = {"dropout": k}
    out = cast(MedLAMOutput, module.apply({"params": params}, flat, feature_scales=scales, train=True, rngs=drop))
    features = {s: f.reshape(groups, -1, *f.shape[1:]) for s, f in out.features.items()}
    return out.position.reshape(groups, -1, 3), features

  scales = tuple(settings.network.feature_scales)
  plain_positions, plain_features = run(plain[:, :dense], keys[2], scales)
  warped_positions, warped_features = run(warped[:, :dense], keys[3], scales)
  middle = PATCH_EDGE // 2
  plain_centres = plain_origin + WORKING_SPACING_MM * middle
  warped_centres = warped_mm[:, :, middle, middle, middle]
  positions, centres = [plain_positions], [plain_centres[:, :dense]]
  if data.position_views == "both":
    positions.append(warped_positions)
    centres.append(warped_centres[:, :dense])
  if data.patches_per_scan > dense:
    rest, rest_centres = (warped, warped_centres) if data.position_views == "both" else (plain, plain_centres)
    positions.append(run(rest[:, dense:], keys[4], ())[0])
    centres.append(rest_centres[:, dense:])
  point_keys = jax.random.split(keys[5], dense)
  points = jnp.stack([choose_points(k, plain[:, i], data.points_per_patch) for i, k in enumerate(point_keys)])
  views = contract.Views(
    positions=jnp.concatenate(positions, 1),
    centres_mm=jnp.concatenate(centres, 1),
    plain_features=plain_features,
    plain_origin_mm=plain_origin[:, :dense],
    points=points,
    augmented_features=warped_features,
    augmented_mm=warped_mm[:, :dense],
  )
  total, metrics = jnp.zeros(()), dict[str, Array]()
  for name, weight in settings.objectives.items():
    value, extra = contract.find(name)(views, {})
    total = total + weight * value
    metrics |= {name: value, **extra}
  return total, metrics | {"loss": total}


def make_step(settings: PretrainSettings) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
  """The jitted training step; the state given to it is donated."""
  optimizer = make_optimizer(settings.optimizer)

  def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
    key = jax.random.fold_in(jax.random.key(settings.seed + 1), state.step)
    gradient, metrics = jax.grad(lambda p: _loss(settings, p, batch, key), has_aux=True)(state.params)
    updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
    metrics["gradient_norm"] = optax.global_norm(gradient)
    return TrainState(state.step + 1, optax.apply_updates(state.params, updates), optimizer_state), metrics

  return jax.jit(step, donate_argnums=0)


def make_validation(settings: PretrainSettings) -> Callable[[Any, Batch], Array]:
  """Jitted UAM error in mm on the plain central views of a batch, without dropout."""
  module, first = make_module(settings), (CUBE_EDGE - PATCH_EDGE) // 2
  inner = slice(first, first + PATCH_EDGE)

  def error(params: Any, batch: Batch) -> Array:
    patches = batch.cubes[:, :, inner, inner, inner].reshape(-1, *(PATCH_EDGE,) * 3, 1)
    out = cast(MedLAMOutput, module.apply({"params": params}, patches, feature_scales=()))
    positions = out.position.reshape(*batch.cubes.shape[:2], 3)
    offset = uam.predicted_offset_mm(positions[:, :, None], positions[:, None])
    true = batch.origins_mm[:, :, None] - batch.origins_mm[:, None]
    pairs = batch.cubes.shape[1] * (batch.cubes.shape[1] - 1) * batch.cubes.shape[0]
    return jnp.linalg.norm(offset - true, axis=-1).sum() / pairs

  return jax.jit(error)
