"""Settings -> the optax transformation that turns gradients into updates."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from medlsam_jax.train.settings import OptimizerSettings

Scalar = Float[Array, ""] | float
_LEAST = 0.01
"""Share of the learning rate that `linear` ends at."""


def make_schedule(settings: OptimizerSettings, share: Scalar | None = None) -> optax.Schedule:
  """Learning rate by step: a linear rise over `warmup_steps`, then `decay`.

  Args:
    share: of a run that the clock ends, what is done of its time, from 0 to 1; a cosine or a line follows it then.
  """
  warmup = optax.linear_schedule(0.0, settings.learning_rate, max(settings.warmup_steps, 1))
  if settings.decay == "cosine" and share is not None:
    fall = 0.5 * (1 + jnp.cos(jnp.pi * share))
    return lambda step: warmup(step) * fall
  if settings.decay == "cosine":
    return optax.warmup_cosine_decay_schedule(
      0.0, settings.learning_rate, settings.warmup_steps, settings.total_steps, 0.0
    )
  if settings.decay == "linear" and share is not None:
    left = 1 - (1 - _LEAST) * share
    return lambda step: warmup(step) * left
  if settings.decay == "linear":
    steps = max(settings.total_steps - settings.warmup_steps, 1)
    rest = optax.linear_schedule(settings.learning_rate, _LEAST * settings.learning_rate, steps)
  elif settings.decay == "stairs":
    rest = optax.exponential_decay(settings.learning_rate, settings.stair_steps, settings.stair_factor, staircase=True)
  else:
    rest = optax.constant_schedule(settings.learning_rate)
  return optax.join_schedules([warmup, rest], [settings.warmup_steps])


def kernels_only(params: PyTree) -> PyTree:
  """True for the parameters that decay acts on: kernels, not biases or the scales of norms."""
  return jax.tree_util.tree_map_with_path(lambda path, _: str(getattr(path[-1], "key", "")).endswith("kernel"), params)


def make_optimizer(settings: OptimizerSettings, share: Scalar | None = None) -> optax.GradientTransformation:
  """Clipping, then Adam with L2 in the gradient of every parameter (as published), or AdamW.

  `share` is as in `make_schedule`; the state does not depend on it.
  """
  parts = [optax.clip_by_global_norm(settings.clip_norm)] if settings.clip_norm else []
  rate = make_schedule(settings, share)
  if settings.kind == "adamw":
    return optax.chain(*parts, optax.adamw(rate, weight_decay=settings.l2, mask=kernels_only))
  return optax.chain(*parts, optax.add_decayed_weights(settings.l2), optax.adam(rate))
