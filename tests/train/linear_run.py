"""A linear model as a recipe of the engine: all that a new network has to bring.

As a program: `python linear_run.py DIRECTORY JSON_SETTINGS` prints each report, a JSON line with hexadecimal numbers.
"""

import json
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medlsam_jax.train import loop, sharding
from medlsam_jax.train.loading import Batches
from medlsam_jax.train.optimizer import make_optimizer
from medlsam_jax.train.recipe import Identity, Measurement, Recipe
from medlsam_jax.train.settings import RunSettings
from medlsam_jax.typed_settings import from_mapping

PER_STEP, WIDTH = 8, 16
SETTINGS = {"optimizer": {"total_steps": 6, "learning_rate": 0.1, "decay": "constant", "l2": 0.0},
            "checkpoint": {"every_steps": 2, "best_metric": "slope_error"}, "log_every_steps": 1,
            "validate_every_steps": 3}  # fmt: skip


class Line(NamedTuple):
  step: jax.Array
  params: dict[str, jax.Array]
  optimizer: tuple


class Points(NamedTuple):
  x: np.ndarray
  y: np.ndarray


class Source:
  """Points of a plane whose slopes are 1, 2, 3 ...; each step has its own."""

  def __init__(self, rows, steps, seconds):
    self.rows, self.steps, self.seconds = rows, steps, seconds

  def __len__(self):
    return self.steps

  def __getitem__(self, step):
    time.sleep(self.seconds)
    x = np.random.default_rng(step).standard_normal((PER_STEP, WIDTH), np.float32)[self.rows.start : self.rows.stop]
    return Points(x, x @ np.arange(1, WIDTH + 1, dtype=np.float32))


def linear_recipe(settings, mesh, seconds=0.0, **more):
  optimizer = make_optimizer(settings.optimizer)

  def first():
    params = {"slopes": jnp.zeros(WIDTH)}
    return Line(jnp.zeros((), jnp.int32), params, optimizer.init(params))

  def loss(params, points):
    return jnp.mean((points.x @ params["slopes"] - points.y) ** 2)

  def step(state, points):
    value, gradient = jax.value_and_grad(loss)(state.params, points)
    updates, moments = optimizer.update(gradient, state.optimizer, state.params)
    params = jax.tree.map(jnp.add, state.params, updates)
    return Line(state.step + 1, params, moments), {"loss": value}

  shapes = sharding.laid_out(jax.eval_shape(first), mesh, [("slopes$", jax.sharding.PartitionSpec("model"))])
  layout = jax.tree.map(lambda s: s.sharding, shapes)
  source = Source(sharding.local_rows(PER_STEP, mesh), settings.optimizer.total_steps, seconds)
  wanted = np.arange(1, WIDTH + 1)
  return Recipe(
    settings, mesh, shapes, jax.jit(first, out_shardings=layout),
    jax.jit(step, out_shardings=(layout, None), donate_argnums=0), Batches(source, PER_STEP, "points", threads=0),
    Identity("a plane"),
    [Measurement(3, lambda _, s: {"slope_error": float(np.abs(sharding.to_host(s.params["slopes"]) - wanted).max())})],
    **more,
  )  # fmt: skip


def run(directory, report=lambda step, metrics: None, seconds=0.0, gives_best=False, **sections):
  settings = from_mapping(RunSettings, SETTINGS | {n: SETTINGS.get(n, {}) | v for n, v in sections.items()})
  recipe = linear_recipe(settings, loop.begin(settings), seconds, gives_best=gives_best)
  return loop.train(recipe, directory, report)


if __name__ == "__main__":

  def printed(step, metrics):
    print(
      json.dumps({"step": step} | {n: v.hex() for n, v in metrics.items() if n in ("loss", "slope_error")}), flush=True
    )

  run(sys.argv[1], printed, **json.loads(sys.argv[2]))
