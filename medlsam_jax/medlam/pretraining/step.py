"""One pre-training step: cubes -> views -> network -> objectives -> update, all in one jitted program."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int, PyTree

from medlsam_jax import platform
from medlsam_jax.errors import ConfigError
from medlsam_jax.medlam.network.medlam import MedLAM, MedLAMOutput, init_variables
from medlsam_jax.medlam.objectives import contract, uam
from medlsam_jax.medlam.objectives.contract import Features
from medlsam_jax.medlam.pretraining.crops import Batch
from medlsam_jax.medlam.pretraining.settings import CUBE_MARGIN, PretrainSettings
from medlsam_jax.medlam.pretraining.views import RunNetwork, as_intensity, make_views
from medlsam_jax.train import sharding
from medlsam_jax.train.optimizer import make_optimizer
from medlsam_jax.typed_settings import from_mapping

SHARDING_RULES: sharding.Rules = (
  # two thirds of the parameters; the rest is below a megabyte a tensor at the published width
  (r"network/fc1/kernel$", PartitionSpec("model", None)),
  (r"network/conv[345]/\w+/kernel$", PartitionSpec(None, None, None, None, "model")),
)


class TrainState(NamedTuple):
  """All that changes from step to step."""

  step: Int[Array, ""]
  params: PyTree
  """`network`, and `heads` by objective."""
  optimizer: PyTree
  ema: PyTree
  """Averaged network parameters, or None."""

  @property
  def best_network(self) -> PyTree:
    """Network parameters to validate and export: the averaged ones where there are any."""
    return self.params["network"] if self.ema is None else self.ema


@dataclasses.dataclass(frozen=True)
class Term:
  """One objective of a run."""

  objective: contract.Objective
  weight: float
  settings: object
  heads: Mapping[str, nn.Module]


def make_terms(settings: PretrainSettings) -> list[Term]:
  """The objectives of a run; those of weight 0 are left out.

  Raises:
    ConfigError: an unknown objective or setting of one, a value of another type, or nothing to minimise.
  """
  terms = []
  for name, block in settings.objectives.items():
    objective, given = contract.find(name), dict(block)
    weight = given.pop("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float):
      raise ConfigError(f"objectives.{name}.weight: {weight!r} is not a number")
    own: object = from_mapping(objective.settings, given, f"objectives.{name}")
    if weight:
      terms.append(Term(objective, float(weight), own, objective.heads(own)))
  if not terms:
    raise ConfigError("objectives: nothing to minimise; give at least one a weight above 0")
  return terms


def make_module(settings: PretrainSettings) -> MedLAM:
  """The network that the settings describe."""
  network = settings.network
  return MedLAM(
    base_channels=network.base_channels,
    patch_edge=network.patch_edge,
    dropout=network.dropout,
    feature_scales=tuple(network.feature_scales),
    dtype=jnp.dtype(network.dtype),
    remat=network.remat,
  )


Heads = Mapping[str, Mapping[str, Callable[[Array], Array]]]


def _loss(
  settings: PretrainSettings, terms: list[Term], network: PyTree, heads: Heads, batch: Batch, key: Array
) -> tuple[Array, dict[str, Array]]:
  module = make_module(settings)
  batch = batch._replace(cubes=cast(Any, as_intensity(jnp.asarray(batch.cubes))))

  def run(images: Array, strides: tuple[int, ...], drop: Array, featured: int) -> tuple[Array, Features]:
    (groups, views), flat = images.shape[:2], images.reshape(-1, *images.shape[2:], 1)
    share = (featured, views)
    applied = module.apply(
      {"params": network}, flat, feature_scales=strides, featured=share, train=True, rngs={"dropout": drop}
    )
    out = cast(MedLAMOutput, applied)
    features = {s: f.astype(jnp.float32).reshape(groups, featured, *f.shape[1:]) for s, f in out.features.items()}
    return out.position.reshape(groups, views, 3), features

  views = make_views(run, batch, key, settings)
  total, metrics = jnp.zeros(()), dict[str, Array]()
  for number, term in enumerate(terms):
    name = term.objective.name
    own_key, drop = jax.random.split(jax.random.fold_in(key, 1000 + number))
    own = views._replace(heads=heads.get(name, {}), key=own_key, network=_rerun(run, drop))
    value, extra = term.objective.loss(own, term.settings)
    total = total + term.weight * value
    metrics |= {name: value, **extra}
  return total, metrics | {"loss": total}


def _rerun(run: RunNetwork, drop: Array) -> Callable[[Array, tuple[int, ...]], tuple[Array, Features]]:
  """The network for one objective to run, which drops other features at each call."""
  calls = itertools.count()
  return lambda images, strides: run(images, strides, jax.random.fold_in(drop, next(calls)), images.shape[1])


def network_shapes(settings: PretrainSettings) -> PyTree:
  """Shapes and dtypes of the network's parameters; nothing is computed."""
  return jax.eval_shape(lambda: init_variables(make_module(settings), jax.random.key(0)))["params"]


def init_state(settings: PretrainSettings, mesh: Mesh, network: PyTree = None) -> TrainState:
  """State before the first step, from the run's seed, laid out over the mesh by the sharding rules.

  `network`: parameters (host arrays) to start from in place of random ones.
  """
  init = _initializer(settings)
  key = sharding.put_replicated(jax.random.key_data(jax.random.key(settings.seed)), mesh)
  layout = sharding.shardings(jax.eval_shape(init, key), mesh, SHARDING_RULES)
  quick = platform.compiler_options_for_one_run(mesh.devices.flat[0].platform)
  state = jax.jit(init, out_shardings=layout, compiler_options=quick)(key)
  if network is None:
    return state
  placed = jax.tree.map(lambda given, drawn: jax.device_put(given, drawn.sharding), network, state.params["network"])
  average = None if state.ema is None else jax.tree.map(jnp.copy, placed)
  return state._replace(params=state.params | {"network": placed}, ema=average)


def abstract_state(settings: PretrainSettings, mesh: Mesh) -> TrainState:
  """Shapes, dtypes and shardings of the state; nothing is computed."""
  shapes = jax.eval_shape(_initializer(settings), jax.random.key_data(jax.random.key(0)))
  return sharding.laid_out(shapes, mesh, SHARDING_RULES)


def _initializer(settings: PretrainSettings) -> Callable[[Array], TrainState]:
  module, terms, optimizer = make_module(settings), make_terms(settings), make_optimizer(settings.optimizer)

  def init(data: Array) -> TrainState:
    key = jax.random.wrap_key_data(data)
    network = init_variables(module, key)["params"]
    heads_key, count = jax.random.fold_in(key, 1), itertools.count()
    heads = {
      term.objective.name: {
        name: head.init(jax.random.fold_in(heads_key, next(count)), jnp.zeros(inputs[term.objective.name, name]))[
          "params"
        ]
        for name, head in term.heads.items()
      }
      for term in terms
      if term.heads
    }
    params = {"network": network, "heads": heads}
    average = jax.tree.map(jnp.copy, network) if settings.optimizer.ema_decay else None
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), average)

  inputs = _head_inputs(settings, terms) if any(term.heads for term in terms) else {}
  return init


def _head_inputs(settings: PretrainSettings, terms: list[Term]) -> dict[tuple[str, str], tuple[int, ...]]:
  """Shape of the first array that each head is given, found by tracing the loss once; nothing is computed."""
  seen: dict[tuple[str, str], tuple[int, ...]] = {}

  def recorder(owner: str, name: str, head: nn.Module) -> Callable[[Array], Array]:
    def apply(x: Array) -> Array:
      seen.setdefault((owner, name), tuple(x.shape))
      return cast(Array, head.init_with_output(jax.random.key(0), x)[0])

    return apply

  def trial(key: Array) -> Array:
    heads = {t.objective.name: {n: recorder(t.objective.name, n, h) for n, h in t.heads.items()} for t in terms}
    network = init_variables(make_module(settings), key)["params"]
    edge, data = settings.network.cube_edge, settings.data
    shapes = ((1, data.patches_per_scan, edge, edge, edge), (1, data.patches_per_scan, 3))
    batch = Batch(*(cast(Any, jnp.zeros(shape)) for shape in shapes))
    return _loss(settings, terms, network, heads, batch, key)[0]

  jax.eval_shape(trial, jax.random.key(0))
  unused = {(t.objective.name, n) for t in terms for n in t.heads} - set(seen)
  if unused:
    raise ConfigError(f"objectives declare heads that their loss never uses: {sorted(unused)}")
  return seen


def rehearse(settings: PretrainSettings) -> None:
  """Traces the loss once, without computing anything, so that settings that do not fit show before scans are read.

  Raises:
    ConfigError: an objective cannot work with the other settings, or has heads that it does not use.
  """
  _head_inputs(settings, make_terms(settings))


def make_gradient(
  settings: PretrainSettings,
) -> Callable[[PyTree, Batch, Array], tuple[PyTree, dict[str, Array]]]:
  """Gradient and metrics of a batch, in `optimizer.accumulate` parts that are averaged."""
  terms, parts = make_terms(settings), settings.optimizer.accumulate

  def loss(params: PyTree, batch: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
    heads = {t.objective.name: _applied(t.heads, params["heads"].get(t.objective.name, {})) for t in terms}
    return _loss(settings, terms, params["network"], heads, batch, key)

  gradient = jax.grad(loss, has_aux=True)
  if parts == 1:
    return gradient

  def averaged(params: PyTree, batch: Batch, key: Array) -> tuple[PyTree, dict[str, Array]]:
    # every part-th scan, so that each device finds its share of every part among its own scans
    split = jax.tree.map(lambda a: a.reshape(-1, parts, *a.shape[1:]).swapaxes(0, 1), batch)
    keys = jax.random.split(key, parts)
    zeros = jax.tree.map(
      lambda s: jnp.zeros(s.shape, s.dtype),
      jax.eval_shape(gradient, params, jax.tree.map(lambda a: a[0], split), key),
    )

    def add(total: PyTree, part: tuple[Batch, Array]) -> tuple[PyTree, None]:
      return jax.tree.map(lambda t, v: t + v / parts, total, gradient(params, *part)), None

    return jax.lax.scan(add, zeros, (split, keys))[0]

  return averaged


def _applied(heads: Mapping[str, nn.Module], params: PyTree) -> dict[str, Callable[[Array], Array]]:
  def apply(name: str, head: nn.Module, x: Array) -> Array:
    return cast(Array, head.apply({"params": params[name]}, x))

  return {name: functools.partial(apply, name, head) for name, head in heads.items()}


def make_step(settings: PretrainSettings, mesh: Mesh) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
  """The jitted training step over a mesh: state and batch -> state and metrics; the state given to it is donated.

  With `optimizer.total_seconds` it takes a third argument, the share of the time that is done (float32, replicated).
  """
  gradient_of, decay = make_gradient(settings), settings.optimizer.ema_decay

  def step(state: TrainState, batch: Batch, *share: Array) -> tuple[TrainState, dict[str, Array]]:
    optimizer = make_optimizer(settings.optimizer, *share)
    key = jax.random.fold_in(jax.random.key(settings.seed + 1), state.step)
    with platform.asked(settings.network.dtype, settings.network.precision):
      gradient, metrics = gradient_of(state.params, batch, key)
    updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
    metrics["gradient_norm"] = optax.tree.norm(gradient)
    params = optax.apply_updates(state.params, updates)
    average = state.ema
    if average is not None:
      # the first steps count less far back, so that random starting weights are soon forgotten
      keep = jnp.minimum(decay, (1.0 + state.step) / (10.0 + state.step))
      average = optax.incremental_update(params["network"], average, 1.0 - keep)
    return TrainState(state.step + 1, params, optimizer_state, average), metrics

  layout = jax.tree.map(lambda s: s.sharding, abstract_state(settings, mesh))
  batches, everywhere = Batch(*(cast(Any, sharding.batch_sharding(mesh)),) * 2), sharding.replicated(mesh)
  clock = (everywhere,) if settings.optimizer.total_seconds else ()
  return jax.jit(step, in_shardings=(layout, batches, *clock), out_shardings=(layout, everywhere), donate_argnums=0)


def make_validation(settings: PretrainSettings) -> Callable[[PyTree, Batch], Array]:
  """Jitted UAM error in mm on the plain central views of a batch, without dropout, for network parameters."""
  module, first, edge = make_module(settings), CUBE_MARGIN // 2, settings.network.patch_edge
  inner = slice(first, first + edge)

  def error(network: PyTree, batch: Batch) -> Array:
    patches = batch.cubes[:, :, inner, inner, inner].reshape(-1, edge, edge, edge, 1)
    with platform.asked(settings.network.dtype):
      out = cast(MedLAMOutput, module.apply({"params": network}, patches, feature_scales=()))
    positions = out.position.reshape(*batch.cubes.shape[:2], 3)
    offset = uam.predicted_offset_mm(positions[:, :, None], positions[:, None])
    true = batch.origins_mm[:, :, None] - batch.origins_mm[:, None]
    pairs = batch.cubes.shape[1] * (batch.cubes.shape[1] - 1) * batch.cubes.shape[0]
    return jnp.linalg.norm(offset - true, axis=-1).sum() / pairs

  return jax.jit(error)
